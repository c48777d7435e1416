"""JSON lines and Parquet as texts: plain or compressed, by pattern, in bounded memory, and refused where damaged."""

from __future__ import annotations

import gzip
import json
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from jsonschema import Draft202012Validator

from isoloss.cli import run_command_line
from isoloss.data import corpus, rows
from isoloss.data.tokens import prepare
from isoloss.errors import ConfigError, CorpusError
from isoloss.study.plainyaml import read_yaml
from isoloss.study.schema import study_schema
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study, find_study, parse_study
from tests.texts import load_corpus

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXTS = ["To be, or not to be\n", "", "that is the question: é", "日本 \U0001f389\r\n", 'quoted "text"\\n', "\n"]
JOINED = "".join(text if text.endswith("\n") else f"{text}\n" for text in TEXTS if text).encode()
LINES = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(TEXTS)).encode()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, lines: bytes = LINES) -> None:
    """A file of rows as its name says."""
    path = Path(name)
    if path.suffix == ".parquet":
        pl.DataFrame([json.loads(line) for line in lines.splitlines()]).write_parquet(path)
    else:
        path.write_bytes({".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix, bytes)(lines))


@pytest.mark.parametrize("size", [1, 1 << 22])
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "a.json.zst", "a.parquet"])
def test_rows_are_joined_by_line_ends_whatever_their_file(
    monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", size)
    monkeypatch.setattr(rows, "FIRST_SLICE_ROWS", 1)
    write(name)
    assert load_corpus(f"files:{name},field=text") == JOINED


def test_a_compressed_text_is_read_as_it_was() -> None:
    for name, compress in (("a.txt.gz", gzip.compress), ("a.txt.zst", zstd.compress)):
        Path(name).write_bytes(compress(JOINED) + compress(b"end"))  # of two parts, as pzstd and cat make them
        assert load_corpus(name) == JOINED + b"end"


def test_patterns_and_lists_are_read_in_their_order_and_from_the_study_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "da[t]a/more").mkdir(parents=True)
    for name, text in (
        ("b.jsonl", "b"),
        ("a.jsonl", "a"),
        ("more/c.jsonl", "c"),
        ("c[1].jsonl", "1"),
        ("c1.jsonl", "2"),
    ):
        write(f"da[t]a/{name}", json.dumps({"text": text}).encode())
    (folder / "da[t]a/s.yaml").write_text('name: s\ncorpus: {files: ["**/*.jsonl", "c[1].jsonl"], field: text}\n')
    monkeypatch.chdir("/")
    study = find_study(str(folder / "da[t]a/s.yaml"))
    assert load_corpus(study.corpus) == b"a\nb\n2\n1\nc\n1\n"
    assert parse_study(dump_study(study), "s.yaml") == study
    assert load_corpus(parse_study(f'name: s\ncorpus: "files:{folder}/d*/a.jsonl,field=text"', "s").corpus) == b"a\n"


def test_the_same_text_has_the_same_tokens_in_any_format() -> None:
    lines = LINES * 3
    for name in ("a.jsonl", "a.jsonl.zst", "a.parquet"):
        write(name, lines)
    Path("a.txt").write_bytes(JOINED * 3)
    names = ["a.txt", *(f"files:{name},field=text" for name in ("a.jsonl", "a.jsonl.zst", "a.parquet"))]
    assert len({prepare(name).folder for name in names}) == 1


def test_rows_without_a_field_are_no_text() -> None:
    write("a.jsonl.gz", LINES)
    for name in ("a.jsonl.gz", str(Path.cwd())):
        with pytest.raises(
            CorpusError, match=r"a\.jsonl\.gz' has rows; name the field that has the text: files:.*=NAME"
        ):
            load_corpus(name)


def test_a_file_whose_rows_are_all_empty_adds_nothing() -> None:
    write("a.jsonl", b'{"text": ""}\n')
    write("b.jsonl", LINES)
    assert load_corpus("files:*.jsonl,field=text") == JOINED
    assert load_corpus("files:*.jsonl,field=text", end="|") == load_corpus("files:b.jsonl,field=text", end="|")


