"""Studies that take less disk: what compacting keeps, what can still be done, and the disk that a study may keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from safetensors.torch import load_file

from isoloss.cli import run_command_line
from isoloss.errors import ConfigError, StoreError
from isoloss.execution import disk_cap
from isoloss.execution.compacting import compact_study
from isoloss.execution.executor import Inline
from isoloss.execution.recorder import ENDED, Event
from isoloss.execution.study import run_study
from isoloss.files import bytes_in
from isoloss.report.study_report import write_report
from isoloss.store.merging import merge_studies
from isoloss.store.revisions import revisions
from isoloss.store.run import read_status, write_status
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.identity import run_id
from isoloss.study.numbers import byte_count
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study, parse_study
from isoloss.study.texts import ANY_DATA
from isoloss.training import checkpoint, compacted
from isoloss.training.state import MemberState
from isoloss.wording import size
from tests.test_growing import OPTIONS, TINY, Saying, rows_of, trained

CONSTANT = {**TINY, "n_embd": 32, "decay_lr": False}


@pytest.fixture
def study(text_file: Path) -> Study:
    return Study("tiny", str(text_file), base=CONSTANT, factors={"dropout": (0.0, 0.1)}, seeds=(1, 2))


@pytest.fixture
def out(study: Study, tmp_path: Path) -> Path:
    """Four finished runs; the best checkpoint of the first is not its last."""
    results, *_ = trained(study, tmp_path / "out")
    first = results.paths.run(run_id(results.configs[0])).folder
    best = checkpoint.load(first, "best")
    earlier = replace(best, flat_P=best.flat_P / 2)
    checkpoint.save(first, "best", earlier, checkpoint.read_metadata(first, "best"))
    return tmp_path / "out"


def folders(out: Path) -> list[Path]:
    """Those of the runs, in the study's order."""
    results = load_study(out)
    return [results.paths.run(run).folder for run in results.configs_by_id]


