"""What compressors and an n-gram model reach on validation once they have read the training split."""

from __future__ import annotations

import bz2
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from isoloss.data import ngram
from isoloss.data import yardsticks as module
from isoloss.data.ngram import FALLBACK, MAX_ORDER, bits_by_order, discounts, ngram_loss, probabilities
from isoloss.data.synthetic import source_named
from isoloss.data.tokens import prepare
from isoloss.data.yardsticks import yardsticks
from isoloss.study.texts import Text

RNG = np.random.default_rng(0)
VERSE = "the quick brown fox jumps over the lazy dog; the quicker the better\n" * 20


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


class Oracle:
    """Modified Kneser–Ney by dictionaries, as the formula is written: slow."""

    def __init__(self, train: bytes, order: int) -> None:
        grams = {n: Counter(train[i : i + n] for i in range(len(train) - n + 1)) for n in range(1, order + 1)}
        self.counts = {n: Counter(gram[1:] for gram in grams[n + 1]) for n in range(1, order)} | {order: grams[order]}
        self.discounts = {n: self.taken(counted) for n, counted in self.counts.items()}
        self.followed: dict[bytes, list[tuple[int, float]]] = defaultdict(list)
        for n, counted in self.counts.items():
            for gram, times in counted.items():
                self.followed[gram[:-1]].append((times, self.discounts[n][min(times, 3)]))
        self.order = order

    @staticmethod
    def taken(counted: Counter[bytes]) -> list[float]:
        of = Counter(counted.values())
        if not all(of[times] for times in (1, 2, 3, 4)):
            return [*FALLBACK]
        y = of[1] / (of[1] + 2 * of[2])
        found = [1 - 2 * y * of[2] / of[1], 2 - 3 * y * of[3] / of[2], 3 - 4 * y * of[4] / of[3]]
        return [0, *found] if all(0 < each <= times for times, each in enumerate(found, 1)) else [*FALLBACK]

    def probability(self, context: bytes, byte: int) -> float:
        if len(context) == self.order:
            context = context[1:]
        shorter = self.probability(context[1:], byte) if context else 1 / 256
        if not self.followed[context]:
            return shorter
        times = self.counts[len(context) + 1][context + bytes([byte])]
        total = sum(count for count, _ in self.followed[context])
        taken = sum(each for _, each in self.followed[context])
        return (times - self.discounts[len(context) + 1][min(times, 3)] + taken * shorter) / total


def test_probabilities_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "PIECE_BYTES", 17)
    noise = RNG.integers(97, 103, size=600).astype(np.uint8).tobytes()
    train, text = noise + as_bytes(VERSE).tobytes(), b"the fox jumped over a \xff dog" + noise[:50]
    found = [*probabilities(np.frombuffer(train, np.uint8), np.frombuffer(text, np.uint8))]
    whole, orders = train + text, range(1, MAX_ORDER + 1)
    for order, p_N in zip(orders, found, strict=True):
        oracle = Oracle(train, order)
        ends = range(len(train), len(whole))
        expected = [oracle.probability(whole[end + 1 - order : end], whole[end]) for end in ends]
        np.testing.assert_allclose(p_N, expected, rtol=1e-12)


def test_probabilities_of_all_bytes_sum_to_one() -> None:
    train_N, random = as_bytes(VERSE[:700]), RNG.integers(0, 256, size=7).astype(np.uint8).tobytes()
    for context in (b"the qui", b" zthe q", b"zzzzzzz", random):
        every = b"".join(context + bytes([byte]) for byte in range(256))
        found = np.stack([*probabilities(train_N, np.frombuffer(every, np.uint8))])
        np.testing.assert_allclose(found[:, MAX_ORDER - 1 :: MAX_ORDER].sum(axis=1), 1, rtol=1e-12)


def test_discounts_are_those_of_the_literature_or_fixed_ones() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [80, 30, 16, 10, 5])
    y = 80 / 140
    expected = [0, 1 - 2 * y * 30 / 80, 2 - 3 * y * 16 / 30, 3 - 4 * y * 10 / 16]
    assert discounts(counts).tolist() == pytest.approx(expected)
    for odd in ([1, 2, 3, 9], np.repeat([1, 2, 3, 4], [80, 1, 16, 10])):  # none four times; a negative discount
        assert discounts(np.array(odd)).tolist() == [*FALLBACK]


def test_the_entropy_of_a_chain_is_approached_by_its_own_order() -> None:
    """A trigram has the context of a chain of order 2; longer ones learn the same more slowly."""
    source = source_named("synthetic:markov,order=2,symbols=8,seed=3,tokens=100000")
    text_N = np.concatenate([*source.text(3, 110_000)])
    found = ngram_loss(text_N[:100_000], text_N[100_000:])
    least = source.losses(text_N[None, 100_000 - 2 :].astype(np.int64))[0, 1:].mean() / np.log(2)
    assert found is not None and found.order == 3 and least < found.bits_per_byte < least + 0.01


def test_validation_does_not_choose_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    noise_N = RNG.integers(0, 256, size=5000).astype(np.uint8)
    found, longer = ngram_loss(noise_N, noise_N[:4000]), [*bits_by_order(noise_N, noise_N[:4000])]
    assert found is not None and found.order == 1 and longer[4] < 1 < found.bits_per_byte == longer[0]
    assert ngram_loss(noise_N[:70], noise_N) is None
    monkeypatch.setattr(ngram, "MAX_BYTES", 200)
    seen = ngram_loss(np.concatenate([as_bytes(VERSE), noise_N]), as_bytes(VERSE))
    assert seen is not None and seen.bits_per_byte > 7  # the end of training alone


def test_what_has_read_the_training_split_knows_what_it_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 20_000)
    monkeypatch.setitem(sys.modules, "zstandard", None)  # as if it were not installed
    noise = RNG.integers(32, 127, size=4000).astype(np.uint8).tobytes().decode()
    (tmp_path / "old.txt").write_text(noise + RNG.bytes(470_000).hex(" ", 2))  # bz2 looks back 900 kB
    (tmp_path / "new.txt").write_text(noise[:2000])
    seen = Text(str(tmp_path / "old.txt"), str(tmp_path / "new.txt"))
    found = yardsticks(prepare(seen))
    unknown, again = (
        yardsticks(prepare(Text(str(tmp_path / "new.txt"), val_share=0.5), name)) for name in ("char", "bpe:256")
    )
    assert found["xz"] < 1 < found["bz2"] and unknown["xz"] > 6
    (name,) = (each for each in found if each.startswith("Kneser"))
    assert found[name] > 6 < unknown["Kneser–Ney 1-grams"]  # for the one reads the end of training alone
    assert unknown == pytest.approx(again)
    stub = SimpleNamespace(ZstdCompressor=lambda level: SimpleNamespace(compressobj=lambda: bz2.BZ2Compressor(9)))
    monkeypatch.setitem(sys.modules, "zstandard", stub)
    monkeypatch.setattr(module, "ngram_loss", lambda *_: pytest.fail("computed again"))
    assert yardsticks(prepare(seen)) == found | {"zstd": found["bz2"]}  # it has come to be installed
    monkeypatch.setattr(module, "_size", lambda *_: pytest.fail("computed again"))
    assert yardsticks(prepare(seen)) == found | {"zstd": found["bz2"]}
