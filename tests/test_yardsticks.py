"""What compressors and an n-gram model reach on validation once they have read the training split."""

from __future__ import annotations

import math
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from isoloss.cli import run_command_line
from isoloss.cli.run import run_and_report
from isoloss.data import ngram
from isoloss.data import yardsticks as module
from isoloss.data.ngram import FALLBACK, MAX_ORDER, bits_by_order, discounts, ngram_loss, probabilities
from isoloss.data.synthetic import source_named
from isoloss.data.tokens import prepare
from isoloss.data.yardsticks import COMPRESSORS, yardsticks
from isoloss.errors import InUseError
from isoloss.execution.options import RunOptions
from isoloss.report.chapters.answer import answer_chapter
from isoloss.report.chapters.method import method_chapter
from isoloss.report.loss_references import loss_references
from isoloss.report.snapshot import take_snapshot
from isoloss.store import yardsticks as store_module
from isoloss.store.layout import StudyPaths
from isoloss.store.merging import merge_studies
from isoloss.store.tables import load_study
from isoloss.study.mixtures import Mixture
from isoloss.study.studyfile import parse_study
from isoloss.study.texts import Text
from tests.fake_studies import fake_study

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
    noise = RNG.integers(32, 127, size=4000).astype(np.uint8).tobytes().decode()
    (tmp_path / "old.txt").write_text(noise + RNG.bytes(470_000).hex(" ", 2))  # bz2 looks back 900 kB
    (tmp_path / "new.txt").write_text(noise[:2000])
    seen = Text(str(tmp_path / "old.txt"), str(tmp_path / "new.txt"))
    found = yardsticks(prepare(seen))
    unknown, again = (
        yardsticks(prepare(Text(str(tmp_path / "new.txt"), val_share=0.5), name)) for name in ("char", "bpe:256")
    )
    assert max(found["xz"], found["zstd"]) < 1 < found["bz2"] and unknown["xz"] > 6
    (name,) = (each for each in found if each.startswith("Kneser"))
    assert found[name] > 6 < unknown["Kneser–Ney 1-grams"]  # for the one reads the end of training alone
    assert unknown == pytest.approx(again)
    monkeypatch.setattr(module, "ngram_loss", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(module, "_size", lambda *_: pytest.fail("computed again"))
    assert yardsticks(prepare(seen)) == found


def test_a_long_text_is_compressed_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SHORT_TEXT_BYTES", 1000)
    (tmp_path / "long.txt").write_text(VERSE * 30)
    prepared = ["prepare", str(tmp_path / "long.txt")]
    assert run_command_line(prepared) == 0
    assert "for so long a text that takes minutes" in capsys.readouterr().err
    assert run_command_line([*prepared, "--yardsticks"]) == 0
    assert "bits per byte of validation" in capsys.readouterr().err
    assert run_command_line(prepared) == 0  # it is kept
    assert "bits per byte of validation" in capsys.readouterr().err


def test_compressing_is_told_and_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "long.txt").write_text("another " + VERSE)
    monkeypatch.setattr(module, "TOLD_BYTES", 1000)
    monkeypatch.setattr(module, "TOLD_EVERY_S", 0.01)
    monkeypatch.setattr(module, "PIECE_TOKENS", 10)
    waited = list[float]()

    class Slow:
        def compress(self, data: bytes) -> bytes:
            waited.append(0.0)
            sleep(0.02)
            return data

        def flush(self) -> bytes:
            return b""

    def stop(line: str) -> None:
        if "compressed" in line:
            raise KeyboardInterrupt(line)

    monkeypatch.setattr(module, "COMPRESSORS", {"slow": Slow})
    with pytest.raises(KeyboardInterrupt, match="compressed 0 MB by slow"):
        yardsticks(prepare(str(tmp_path / "long.txt")), say=stop)
    assert 0 < len(waited) < 30  # of some hundred


STUDY = """
name: s
corpus: {corpus}
val_share: 0.5
factors: {{tokenizer: [{tokenizers}]}}
base: {{n_layer: 1, n_head: 1, n_embd: 8, block_size: 8, batch_size: 2, max_iters: 2, eval_interval: 1}}
seeds: 1
"""


