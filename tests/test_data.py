"""Text to batches: verified sources, tokenizers, token files, batches as a pure function of (seed, step)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.data import corpus
from isoloss.data.batches import exact_eval_starts, train_batch, undivided
from isoloss.data.known import KnownCorpus, Source
from isoloss.data.token_files import open_tokens
from isoloss.data.tokenizer import tokenizer_from_dict, train_tokenizer
from isoloss.data.tokens import check_length, corpus_facts, prepare
from isoloss.errors import ConfigError, CorpusError, StoreError
from isoloss.files import sha256_bytes
from isoloss.study.config import RunConfig
from isoloss.study.studyfile import find_study
from isoloss.study.texts import Text
from tests.texts import load_corpus

PLAY = b"Speak, speak. To be or not to be." * 20


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Makes 'play' a known corpus whose sources answer as told, with an empty cache."""
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))

    def known(*answers: bytes | Exception) -> None:
        def source(answer: bytes | Exception) -> Source:
            def fetch() -> bytes:
                if isinstance(answer, Exception):
                    raise answer
                return answer

            return Source(f"source of {len(str(answer))}", fetch)

        entry = KnownCorpus(sha256_bytes(PLAY), len(PLAY), len(set(PLAY)), tuple(map(source, answers)))
        monkeypatch.setitem(corpus.CORPORA, "play", entry)

    return known


def cached_files(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_sources_are_tried_in_order_and_the_cache_is_first(play: Callable[..., None], tmp_path: Path) -> None:
    said: list[str] = []
    play(OSError("no route"), PLAY)
    assert load_corpus("play", say=said.append) == PLAY
    assert any("no route" in line for line in said)
    play(AssertionError("the cache should have answered"))
    assert load_corpus("play", offline=True) == PLAY
    (tmp_path / "cache/corpora/play.txt").write_bytes(b"tampered")
    play(PLAY)
    assert load_corpus("play") == PLAY


def test_a_tampered_download_leaves_nothing_and_says_what_came(play: Callable[..., None], tmp_path: Path) -> None:
    play(PLAY[:-1], OSError("interrupted"))
    with pytest.raises(CorpusError) as caught:
        prepare("play")
    message = str(caught.value)
    assert sha256_bytes(PLAY) in message and sha256_bytes(PLAY[:-1]) in message and "interrupted" in message
    assert cached_files(tmp_path) == []


def test_offline_without_cache_says_what_to_do(play: Callable[..., None]) -> None:
    play(PLAY)
    with pytest.raises(CorpusError, match="isoloss prepare play"):
        load_corpus("play", offline=True)


def test_tokens_are_split_mapped_and_described(play: Callable[..., None]) -> None:
    play(PLAY)
    tokens = prepare("play")
    text = PLAY.decode()
    assert len(tokens.train_N) == int(len(text) * 0.9)
    assert tokens.tokenizer.characters == "".join(sorted(set(text)))
    assert tokens.tokenizer.decode(np.concatenate([tokens.train_N, tokens.val_N])) == text
    meta = json.loads((tokens.folder / "meta.json").read_text())
    assert meta["train_tokens"] + meta["val_tokens"] == len(text)
    assert np.fromfile(tokens.folder / "val.bin", dtype="<u2").tolist() == tokens.val_N.tolist()
    assert corpus_facts(Text("play"), "char") == tokens.facts


def test_damaged_token_files_are_made_again(play: Callable[..., None]) -> None:
    play(PLAY)
    folder = prepare("play").folder
    (folder / "val.bin").write_bytes(b"\0" * 8)
    with pytest.raises(StoreError):
        open_tokens(folder)
    assert len(prepare("play").val_N) == len(PLAY) - int(len(PLAY) * 0.9)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"caf\xe9 au lait" * 10, "not UTF-8 text: byte 3 is 0xe9"), (b"", "too short"), (b"x", "too short")],
)
def test_bad_texts_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=expected):
        prepare(str(path))


def test_a_text_shorter_than_a_block_is_refused(tmp_path: Path, make: Callable[..., RunConfig]) -> None:
    path = tmp_path / "short.txt"
    path.write_text("to be or not " * 10)
    with pytest.raises(CorpusError, match=r"val split .* has 13 tokens, block_size=16 needs at least 17"):
        check_length(make(), corpus_facts(Text(str(path)), "char"))


