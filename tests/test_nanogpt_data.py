"""nanoGPT's data folders become texts of a study, without its pickle."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.cli import run_command_line
from isoloss.data import nanogpt
from isoloss.data.nanogpt import is_nanogpt_folder, text_of
from isoloss.data.tokens import prepare
from isoloss.errors import CorpusError
from isoloss.study.texts import Text

PLAY = "to be or not to be, that is the question: é\n" * 20


def make(folder: Path, text: str = PLAY, train_share: float = 0.9, characters: str = "") -> list[str]:
    """Token files as nanoGPT's prepare.py writes them; the characters by token."""
    known = characters or "".join(sorted(set(text)))
    tokens = np.array([known.index(character) for character in text], dtype="<u2")
    cut = int(len(tokens) * train_share)
    tokens[:cut].tofile(folder / "train.bin")
    tokens[cut:].tofile(folder / "val.bin")
    return list(known)


def test_input_txt_is_the_corpus_where_the_tokens_are_its(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    (tmp_path / "input.txt").write_text(PLAY)
    before = {path.name for path in tmp_path.iterdir()}
    assert is_nanogpt_folder(tmp_path) and not is_nanogpt_folder(tmp_path / "none")
    assert run_command_line(["prepare", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"corpus: {tmp_path / 'input.txt'}\n"
    assert {path.name for path in tmp_path.iterdir()} == before
    tokens = prepare(str(tmp_path / "input.txt"))
    assert (tokens.folder / "train.bin").read_bytes() == (tmp_path / "train.bin").read_bytes()


@pytest.mark.parametrize("stated", ["input.txt", "stoi", "list", "CRLF"])
def test_another_split_or_vocabulary_becomes_a_pair_of_texts(
    tmp_path: Path, stated: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nanogpt, "PIECE_TOKENS", 100)
    share = 0.9 if stated == "CRLF" else 0.6
    known = make(tmp_path, train_share=share, characters="".join(sorted(set(PLAY), reverse=stated == "list")))
    if stated in ("stoi", "list"):
        given: Any = {"stoi": {character: i for i, character in enumerate(known)}} if stated == "stoi" else known
        (tmp_path / "meta.json").write_text(json.dumps(given))
    else:
        (tmp_path / "input.txt").write_bytes(PLAY.replace("\n", "\r\n" if stated == "CRLF" else "\n").encode())
    for _ in range(2):
        assert run_command_line(["prepare", str(tmp_path)]) == 0
        said = f"corpus: {tmp_path / 'train.txt'}\nval_corpus: {tmp_path / 'val.txt'}\n"
        assert capsys.readouterr().out == said
    cut = int(len(PLAY) * share)
    assert (tmp_path / "train.txt").read_bytes() == PLAY[:cut].encode()
    assert (tmp_path / "val.txt").read_bytes() == PLAY[cut:].encode()
    (tmp_path / "val.txt").write_text("mine")
    assert run_command_line(["prepare", str(tmp_path)]) == 2
    assert "val.txt is not the text of val.bin beside it" in capsys.readouterr().err
    assert (tmp_path / "val.txt").read_text() == "mine"


@pytest.mark.parametrize("other", [PLAY[:-1], PLAY + "t", PLAY.replace("é", "e", 1), PLAY[1:] + PLAY[:1]])
def test_an_input_txt_of_another_text_is_refused(tmp_path: Path, other: str) -> None:
    make(tmp_path)
    (tmp_path / "input.txt").write_text(other)
    with pytest.raises(CorpusError, match=r"input\.txt is not the text of train\.bin and val\.bin beside it"):
        text_of(tmp_path)


def test_a_pickle_is_never_read_and_its_owner_can_write_what_is(tmp_path: Path) -> None:
    known = make(tmp_path)
    meta = {"vocab_size": len(known), "stoi": {character: i for i, character in enumerate(known)}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(CorpusError) as caught:
        text_of(tmp_path)
    command = shlex.split(str(caught.value).partition("meta.pkl: ")[2])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert text_of(tmp_path) == Text(str(tmp_path / "train.txt"), str(tmp_path / "val.txt"))


def test_tokens_of_gpt2_are_the_text_and_others_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    np.array([1, 50256], dtype="<u2").tofile(tmp_path / "val.bin")
    assert text_of(tmp_path) == Text(f"tokens:{tmp_path / 'train.bin'}", f"tokens:{tmp_path / 'val.bin'}")
    np.array([1, 10_000], dtype="<u2").tofile(tmp_path / "val.bin")
    assert text_of(tmp_path).corpus == f"tokens:{tmp_path / 'train.bin'}"
    (tmp_path / "meta.pkl").write_bytes(b"of characters")
    with pytest.raises(CorpusError, match=r"meta\.json"):
        text_of(tmp_path)
    (tmp_path / "meta.pkl").unlink()
    (tmp_path / "input.txt").write_text(PLAY)
    np.array([1, 17], dtype="<u2").tofile(tmp_path / "val.bin")  # the first that is none
    with pytest.raises(
        CorpusError, match=r"has a token 17, and there are 17 characters; use its text, corpus: .*input\.txt$"
    ):
        text_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "JSONDecodeError"),
        ("3", "expected"),
        ('{"itos": {}}', "KeyError: 'stoi'"),
        ('{"stoi": {"a": 1}}', "are not 0, 1, 2 and so on"),
        ('{"stoi": {"a": "b", "c": 0}}', "expected"),
        ('["ab"]', "a token is not one character"),
        ('["a", "a"]', "its characters repeat"),
        ('["\\ud800"]', "surrogate"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(tmp_path: Path, content: str, said: str) -> None:
    make(tmp_path)
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(CorpusError, match=re.escape(said)) as caught:
        text_of(tmp_path)
    assert "a list of characters by token" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0\0\0"])
def test_files_that_hold_no_tokens_are_refused(tmp_path: Path, content: bytes) -> None:
    make(tmp_path)
    (tmp_path / "val.bin").write_bytes(content)
    with pytest.raises(CorpusError, match=r"val\.bin holds no 16-bit tokens"):
        text_of(tmp_path)


def test_half_of_a_folder_is_not_taken_for_a_text(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(bytes(8))
    with pytest.raises(CorpusError, match=r"val\.bin is missing"):
        is_nanogpt_folder(tmp_path)


def test_a_text_beside_the_tokens_counts_with_its_line_ends(tmp_path: Path) -> None:
    make(tmp_path, train_share=0.6)
    (tmp_path / "input.txt").write_text(PLAY)
    train, _ = text_of(tmp_path).corpora
    assert text_of(tmp_path).corpora[0] == train  # what it wrote itself is taken again
    Path(str(train)).write_bytes(Path(str(train)).read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(CorpusError, match="is not the text of"):
        text_of(tmp_path)


def test_a_carriage_return_may_be_a_character(tmp_path: Path) -> None:
    known = make(tmp_path, text=PLAY.replace("\n", "\r\n"), train_share=0.6)
    (tmp_path / "meta.json").write_text(json.dumps(known))
    assert text_of(tmp_path) == text_of(tmp_path)


def test_a_stoi_that_is_a_list_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "meta.json").write_text('{"stoi": [1]}')
    with pytest.raises(CorpusError, match="expected"):
        text_of(tmp_path)