def test_prepare_takes_them_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.jsonl.gz", LINES * 9)
    assert run_command_line(["prepare", "files:*.jsonl.gz,field=text"]) == 0
    assert f"{int(len(JOINED.decode() * 9) * 0.9):,} train and" in capsys.readouterr().err
    assert run_command_line(["prepare", "files:*.jsonl.gz,field=texts"]) == 2
    said = capsys.readouterr().err
    assert "54 of 54 rows have no text in 'texts'; in line 1, the first, it is missing (fields: id and text)" in said


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"id": 1}\n{"text": null}', "2 of 3 rows have no text in 'text'; in line 2"),
        ("a.parquet", b'{"text": "a"}\n{"text": "b"}\n{"text": null}', "1 of 3 rows have no text in 'text'; in row 3"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ["b"]}\n', 'in line 2, the first, it is no string but ["b"]'),
        ("a.parquet", b'{"text": 1}\n', "'text' holds Int64; name a column of strings"),
        ("a.parquet", b'{"a": 1, "b": 2}\n', "'text' is none of its columns, a and b; name a column of strings"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"\n', "'a.jsonl', line 3: no line of JSON in UTF-8"),
        ("a.json", b'[{"text": "a"}]\n', "; write each object of the array on a line of its own"),
        ("a.jsonl", b'["a"]\n', "line 1: no line of JSON in UTF-8: expected an object, found b'[\"a\"]"),
        ("a.jsonl", b'{"text": "\xe9"}\n', "line 1: no line of JSON in UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: no line of JSON in UTF-8: 'utf-8' codec can't encode"),
        ("a.jsonl", b"[" * 100_000, "line 1: no line of JSON in UTF-8"),
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"text\na\n", "'a.csv' has no fields; expected a name in .jsonl, .jsonl.gz"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_file_and_place(name: str, lines: bytes, said: str) -> None:
    write(name, lines)
    with pytest.raises(CorpusError) as caught:
        prepare(f"files:{name},field=text")
    assert said in str(caught.value) and not [*Path().glob("cache/tokens/*")]


@pytest.mark.parametrize("kind", ["gz", "zst", "parquet"])
def test_a_file_that_is_cut_off_or_altered_is_refused_by_its_name(kind: str) -> None:
    name = "a.parquet" if kind == "parquet" else f"a.jsonl.{kind}"
    write(name, LINES * 50)
    whole = Path(name).read_bytes()
    middle = len(whole) // 2
    altered = whole[:middle] + bytes(byte ^ 0x55 for byte in whole[middle : middle + 8]) + whole[middle + 8 :]
    for content in (whole[:-1], whole[:middle], whole[:5], altered, b"no such file"):
        Path(name).write_bytes(content)
        with pytest.raises(CorpusError, match=r"'a\.[a-z.]*'(,| is (no|truncated|damaged))"):
            load_corpus(f"files:{name},field=text")


@pytest.mark.parametrize("kind", ["txt.gz", "txt.zst", "jsonl.zst", "one.jsonl.zst", "parquet"])
def test_a_decompression_bomb_is_refused_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(corpus, "MAX_CORPUS_BYTES", 1 << 24)
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 1 << 20)
    text = "a" * (1 << 16)
    content = {"t": b"a" * (1 << 26), "j": (json.dumps({"text": text}).encode() + b"\n") * 1024, "o": b" " * (1 << 26)}
    name = f"a.{kind}"
    if kind == "parquet":
        pl.DataFrame({"text": [text] * 1024}).write_parquet(name)
    else:
        write(name, content[kind[0]])
    assert Path(name).stat().st_size < 1 << 18
    tracemalloc.start()
    with pytest.raises(CorpusError, match=r"is longer than 16,777,216 bytes|line 1: longer than 1,048,576 bytes"):
        for _ in corpus.read_corpus(name if kind.startswith("txt") else f"files:{name},field=text"):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e7  # pieces of 4 MiB and a row