@given(st.text(min_size=1))
def test_every_text_survives_its_tokenizer(text: str) -> None:
    text = text.encode("utf-8", errors="ignore").decode() or "a"
    for name in ("char", "byte"):
        tokenizer = tokenizer_from_dict(train_tokenizer(name, text).as_dict())
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert int(tokens.max()) < tokenizer.vocab_size


def test_unknown_characters_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no 'Q', 'é'"):
        train_tokenizer("char", "abc").encode("aéQ")


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    data_N = np.arange(1000, dtype=np.uint16)
    batch = train_batch(data_N, 7, 3, 0, 2, batch_size=5, block=8)
    assert batch.shape == (5, 9)
    assert (np.diff(batch, axis=1) == 1).all()  # contiguous: the target is the input shifted by one
    train_batch(data_N, 7, 4, 0, 2, 5, 8)
    assert (train_batch(data_N, 7, 3, 0, 2, 5, 8) == batch).all()
    for other in ((8, 3, 0), (7, 4, 0), (7, 3, 1)):
        assert (train_batch(data_N, *other, 2, batch_size=5, block=8) != batch).any()


def test_batches_reach_every_place_of_the_text() -> None:
    data_N = np.arange(20, dtype=np.uint16)
    seen = {int(row[0]) for step in range(100) for row in train_batch(data_N, 1, step, 0, 1, 4, 8)}
    assert seen == set(range(12))


@given(st.integers(2, 5000), st.integers(1, 64), st.integers(1, 3000))
def test_evaluation_windows_fit_and_do_not_overlap(length: int, block: int, at_most: int) -> None:
    if length <= block:
        return
    for starts in (exact_eval_starts(undivided(length), block), exact_eval_starts(undivided(length), block, at_most)):
        assert len(starts) >= 1
        assert (np.diff(starts) >= block).all()
        assert starts[0] == 0 and starts[-1] + block + 1 <= length
    assert len(exact_eval_starts(undivided(length), block)) == (length - 1) // block
    assert len(exact_eval_starts(undivided(length), block, at_most)) * block <= max(at_most, block)


def test_shakespeares_validation_split_has_its_windows() -> None:
    assert len(exact_eval_starts(undivided(111_540), 64)) == 1742


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.bin", b"\x01\x02", "is binary, not text (its name ends in .bin)"),
        ("text.txt", b"to be\x00", "is binary, not text (byte 5 is NUL)"),
        ("text.txt", "to be".encode("utf-16"), "is UTF-16 text, UTF-8 is needed; convert it: iconv -f UTF-16 -t UTF-8"),
        ("text.txt", "né".encode("latin-1"), "if it is Latin-1, convert it: iconv -f ISO-8859-1 -t UTF-8"),
    ],
)
def test_what_is_no_utf8_text_is_refused_with_what_to_do(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content * 50)
    with pytest.raises(CorpusError, match=re.escape(said)):
        corpus_facts(Text(str(tmp_path / name)), "char")


def test_what_an_author_may_not_know_of_a_text_is_said(tmp_path: Path) -> None:
    plain = "to be or not to be\nthat is the question\n" * 20
    (tmp_path / "plain.txt").write_text(plain)
    (tmp_path / "odd.txt").write_bytes(b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode() + b"z" * 40)
    assert corpus_facts(Text(str(tmp_path / "plain.txt")), "char").oddities == ()
    found = corpus_facts(Text(str(tmp_path / "odd.txt")), "char")
    assert (
        len(found.oddities) == 2 and "byte order mark" in found.oddities[0] and "40 of its lines" in found.oddities[1]
    )
    assert found.val_tokens is not None and found.unseen_share == pytest.approx(40 / found.val_tokens)


def test_a_folder_is_the_text_of_its_files_by_name(tmp_path: Path) -> None:
    for name, text in (("b.txt", "second"), ("a.txt", "first\n"), (".hidden", "no")):
        (tmp_path / name).write_text(text)
    assert load_corpus(str(tmp_path)) == b"first\nsecond\n"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="has no files"):
        load_corpus(str(tmp_path / "empty"))


def test_a_text_is_looked_for_beside_its_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "text.txt").write_text("to be " * 50)
    (tmp_path / "studies/s.yaml").write_text("name: s\ncorpus: ../text.txt\n")
    monkeypatch.chdir("/")
    assert find_study(str(tmp_path / "studies/s.yaml")).corpus == str(tmp_path / "text.txt")
    (tmp_path / "studies/s.yaml").write_text("name: s\ncorpus: tinyshakespeare\n")
    assert find_study(str(tmp_path / "studies/s.yaml")).corpus == "tinyshakespeare"
