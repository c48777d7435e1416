"""Tokenizing that is interrupted: what is there is kept, and the tokens are those of a process that never stopped."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.data import byte_level, corpus, token_files, tokenizing
from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import Tokenizer
from isoloss.data.tokens import prepare
from isoloss.data.vocabularies import train_bpe
from isoloss.errors import ConfigError, CorpusError
from isoloss.files import sha256_file
from isoloss.study.mixtures import Mixture
from isoloss.study.texts import Text

END = "\n\n"
DRAWN = random.Random(1)
WORDS = ["to", "be", "or", "not", "naïve", "漢字", "🎉", "1234", "end.\n\n", "line\n"]
FIRST, SECOND = (" ".join(DRAWN.choices(WORDS, k=2000)) for _ in range(2))
TEXTS = {
    "one": Text("first.txt"),
    "documents": Text("first.txt", val_corpus="second.txt", document_separator=END),
    "mixture": Text(Mixture(("first.txt", "second.txt"), (0.25, 0.75))),
}


class Stopped(Exception):
    """Stands for a signal."""


@pytest.fixture(autouse=True)
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts of many parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOLOSS_CACHE", "cache")
    monkeypatch.setattr(corpus, "PIECE_BYTES", 500)
    monkeypatch.setattr(byte_level, "PART_CHARACTERS", 200)
    monkeypatch.setattr(byte_level, "BATCH_CHARACTERS", 400)
    Path("first.txt").write_text(FIRST)
    Path("second.txt").write_text(SECOND)


def stop_after(patch: pytest.MonkeyPatch, n_parts: int | None, stop: Callable[[], Any]) -> list[str | bytes]:
    """Calls `stop` when some parts have been tokenized; returns the content of all that are, as it grows."""
    encoded, original = list[str | bytes](), tokenizing._encoded  # type: ignore[reportPrivateUsage]

    def listed(contents: Iterator[str | bytes]) -> Iterator[str | bytes]:
        for content in contents:
            encoded.append(content)
            yield content

    def stopped(tokenizer: Tokenizer, contents: Iterator[str | bytes]) -> Iterator[Any]:
        for number, tokens_N in enumerate(original(tokenizer, listed(contents))):
            if number == n_parts:
                stop()
            yield tokens_N

    patch.setattr(tokenizing, "_encoded", stopped)
    return encoded


def prepared(text: Text, name: str, patch: pytest.MonkeyPatch) -> tuple[Tokens, list[str | bytes]]:
    """A text's tokens, and the parts that were tokenized for it."""
    with patch.context() as counted:
        encoded = stop_after(counted, None, stop)
        return prepare(text, name), encoded


def digests(tokens: Tokens) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(tokens.folder.iterdir())}


def uninterrupted(text: Text, name: str, patch: pytest.MonkeyPatch) -> tuple[Tokens, list[str | bytes]]:
    with patch.context() as elsewhere:
        elsewhere.setenv("ISOLOSS_CACHE", "elsewhere")
        return prepared(text, name, patch)


def stop() -> None:
    raise Stopped


@pytest.mark.parametrize("called", TEXTS)
@pytest.mark.parametrize("name", ["char", "byte", "bpe:280"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.97, 1.0])
def test_what_is_there_is_not_tokenized_again(
    monkeypatch: pytest.MonkeyPatch, called: str, name: str, share: float
) -> None:
    whole, parts = uninterrupted(TEXTS[called], name, monkeypatch)
    n_parts = int(share * len(parts))
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, n_parts, stop)
        patch.setattr(tokenizing, "_write_meta", lambda *_: stop())  # where all of them are there
        prepare(TEXTS[called], name)
    monkeypatch.delattr(tokenizing, "train_bpe")  # nor are merges learnt again
    tokens, again = prepared(TEXTS[called], name, monkeypatch)
    assert digests(tokens) == digests(whole) and tokens.facts == whole.facts
    assert len(parts) > 20 and again == parts[n_parts:]
    assert [path for path in Path("cache/tokens").iterdir() if path.is_dir()] == [tokens.folder]


def test_tokens_of_four_bytes_are_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "token_dtype", lambda _: np.dtype("<u4"))
    monkeypatch.setattr(token_files, "token_dtype", lambda _: np.dtype("<u4"))
    whole, parts = uninterrupted(TEXTS["one"], "bpe:280", monkeypatch)
    interrupted(monkeypatch)
    tokens, again = prepared(TEXTS["one"], "bpe:280", monkeypatch)
    assert digests(tokens) == digests(whole) and tokens.train_N.itemsize == 4 and again == parts[STOPPED_AT:]


