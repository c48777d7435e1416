"""Studies from strangers whose files are links, pipes or devices: no verb follows, writes, removes or waits."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isoloss.cli import run_command_line
from isoloss.data.corpus import MAX_CORPUS_BYTES
from isoloss.errors import CorpusError, StoreError
from isoloss.execution.study import run_study
from isoloss.store.enclosed import check_enclosed
from isoloss.store.tables import load_study
from isoloss.study.studyfile import find_study
from tests.faults.harness import Points, Trials, results_of
from tests.texts import load_corpus

WAIT_S = 20


def to(target: str) -> Callable[[Path, Path], None]:
    """A symbolic link at the place to something in the folder outside, or to an absolute path."""
    return lambda place, outside: place.symlink_to(outside / target)


def bound_socket(place: Path, _outside: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # names of sockets must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(place.name)
    os.chdir(here)


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "link to a file outside": to("outside_file.txt"),
    "link to a folder outside": to("folder"),
    "link to nothing, to be made by a write": to("not-there-yet"),
    "link to a device without end": to("/dev/zero"),
    "link to a device that swallows": to("/dev/null"),
    "link to a pipe nobody writes": to("pipe"),
    "link to itself": lambda place, outside: place.symlink_to(place.name),
    "link to its own folder": lambda place, outside: place.symlink_to("."),
    "pipe": lambda place, outside: os.mkfifo(place),
    "socket": bound_socket,
}
OF_THE_STUDY = (
    "study.yaml", "provenance.json", "tokenizer.json", "summary.csv", "summary.parquet", ".lock", ".owner.json", "runs",
    "report", "report/index.html", "report/paper", "report/paper/wall_time-6.75in.png", "report/paper/runs.csv",
    "of the user's own",
)  # fmt: skip
OF_A_RUN = (
    "", "config.json", "status.json", "metrics.jsonl", "evals.jsonl", "last.json", "last.safetensors", "best.json",
    "best.safetensors", "previous.json", "previous.safetensors", "samples.txt", ".lock", ".last.json.tmp",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(server: Trials, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert server.start(out).states == ("done",)
    assert run_command_line(["report", str(out)]) == 0
    return out


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Whoever opens a pipe waits for its other end for ever."""

    def late(*_: object) -> None:
        raise TimeoutError(f"still waiting after {WAIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, WAIT_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file outside the study that must not change."""
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    for name in ("outside_file.txt", "folder/kept.png", "folder/kept.csv", "folder/index.html", "folder/kept.json"):
        (folder / name).write_text(f"outside_file {name}")
    os.mkfifo(folder / "pipe")
    return folder


def everything(folder: Path) -> dict[str, object]:
    """Every name below a folder with its content and the time it was last changed; links are not followed."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, content)
    return found


def verbs(study: Path, out: Path, elsewhere: Path) -> list[list[str]]:
    return [
        ["status", str(out)],
        ["report", str(out)],
        ["sample", str(out), "--length", "5", "--prompt", "to"],
        ["export", str(out), "--to", "nanogpt", "--out", str(elsewhere / "ckpt.pt")],
        ["export", str(out), "--to", "hf", "--out", str(elsewhere / "hf")],
        ["convergence", str(out)],
        ["run", str(study), "--out", str(out), "--device", "cpu"],
    ]


def spoiled(finished: Path, folder: Path, name: str, kind: str, outside: Path) -> tuple[Path, Path]:
    """A copy of the finished study in which one place is something else; and the place."""
    out = folder / "out"
    shutil.copytree(finished, out)
    place = out / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    KINDS[kind](place, outside)
    return out, place


@pytest.mark.promise(12, "links, pipes, sockets and devices at each place of a study, 8 verbs each: refused")
def test_nothing_is_followed_written_removed_or_waited_for(
    finished: Path, study: Path, points: Points, tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(finished.glob("runs/*")).relative_to(finished)
    trials = [(name, kind) for name in (*OF_THE_STUDY, *(str(run / name) for name in OF_A_RUN)) for kind in KINDS]
    before = everything(outside)
    for number, (name, kind) in enumerate(points(trials, 24)):
        signal.setitimer(signal.ITIMER_REAL, WAIT_S)
        folder = tmp_path / str(number)
        out, place = spoiled(finished, folder, name, kind, outside)
        inside = everything(folder)
        capsys.readouterr()
        for command in verbs(study, out, folder):
            case = f"{command[0]} with {kind} at {name}"
            assert run_command_line(command) == StoreError.exit_code, case
            printed, said = capsys.readouterr()
            # Without a study.yaml to look at it is no study, which is as good a reason.
            assert str(place) in said or (name == "study.yaml" and command[0] == "convergence"), (case, said)
            assert said.count("\n") == 1 and not printed, (case, said)
        with pytest.raises(StoreError):
            run_study(find_study(str(study)), out)
        assert everything(folder) == inside, (name, kind)
        assert everything(outside) == before, (name, kind)
        shutil.rmtree(folder)


@pytest.mark.promise(12, "a hard link elsewhere to a file that is appended to: refused")
@pytest.mark.parametrize("name", ["runs/*/metrics.jsonl", "runs/*/evals.jsonl", "runs/*/.lock", ".lock"])
def test_a_hard_link_leads_no_write_out(
    server: Trials, fault_free: tuple[dict[str, object], int], tmp_path: Path, name: str
) -> None:
    out, outside_file = tmp_path / "out", tmp_path / "outside_file"
    server.start(out, "kill", fault_free[1] // 2)
    outside_file.write_text("not for anybody to write")
    place = next(out.glob(name))
    place.unlink()
    place.hardlink_to(outside_file)
    assert f"{place} has a second name" in server.start(out).message
    assert outside_file.read_text() == "not for anybody to write"
    place.unlink()
    server.finish(out)


def test_a_study_lies_behind_links_as_its_owner_likes(
    study: Path, fault_free: tuple[dict[str, object], int], tmp_path: Path
) -> None:
    """`results` on another disk is a link, and so may the study's own folder be."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to("disk")
    assert run_command_line(["run", str(study), "--out", str(tmp_path / "results" / "one"), "--device", "cpu"]) == 0
    (tmp_path / "two").symlink_to(tmp_path / "results" / "one")
    for command in verbs(study, tmp_path / "two", tmp_path):
        assert run_command_line(command) == 0, command
    assert results_of(tmp_path / "two") == fault_free[0]
    assert (tmp_path / "disk" / "one" / "report" / "index.html").is_file()


def test_a_dangling_link_in_place_of_the_folder_is_one_line(study: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(StoreError, match=r"cannot write .*out"):
        run_study(find_study(str(study)), tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()


def test_looking_at_a_thousand_runs_takes_no_time(tmp_path: Path) -> None:
    for run in range(1000):
        folder = tmp_path / "runs" / f"{run:016x}"
        folder.mkdir(parents=True)
        for name in range(10):
            (folder / str(name)).touch()
    times: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        check_enclosed(tmp_path)
        times.append(time.perf_counter() - started)
    print(f"{1e3 * min(times):.0f} ms")
    assert min(times) < 0.25  # 20 ms; other work may keep the machine busy


def test_files_may_come_and_go_meanwhile(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished, tmp_path / "out")
    gone = next((tmp_path / "out").glob("runs/*"))
    scandir = os.scandir

    def slow(path: str) -> object:
        if path == str(gone):
            shutil.rmtree(gone)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    check_enclosed(tmp_path / "out")
    monkeypatch.undo()
    assert not gone.exists() and load_study(tmp_path / "out").summary()["status"].to_list() == ["pending"]


@pytest.mark.promise(12, "a corpus that is a device, a pipe, a folder or without end")
@pytest.mark.parametrize("name", ["/dev/zero", "pipe", "folder", "no\0file", "sparse"])
def test_a_corpus_that_is_no_text_file_is_refused(tmp_path: Path, name: str) -> None:
    path = Path(name) if name.startswith("/") else tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name == "folder":
        path.mkdir()
    elif name == "sparse":
        with path.open("wb") as stream:
            stream.truncate(MAX_CORPUS_BYTES + 1)
    with pytest.raises(CorpusError) as caught:
        load_corpus(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.promise(12, "a corpus that is a device, a pipe, a folder or without end")
def test_a_corpus_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / "log.txt", Path.open

    def growing(self: Path, mode: str) -> object:
        with opened(self, "ab") as stream:
            stream.write(b"or not to be")
        return opened(self, mode)

    path.write_text("to be ")
    monkeypatch.setattr(Path, "open", growing)
    with pytest.raises(CorpusError, match="grows while it is read"):
        load_corpus(str(path))


@pytest.mark.promise(12, "a corpus that is a device, a pipe, a folder or without end")
def test_a_corpus_without_size_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a file of /proc, which says that it is a regular one and may keep its reader waiting."""
    (tmp_path / "empty").touch()
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("opened"))
    for name in ("/proc/self/status", "/proc/kmsg", str(tmp_path / "empty")):
        with pytest.raises(CorpusError, match=f"'{name}' is empty"):
            load_corpus(name)
