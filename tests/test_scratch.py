"""Training on a disk of the node's own: the study gets its runs whole, whatever is killed on the way."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from isoloss.errors import AllFailedError, ConfigError, Interrupted, StoreError
from isoloss.execution.executor import Inline, NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.recorder import Event
from isoloss.execution.study import run_study
from isoloss.store import moving
from isoloss.store.layout import RunPaths
from isoloss.store.moving import finish_moving, move_in
from isoloss.store.tables import load_study
from isoloss.study.study import Study
from tests.faults.harness import results_of

BASE: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "precision": "fp32"}
BASE |= {"max_iters": 8, "eval_interval": 4, "eval_train_tokens": 64}
HERE = RunOptions(device="cpu", compile="off", stack=2)


@pytest.fixture
def two(text_file: Path) -> Study:
    return Study("two", str(text_file), base=BASE, seeds=(1, 2))


class Listener(NullListener):
    """Notes what the study and the scratch hold at each event."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self.out, self.scratch, self.seen = out, scratch, list[tuple[str, bool, bool]]()

    def emit(self, event: Event) -> None:
        there = list(self.scratch.glob(f"*/runs/{event.run_id}"))
        self.seen.append((event.kind, bool(there), (self.out / f"runs/{event.run_id}/metrics.jsonl").exists()))


def test_runs_train_on_scratch_and_are_moved_in_when_they_end_or_stop(two: Study, tmp_path: Path) -> None:
    run_study(two, tmp_path / "plain", HERE, executor=Inline())
    scratch, out = tmp_path / "disk", tmp_path / "out"
    scratch.mkdir()
    options = RunOptions(device="cpu", compile="off", stack=2, scratch=scratch)
    heard = Listener(out, scratch)
    with pytest.raises(Interrupted):
        run_study(two, out, options, executor=Inline(), listener=heard, should_stop=lambda: len(heard.seen) > 1)
    assert heard.seen[0] == ("running", True, False) and heard.seen[-1] == ("stopped", True, True)
    assert not list(scratch.iterdir())
    run_study(two, out, options, executor=Inline(), listener=heard)
    assert heard.seen[-1] == ("done", True, True) and not list(scratch.iterdir())
    assert results_of(out) == results_of(tmp_path / "plain")
    assert not [path for path in out.glob("runs/*/.*") if path.name.startswith(".moving")]
    run = next(out.glob("runs/*"))
    assert not (run / "previous.json").exists()
    if (run / "best.json").read_bytes() == (run / "last.json").read_bytes():
        assert (run / "best.safetensors").samefile(run / "last.safetensors")


def test_a_kill_while_a_run_is_moved_in_leaves_it_as_it_was_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = {"status.json": "old", "a": "old", "gone": "old"}, {"status.json": "new", "a": "new", "b": "new"}
    source, target = RunPaths(tmp_path / "source"), RunPaths(tmp_path / "target")

    def fill(run: RunPaths, files: dict[str, str]) -> None:
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.mkdir()
        for name, content in files.items():
            (run.folder / name).write_text(content)

    def held() -> dict[str, str]:
        return {path.name: path.read_text() for path in target.folder.glob("[!.]*")}

    class Kill(BaseException): ...

    fill(source, new)
    replace, unlink, outcomes = Path.replace, Path.unlink, list[bool]()
    for at in range(20):
        fill(target, old)
        left = [at]

        def counted(self: Path, *arguments: Any, act: Any, left: list[int] = left, **how: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Kill
            return act(self, *arguments, **how)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda *a, **k: counted(*a, act=replace, **k))
            patch.setattr(Path, "unlink", lambda *a, **k: counted(*a, act=unlink, **k))
            with suppress(Kill):
                move_in(source, target)
        finish_moving(target)
        assert held() in (old, new), at
        outcomes.append(held() == new)
        finish_moving(target)
    assert outcomes == sorted(outcomes) and set(outcomes) == {False, True}
    assert not (target.folder / ".moving").exists()


def test_a_copy_that_a_kill_left_unfinished_is_in_nobodys_way(two: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        run_study(two, out, HERE, executor=Inline(), should_stop=lambda: bool(list(out.glob("runs/*/evals.jsonl"))))
    for run in out.glob("runs/*"):
        (run / ".moving.tmp").mkdir()
        (run / ".moving.tmp" / "last.safetensors").write_bytes(b"half")
    assert set(run_study(two, out, HERE, executor=Inline()).summary()["status"]) == {"done"}
    assert not list(out.glob("runs/*/.moving*"))


def test_a_folder_that_vanished_takes_nothing_with_it(tmp_path: Path) -> None:
    target = RunPaths(tmp_path / "target")
    target.folder.mkdir()
    target.metrics.write_text("rows")
    move_in(RunPaths(tmp_path / "gone"), target)
    assert target.metrics.read_text() == "rows" and [*target.folder.iterdir()] == [target.metrics]


def test_a_study_that_takes_nothing_more_is_why_runs_fail(
    two: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreError("cannot write: No space left on device")

    monkeypatch.setattr("isoloss.execution.scratch.move_in", full)
    (tmp_path / "disk").mkdir()
    options = RunOptions(device="cpu", compile="off", stack=2, scratch=tmp_path / "disk")
    with pytest.raises(AllFailedError, match="No space left on device"):
        run_study(two, tmp_path / "out", options, executor=Inline())
    kept = sorted((tmp_path / "disk").glob("isoloss-*/runs/*"))
    assert len(kept) == 2 and all((folder / "last.safetensors").exists() for folder in kept)
    reasons = [load_study(tmp_path / "out").status(folder.name).reason for folder in kept]
    assert all(f"what was trained stays in {kept[0].parents[1]}" in reason for reason in reasons)


def test_a_run_that_cannot_be_copied_fails_alone(two: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Path, target: Path, copy: Any = moving.copy_run) -> None:
        if not broken_runs:
            broken_runs.append(source.name)
            raise StoreError("cannot read: Input/output error")
        copy(source, target)

    broken_runs: list[str] = []
    monkeypatch.setattr("isoloss.execution.scratch.copy_run", broken)
    (tmp_path / "disk").mkdir()
    options = RunOptions(device="cpu", compile="off", stack=2, scratch=tmp_path / "disk")
    results = run_study(two, tmp_path / "out", options, executor=Inline())
    assert sorted(results.summary()["status"]) == ["done", "failed"]
    assert "Input/output error" in results.status(broken_runs[0]).reason


def test_what_is_no_file_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.json").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match=r"last\.json is no file: remove it"):
        moving.copy_run(tmp_path / "run", tmp_path / "copy")


def test_a_scratch_that_cannot_be_is_refused(two: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for scratch, text in ((out / "scratch", "name a folder outside"), (tmp_path / "none", "not a folder that can be")):
        with pytest.raises(ConfigError, match=text):
            run_study(two, out, RunOptions(device="cpu", scratch=scratch), executor=Inline())
    assert not (out / "study.yaml").exists()


def test_a_scratch_that_a_node_lacks_is_why_its_runs_fail(
    two: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoloss.execution.placement.os.access", lambda *_: True)
    scratch = tmp_path / "disk"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", lambda *_, **__: (_ for _ in ()).throw(OSError(13, "Permission denied")))
    with pytest.raises(AllFailedError, match=r"--scratch .*disk on node .*Permission denied"):
        run_study(two, tmp_path / "out", RunOptions(device="cpu", scratch=scratch), executor=Inline())
    assert set(load_study(tmp_path / "out").summary()["status"]) == {"failed"}
