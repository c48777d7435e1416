"""States saved by a thread while training goes on, as on CUDA: what is written, in which order, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, get_ident

import pytest
import torch

from isoloss.data.token_files import Tokens
from isoloss.errors import StoreError
from isoloss.execution.recorder import RunRecorder
from isoloss.store.layout import RunPaths
from isoloss.store.run import Extent, step_rows
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.training import checkpoint, loop, saving, step
from isoloss.training.evaluate import Evaluated
from isoloss.training.loop import train
from isoloss.training.saving import Save, Saved
from isoloss.training.state import MemberState, StackState, initial_state, stack
from tests.recording import Recording, recorded

Make = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways of CUDA, on a CPU."""
    monkeypatch.setattr(saving, "saves_beside_training", lambda device: True)
    monkeypatch.setattr(loop, "block_length", lambda members, at, *_: step.steps_to_next_event(members, at))
    monkeypatch.setattr(loop, "MAX_BLOCK_STEPS", 4)


@dataclass
class SlowDisk(Recording):
    """An observer whose first save takes until an evaluation at `until`, and that fails at one of a step."""

    until: int = 0
    fails_at: int | None = None
    saves: list[tuple[Saved, int, int]] = field(default_factory=list)
    """What was saved, its step, and how many rows of steps there were when it was asked for."""
    done: Event = field(default_factory=Event)

    def evaluation(self, row: loop.EvalRow) -> None:
        super().evaluation(row)
        if row.step == self.until:
            self.done.set()

    def saving(self, what: Saved) -> Save:
        asked_by, n_rows = get_ident(), len(self.steps)

        def save(state: MemberState) -> None:
            assert get_ident() != asked_by
            assert self.done.wait(60)
            if state.progress.step == self.fails_at:
                raise StoreError("no space")
            self.saves.append((what, state.progress.step, n_rows))
            self.kept.append(state.each(torch.clone))

        return save


def trained(
    configs: Sequence[RunConfig], tokens: Tokens, disks: Sequence[SlowDisk], stop_at: int | None = None
) -> None:
    by_run = dict(zip(map(run_id, configs), disks, strict=True))
    stacked = stack([initial_state(config) for config in configs], torch.device("cpu"))
    train(
        stacked,
        tokens,
        lambda config: by_run[run_id(config)],
        should_stop=lambda: stop_at is not None and len(disks[0].steps) >= stop_at,
    )


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """The validation losses that evaluations find, by step."""
    found: dict[int, float] = {}

    def evaluated(stack: StackState, *_: object) -> list[Evaluated]:
        return [Evaluated(1.0, found[stack.step], 1.0)] * len(stack.members)

    monkeypatch.setattr(loop, "evaluate", evaluated)
    return found


def same(a: MemberState, b: MemberState) -> bool:
    tensors = [(a.flat_P, b.flat_P), *((a.moments[name], b.moments[name]) for name in a.moments)]
    return all(torch.equal(*pair) for pair in tensors)


