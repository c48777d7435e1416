"""The loop: resuming to the bit, stacks that shrink, divergence of one member, evaluation apart from training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from isoloss.data.batches import exact_eval_starts, windows
from isoloss.data.token_files import Tokens
from isoloss.errors import StoreError
from isoloss.model import gpt
from isoloss.study.config import RunConfig, recorded_config
from isoloss.study.identity import run_id
from isoloss.study.schedules import learning_rate
from isoloss.study.study import Study
from isoloss.study.texts import DataFacts
from isoloss.training import checkpoint, loop, step
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, evaluate
from isoloss.training.state import MemberState, initial_state, stack
from tests.recording import Recording, recorded

Make = Callable[..., RunConfig]


def results_of(recording: Recording) -> list[tuple[float | None, float, float | None]]:
    """What a run's rows say apart from the clock."""
    return [(row.loss, row.lr, row.grad_norm) for row in recording.steps]


def evaluations(recording: Recording) -> list[tuple[int, float | None, float | None]]:
    return [(row.step, row.train_loss, row.val_loss) for row in recording.evals]


@pytest.mark.parametrize(("precision", "compiled"), [("fp32", True), ("bf16", True), ("bf16", False), ("fp16", False)])
@pytest.mark.parametrize("stop_step", [3, 10, 17])
def test_a_stopped_run_continues_to_the_bit(
    make: Make, tokens: Tokens, tmp_path: Path, precision: str, compiled: bool, stop_step: int
) -> None:
    config = make(precision=precision, dropout=0.2, gradient_accumulation_steps=2, init_seed=3, data_seed=4)
    [whole] = recorded([config], tokens, compiled=compiled)
    [first] = recorded([config], tokens, stop_at=stop_step, compiled=compiled)
    assert first.outcome == "" and len(first.steps) == stop_step
    if stop_step % config.eval_interval == 0:  # it was stopped in the middle of an evaluation
        assert stop_step not in [row.step for row in first.evals]
    checkpoint.save_last(tmp_path, first.kept[-1])
    resumed = checkpoint.resume(tmp_path).state
    assert resumed is not None
    [second] = recorded([config], tokens, [resumed], compiled=compiled)
    assert results_of(first) + results_of(second) == results_of(whole)
    assert evaluations(first) + evaluations(second) == evaluations(whole)
    assert torch.equal(second.kept[-1].flat_P, whole.kept[-1].flat_P)


def test_dropout_members_agree_with_their_solo_runs_and_survive_shrinking(make: Make, tokens: Tokens) -> None:
    members = [
        make(n_head=4, dropout=0.3, max_iters=12, seed=5),
        make(n_head=2, dropout=0.0, max_iters=25, seed=6, init_seed=5),
        make(n_head=4, dropout=0.1, max_iters=20, seed=5, learning_rate=3e-3),
        make(n_head=4, dropout=0.3, max_iters=12, seed=5, data_seed=8),
        make(n_head=4, dropout=0.3, max_iters=12, init_seed=8, data_seed=5),
    ]
    for config, stacked in zip(members, recorded(members, tokens), strict=True):
        [solo] = recorded([config], tokens)
        assert [row.loss for row in stacked.steps] == pytest.approx([row.loss for row in solo.steps], rel=1e-5)
        assert [row.step for row in stacked.evals] == [row.step for row in solo.evals]


