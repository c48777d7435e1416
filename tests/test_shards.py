"""Shards of GPT-2's tokens become the text they stand for; broken ones are refused by their file."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isoloss.cli import run_command_line
from isoloss.data import corpus, shards
from isoloss.data.byte_level import ByteLevel, byte_letters, defined
from isoloss.data.survey import TextReader
from isoloss.data.tokens import prepare
from isoloss.errors import ConfigError, CorpusError
from isoloss.study.studyfile import dump_study, find_study, parse_study
from isoloss.study.texts import Text
from tests.texts import load_corpus

EOT = 50256
DOCUMENTS = ["To be, or not to be\n", "that is the question: é 日本", "a"]
JOINED = "To be, or not to be\nthat is the question: é 日本\na\n"


@pytest.fixture(autouse=True)
def vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ByteLevel:
    """As large as GPT-2's, of which the merges are no more than one of each letter's pairs; nothing is fetched."""
    pairs = [(one, other) for one in byte_letters() for other in byte_letters()][: EOT - 256]
    made = defined(byte_letters(), pairs, ["<|endoftext|>"])
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "gpt2", lambda **_: made)
    return made


def tokens_of(vocabulary: ByteLevel, documents: list[str]) -> list[int]:
    """As llm.c and modded-nanogpt write them: each document after <|endoftext|>."""
    return [token for text in documents for token in (EOT, *vocabulary.encode(text).tolist())]


def write(name: str, tokens: list[int], *, header: tuple[int, ...] | None = (20240520, 1), said: int = 0) -> None:
    words = np.zeros(256, dtype="<i4")
    words[: len(header or ())] = header or ()
    words[2] = len(tokens) + said
    Path(name).write_bytes((words.tobytes() if header else b"") + np.array(tokens, dtype="<u2").tobytes())


@pytest.mark.parametrize("pieces", [1, 3, 1 << 20])
@pytest.mark.parametrize("header", [True, False])
def test_documents_that_go_on_in_the_next_shard_are_whole(
    monkeypatch: pytest.MonkeyPatch, vocabulary: ByteLevel, pieces: int, header: bool
) -> None:
    monkeypatch.setattr(shards, "PIECE_TOKENS", pieces)
    tokens = [*tokens_of(vocabulary, DOCUMENTS), EOT, EOT]
    for cut in range(len(tokens) + 1):  # within characters too
        write("s_0.bin", tokens[:cut], header=(20240520, 1) if header else None)
        write("s_1.bin", tokens[cut:], header=(20240520, 1) if header else None)
        if header or all(any(each >= shards.USUAL_TOKEN for each in part) for part in (tokens[:cut], tokens[cut:])):
            assert load_corpus("tokens:s_*.bin").decode() == JOINED
    write("s_0.bin", tokens)
    write("s_1.bin", [])
    apart = "<end>"
    assert load_corpus("tokens:s_*.bin", end=apart).decode() == "".join(text + apart for text in DOCUMENTS)


def test_characters_that_are_cut_at_the_ends_are_left_out(vocabulary: ByteLevel) -> None:
    spelled = byte_letters()
    tokens = [vocabulary.token_bytes.index(bytes([byte])) for byte in "é|é".encode()]
    assert len(spelled) == 256
    write("s.bin", tokens[1:-1])
    assert load_corpus("tokens:s.bin") == b"|"
    write("s.bin", [*tokens[:1], *tokens[2:]])
    with pytest.raises(CorpusError, match=r"'s\.bin' is broken: its tokens are no text in UTF-8"):
        load_corpus("tokens:s.bin")


def test_a_text_is_that_of_its_shards_in_any_tokenizer(vocabulary: ByteLevel) -> None:
    write("s.bin", tokens_of(vocabulary, DOCUMENTS * 9))
    Path("t.txt").write_text((JOINED * 9)[:-1])
    assert prepare("tokens:s.bin").folder == prepare("t.txt").folder
    divided = TextReader(Text("tokens:s.bin", document_separator="\n\n"))
    assert divided.read_through() != prepare("t.txt").sha256


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: write("s.bin", [1, 2], said=1), "is broken: its header says 3 tokens, so 1,030 bytes, and it"),
        (lambda: write("s.bin", [1, 2], said=-1), "is broken: its header says 1 tokens, so 1,026 bytes, and it"),
        (lambda: write("s.bin", [1], header=(20240520, 2)), "is a shard of version 2, and only 1 is known"),
        (lambda: write("s.bin", [1], header=(20240801, 7)), "has tokens of Llama 3, and only GPT-2's are known"),
        (lambda: write("s.bin", [1, 50257]), "is broken: it has a token 50,257, and GPT-2 has 50,257"),
        (lambda: write("s.bin", [1, 64] * 999, header=None), "has no token from 10,000 on, as GPT-2's would"),
        (lambda: Path("s.bin").write_bytes(b"\0" * 4097), "is broken: of tokens of 16 bits, so 4,098 bytes"),
        (lambda: None, "no file is called 's*.bin' or matches it"),
    ],
)  # fmt: skip
def test_a_broken_shard_is_refused_by_its_file(make: Callable[[], None], said: str) -> None:
    make()
    with pytest.raises(CorpusError) as caught:
        prepare("tokens:s*.bin")
    assert said in str(caught.value) and ("'s.bin'" in str(caught.value) or "no file" in said)
    assert not [*Path().glob("cache/tokens/*")]


def test_shards_are_stated_in_a_study_and_found_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocabulary: ByteLevel
) -> None:
    write("s.bin", tokens_of(vocabulary, DOCUMENTS))
    Path("s.yaml").write_text('name: s\ncorpus: {tokens: "*.bin"}\n')
    monkeypatch.chdir("/")
    study = find_study(str(tmp_path / "s.yaml"))
    assert study.corpus == f"tokens:{tmp_path}/*.bin" and parse_study(dump_study(study), "s.yaml") == study
    for wrong in ("{tokens: ''}", "{tokens: 3}", '{tokens: "*.bin", field: text}'):
        with pytest.raises(ConfigError, match=re.escape("s.yaml:2: corpus: expected {tokens:")):
            parse_study(f"name: s\ncorpus: {wrong}\n", "s.yaml")


def test_a_folder_of_nanogpt_with_gpt2s_tokens_is_two_texts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, vocabulary: ByteLevel
) -> None:
    rest = [*vocabulary.encode("the rest").tolist(), EOT] * 9
    write("train.bin", [*tokens_of(vocabulary, DOCUMENTS * 9), EOT], header=None)
    write("val.bin", rest, header=None)
    assert run_command_line(["prepare", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "tokenizer: gpt2"
    study = parse_study("name: s\n" + "\n".join(lines), "s.yaml")
    assert [load_corpus(each).decode() for each in study.text.corpora] == [JOINED * 9, "the rest\n" * 9]
    with pytest.raises(CorpusError, match=r"of GPT-2's tokens write tokens:train\.bin"):
        prepare("train.bin")


def test_a_compressed_shard_is_refused() -> None:
    Path("s.bin.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(CorpusError, match=r"'s\.bin\.gz' is compressed, and shards are read as they are"):
        load_corpus("tokens:s.bin.gz")
