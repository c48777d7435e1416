"""Texts of a study: several files, another split, another text to validate on, in pieces and in bounded memory."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from isoloss.cli import run_command_line, train
from isoloss.data import corpus
from isoloss.data import survey as survey_module
from isoloss.data.corpus import Piece
from isoloss.data.survey import TextReader, survey
from isoloss.data.tokenizer import train_tokenizer
from isoloss.data.tokens import corpus_facts, prepare
from isoloss.design.audit_settings import settings_findings
from isoloss.errors import ConfigError, CorpusError
from isoloss.execution.executor import Inline, NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.files import sha256_bytes
from isoloss.report.chapters.comparison import compare_studies
from isoloss.report.chapters.method import method_chapter
from isoloss.report.snapshot import take_snapshot
from isoloss.store.merging import joined, merge_studies
from isoloss.store.tables import load_study
from isoloss.study.config import TokenizerName
from isoloss.study.identity import run_id
from isoloss.study.plainyaml import read_yaml
from isoloss.study.schema import study_schema
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study, find_study, parse_study
from isoloss.study.texts import Text
from tests.texts import load_corpus

ODD = "\ufeffcafé\r\nnaïve “be”\r\n" * 40 + "日本\r\n" * 3
OPTIONS = RunOptions("cpu", compile="off")
STUDY = """name: s
corpus: [a.txt, b.txt]
val_corpus: c.txt
base: {n_layer: 1, n_head: 1, n_embd: 8, block_size: 8, batch_size: 2, max_iters: 4, eval_interval: 2}
"""


class Heard(NullListener):
    """Keeps the lines that a study says."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three texts, of which the last has characters of its own, and an empty cache."""
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, text in (("a.txt", "to be " * 50), ("b.txt", "or not\n" * 40), ("c.txt", "to bet ZZ\n" * 30)):
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_prepare_divides_a_text_as_a_study_does(capsys: pytest.CaptureFixture[str]) -> None:
    source = "{synthetic: markov, order: 1, symbols: 4, seed: 1, tokens: 2000}"
    for words, code, said in (
        (["a.txt", "--val_share", "0.5"], 0, "150 train and 150 val tokens"),
        (["a.txt", "--val_corpus", "b.txt"], 0, "300 train and 280 val tokens"),
        (["{mix: {a.txt: 0.5, b.txt: 0.5}}"], 0, "0.5 a.txt + 0.5 b.txt: 522 train and"),
        (["b.txt", "--document_separator", "\n"], 0, "252 train and 28 val tokens"),
        ([source], 0, "entropy rate"),
        (["a.txt", "--val_share", "2"], 2, "val_share"),
        (["a.txt", "--val_share", "0.5", "--val_corpus", "b.txt"], 2, "both say what is validated on"),
        (["a.txt", "--val_corpus", "a.txt"], 2, "'a.txt' is in corpus and in val_corpus"),
        (["{mix: {" + ", ".join(f"{n}.txt: 0.01" for n in range(99)) + "}}"], 2, "shares sum to 0.99, not to 1"),
    ):
        assert run_command_line(["prepare", *words]) == code, words
        assert said in capsys.readouterr().err, words


@pytest.mark.parametrize("name", ["char", "byte"])
@pytest.mark.parametrize("size", [1, 3, 64, 1 << 22])
def test_what_is_read_in_pieces_is_as_if_it_were_read_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: TokenizerName, size: int
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", size)
    (folder / "odd.txt").write_bytes(ODD.encode())
    tokens = prepare("odd.txt", name)
    tokens_N = train_tokenizer(name, ODD).encode(ODD)
    cut = int(len(tokens_N) * 0.9)
    assert (tokens.train_N == tokens_N[:cut]).all() and (tokens.val_N == tokens_N[cut:]).all()
    assert tokens.sha256 == sha256_bytes(ODD.encode()) and tokens.tokenizer == train_tokenizer(name, ODD)
    found = corpus_facts(Text("odd.txt"), name)
    assert (found.sha256, found.vocab_size) == (tokens.sha256, tokens.tokenizer.vocab_size)
    assert (found.train_tokens, found.val_tokens) == (cut, len(tokens_N) - cut)
    if name == "char":
        unseen = sum(character not in ODD[:cut] for character in ODD[cut:])
        assert unseen == 6 and found.unseen_share == unseen / (len(ODD) - cut)
    else:
        assert found.unseen_share is None
    assert "byte order mark" in found.oddities[0] and found.oddities[1].startswith("83 of its lines")