def test_blocks_of_steps_are_the_steps_one_by_one(make: Make, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accelerator does between two looks at the losses, over the ends of its tables and a divergence."""
    members = [
        make(n_head=4, dropout=0.3, max_iters=33, seed=5, gradient_accumulation_steps=2),
        make(n_head=2, dropout=0.0, max_iters=25, seed=6, gradient_accumulation_steps=2),
        make(learning_rate=1e30, grad_clip=0.0, warmup_iters=0, seed=9, gradient_accumulation_steps=2),
    ]
    singly = recorded(members, tokens)
    monkeypatch.setattr(step, "TABLE_STEPS", 7)
    monkeypatch.setattr(loop, "block_length", lambda members, at, *_: step.steps_to_next_event(members, at))
    in_blocks = recorded(members, tokens)
    assert [one.outcome for one in singly] == ["done", "done", "diverged"]
    for one, block in zip(singly, in_blocks, strict=True):
        assert (results_of(one), evaluations(one), one.reason) == (results_of(block), evaluations(block), block.reason)
        assert [kept.progress.step for kept in one.kept] == [kept.progress.step for kept in block.kept]
    assert torch.equal(singly[0].kept[-1].flat_P, in_blocks[0].kept[-1].flat_P)


def test_equal_seeds_see_equal_data_whatever_else_differs(make: Make, tokens: Tokens) -> None:
    [plain] = recorded([make(max_iters=1)], tokens)
    [other] = recorded([make(max_iters=1, n_head=4, learning_rate=1e-2, weight_decay=0.5)], tokens)
    [reseeded] = recorded([make(max_iters=1, seed=1)], tokens)
    first, same, different = (float(recording.steps[0].loss or 0.0) for recording in (plain, other, reseeded))
    assert same == pytest.approx(first, abs=2e-3)  # same weights and data, heads alone differ at initialisation
    assert different != pytest.approx(first, abs=2e-3)


def test_one_seed_is_both_seeds_to_the_bit(make: Make, tokens: Tokens) -> None:
    one, stated = make(seed=5, dropout=0.2), make(seed=9, init_seed=5, data_seed=5, dropout=0.2)
    [followed], [apart] = recorded([one], tokens), recorded([stated], tokens)
    assert results_of(followed) == results_of(apart) and evaluations(followed) == evaluations(apart)
    assert torch.equal(followed.kept[-1].flat_P, apart.kept[-1].flat_P)


@pytest.mark.parametrize("evaluated", [{}, {"eval": "sampled", "eval_iters": 2}])
def test_init_seed_decides_the_first_weights_and_data_seed_all_that_follows(
    make: Make, tokens: Tokens, evaluated: dict[str, object]
) -> None:
    """A run of both is one of the data's seed that begins with the weights of the other."""
    ours, theirs = make(seed=1, dropout=0.2, **evaluated), make(seed=2, dropout=0.2, **evaluated)
    weights = initial_state(ours).flat_P
    assert not torch.equal(weights, initial_state(theirs).flat_P)
    [expected] = recorded([theirs], tokens, [replace(initial_state(theirs), flat_P=weights.clone())])
    for stated in ({"seed": 1, "data_seed": 2}, {"seed": 2, "init_seed": 1}):
        config = make(dropout=0.2, **evaluated, **stated)
        assert torch.equal(initial_state(config).flat_P, weights)
        [found] = recorded([config], tokens)
        assert results_of(found) == results_of(expected) and evaluations(found) == evaluations(expected)
    [other_data] = recorded([ours], tokens)
    assert results_of(other_data) != results_of(expected)


def test_one_diverging_member_leaves_the_others_as_they_were(make: Make, tokens: Tokens) -> None:
    healthy = make(dropout=0.1)
    wild = make(learning_rate=1e30, grad_clip=0.0, warmup_iters=0, seed=9)
    [calm, lost] = recorded([healthy, wild], tokens)
    [same_stack, _] = recorded([healthy, make(seed=9, max_iters=len(lost.steps))], tokens)
    assert lost.outcome == "diverged"
    assert lost.reason == f"loss is not finite at step {lost.steps[-1].step}"
    assert lost.steps[-1].loss is None
    assert calm.outcome == "done"
    assert results_of(calm) == results_of(same_stack)


def test_evaluation_never_touches_training(make: Make, tokens: Tokens) -> None:
    [rare] = recorded([make(eval_interval=20, dropout=0.1)], tokens)
    [often] = recorded([make(eval_interval=3, dropout=0.1)], tokens)
    [sampled] = recorded([make(eval="sampled", eval_iters=3, dropout=0.1)], tokens)
    assert results_of(rare) == results_of(often) == results_of(sampled)


def test_a_rank_without_windows_evaluates_nothing(make: Make, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "sum", lambda self, tensor: tensor)
    config = make(eval_train_tokens=16)
    stacked = stack([initial_state(config)], torch.device("cpu"))
    short = replace(tokens, val_N=tokens.val_N[: config.block_size + 1])
    first, second = (evaluate(stacked, DeviceTokens(short, stacked.device), Ranks(rank, 2)) for rank in (0, 1))
    assert second is not None and (second[0].train_loss, second[0].val_loss) == (0.0, 0.0)
    assert first == evaluate(stacked, DeviceTokens(short, stacked.device), Ranks())


def test_training_learns(make: Make, tokens: Tokens) -> None:
    [recording] = recorded([make(max_iters=150, learning_rate=1e-2, min_lr=1e-3)], tokens)
    assert (recording.evals[-1].val_loss or 9) < 0.75 * (recording.evals[0].val_loss or 0)


def test_fp16_scales_its_loss_and_skips_overflows(make: Make, tokens: Tokens) -> None:
    config = make(precision="fp16")
    state = initial_state(config)
    huge = replace(state, progress=replace(state.progress, loss_scale=2.0**120))
    [recording] = recorded([config], tokens, [huge])
    assert recording.steps[0].grad_norm is None
    final = recording.kept[-1].progress
    assert final.updates < final.step == 20
    assert final.loss_scale < 2.0**120
    [calm] = recorded([config], tokens)
    [single] = recorded([make(precision="fp32")], tokens)
    assert [row.loss for row in calm.steps] == pytest.approx([row.loss for row in single.steps], abs=0.02)


def test_schedule_is_warm_up_then_cosine_then_constant(make: Make) -> None:
    config = make(max_iters=100, warmup_iters=9, learning_rate=1.0, min_lr=0.1, lr_decay_iters=59)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 34) == pytest.approx(0.55)
    assert learning_rate(config, 59) == learning_rate(config, 99) == pytest.approx(0.1)
    assert learning_rate(make(decay_lr=False, learning_rate=0.5), 77) == 0.5
    assert learning_rate(make(warmup_iters=50, lr_decay_iters=20, min_lr=0.1), 60) == pytest.approx(0.1)


