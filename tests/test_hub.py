"""Datasets of the Hub by name and commit, with a stand-in for the library, which downloads nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from isoloss.data.known import licence_of
from isoloss.data.survey import TextReader
from isoloss.data.tokens import corpus_facts, prepare
from isoloss.errors import ConfigError, CorpusError
from isoloss.study.plainyaml import read_yaml
from isoloss.study.schema import study_schema
from isoloss.study.studyfile import dump_study, parse_study
from isoloss.study.texts import Text
from tests.texts import load_corpus

COMMIT = "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
STATED = f"{{dataset: a/b, revision: {COMMIT}, field: text}}"
NAME = f"dataset:a/b,field=text,revision={COMMIT},split=train"
ROWS: list[dict[str, Any]] = [{"text": "to be"}, {"text": ""}, {"text": "or not\n"}]


class Hub:
    """What of `datasets` is used; keeps how it was asked."""

    def __init__(self, rows: list[dict[str, Any]] | Exception) -> None:
        self.rows, self.asked = rows, list[Any]()
        self.DownloadConfig = SimpleNamespace

    def load_dataset(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        self.asked.append((arguments, options))
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


def use(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]] | Exception) -> Hub:
    hub = Hub(rows)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    return hub


def test_rows_are_those_of_the_commit_that_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = use(monkeypatch, ROWS)
    study = parse_study(f"name: s\ncorpus: {STATED}\n", "s.yaml")
    assert study.corpus == NAME and parse_study(dump_study(study), "s.yaml") == study
    assert load_corpus(study.corpus) == b"to be\nor not\n" and load_corpus(NAME, end="|") == b"to be|or not\n|"
    (arguments, options), *_ = hub.asked
    assert arguments == ("a/b", None) and (options["split"], options["revision"]) == ("train", COMMIT)
    assert not options["download_config"].local_files_only
    within = parse_study(f'name: s\ncorpus: [" a.txt", "dataset:a/b,revision={COMMIT},field=text "]\n', "s.yaml")
    assert within.corpus == ("a.txt", NAME)
    use(monkeypatch, ROWS * 30)
    assert corpus_facts(Text(NAME), "char").sha256 == prepare(NAME).sha256
    assert TextReader(Text(NAME)).read_through() == prepare(NAME).sha256


def test_the_licence_of_a_known_one_is_told() -> None:
    study = parse_study("name: s\ncorpus: tinystories\n", "s.yaml")
    assert licence_of(str(study.corpus)) == "CDLA-Sharing-1.0" and licence_of(NAME) == licence_of("a.txt") == ""


def test_what_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"needs the library datasets, .*; install isoloss\[hub\], or"):
        prepare(NAME)
    use(monkeypatch, ConnectionError("Couldn't reach\nthe Hub"))
    with pytest.raises(CorpusError, match=r"cannot get 'dataset:a/b,.*': ConnectionError: Couldn't reach the Hub$"):
        prepare(NAME)
    with pytest.raises(CorpusError, match=r"the Hub; run `isoloss prepare dataset:a/b,.*` while online"):
        corpus_facts(Text(NAME), "char")
    use(monkeypatch, [*ROWS, {"text": None}, {"id": 1}])
    with pytest.raises(CorpusError, match=r"'dataset:a/b,.*': 2 of 5 rows have no text in 'text'; in row 4, the first"):
        prepare(NAME)
    use(monkeypatch, [*ROWS, {"text": date(2026, 1, 2)}])
    with pytest.raises(CorpusError, match=r"in row 4, the first, it is no string but \"2026-01-02\""):
        prepare(NAME)

    def broken() -> Iterator[dict[str, Any]]:
        yield ROWS[0]
        raise TimeoutError("the Hub went away")

    use(monkeypatch, broken())  # type: ignore[arg-type]
    with pytest.raises(CorpusError, match=r"cannot get 'dataset:a/b,.*': TimeoutError: the Hub went away"):
        prepare(NAME)
    assert not [*tmp_path.glob("tokens/*/meta.json")]


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("{dataset: a/b, field: text}", "revision: field required; the 40 digits of a commit that https://huggingface"),
        ("{dataset: a/b, field: text, revision: main}", "revision: string should match pattern"),
        (f"{{dataset: a/b, revision: {COMMIT}}}", "field: field required; expected {dataset: OWNER/NAME"),
        (f"{{dataset: a/b/c, revision: {COMMIT}, field: text}}", "dataset: string should match"),
        (f"{{dataset: a/b, revision: {COMMIT}, field: text, splits: x}}", "splits: extra inputs are not"),
        ('"dataset:a/b,field=text"', "revision: field required"),
        ('" dataset:a/b,field=text"', "revision: field required"),
        ('[a.txt, "dataset:a/b,field=text"]', "revision: field required"),
    ],
)
def test_what_cannot_be_meant_is_named(stated: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_study(f"name: s\ncorpus: {stated}\n", "s.yaml")
    schema = Draft202012Validator(study_schema())
    value: Any = read_yaml(f"name: s\ncorpus: {stated}\n", "s.yaml")[0]
    assert '"' in stated or not schema.is_valid(value)
    assert schema.is_valid(read_yaml(f"name: s\ncorpus: {STATED}\n", "s.yaml")[0])