@pytest.mark.parametrize("size", [1, 4, 1 << 22])
def test_what_is_no_text_is_named_by_its_place_in_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", size)
    for content, said in (
        (b"\xc3\xa9t\xe9 \xe9", "byte 3 is 0xe9"),
        (b"to be\xc3", "byte 5 is 0xc3"),
        (b"\xc3\xa9 be\0", "byte 5 is NUL"),
    ):
        (folder / "bad.txt").write_bytes(content)
        with pytest.raises(CorpusError, match=said):
            load_corpus("bad.txt")


def test_a_long_text_is_tokenized_in_less_memory_than_it_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", 1 << 16)
    (folder / "long.txt").write_bytes(b"to be or not\n" * (1 << 21))
    tracemalloc.start()
    tokens = prepare("long.txt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(tokens.train_N) > 2e7 and peak < 24e6  # most of it a table of all code points


def test_a_text_that_changes_between_two_readings_is_refused_and_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(reader: TextReader) -> Iterator[tuple[int, Piece]]:
        yield from original(reader)
        (folder / "a.txt").write_text((folder / "a.txt").read_text()[::-1])

    original = TextReader.__iter__
    monkeypatch.setattr(TextReader, "__iter__", changing)
    with pytest.raises(CorpusError, match=r"'a\.txt' changed while it was read"):
        prepare("a.txt")
    assert not [*folder.glob("cache/tokens/*/meta.json")]


def test_a_list_is_read_in_the_order_stated(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more/d.txt").write_text("that is")
    assert load_corpus(("b.txt", "a.txt")) == b"or not\n" * 40 + b"to be " * 50 + b"\n"
    assert load_corpus(("more", "a.txt")) == b"that is\n" + b"to be " * 50 + b"\n"
    assert load_corpus(("a.txt", "b.txt")) != load_corpus(("b.txt", "a.txt"))
    with pytest.raises(CorpusError, match=r"called 'd\.txt'"):
        load_corpus(("a.txt", "d.txt"))
    with pytest.raises(CorpusError, match="'tinyshakespeare' is not in the cache"):
        corpus_facts(Text(("a.txt", "tinyshakespeare")), "char")


def test_paths_of_a_list_are_relative_to_the_study_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "s.yaml").write_text(STUDY.replace("b.txt", "tinyshakespeare"))
    monkeypatch.chdir("/")
    study = find_study(str(folder / "s.yaml"))
    assert study.corpus == (str(folder / "a.txt"), "tinyshakespeare") and study.val_corpus == str(folder / "c.txt")
    assert parse_study("name: s\ncorpus: [a.txt]\n", "s.yaml").corpus == "a.txt"  # without the line end of a list


@pytest.mark.parametrize("stated", ["corpus: [a.txt, b.txt]\nval_corpus: [c.txt, d.txt]", "corpus: a\nval_share: 0.25"])
def test_a_study_that_is_written_reads_as_it_was(stated: str) -> None:
    study = parse_study(f"name: s\n{stated}\n", "s.yaml")
    assert parse_study(dump_study(study), "s.yaml") == study
    assert study.val_corpus == ("c.txt", "d.txt") or study.val_share == 0.25


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "corpus: []",
            "s.yaml:2: corpus: expected a known name, a path, a list of them, {files: …, field: …}, {synthetic",
        ),
        ("corpus:\n- a.txt\n- 3\n- ''", "s.yaml:4: corpus: 3 is no name or path of a text\ns.yaml:5: corpus: '' is no"),
        ("corpus: {a: b}", "s.yaml:2: corpus: expected"),
        ("val_corpus:", "s.yaml:2: val_corpus=None: expected"),
        ("val_share: 1", "s.yaml:2: val_share=1: Input should be less than 1"),
        ("val_share: tenth", "s.yaml:2: val_share='tenth': Input should be a valid number"),
        ("val_share: 0.1\nval_corpus: c.txt", "s.yaml:2: val_share and val_corpus both say what is validated on"),
        ("corpus: [a, b]\nval_corpus: [c, a]", "s.yaml:3: 'a' is in corpus and in val_corpus"),
        ("val_split: 0.2", "s.yaml:2: unknown key 'val_split': use val_share"),
        ("base: {val_share: 0.2}", "s.yaml:2: unknown setting 'val_share' in base: val_share is stated beside base"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(lines: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_study(f"name: s\n{lines}\n", "s.yaml")


@pytest.mark.parametrize(
    ("lines", "valid"),
    [
        ("corpus: [a, b]\nval_corpus: c", True),
        ("val_share: 0.5", True),
        ("corpus: []", False),
        ("corpus: [1]", False),
        ("val_share: 1", False),
        ("val_share: 0.5\nval_corpus: c", False),
    ],
)
def test_the_schema_knows_what_is_read(lines: str, valid: bool) -> None:
    study = read_yaml(f"name: s\n{lines}\n", "s.yaml")[0]
    assert Draft202012Validator(study_schema()).is_valid(study) == valid


@pytest.mark.usefixtures("folder")
def test_a_text_of_its_own_is_the_whole_validation_split() -> None:
    text = Text(("a.txt", "b.txt"), "c.txt")
    tokens = prepare(text)
    train, val = (load_corpus(each).decode() for each in text.corpora)
    decode = tokens.tokenizer.decode
    assert decode(tokens.train_N) == train and decode(tokens.val_N) == val
    assert tokens.tokenizer.characters == "".join(sorted(set(train + val)))
    assert tokens.hashes == (sha256_bytes(train.encode()), sha256_bytes(val.encode()))
    tokenizer, facts = survey(TextReader(text), "char")
    assert tokenizer == tokens.tokenizer and facts.sha256 == tokens.sha256
    assert facts.unseen_share == pytest.approx(2 / 10)  # Z
    config = parse_study(STUDY, "s.yaml").expand(facts)
    codes = {found.code for found in settings_findings(config, facts, evaluation_share=None)}
    assert {"unseen_characters", "small_validation"} <= codes


@pytest.mark.usefixtures("folder")
def test_a_share_moves_the_cut() -> None:
    tokens = prepare(Text("c.txt", val_share=0.25))
    assert (len(tokens.train_N), len(tokens.val_N)) == (225, 75) and tokens.hashes == prepare("c.txt").hashes
    assert prepare(Text("c.txt", val_share=0.1)).folder == prepare("c.txt").folder != tokens.folder
    with pytest.raises(CorpusError, match="too short"):
        prepare(Text("c.txt", val_share=0.999))
    Path("unseen.txt").write_text("to be Z")
    assert corpus_facts(Text("unseen.txt", val_share=1 / 7), "char").unseen_share == 1  # at the cut itself
    known = corpus_facts(Text("tinyshakespeare", val_share=0.5), "char")
    assert known.train_tokens == known.val_tokens == 557_697


def test_only_another_split_than_the_default_names_runs_otherwise(folder: Path) -> None:
    def ids(val_corpus: str | None = None, val_share: float | None = None, text: str = "a.txt") -> set[str]:
        study = Study("s", text, val_corpus=val_corpus, val_share=val_share)
        return {run_id(config) for config in study.expand(corpus_facts(study.text, "char"))}

    assert ids() == ids(val_share=0.1)
    others = [ids(), ids(val_share=0.2), ids(val_share=0.3), ids("c.txt"), ids("b.txt"), ids("b.txt", text="c.txt")]
    assert len(set[str]().union(*others)) == len(others)
    (folder / "copy.txt").write_bytes((folder / "c.txt").read_bytes())
    assert ids("c.txt") == ids("copy.txt")


@pytest.mark.parametrize(
    ("study", "digest"), [("quickstart", "04289d0aa05c"), ("ladder", "d3496ed4f3bf"), ("group1", "7ca7d3f01e4d")]
)
def test_runs_of_built_in_studies_keep_their_names(study: str, digest: str) -> None:
    runs = find_study(study).expand(corpus_facts(Text("tinyshakespeare"), "char"))
    assert sha256_bytes(" ".join(map(run_id, runs)).encode())[:12] == digest


def test_a_study_is_trained_continued_and_refuses_another_validation_text(folder: Path) -> None:
    study = parse_study(STUDY, "s.yaml")
    run_study(study, "s", OPTIONS, executor=Inline())
    lines = list[str]()
    results = run_study(study.with_seeds(2), "s", OPTIONS, listener=Heard(lines), executor=Inline())
    assert "1 of 2 runs are finished already" in lines
    assert load_study("s").tokenizer()["text_sha256"] == [
        sha256_bytes(load_corpus(("a.txt", "b.txt"))),
        sha256_bytes(load_corpus("c.txt")),
    ]
    said = " ".join(method_chapter(take_snapshot(results)).details)
    assert "The corpus is a.txt and b.txt, SHA-256" in said and "300 tokens of c.txt, SHA-256" in said
    (folder / "c2.txt").write_text("to bet\n" * 40)
    for other in (replace(study, val_corpus="c2.txt"), replace(study, val_corpus=None)):
        with pytest.raises(ConfigError, match="or what of it is validation, changed since s was started"):
            run_study(other, "s", OPTIONS, executor=Inline())
    halved = run_study(replace(study, val_corpus=None, val_share=0.5), "half", OPTIONS, executor=Inline())
    for refused in (
        lambda: merge_studies([Path("s"), Path("half")], folder / "merged"),
        lambda: compare_studies(results, halved),
    ):
        with pytest.raises(ConfigError, match="different texts, validation splits or tokenizers"):
            refused()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", [Text("a.txt", val_share=0.2), Text(("a.txt", "b.txt"), "c.txt")])
def test_studies_that_are_joined_keep_their_text(text: Text) -> None:
    study = Study("s", text.corpus, val_corpus=text.val_corpus, val_share=text.val_share)
    studies = [study.with_settings({"n_embd": width}) for width in (32, 64)]
    facts = corpus_facts(text, "char")
    whole = joined(studies, [study.expand(facts) for study in studies])
    assert whole.text == text and whole.varied == {"n_embd": (32, 64)}


def test_train_takes_texts_and_a_share(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started = list[Study]()
    monkeypatch.setattr(train, "start", lambda study, *_, **__: started.append(study))
    run_command_line(["train", "--corpus", "a.txt", "--corpus", "b.txt", "--val_corpus", "c.txt"])
    run_command_line(["train", "--val_share", "0.2"])
    run_command_line(["train", "--corpus", "a.py", "--val_corpus", "b.py"])  # programs are texts too
    texts = [study.text for study in started]
    assert texts[:2] == [Text(("a.txt", "b.txt"), "c.txt"), Text("tinyshakespeare", val_share=0.2)]
    assert texts[2] == Text("a.py", "b.py")
    assert run_command_line(["train", "--val_corpus", "c.txt", "--val_share", "0.5"]) == 2
    assert "val_share and val_corpus both say what is validated on" in capsys.readouterr().err


def test_characters_beyond_the_basic_plane_are_counted() -> None:
    tokenizer = train_tokenizer("char", "a🎉\U0010ffff")
    assert tokenizer.decode(tokenizer.encode("🎉a\U0010ffff")) == "🎉a\U0010ffff"
    assert tokenizer.encode("").shape == (0,) and tokenizer.decode(np.array([], dtype=np.uint16)) == ""
    with pytest.raises(ConfigError, match=r"no '\\ud800'"):  # as an undecodable argument of a command line
        tokenizer.encode("a\ud800")


def test_a_text_that_is_trained_on_validates_nothing(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("a", "copy"):
        (tmp_path / "texts" / f"{name}.txt").write_text("abc " * 100)
    folder, a, copy = (str(tmp_path / name) for name in ("texts", "texts/a.txt", "texts/copy.txt"))
    for trained_on, val in ((folder, a), (a, f"{folder}/../texts/a.txt")):
        with pytest.raises(ConfigError, match="validates nothing"):
            Study("s", trained_on, val_corpus=val)
    with pytest.raises(CorpusError, match="under another name: what is trained on validates nothing"):
        prepare(Text(a, copy))


@pytest.mark.parametrize("empty", ["", "  ", ()])
def test_an_empty_name_of_a_text_is_not_the_working_directory(empty: Any) -> None:
    with pytest.raises(ConfigError, match="expected a known name, a path"):
        Study("s", empty)
    with pytest.raises(ConfigError, match=r"val_share=.*Input should be"):
        Study("s", "tinyshakespeare", val_share="0.2")  # pyright: ignore[reportArgumentType]


def test_a_long_text_says_how_far_it_is_in_every_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", 100)
    monkeypatch.setattr(survey_module, "TOLD_EVERY_S", -1.0)
    said: list[str] = []
    prepare(str(folder / "a.txt"), say=said.append)
    name = folder / "a.txt"
    assert said[:3] == [f"read 0 MB of {name}"] * 3 and f"read 33% of {name}" in said
    assert said[-3:] == [f"tokenized {share}% of {name}" for share in (33, 67, 100)]
