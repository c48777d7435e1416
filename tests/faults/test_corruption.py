"""Flipped bits and cut ends: all damage is detected, the rest of the study is still read, the next start repairs it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from isoloss.data.token_files import open_tokens
from isoloss.data.tokens import prepare
from isoloss.errors import IsolossError, NumericsError, StoreError
from isoloss.files import read_checksummed, read_record
from isoloss.store.run import verified_status
from isoloss.store.tables import load_study
from isoloss.study.identity import run_id
from isoloss.training import checkpoint
from tests.faults.harness import Points, Trials, results_of

OF_THE_STUDY = ("study.yaml", "tokenizer.json", "provenance.json")
OF_A_RUN = ("status.json", "metrics.jsonl", "evals.jsonl", "last.json", "last.safetensors", "best.json", "config.json")
WHEN_IT_ENDED = "curves.json"


def noticed(folder: Path, name: str) -> bool:
    """Whether reading this file of a finished study detects that it is damaged."""
    try:
        results = load_study(folder)
        run = results.paths.run(run_id(results.configs[0]))
        if name in ("status.json", "metrics.jsonl", "evals.jsonl", "config.json"):
            return verified_status(run).state == "damaged"
        if name.startswith(("last", "best")):
            checkpoint.load(run.folder, name.partition(".")[0])
        elif name == "curves.json":  # of which nothing is used then: tests/test_outcome.py
            read_record(run.curves)
        elif name == "samples.txt":
            read_checksummed(run.samples)
        else:
            assert results.provenance() and results.tokenizer()
    except IsolossError as error:
        return isinstance(error, StoreError | NumericsError)
    return False


def damaged_copies(content: bytes, generator: random.Random, flips: int) -> list[bytes]:
    """The content with one bit flipped, at random places; and cut at and around its first, middle and last bytes."""
    found: list[bytes] = []
    for _ in range(flips):
        place, bit = generator.randrange(len(content)), generator.randrange(8)
        found.append(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    ends = [0, 1, 7, 8, 9, len(content) // 2, len(content) - 2, len(content) - 1]
    lines = [place + 1 for place in range(len(content)) if content[place : place + 1] == b"\n"]
    return [*found, *(content[:end] for end in {*ends, *lines[:20], *lines[-20:]} if end < len(content))]


@pytest.fixture(scope="module")
def finished(server: Trials, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert server.start(out).states == ("done",)
    return out


@pytest.mark.promise(7, "1,000 bits flipped in each kind of file, and cuts at and around its lines and ends")
@pytest.mark.parametrize("name", [*OF_THE_STUDY, *OF_A_RUN, WHEN_IT_ENDED])
def test_every_damage_is_noticed(finished: Path, points: Points, name: str) -> None:
    folder = finished if name in OF_THE_STUDY else next(finished.glob("runs/*"))
    path = folder / name
    whole = path.read_bytes()
    path.unlink()  # a new file: checkpoints share theirs
    path.write_bytes(whole)
    assert not noticed(finished, name)
    damaged = damaged_copies(whole, random.Random(name), 1000)
    try:
        for number in points(range(len(damaged)), 60):
            path.write_bytes(damaged[number])
            assert noticed(finished, name)
    finally:
        path.write_bytes(whole)


@pytest.mark.promise(7, "a file of an unfinished run emptied or zeroed: the next start repairs it")
@pytest.mark.parametrize("name", [name for name in OF_A_RUN if not name.startswith("best")])
def test_the_next_start_mends_what_was_damaged(
    server: Trials, fault_free: tuple[dict[str, Any], int], tmp_path: Path, name: str
) -> None:
    expected, operations = fault_free
    out = tmp_path / "out"
    server.start(out, "kill", operations // 2)
    path = next(out.glob("runs/*")) / name
    # The last checkpoint of a done run is read, and its damage detected, only on request.
    for content in (b"",) if name.startswith("last") else (b"", b"\x00" * 40):
        assert path.exists()
        path.unlink()
        path.write_bytes(content)
        assert server.start(out).states == ("done",)
        assert results_of(out) == expected


@pytest.mark.promise(7, "likewise in files of tokens")
@pytest.mark.parametrize("name", ["train.bin", "val.bin", "meta.json"])
def test_damaged_tokens_are_noticed(study: Path, points: Points, name: str) -> None:
    folder = prepare(str(study.with_name("words.txt"))).folder
    whole = (folder / name).read_bytes()
    damaged = damaged_copies(whole, random.Random(name), 1000)
    try:
        for number in points(range(len(damaged)), 60):
            (folder / name).write_bytes(damaged[number])
            with pytest.raises(StoreError):
                open_tokens(folder)
    finally:
        (folder / name).write_bytes(whole)
    open_tokens(folder)
