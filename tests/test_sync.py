"""`isoloss sync`: what each tracker's own reader finds, that nothing comes twice, and what a kill leaves behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from isoloss.cli import run_command_line
from isoloss.errors import TrackerError
from isoloss.files import write_record
from isoloss.store.layout import RunPaths
from isoloss.store.run import RunStatus, create_run, write_status
from isoloss.store.tables import load_study
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.trackers import TrackerName
from isoloss.trackers.choice import open_tracker
from isoloss.trackers.mirror import POLL_S, Mirror, Update, mirror
from isoloss.trackers.tracker import Position, Row, TrackedRun, Tracker
from tests.fake_studies import FACTS, fake_study, step_row, write_rows
from tests.tracker_readers import READERS, Point, Shown

STUDY = Study(
    name="tracked",
    corpus="a.txt",
    base={"n_layer": 1, "n_head": 1, "max_iters": 20, "eval_interval": 5},
    factors={"n_embd": (32, 64)},
    seeds=(1, 2),
)
RUNS = [run_id(config) for config in STUDY.expand(FACTS)]
"""The third trains, the fourth has not begun, unless a test says otherwise."""
CONFIGS = dict(zip(RUNS, STUDY.expand(FACTS), strict=True))


def steps_until(last: int) -> list[dict[str, Any]]:
    return [step_row(step) | {"loss": 3.0 - step / 16} for step in range(last)]


def evals_until(last: int) -> list[dict[str, Any]]:
    return [
        {"step": step, "train_loss": 2.0 - step / 64, "val_loss": 2.5 - step / 64, "eval_time_s": 1.0}
        for step in range(0, last + 1, 5)
    ]


def train_until(folder: Path, run: str, checkpoint: int, last: int, loss: float = 0.0) -> None:
    """The files of a run that trains: rows up to `last`, of which those up to the checkpoint are vouched for."""
    paths = RunPaths(folder / "runs" / run)
    create_run(paths, CONFIGS[run])
    rows = [row | {"loss": row["loss"] + loss} for row in steps_until(last)]
    kept = {"metrics": write_rows(paths.metrics, rows[:checkpoint])}
    kept["evals"] = write_rows(paths.evals, evals_until(checkpoint))
    write_rows(paths.metrics, rows)
    write_rows(paths.evals, evals_until(last))
    beside = {"rows": {name: {"size": extent.size, "sha256": extent.sha256} for name, extent in kept.items()}}
    write_record(paths.folder / "last.json", {"progress": {"step": checkpoint}, "beside": beside})
    write_status(paths, RunStatus("running"))


def end(folder: Path, run: str, reason: str = "") -> None:
    paths = RunPaths(folder / "runs" / run)
    kept = {"metrics": write_rows(paths.metrics, steps_until(20)), "evals": write_rows(paths.evals, evals_until(20))}
    write_status(paths, RunStatus("done", reason, rows=kept, times_s={"train": 4.0}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "study"
    fake_study(where, STUDY, dict.fromkeys(range(4), ("pending", "")))
    for run in RUNS[:2]:
        create_run(RunPaths(where / "runs" / run), CONFIGS[run])
        end(where, run)
    train_until(where, RUNS[2], checkpoint=10, last=13)
    return where


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture(scope="module")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs, which takes MLflow seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    pytest.importorskip("mlflow").MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(params=READERS)
def name(request: pytest.FixtureRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackerName:
    pytest.importorskip(request.param)
    if request.param == "mlflow":
        shutil.copy(request.getfixturevalue("empty_mlflow"), folder / "mlflow.db")
    if request.param == "trackio":  # reads its environment when it is imported
        utils, storage = pytest.importorskip("trackio.utils"), pytest.importorskip("trackio.sqlite_storage")
        for module in (utils, storage):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    return request.param


def sync(folder: Path, name: TrackerName) -> Update:
    with mirror(folder, name, lambda opened: open_tracker(name, None, opened)) as found:
        return found.update()


def expected(steps: int, evals: int) -> list[Point]:
    """Every value of the rows before these steps."""
    rows = [("train", row) for row in steps_until(20)[:steps]] + [("eval", row) for row in evals_until(20)[:evals]]
    return sorted((f"{kind}/{key}", row["step"], row[key]) for kind, row in rows for key in row if key != "step")


def of_rows(shown: Shown) -> list[Point]:
    return [point for point in shown.points if point[0].startswith(("train/", "eval/"))]


def close_to(points: Sequence[Point]) -> list[Any]:
    """TensorBoard has 24 bits of each number."""
    return [(key, step, pytest.approx(value, rel=1e-6)) for key, step, value in points]


def test_every_row_is_there_with_settings_group_tags_and_outcome(folder: Path, name: TrackerName) -> None:
    update = sync(folder, name)
    shown = READERS[name](folder)
    assert set(shown) == set(RUNS[:3]), "the fourth has not begun"
    assert of_rows(shown[RUNS[0]]) == close_to(expected(20, 5)) and update.rows[RUNS[0]] == 25
    assert of_rows(shown[RUNS[2]]) == close_to(expected(10, 3)), "rows after the last checkpoint may be written again"
    assert [shown[run].group for run in RUNS[:3]] == ["n_embd=32", "n_embd=32", "n_embd=64"]
    settings = {key: str(shown[RUNS[0]].settings[key]) for key in ("n_embd", "learning_rate", "run_id")}
    assert settings == {
        "n_embd": "32" if name != "tensorboard" else "32.0",
        "learning_rate": "0.001",
        "run_id": RUNS[0],
    }
    assert set(CONFIGS[RUNS[0]].model_dump()) - {"seed"} <= set(shown[RUNS[0]].settings)
    about = {run: shown[run].about for run in RUNS[:3]}
    best = {(key, step): value for key, step, value in shown[RUNS[0]].points}
    match name:
        case "tensorboard":
            assert about[RUNS[0]] == {"outcome/status": "done"} and not about[RUNS[2]]
            assert best["outcome/best_val_loss", 0] == 2.5 - 20 / 64 and best["outcome/best_step", 0] == 20
            assert any(each.name.startswith("n_embd=32,seed=2,") for each in (folder / "tensorboard").iterdir())
        case "mlflow":
            assert [about[run]["status"] for run in RUNS[:3]] == ["FINISHED", "FINISHED", "RUNNING"]
            assert (about[RUNS[1]]["seed"], about[RUNS[1]]["name"]) == ("2", "n_embd=32 seed=2")
            assert best["best_val_loss", 0] == 2.5 - 20 / 64
        case "trackio":
            assert [about[run]["state"] for run in RUNS[:3]] == ["done", "done", "running"]
            assert (about[RUNS[1]]["seed"], about[RUNS[1]]["name"]) == (2, "n_embd=32 seed=2")
            assert about[RUNS[0]]["best_val_loss"] == 2.5 - 20 / 64
        case "wandb":
            assert about[RUNS[1]]["tags"] == ["done", "seed=2"] and about[RUNS[2]]["tags"] == ["running", "seed=1"]
            assert about[RUNS[0]]["best_val_loss"] == 2.5 - 20 / 64 and about[RUNS[0]]["name"] == "n_embd=32 seed=1"


def test_a_second_sync_adds_nothing_and_growth_adds_the_new_rows_alone(folder: Path, name: TrackerName) -> None:
    sync(folder, name)
    before = READERS[name](folder)
    assert sync(folder, name).rows == {} and READERS[name](folder) == before
    train_until(folder, RUNS[2], checkpoint=15, last=16)
    train_until(folder, RUNS[3], checkpoint=5, last=5)
    assert sync(folder, name).rows == {RUNS[2]: 6, RUNS[3]: 7}
    shown = READERS[name](folder)
    assert of_rows(shown[RUNS[2]]) == close_to(expected(15, 4)) and of_rows(shown[RUNS[3]]) == close_to(expected(5, 2))
    end(folder, RUNS[2])
    assert sync(folder, name).rows == {RUNS[2]: 6}
    shown = READERS[name](folder)
    assert of_rows(shown[RUNS[2]]) == close_to(expected(20, 5))
    assert shown[RUNS[2]].about.keys() >= shown[RUNS[0]].about.keys(), "its outcome too"
    assert shown[RUNS[0]].points == before[RUNS[0]].points
    assert load_study(folder).summary()["status"].to_list() == ["done"] * 3 + ["running"], "the study is untouched"


def test_a_run_whose_mirrored_rows_are_gone_is_mirrored_anew(folder: Path, name: TrackerName) -> None:
    sync(folder, name)
    train_until(folder, RUNS[2], checkpoint=5, last=5, loss=0.25)
    update = sync(folder, name)
    assert (update.anew, update.rows) == ((RUNS[2],), {RUNS[2]: 7})
    shown = READERS[name](folder)[RUNS[2]]
    losses = [value for key, _, value in shown.points if key == "train/loss"]
    assert losses == [3.25 - step / 16 for step in range(5)]
    train_until(folder, RUNS[2], checkpoint=10, last=10, loss=0.25)
    assert sync(folder, name).rows == {RUNS[2]: 6}
    assert len(READERS[name](folder)[RUNS[2]].points) == len(expected(10, 3))


class Killed(BaseException):
    """What no handler of errors stops, like the end of the process."""


def killing(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, after: int) -> None:
    """Let the call number `after`, from 0, of a method end the process once it has done its work."""
    real, calls = getattr(owner, method), iter(range(10**6))

    def killed(*args: Any, **kwargs: Any) -> Any:
        value = real(*args, **kwargs)
        if next(calls) == after:
            raise Killed
        return value

    monkeypatch.setattr(
        owner, method, staticmethod(killed) if isinstance(owner.__dict__[method], staticmethod) else killed
    )


def writes_of(name: TrackerName) -> tuple[Any, str, int]:
    """A call by which a tracker's library writes, and how many of them lie between two kills."""
    match name:
        case "tensorboard":
            writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
            return writer.RecordWriter, "write", 5
        case "mlflow":
            return pytest.importorskip("mlflow").MlflowClient, "log_batch", 1
        case "trackio":
            return pytest.importorskip("trackio.sqlite_storage").SQLiteStorage, "bulk_log", 1
        case "wandb":
            return pytest.importorskip("wandb.sdk.wandb_run").Run, "log", 13