def content(out: Path) -> dict[str, bytes]:
    """Every file of the runs."""
    return {str(path): path.read_bytes() for path in out.glob("runs/*/[!.]*")}


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_command_line([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_runs_without_moments_are_read_as_before(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def uses() -> list[Any]:
        answers: list[Any] = [command(capsys, "status", out), command(capsys, "sample", out, "--length", 20)]
        for kept in ("best", "last"):
            answers.append(command(capsys, "export", out, "--to", "hf", "--out", tmp_path / "hf", "--checkpoint", kept))
            answers.append((tmp_path / "hf/model.safetensors").read_bytes())
        return answers

    before, table = uses(), load_study(out).summary()
    found = compact_study(load_study(out))
    assert found.finished == 4 and not found.refused and not found.unfinished
    assert bytes_in(out / "runs") <= found.after < 0.5 * found.before
    assert uses() == before and load_study(out).summary().equals(table)
    assert write_report(load_study(out)).page.exists()
    for folder in folders(out):
        assert all(name.startswith("model.") for name in load_file(folder / "last.safetensors"))
        with pytest.raises(StoreError, match="compacted, it has no optimizer moments to go on from"):
            checkpoint.load(folder, "last")
    once = content(out)
    assert compact_study(load_study(out)).after == found.after and content(out) == once


def test_an_export_without_moments_is_for_sampling(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def exported() -> tuple[str, dict[str, Any]]:
        code, _, said = command(capsys, "export", out, "--to", "nanogpt", "--out", tmp_path / "ckpt.pt")
        assert code == 0
        return said, torch.load(tmp_path / "ckpt.pt", weights_only=True)

    said, before = exported()
    assert not said and before["optimizer"]
    compact_study(load_study(out))
    said, after = exported()
    assert "was compacted: nanoGPT can sample from" in said and "optimizer" not in after
    assert all(torch.equal(after["model"][name], tensor) for name, tensor in before["model"].items())


def test_of_the_best_weights_alone_a_last_checkpoint_goes_unless_it_is_the_best(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = compact_study(load_study(out)).after
    code, printed, _ = command(capsys, "compact", out, "--keep", "best_weights")
    assert code == 0 and "Last checkpoints that are not the best can no longer be exported." in printed
    assert [compacted.kept_by(folder) for folder in folders(out)] == [["best"], *[["best", "last"]] * 3]
    assert bytes_in(out / "runs") < both - 5000
    export = ("export", out, "--run", folders(out)[0].name, "--to", "hf", "--out", tmp_path / "hf", "--checkpoint")
    assert command(capsys, *export, "best")[0] == 0
    code, _, said = command(capsys, *export, "last")
    assert code == 2 and "has no last checkpoint; it was compacted: export its best one" in said
    assert set(load_study(out).summary()["status"]) == {"done"}


def test_a_dry_run_says_what_compacting_comes_to(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for keep in ("weights", "best_weights"):
        before = content(out)
        code, printed, _ = command(capsys, "compact", out, "--keep", keep, "--dry_run")
        assert code == 0 and "4 finished runs hold" in printed and "would be freed" in printed
        assert content(out) == before
        foretold = compact_study(load_study(out), keep, dry_run=True)
        done = compact_study(load_study(out), keep)
        assert foretold.before == done.before and abs(foretold.after - done.after) < 4 * 2500


def test_a_compacted_study_grows(study: Study, out: Path, tmp_path: Path) -> None:
    compact_study(load_study(out), "best_weights")
    grown = replace(study, factors={"dropout": (0.0, 0.1, 0.2)})
    results, new, _ = trained(grown, out)
    assert new == 2 and rows_of(results) == rows_of(trained(grown, tmp_path / "fresh")[0])


@pytest.mark.parametrize("keep", ["weights", "best_weights"])
def test_a_compacted_run_that_is_given_more_steps_is_trained_anew(
    study: Study, out: Path, tmp_path: Path, keep: Any
) -> None:
    compact_study(load_study(out), keep)
    longer = replace(study, base={**CONSTANT, "max_iters": 12})
    results, new, said = trained(longer, out)
    anew = [line for line in said if "trains its first steps itself" in line and "compacted" in line]
    assert new == len(anew) == 4 and rows_of(results) == rows_of(trained(longer, tmp_path / "fresh")[0])
    assert compact_study(load_study(out)).finished == 8, "runs set aside are compacted too"


def test_a_compacted_run_whose_rows_are_damaged_is_trained_anew(study: Study, out: Path) -> None:
    before = rows_of(load_study(out))
    compact_study(load_study(out))
    (folders(out)[1] / "metrics.jsonl").write_text("{}\n")
    results, new, _ = trained(study, out)
    assert new == 1 and rows_of(results) == before
    assert checkpoint.load(folders(out)[1], "last").progress.step == TINY["max_iters"]


def test_unfinished_and_damaged_runs_are_left_alone_and_said(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = load_study(out)
    failed, damaged, rowless, _ = map(results.paths.run, results.configs_by_id)
    write_status(failed, replace(read_status(failed), state="failed", reason="no memory"))
    (damaged.folder / "best.safetensors").write_bytes(b"half")
    (rowless.folder / "evals.jsonl").unlink()
    before = content(out)
    code, printed, said = command(capsys, "compact", out, "--keep", "best_weights")
    assert code == 1 and "2 finished runs held" in printed and "left as they are: 1 failed and 1 damaged" in printed
    assert f"run {damaged.folder.name} is not compacted: {damaged.folder}/best.safetensors: not a checkpoint" in said
    changed = {Path(path).parent.name for path, was in before.items() if content(out).get(path) != was}
    assert changed == {folders(out)[3].name}


def test_a_study_that_another_process_trains_is_left_alone(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(out)
    with filelock.FileLock(out / ".lock"):
        code, _, said = command(capsys, "compact", out)
        assert code == 2 and "is in use by process" in said and content(out) == before
        assert command(capsys, "compact", out, "--dry_run")[0] == 0


@pytest.mark.parametrize(
    ("stated", "n_bytes"),
    [("2GB", 2e9), ("1.5 GiB", 1.5 * 2**30), ("500kB", 5e5), ("500KB", 5e5), ("7B", 7), ("12", 12), ("2e9", 2e9)],
)
def test_disk_is_an_amount_of_bytes(stated: str, n_bytes: float) -> None:
    found = parse_study(f"name: s\ndisk: {stated}\n", "s.yaml")
    assert found.disk == n_bytes and parse_study(dump_study(found), "dumped") == found
    assert dump_study(replace(found, disk=None)) == dump_study(Study("s", "tinyshakespeare"))


@pytest.mark.parametrize("stated", ["2 gigs", "2G", "-1GB", "true", "2.5", "[1]", "0", "-3", "1e30", ".nan", ".inf"])
def test_another_disk_is_refused_with_its_line(stated: str) -> None:
    with pytest.raises(ConfigError, match=r"^s\.yaml:2: disk.*: expected ") as error:
        parse_study(f"name: s\ndisk: {stated}\n", "s.yaml")
    assert "\n" not in str(error.value)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is larger than all runs of these tests."""
    monkeypatch.setattr(disk_cap, "REPORT_BYTES", 0)
    monkeypatch.setattr(disk_cap, "REPORT_RUN_BYTES", 0)


class Measuring(Saying):
    """Keeps the most that the runs held whenever one ended, and which of them had their moments then."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out, self.most = out, 0

    def emit(self, event: Event) -> None:
        if event.kind in ENDED or event.kind == "running":
            self.most = max(self.most, bytes_in(self.out / "runs"))


def capped(study: Study, out: Path, disk: int) -> tuple[StudyResults, Measuring]:
    listener = Measuring(out)
    options = replace(OPTIONS, workers=1)
    results = run_study(replace(study, disk=disk), out, options, executor=Inline(), listener=listener)
    return results, listener


def least(study: Study, out: Path) -> int:
    """The amount that a study is told would do, in bytes."""
    with pytest.raises(ConfigError, match=r"disk: 1 B is too little: .* write disk: [0-9]+MB or more") as error:
        capped(study, out, 1)
    assert not out.exists(), "refused before anything was written"
    return int(str(error.value).partition("write disk: ")[2].partition("MB")[0]) * 1_000_000


@pytest.mark.usefixtures("no_report")
def test_a_study_stays_within_its_disk(study: Study, tmp_path: Path) -> None:
    many = replace(study, base={**CONSTANT, "n_embd": 64}, seeds=tuple(range(6)))
    cap = least(many, tmp_path / "capped")
    whole, unhindered = capped(many, tmp_path / "whole", 10**9)
    assert unhindered.said == [] and unhindered.most > cap
    results, listener = capped(many, tmp_path / "capped", cap)
    assert listener.most <= cap and bytes_in(tmp_path / "capped/runs") <= cap
    assert rows_of(results) == rows_of(whole)
    assert (
        len(listener.said) <= 2 and "optimizer moments are dropped as room is needed, oldest first" in listener.said[0]
    )
    ended = sorted(results.configs_by_id, key=lambda run: (tmp_path / f"capped/runs/{run}/status.json").stat().st_mtime)
    kept = [isinstance(checkpoint.load_weights(results.paths.run(run).folder, "best"), MemberState) for run in ended]
    assert kept == sorted(kept) and True in kept and False in kept, "the oldest first"


@pytest.mark.usefixtures("no_report")
def test_states_that_horizons_leave_from_count_too(study: Study, tmp_path: Path) -> None:
    rates = {"schedule": "wsd", "decay_share": 0.25, "warmup_iters": 0, "eval_interval": 4, "n_embd": 64}
    base = {name: value for name, value in TINY.items() if name != "max_iters"}
    ladder = replace(study, base={**base, **rates}, factors={"max_iters": (8, 16, 24, 32)}, seeds=(1, 2))
    cap = least(ladder, tmp_path / "capped")
    whole, _ = capped(ladder, tmp_path / "whole", 10**9)
    results, listener = capped(ladder, tmp_path / "capped", cap)
    assert listener.most <= cap
    assert rows_of(results) == rows_of(whole)


@pytest.mark.usefixtures("no_report")
def test_a_disk_that_is_stated_later_holds_at_the_next_start(study: Study, out: Path) -> None:
    before = rows_of(load_study(out))
    (folders(out)[1] / "metrics.jsonl").write_text("{}\n")  # trained again, and left alone meanwhile
    cap = int(0.6 * bytes_in(out / "runs")) + 3 * 170_000
    results, listener = capped(study, out, cap)
    assert rows_of(results) == before and any("are dropped" in line for line in listener.said)
    assert checkpoint.load(folders(out)[1], "last").progress.step == TINY["max_iters"]
    assert revisions(results.paths) == [] and load_study(out).study.disk == cap


@pytest.mark.usefixtures("no_report")
def test_what_another_run_goes_on_from_is_dropped_last(study: Study, tmp_path: Path) -> None:
    base = {name: value for name, value in CONSTANT.items() if name != "max_iters"}
    cells = tuple({"dropout": rate, "max_iters": steps} for rate, steps in ((0.1, 6), (0.0, 6), (0.1, 12)))
    three = replace(study, base={**base, "n_embd": 128}, factors={}, runs=cells, seeds=(1, 2, 3))
    weights = 4 * 203_000
    results, listener = capped(three, tmp_path / "out", least(three, tmp_path / "none") + 7 * weights)
    assert any("are dropped" in line for line in listener.said)
    longer = [run for run, config in results.configs_by_id.items() if config.max_iters == 12]
    assert all("continues" in results.status(run).provenance for run in longer)


def test_plan_says_what_a_study_takes_and_what_would_do(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, wide = tmp_path / "s.yaml", replace(study, base={**CONSTANT, "n_embd": 128})

    def plan(disk: int, *options: str) -> tuple[int, str, str]:
        path.write_text(dump_study(replace(wide, disk=disk)))
        return command(capsys, "plan", path, "--device", "cpu", "--precision", "fp32", *options)

    code, printed, said = plan(1_000_000)
    assert (code, printed) == (2, "") and said.startswith("isoloss: disk: 1 MB is too little: 4 runs keep about ")
    would_do = int(said.partition("write disk: ")[2].partition("MB")[0]) * 1_000_000
    planned = json.loads(plan(would_do, "--json")[1])
    assert planned["disk_cap_bytes"] == would_do < planned["disk_bytes"] < 30_000_000
    assert f"disk: {size(would_do)} may be kept: finished runs give up" in plan(would_do)[1]
    assert plan(would_do - 1_000_000)[0] == 2 and "may be kept" not in plan(10**9)[1]


def test_joined_studies_have_no_cap(study: Study, tmp_path: Path) -> None:
    halves = [trained(replace(study, seeds=(seed,), disk=10**9), tmp_path / str(seed))[0] for seed in (1, 2)]
    assert merge_studies([half.paths.folder for half in halves], tmp_path / "whole").results.study.disk is None


def test_disk_names_no_run(study: Study) -> None:
    assert [*map(run_id, replace(study, disk=1).expand(ANY_DATA))] == [*map(run_id, study.expand(ANY_DATA))]


def test_a_checkpoint_that_is_compacted_between_two_readings_is_not_damaged(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = folders(out)[0], checkpoint.read_bytes

    def compacting(path: Path, most: int) -> bytes:
        monkeypatch.setattr(checkpoint, "read_bytes", read)
        compacted.drop_moments(folder)  # by the process that trains, after the sidecar was read
        return read(path, most)

    monkeypatch.setattr(checkpoint, "read_bytes", compacting)
    found = checkpoint.load_weights(folder, "best")
    assert not isinstance(found, MemberState)


@pytest.mark.parametrize("amount", ["9" * 400 + "GB", float("inf"), float("nan")])
def test_an_amount_beyond_numbers_is_no_amount(amount: object) -> None:
    assert byte_count(amount) is None