def test_a_slow_disk_gets_the_best_and_the_last(make: Make, tokens: Tokens, losses: dict[int, float]) -> None:
    losses |= {0: 4.0, 10: 3.0, 20: 2.0, 30: 2.5, 40: 2.2}
    config = make(max_iters=40, dropout=0.1)
    disk = SlowDisk(until=40)
    trained([config], tokens, [disk])
    assert disk.saves == [("checkpoint", 0, 0), ("best", 20, 20), ("checkpoint", 40, 40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "saves_beside_training", lambda device: False)
        patch.setattr(loop, "block_length", step.block_length)
        [between] = recorded([config], tokens)
    by_step = {state.progress.step: state for state in between.kept}
    assert all(same(state, by_step[state.progress.step]) for state in disk.kept)
    assert [(row.loss, row.lr) for row in disk.steps] == [(row.loss, row.lr) for row in between.steps]
    assert disk.kept[1].progress.best_step == 20 and disk.kept[2].progress.best_step == 20


def test_a_best_that_is_no_longer_one_is_not_written(make: Make, tokens: Tokens, losses: dict[int, float]) -> None:
    losses |= {0: 4.0, 10: 3.0, 20: 2.0}
    disk = SlowDisk(until=20)
    trained([make()], tokens, [disk])
    assert disk.saves == [("checkpoint", 0, 0), ("checkpoint", 20, 20)]


def test_a_fast_disk_gets_every_evaluation(make: Make, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving.Saver, "busy", property(lambda self: self.wait()))
    disk = SlowDisk()
    trained([make()], tokens, [disk])
    assert [at for _, at, _ in disk.saves] == [0, 10, 20]


def test_a_run_that_diverges_keeps_its_best(
    make: Make, tokens: Tokens, losses: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses |= {0: 4.0, 2: 3.0, 4: 2.0, 6: 1.0, 8: 1.5}
    configs = [make(max_iters=8, eval_interval=2, seed=seed) for seed in (1, 2)]
    calm, lost = SlowDisk(until=-1), SlowDisk(until=-1)
    lost.done = calm.done

    def diverges(_: object, config: RunConfig, step: int, *__: float) -> str:
        if config.seed == 2 and step == 5:
            calm.done.set()
            return "lost"
        return ""

    monkeypatch.setattr(loop, "_divergence", diverges)
    trained(configs, tokens, [calm, lost])
    assert (calm.outcome, lost.outcome, lost.reason) == ("done", "diverged", "lost")
    assert lost.saves == [("checkpoint", 0, 0), ("best", 4, 4)] and len(lost.steps) == 6
    assert [step for _, step, _ in calm.saves][-1] == 8 and len(calm.steps) == 8


def test_what_cannot_be_saved_ends_training(make: Make, tokens: Tokens) -> None:
    disk = SlowDisk(fails_at=10)
    with pytest.raises(StoreError, match="no space"):
        trained([make(max_iters=4000)], tokens, [disk])
    assert len(disk.steps) < 4000 and disk.outcome == ""


def test_a_stop_returns_once_all_is_saved(make: Make, tokens: Tokens) -> None:
    disk = SlowDisk()
    trained([make(max_iters=60)], tokens, [disk], stop_at=14)
    assert disk.saves[-1][0] == "checkpoint" and disk.saves[-1][1] == len(disk.steps) < 60
    assert len(disk.steps) % 10 != 0  # heard between two blocks, not at an evaluation alone


def test_a_checkpoint_acknowledges_the_rows_up_to_its_state(make: Make, tmp_path: Path) -> None:
    config, paths, row = make(), RunPaths(tmp_path), loop.StepRow(0, 1.0, 0.1, 1.0, 0.1, 1.0, 0.1, 0.1)
    recorder = RunRecorder(paths, config, {}, {}, lambda event: None)
    recorder.step(row)
    save = recorder.saving("checkpoint")
    recorder.step(replace(row, step=1))
    save(initial_state(config))
    extent = Extent(**checkpoint.read_metadata(tmp_path, "last")["rows"]["metrics"])
    assert [each["step"] for each in step_rows(paths, extent)] == [0]
    assert [each["step"] for each in step_rows(paths)] == [0, 1]  # on the disk before the checkpoint is


def test_a_best_torn_by_a_crash_is_made_whole(
    make: Make, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(saving, "saves_beside_training", lambda device: False)
        [recording] = recorded([make(max_iters=30)], tokens)
    earlier, best, *_ = recording.kept
    checkpoint.save_last(tmp_path, earlier)
    linked = checkpoint._link_file

    def crash_at_the_second(source: Path, target: Path) -> None:
        if target.name == "best.json":
            raise StoreError("power cut")
        linked(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_link_file", crash_at_the_second)
        with pytest.raises(StoreError, match="power cut"):
            checkpoint.save_best(tmp_path, best)
    checkpoint.finish_best(tmp_path)
    assert same(checkpoint.load(tmp_path, "best"), best)
    assert checkpoint.load(tmp_path, "last").progress.step == 0
    assert not list(tmp_path.glob("next-best*"))