def test_a_sync_that_is_killed_again_and_again_comes_to_the_same_content(
    folder: Path, name: TrackerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, method, stride = writes_of(name)

    def sync_in_spite_of_kills() -> int:
        for kills in count():
            try:
                with monkeypatch.context() as patch:
                    killing(patch, owner, method, after=kills * stride)
                    sync(folder, name)
                return kills
            except Killed:
                if name == "wandb":  # whose own process ends with this one
                    pytest.importorskip("wandb").teardown()
        raise AssertionError

    assert sync_in_spite_of_kills() > 1
    train_until(folder, RUNS[2], checkpoint=15, last=16)
    assert sync_in_spite_of_kills() > 0
    shown = READERS[name](folder)
    assert {run: of_rows(shown[run]) for run in RUNS[:2]} == dict.fromkeys(RUNS[:2], close_to(expected(20, 5)))
    assert of_rows(shown[RUNS[2]]) == close_to(expected(15, 4))


def test_a_state_that_changes_without_rows_changes_no_points(folder: Path, name: TrackerName) -> None:
    sync(folder, name)
    ended, before = (READERS[name](folder)[run] for run in (RUNS[0], RUNS[2]))
    paths = RunPaths(folder / "runs" / RUNS[2])
    for reason in ("no disk", "no memory"):
        write_status(paths, RunStatus("failed", reason))
        assert sync(folder, name).rows == {RUNS[2]: 0}
    end(folder, RUNS[0], "loss of another thread count was accepted")
    assert sync(folder, name).rows == {RUNS[0]: 0}
    assert READERS[name](folder)[RUNS[0]].points == ended.points
    shown = READERS[name](folder)[RUNS[2]]
    assert shown.points == before.points
    if name != "tensorboard":  # has an outcome of runs alone that do not go on
        assert shown.about["reason"] == "no memory" and "failed" in shown.about.get("tags", shown.about["state"])


# What does not depend on the tracker.


class Listing(Tracker):
    """Keeps rows in a list, and may be out of reach."""

    where = shown_by = "a list"

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.positions: dict[str, Position] = {}
        self.runs: dict[str, TrackedRun] = {}
        self.reachable = True

    def position(self, id: str) -> Position | None:
        return self.positions.get(id)

    def drop(self, id: str) -> None:
        self.rows.pop(id, None)

    def write(self, run: TrackedRun, rows: Sequence[Row], position: Position) -> None:
        if not self.reachable:
            raise RuntimeError("connection refused\n  at line 3")
        self.rows.setdefault(run.id, []).extend(rows)
        self.positions[run.id], self.runs[run.id] = position, run


@pytest.fixture
def listing(folder: Path) -> Iterator[tuple[Listing, Mirror]]:
    tracker = Listing()
    with mirror(folder, "trackio", lambda _: tracker) as found:
        yield tracker, found


def test_following_looks_again_until_every_run_has_ended(folder: Path, listing: tuple[Listing, Mirror]) -> None:
    tracker, found = listing
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        match len(pauses):
            case 1:
                train_until(folder, RUNS[2], checkpoint=15, last=16)
            case 2:
                end(folder, RUNS[2])
                train_until(folder, RUNS[3], checkpoint=5, last=6)
            case 3:
                write_status(RunPaths(folder / "runs" / RUNS[3]), RunStatus("failed", "no disk"))
            case _:
                pytest.fail("every run has ended")

    updates = [dict(update.rows) for update in found.updates(follow=True, pause=pause)]
    assert updates == [
        {RUNS[0]: 25, RUNS[1]: 25, RUNS[2]: 13},
        {RUNS[2]: 6},
        {RUNS[2]: 6, RUNS[3]: 7},
        {RUNS[3]: 0},
    ]
    assert len(pauses) == 3 and set(pauses) == {POLL_S}
    states = [run.state for run in tracker.runs.values()]
    assert states == ["done", "done", "done", "failed"] and tracker.runs[list(tracker.runs)[3]].reason == "no disk"


@pytest.mark.parametrize(("checkpoint", "last", "loss"), [(15, 15, 0.25), (5, 13, 0.0)], ids=["rewritten", "in doubt"])
def test_rows_that_were_mirrored_and_do_not_last_are_mirrored_anew(
    folder: Path, listing: tuple[Listing, Mirror], checkpoint: int, last: int, loss: float
) -> None:
    tracker, found = listing
    found.update()
    train_until(folder, RUNS[2], checkpoint, last, loss)
    rows = checkpoint + checkpoint // 5 + 1
    update = found.update()
    assert (update.anew, update.rows) == ((RUNS[2],), {RUNS[2]: rows})
    assert [row.number for row in list(tracker.rows.values())[-1]] == list(range(rows))
    train_until(folder, RUNS[2], 18, 18, loss)
    assert found.update().rows == {RUNS[2]: 18 + 4 - rows}, "and goes on from there"


def test_rows_are_numbered_in_the_order_they_were_recorded(listing: tuple[Listing, Mirror]) -> None:
    tracker, found = listing
    list(found.updates(follow=False))
    rows = next(iter(tracker.rows.values()))
    assert [row.number for row in rows] == list(range(25))
    kinds = [(row.step, next(iter(row.values)).partition("/")[0]) for row in rows[:8]]
    assert kinds == [(0, "eval"), *((step, "train") for step in range(5)), (5, "eval"), (5, "train")]
    assert [row.seconds for row in rows[:3]] == pytest.approx([1.0, 1.01, 1.02])


def test_a_run_that_failed_before_it_began_is_shown_as_failed(folder: Path, listing: tuple[Listing, Mirror]) -> None:
    tracker, found = listing
    paths = RunPaths(folder / "runs" / RUNS[3])
    write_status(paths, RunStatus("failed", "no memory"))
    assert found.update().rows[RUNS[3]] == 0
    assert list(tracker.runs.values())[3].reason == "no memory"


def test_what_cannot_be_read_of_a_run_is_told_and_the_others_are_mirrored(
    folder: Path, listing: tuple[Listing, Mirror]
) -> None:
    _, found = listing
    metrics = RunPaths(folder / "runs" / RUNS[0]).metrics
    metrics.write_bytes(metrics.read_bytes().replace(b"3.0", b"2.0", 1))
    update = found.update()
    assert list(update.rows) == RUNS[1:3] and list(update.problems) == [RUNS[0]]
    assert "damaged" in update.problems[RUNS[0]]


def test_a_tracker_out_of_reach_is_one_line_and_what_it_has_is_not_sent_again(listing: tuple[Listing, Mirror]) -> None:
    tracker, found = listing
    tracker.reachable = False
    with pytest.raises(TrackerError, match=r"^a list: connection refused; "):
        found.update()
    tracker.reachable = True
    assert len(found.update().rows) == 3 and not found.update().rows


def test_one_process_at_a_time_mirrors_a_study_to_a_tracker(folder: Path) -> None:
    command = [sys.executable, "-m", "isoloss", "sync", str(folder), "--to", "wandb"]
    with mirror(folder, "wandb", lambda _: Listing()):
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "another isoloss sync --to wandb mirrors" in found.stderr


def test_two_directories_with_the_same_runs_have_runs_of_their_own(folder: Path, tmp_path: Path) -> None:
    tracker, other = Listing(), tmp_path / "other"
    shutil.copytree(folder, other)
    for where in (folder, other, folder):
        with mirror(where, "mlflow", lambda _: tracker) as found:
            found.update()
    assert len(tracker.rows) == 6 and {len(rows) for rows in tracker.rows.values()} == {25, 13}


def test_a_library_that_is_missing_is_named_with_what_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, imported in {**dict.fromkeys(READERS, ""), "trackio": ".sqlite_storage"}.items():
        monkeypatch.setitem(sys.modules, f"{name}{imported}", None)
        monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
        assert run_command_line(["sync", str(folder), "--to", name]) == 2
        assert capsys.readouterr().err.endswith(f"pip install 'isoloss[{name}]'\n")


def test_the_command_says_what_was_added_and_where(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(folder.parent)
    assert run_command_line(["sync", "study", "--to", "tensorboard", "--into", "events"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{folder.parent / 'events'}\n"
    assert "63 new rows of 3 runs" in told.err and "tensorboard --logdir" in told.err
    assert run_command_line(["sync", "study", "--to", "tensorboard", "--into", "events"]) == 0
    assert "nothing is new" in capsys.readouterr().err


def test_files_of_wandb_stay_out_of_the_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["sync", str(folder), "--to", "wandb", "--into", str(folder / "w")]) == 2
    assert "choose a folder outside" in capsys.readouterr().err