def test_a_process_that_is_killed_loses_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = uninterrupted(TEXTS["one"], "bpe:280", monkeypatch)
    for n_parts in (0, 3, 4, 5):  # of those that are left
        if (child := os.fork()) == 0:
            try:
                stop_after(monkeypatch, n_parts, lambda: os.kill(os.getpid(), signal.SIGKILL))
                prepare(TEXTS["one"], "bpe:280")
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    said = list[str]()
    with monkeypatch.context() as patch:
        again = stop_after(patch, None, stop)
        tokens = prepare(TEXTS["one"], "bpe:280", say=said.append)
    assert digests(tokens) == digests(whole) and again == parts[12:]
    assert said == ["going on where tokenizing first.txt was interrupted"]


STOPPED_AT = 13


def interrupted(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of unfinished tokens of the first text, of which STOPPED_AT parts are there."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, STOPPED_AT, stop)
        prepare(TEXTS["one"], "bpe:280")
    [folder] = (Path(os.environ["ISOLOSS_CACHE"]) / "tokens").glob(".*.unfinished")
    return folder


@pytest.mark.parametrize("file", ["train.bin", "parts.bin", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"\0" * 16, b"\1" * 100_000, b"\xff" * 1200, None])
def test_what_is_damaged_is_made_again(monkeypatch: pytest.MonkeyPatch, file: str, content: bytes | None) -> None:
    (whole, _), folder = uninterrupted(TEXTS["one"], "bpe:280", monkeypatch), interrupted(monkeypatch)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    assert digests(prepare(TEXTS["one"], "bpe:280")) == digests(whole)


@pytest.mark.parametrize("file", ["train.bin", "parts.bin"])
def test_a_byte_that_changed_is_found_and_what_is_before_it_kept(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    (whole, parts), folder = uninterrupted(TEXTS["one"], "bpe:280", monkeypatch), interrupted(monkeypatch)
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    tokens, again = prepared(TEXTS["one"], "bpe:280", monkeypatch)
    assert digests(tokens) == digests(whole)
    assert again == parts[len(parts) - len(again) :] and len(parts) - STOPPED_AT < len(again) < len(parts)


def test_parts_that_are_cut_elsewhere_follow_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = uninterrupted(TEXTS["one"], "bpe:280", monkeypatch)
    interrupted(monkeypatch)
    monkeypatch.setattr(byte_level, "PART_CHARACTERS", 300)
    assert digests(prepare(TEXTS["one"], "bpe:280")) == digests(whole)


def test_other_merges_are_learnt_again_and_what_they_did_not_make_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = uninterrupted(TEXTS["one"], "bpe:280", monkeypatch)
    folder = interrupted(monkeypatch)
    (folder / "tokenizer.json").write_text(train_bpe([SECOND], 280).definition)
    (folder / ".tokenizer.json.killed.tmp").write_text("half")
    tokens, again = prepared(TEXTS["one"], "bpe:280", monkeypatch)
    assert digests(tokens) == digests(whole) and again == parts[STOPPED_AT:]
    with monkeypatch.context() as patch:  # learnt otherwise, such as by another version of the library
        patch.setenv("ISOLOSS_CACHE", "third")
        folder = interrupted(patch)
        (folder / "learnt.json").unlink()
        patch.setattr(tokenizing, "train_bpe", lambda texts, size: train_bpe([SECOND, *texts], size))
        other, again = prepared(TEXTS["one"], "bpe:280", patch)
        assert again == [*map(str, parts)] and other.tokenizer.byte_level != whole.tokenizer.byte_level
        assert other.tokenizer.decode(other.train_N) == whole.tokenizer.decode(whole.train_N)


def test_another_version_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch)
    monkeypatch.setattr(tokenizing, "FORMAT_VERSION", 0)
    monkeypatch.setattr(token_files, "FORMAT_VERSION", 0)
    tokens, again = prepared(TEXTS["one"], "bpe:280", monkeypatch)
    assert len(again) > 20 and tokens.tokenizer.decode(tokens.train_N) == FIRST[: int(0.9 * len(FIRST))]


@pytest.mark.parametrize("passes", [True, False])
def test_a_text_that_is_refused_leaves_nothing_and_one_that_cannot_be_read_what_is_there(
    monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    def refuse() -> None:
        raise (CorpusError if passes else ConfigError)("of no use")

    with monkeypatch.context() as patch, pytest.raises((ConfigError, CorpusError), match="of no use"):
        stop_after(patch, 3, refuse)
        prepare(TEXTS["one"], "bpe:280")
    assert [path for path in Path("cache/tokens").iterdir() if path.is_dir()] == [
        *Path("cache/tokens").glob(".*.unfinished")
    ] * passes
    _, again = prepared(TEXTS["one"], "bpe:280", monkeypatch)
    assert len(again) > 20 - 3 * passes
