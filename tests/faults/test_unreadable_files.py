"""A file that cannot be read now, for lack of memory or by an error of the disk, is left unchanged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoloss.errors import UnreadableError
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.files import sha256_file
from isoloss.study.studyfile import find_study
from isoloss.training import checkpoint
from tests.faults.harness import RecordingDisplay, Trials, acknowledged, results_of

OPEN = os.open


def answering(error: Exception, suffix: str = ".safetensors") -> Callable[..., int]:
    """An os.open whose answer for reading files of that suffix is the error."""

    def open_or_fail(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if str(path).endswith(suffix) and flags & os.O_ACCMODE == os.O_RDONLY:
            raise error
        return OPEN(path, flags, *rest, **options)

    return open_or_fail


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def unloaded(content: bytes) -> dict[str, Any]:
    del content
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 300000000 bytes")


@pytest.mark.promise(6, "a checkpoint that cannot be read for lack of memory or handles, or by EIO: left unchanged")
@pytest.mark.parametrize(
    "lack", [*map(os_error, (errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE)), MemoryError(), None]
)
def test_a_checkpoint_that_cannot_be_read_just_now_is_not_thrown_away(
    server: Trials,
    fault_free: tuple[dict[str, Any], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lack: Exception | None,
) -> None:
    expected, operations = fault_free
    out = tmp_path / "out"
    server.start(out, "kill", operations * 2 // 3)
    run = next(out.glob("runs/*"))
    before = {path.name: sha256_file(path) for path in run.glob("*.*")}
    assert acknowledged(out) > 0
    with monkeypatch.context() as patch:
        if lack is None:  # the file is read, and there is no room for its tensors
            patch.setattr(checkpoint.safetensors_torch, "load", unloaded)
        else:
            patch.setattr(os, "open", answering(lack))
        with pytest.raises(UnreadableError, match="just now"):
            checkpoint.resume(run)
    assert {path.name: sha256_file(path) for path in run.glob("*.*")} == before
    server.finish(out)
    assert results_of(out) == expected


@pytest.mark.promise(6, "a checkpoint of one run of a stack that cannot be read: the other is trained")
def test_a_run_that_cannot_be_read_fails_alone(
    stacked: Trials, two_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    stacked.start(whole.with_name("first"))
    stacked.start(out, "kill", stacked.start(whole).operations // 2)
    unreadable = next(out.glob("runs/*/last.json")).with_suffix(".safetensors")
    before, display = sha256_file(unreadable), RecordingDisplay()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", answering(os_error(errno.EIO), str(unreadable)))
        options = RunOptions(device="cpu", stack=2)
        results = run_study(find_study(str(two_runs)), out, options, executor=Inline(), listener=display)
        assert sorted(results.summary()["status"]) == ["done", "failed"]
    assert str(unreadable) in display.reasons[0] and sha256_file(unreadable) == before
    stacked.finish(out)
    assert results_of(out) == results_of(whole)


@pytest.mark.promise(6, "rows or records of a finished run that cannot be read: left unchanged")
@pytest.mark.parametrize("name", [".jsonl", "/status.json", "/config.json", "/last.json"])
def test_what_is_done_and_cannot_be_read_just_now_stays(
    server: Trials,
    study: Path,
    fault_free: tuple[dict[str, Any], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    out = tmp_path / "out"
    server.start(out)
    files = {path: sha256_file(path) for path in out.glob("runs/*/*.*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", answering(os_error(errno.EIO), name))
        results = run_study(find_study(str(study)), out, RunOptions(device="cpu"), executor=Inline())
        assert results.summary()["status"].to_list() == ["done" if name == "/last.json" else "damaged"]
    assert {path: sha256_file(path) for path in files} == files
    server.finish(out)
    assert results_of(out) == fault_free[0]