def saved(folder: Path, make: Make, tokens: Tokens) -> list[MemberState]:
    [recording] = recorded([make()], tokens)
    for state in recording.kept:
        checkpoint.save_last(folder, state)
    return recording.kept


def test_best_and_last_are_kept_and_verified(make: Make, tokens: Tokens, tmp_path: Path) -> None:
    states = saved(tmp_path, make, tokens)
    last = checkpoint.load(tmp_path, "last")
    best = checkpoint.load(tmp_path, "best")
    assert last.progress == states[-1].progress
    assert best.progress.step == last.progress.best_step
    assert torch.equal(last.moments["exp_avg_sq"], states[-1].moments["exp_avg_sq"])


@pytest.mark.parametrize("damage", ["flip", "cut", "torn"])
def test_a_damaged_last_falls_back_to_the_previous(make: Make, tokens: Tokens, tmp_path: Path, damage: str) -> None:
    states = saved(tmp_path, make, tokens)
    path = tmp_path / "last.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
    elif damage == "cut":
        del content[-10:]
    else:
        (tmp_path / "last.json").unlink()
    path.unlink()  # a new file: last may share its content with best
    path.write_bytes(content)
    found = checkpoint.resume(tmp_path)
    assert found.state is not None and found.state.progress.step == states[-2].progress.step
    assert found.problem or damage == "torn"
    again = checkpoint.resume(tmp_path)
    assert again.state is not None and again.state.progress == found.state.progress and not again.problem
    for name in ("last", "previous"):
        (tmp_path / f"{name}.json").write_text("{}")
    lost = checkpoint.resume(tmp_path)
    assert lost.state is None and lost.problem.endswith("training it from the start")
    assert checkpoint.resume(tmp_path) == checkpoint.Resumed(None, {})


def test_a_run_that_ended_unnoticed_is_not_trained_on(make: Make, tokens: Tokens, tmp_path: Path) -> None:
    states = saved(tmp_path, make, tokens)
    [again] = recorded([states[-1].config], tokens, [states[-1]])
    assert (again.outcome, again.steps, again.evals) == ("done", [], [])


def test_a_first_checkpoint_torn_by_a_crash_is_no_checkpoint(make: Make, tokens: Tokens, tmp_path: Path) -> None:
    saved(tmp_path, make, tokens)
    for path in tmp_path.iterdir():
        if path.name != "last.safetensors":
            path.unlink()
    assert checkpoint.resume(tmp_path) == checkpoint.Resumed(None, {})


def test_a_second_crash_after_falling_back_loses_nothing(
    make: Make, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, make, tokens)
    (tmp_path / "last.json").write_text("{}")
    resumed = checkpoint.resume(tmp_path).state
    assert resumed is not None

    def crash(*_: object) -> None:
        raise StoreError("no space")

    monkeypatch.setattr(checkpoint, "write_record", crash)
    with pytest.raises(StoreError):
        checkpoint.save_last(tmp_path, resumed)
    again = checkpoint.resume(tmp_path).state
    assert again is not None and again.progress == resumed.progress


def test_evaluation_reads_as_much_of_validation_as_it_is_told(make: Make, tokens: Tokens) -> None:
    config = make(eval_val_tokens=64, block_size=16)
    starts = exact_eval_starts(tokens.layouts[1], 16, 64)
    assert len(starts) == 4 and starts[-1] > len(tokens.val_N) // 2  # evenly spaced, not the first ones
    whole = stack([initial_state(config.model_copy(update={"eval_val_tokens": 0}))], torch.device("cpu"))
    part = stack([initial_state(config)], torch.device("cpu"))
    texts = DeviceTokens(tokens, torch.device("cpu"))
    read, all_of_it = evaluate(part, texts, Ranks()), evaluate(whole, texts, Ranks())
    assert read is not None and all_of_it is not None
    assert read[0].train_loss == all_of_it[0].train_loss and read[0].val_loss != all_of_it[0].val_loss
    blocks = torch.from_numpy(windows(tokens.val_N, starts, 16))[None]
    assert read[0].val_loss == pytest.approx(gpt.loss(part.parameters, part.members, blocks).item())


def test_how_much_is_evaluated_names_a_run_only_where_the_split_is_larger(make: Make) -> None:
    def names(tokens: int, of: int) -> set[str]:
        study = Study("s", "x", base={"eval_val_tokens": tokens})
        return {run_id(config) for config in study.expand(DataFacts("ab", 65, of))}

    assert names(0, 1000) == names(1000, 1000) == names(131072, 1000)
    assert names(500, 1000) != names(0, 1000)
    recorded = {name: value for name, value in dict(make(eval_val_tokens=0)).items() if name != "eval_val_tokens"}
    assert recorded_config(recorded).eval_val_tokens == 0  # what was recorded before there was the setting