def trained(folder: Path, corpus: Path, tokenizers: str) -> None:
    study = parse_study(STUDY.format(corpus=corpus, tokenizers=tokenizers), "s")
    assert run_and_report(study, folder, RunOptions("cpu", compile="off", workers=1))


def test_a_report_says_beside_its_losses_what_needs_no_neural_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, study = tmp_path / "verse.txt", tmp_path / "study"
    corpus.write_text(VERSE)
    trained(study, corpus, "char")
    bits = yardsticks(prepare(Text(str(corpus), val_share=0.5)))
    monkeypatch.setattr(module, "_size", lambda *_: pytest.fail("computed again"))
    shutil.rmtree(prepare(Text(str(corpus), val_share=0.5)).folder)
    trained(study, corpus, "char")
    of_chars = take_snapshot(load_study(study))
    row = of_chars.table.row(0, named=True)
    grams = next(name for name in bits if name not in COMPRESSORS)
    best = min(COMPRESSORS, key=lambda name: bits[name])
    lines = {name: value for name, value, _ in loss_references(of_chars)["val_loss"]}
    assert lines == pytest.approx({name: bits[name] * math.log(2) for name in (grams, best)})  # a byte a character
    said = " ".join(answer_chapter(of_chars, []).texts)
    assert f"In bits per byte the best run reaches {row['best_val_bpb']:.2f}. " in said
    assert f"{best} reaches {bits[best]:.2f}" in said and f"-grams reaches {bits[grams]:.2f}" in said
    methods = " ".join(method_chapter(of_chars).texts)
    assert all(f"{value:.3f}" in methods for value in bits.values())

    monkeypatch.undo()
    trained(tmp_path / "wider", corpus, "char, byte")
    merge_studies([study, tmp_path / "wider"], tmp_path / "both")
    of_both = loss_references(take_snapshot(load_study(tmp_path / "both")))
    assert not of_both["val_loss"] and {value for _, value, _ in of_both["val_bpb"]} == {bits[grams], bits[best]}


def test_what_cannot_be_computed_is_said_and_costs_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, study = tmp_path / "verse.txt", tmp_path / "study"
    corpus.write_text(VERSE + "more of it")

    def fail(*_: object) -> int:
        raise MemoryError("none left")

    monkeypatch.setattr(module, "_size", fail)
    trained(study, corpus, "char")
    assert "what compressors reach on the text is not computed: MemoryError: none left" in capsys.readouterr().err
    assert (study / "report/index.html").is_file()
    monkeypatch.undo()

    def in_use(paths: StudyPaths) -> None:
        raise InUseError(f"{paths.folder} is in use")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "owned", in_use)
        trained(study, corpus, "char")
    assert f"is not recorded: {study} is in use" in capsys.readouterr().err
    assert not loss_references(take_snapshot(load_study(study)))["val_bpb"]
    trained(study, corpus, "char")
    assert loss_references(take_snapshot(load_study(study)))["val_bpb"]


def test_bytes_of_text_beyond_ascii_have_their_own(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("naïve café\n" * 300 + VERSE)
    trained(tmp_path / "study", tmp_path / "odd.txt", "char, byte")
    results = load_study(tmp_path / "study")
    of_char, of_byte = (results.tokenizer(each)["yardsticks"] for each in results.study.datasets)
    assert of_char != of_byte


def test_none_of_a_mixture_nor_in_studies_that_have_none_recorded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(VERSE)
    (tmp_path / "b.txt").write_text(VERSE.upper())
    mixed = Text(Mixture((str(tmp_path / "a.txt"), str(tmp_path / "b.txt")), (0.5, 0.5)))
    assert not yardsticks(prepare(mixed))
    fake_study(tmp_path / "old", parse_study("name: s\n", "s"), {})
    old = take_snapshot(load_study(tmp_path / "old"))
    assert loss_references(old) == {"val_loss": [], "val_bpb": []}
    assert "neural" not in " ".join(answer_chapter(old, []).texts + method_chapter(old).texts)
