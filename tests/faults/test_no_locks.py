"""File systems without locks, as some NFS and Lustre mounts: a lease has one owner, and outlives no dead one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from isoloss.errors import StoreError
from isoloss.store import folder_check
from isoloss.store.folder_check import check_folder
from tests.faults.harness import compiled_shim

HOLD = """
import sys, time
import isoloss.locks
from isoloss.errors import InUseError
isoloss.locks.LEASE_S = 1.5
began = time.monotonic()
try:
    with isoloss.locks.locked(isoloss.locks.Path(sys.argv[1]), 0, lambda: "in use"):
        print(f"held after {time.monotonic() - began:.2f}", flush=True)
        sys.stdin.read()
except InUseError as error:
    print(error, flush=True)
    print(f"{time.monotonic() - began:.2f}", flush=True)
"""
REFUSED = """
import pathlib, sys
from isoloss.errors import ConfigError
from isoloss.store.layout import StudyPaths
from isoloss.store.owner import owned
try:
    with owned(StudyPaths(pathlib.Path(sys.argv[1]))):
        raise ConfigError("refused")
except ConfigError as error:
    print(error, flush=True)
"""
OTHER_HOST = "import filelock._marker, filelock._soft, filelock._identity as i; i.host_name = lambda: 'elsewhere'\n"
OTHER_HOST += "filelock._marker.host_name = filelock._soft.host_name = i.host_name\n"


@pytest.fixture
def environment(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    shim = compiled_shim(tmp_path_factory.mktemp("shim"))
    return {**os.environ, "LD_PRELOAD": str(shim), "FAULT_NO_LOCKS": str(tmp_path)}


def holder(lock: Path, environment: dict[str, str], program: str = HOLD) -> subprocess.Popen[str]:
    command: Sequence[str] = [sys.executable, "-c", program, str(lock)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.promise(5, "a file system without locks: one owner, and a dead one keeps nobody out")
def test_without_locks_a_lease_has_one_owner_and_a_dead_one_keeps_nobody_out(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    lock = tmp_path / ".lock"
    with holder(lock, environment) as first:
        assert said(first).startswith("held")
        with holder(lock, environment) as second:
            assert said(second) == "in use"
        with holder(lock, environment, OTHER_HOST + HOLD) as elsewhere:
            assert said(elsewhere) == "in use"
        first.kill()
    with holder(lock, environment, OTHER_HOST + HOLD) as elsewhere:  # cannot ask whether the process lives: waits
        after = said(elsewhere)
        assert after.startswith("held") and 1.0 < float(after.split()[-1]) < 5
        elsewhere.kill()
    with holder(lock, environment, OTHER_HOST + HOLD) as elsewhere:
        assert said(elsewhere).startswith("held")
        elsewhere.communicate("")
    assert not (tmp_path / ".lock.lease").exists()


@pytest.mark.promise(5, "a file system without locks: a living owner is told by its next sign of life")
def test_a_living_owner_is_told_before_its_lease_would_expire(tmp_path: Path, environment: dict[str, str]) -> None:
    lock, longer = tmp_path / ".lock", HOLD.replace("1.5", "4.5")
    with holder(lock, environment, longer) as first:
        assert said(first).startswith("held")
        with holder(lock, environment, longer) as second:
            assert said(second) == "in use" and float(said(second)) < 4.5
        first.kill()


@pytest.mark.promise(5, "a file system without locks: a lease of another duration is another version's")
def test_a_lease_of_another_duration_is_in_use(tmp_path: Path, environment: dict[str, str]) -> None:
    lock = tmp_path / ".lock"
    with holder(lock, environment) as first:
        assert said(first).startswith("held")
        with holder(lock, environment, HOLD.replace("1.5", "2.5")) as second:
            assert said(second) == "in use, of another version of isoloss"
        first.kill()


@pytest.mark.promise(5, "a file system without locks: an owner that was suspended ends when it lost its lease")
def test_an_owner_that_was_suspended_ends_when_it_lost_its_lease(tmp_path: Path, environment: dict[str, str]) -> None:
    lock = tmp_path / ".lock"
    with holder(lock, environment) as first:
        assert said(first).startswith("held")
        first.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        with holder(lock, environment, OTHER_HOST + HOLD) as second:
            assert said(second).startswith("held")
            first.send_signal(signal.SIGCONT)
            assert first.wait(10) == StoreError.exit_code
            assert first.stderr and "was lost" in first.stderr.read()
            second.kill()


def test_a_refused_start_leaves_no_folder_behind(tmp_path: Path, environment: dict[str, str]) -> None:
    with holder(tmp_path / "study", environment, REFUSED) as refused:
        assert said(refused) == "refused"
        assert refused.wait(10) == 0
    assert not (tmp_path / "study").exists()


@pytest.mark.promise(5, "a folder's locks, renames, syncs, links and appends, tried before a study relies on them")
def test_doctor_says_what_a_folder_does(tmp_path: Path, environment: dict[str, str]) -> None:
    def doctor(*options: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "isoloss", "doctor", str(tmp_path), *options]
        return subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)

    here = doctor("--json")
    assert here.returncode == 0 and [each["holds"] for each in json.loads(here.stdout)] == [True] * 5
    without = doctor(LD_PRELOAD=environment["LD_PRELOAD"], FAULT_NO_LOCKS=str(tmp_path))
    assert without.returncode == 0 and "  lock: the file system has none; a lease stands in" in without.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "error"), [("replace", errno.ESTALE), ("fsync", errno.EIO), ("link", errno.EPERM)])
def test_a_folder_that_cannot_keep_results_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, name, refuse)
    found = {each.tried: each for each in check_folder(tmp_path)}
    tried = {"replace": "rename", "link": "hard link"}.get(name, name)
    assert found[tried].holds == (name == "link") and os.strerror(error) in found[tried].text
    assert all(each.holds for each in found.values() if each.tried != tried)


def test_a_late_name_and_a_lock_that_two_hold_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_check, "_TRY_LOCK", "")
    monkeypatch.setattr(Path, "replace", lambda self, other: None)
    found = {each.tried: each for each in check_folder(tmp_path)}
    assert not found["lock"].holds and "two processes" in found["lock"].text
    assert not found["rename"].holds and "not replaced" in found["rename"].text


@pytest.mark.promise(9, "a stop while the lease of an owner without a sign of life is waited for: heard at once")
def test_a_stop_is_heard_while_a_lease_is_waited_for(tmp_path: Path, environment: dict[str, str]) -> None:
    lock, stopped = tmp_path / ".lock", '"in use", lambda: time.monotonic() - began > 0.5):'
    waiting = HOLD.replace("LEASE_S = 1.5", "LEASE_S = 60.0").replace('"in use"):', stopped)
    with holder(lock, environment, waiting) as first:
        assert said(first).startswith("held")
        first.send_signal(signal.SIGSTOP)
        with holder(lock, environment, waiting) as second:
            assert said(second) == "in use" and float(said(second)) < 15
        first.kill()