@pytest.mark.parametrize("line", [b"\n", b'{"text": ""}\n', b'{"text": 1}\n', b'{"other": 1}\n'])
@pytest.mark.parametrize("limit", ["BYTES", "LINES"])
def test_lines_that_never_come_to_a_text_are_refused(monkeypatch: pytest.MonkeyPatch, line: bytes, limit: str) -> None:
    most = 10_000 if limit == "BYTES" else 300
    monkeypatch.setattr(rows, f"MAX_{limit}_WITHOUT_TEXT", most)
    write("a.jsonl.zst", LINES + line * (most // (len(line) if limit == "BYTES" else 1) - 60) + LINES)
    if b"1" not in line:
        assert load_corpus("files:a.jsonl.zst,field=text") == 2 * JOINED
    write("a.jsonl.zst", LINES + line * 10_001)
    with pytest.raises(
        CorpusError, match=rf"'a\.jsonl\.zst': no text in 'text' after line {len(TEXTS)}; line [\d,]+ beg"
    ):
        load_corpus("files:a.jsonl.zst,field=text")


@pytest.mark.parametrize("value", ["", None])
def test_rows_of_parquet_without_text_are_decoded_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.setattr(rows, "MAX_SLICE_ROWS", 100)
    sizes, original = list[int](), pl.LazyFrame.slice
    monkeypatch.setattr(pl.LazyFrame, "slice", lambda frame, at, size: sizes.append(size) or original(frame, at, size))
    pl.DataFrame({"text": pl.Series([value] * 5000 + ["end"], dtype=pl.String)}).write_parquet("a.parquet")
    if value is None:
        with pytest.raises(CorpusError, match="5,000 of 5,001 rows have no text"):
            load_corpus("files:a.parquet,field=text")
    else:
        assert load_corpus("files:a.parquet,field=text") == b"end\n"
    assert max(sizes) == 100 and len(sizes) > 50


def test_a_row_of_parquet_may_not_be_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 100)
    pl.DataFrame({"text": ["a", "b" * 101]}).write_parquet("a.parquet")
    with pytest.raises(CorpusError, match=r"'a\.parquet', row 2: longer than 100 bytes"):
        load_corpus("files:a.parquet,field=text")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("corpus: {files: a.jsonl}", "s.yaml:2: corpus: expected {files:"),
        ("corpus: {files: [], field: text}", "s.yaml:2: corpus: expected {files:"),
        ("corpus: {files: a.jsonl, field: text, x: 1}", "s.yaml:2: corpus: expected {files:"),
        ('corpus: "files:a.jsonl"', "'files:a.jsonl' names no field; write files:a.jsonl,field=NAME"),
        ('corpus: "tokens: "', "'tokens:' names no file; write tokens:PATH"),
        ('corpus: [a.txt, "files:a.jsonl"]', "'files:a.jsonl' is without ,field=NAME, which says what is read"),
        ('corpus: {files: "*.jsonl", field: text}\nval_corpus: {files: a.jsonl, field: text}', "validates nothing"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(lines: str, said: str) -> None:
    write("a.jsonl")
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_study(f"name: s\n{lines}\n", "s.yaml")


def test_another_field_of_the_same_files_is_another_text() -> None:
    write("a.jsonl", b'{"question": "a?", "answer": "b"}\n')
    study = Study("s", "files:a.jsonl,field=question", val_corpus="files:a.jsonl,field=answer")
    assert [load_corpus(each) for each in study.text.corpora] == [b"a?\n", b"b\n"]


@pytest.mark.parametrize(
    ("stated", "valid"),
    [('{files: "*.jsonl", field: text}', True), ("{files: [a, b], field: text}", True), ("{files: a}", False)],
)
def test_the_schema_knows_what_is_read(stated: str, valid: bool) -> None:
    value: Any = read_yaml(f"name: s\ncorpus: {stated}\n", "s.yaml")[0]
    assert Draft202012Validator(study_schema()).is_valid(value) == valid


def test_no_file_and_no_field_are_told_what_to_write() -> None:
    write("a.parquet")
    with pytest.raises(CorpusError, match=r"no file is called 'b\*\.jsonl' or matches it; paths are from /"):
        prepare("files:b*.jsonl,field=text")
    with pytest.raises(CorpusError, match=r"name the column to read: files:a\.parquet,field=NAME"):
        prepare("a.parquet")
