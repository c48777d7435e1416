"""Texts of known entropy: sources, the texts drawn from them, and the loss that no model can go below."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.scaling_results import analyse_scaling
from isoloss.analysis.true_floor import TrueFloor
from isoloss.cli.fit import scaling_as_json
from isoloss.data import chains, hidden_markov
from isoloss.data.hidden_markov import HiddenMarkovSource
from isoloss.data.markov import MarkovSource
from isoloss.data.sources import UNITS, Source, random_bits
from isoloss.data.synthetic import CHARACTERS, source_named
from isoloss.data.tokens import prepare
from isoloss.errors import ConfigError
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.files import sha256_bytes
from isoloss.randomness import Purpose, stream_key
from isoloss.report.chapters.method import method_chapter
from isoloss.report.chapters.scaling import scaling_chapter
from isoloss.report.chart import WIDE
from isoloss.report.law_figures import law_figures
from isoloss.report.snapshot import take_snapshot
from isoloss.report.study_report import explorer_data
from isoloss.store import true_losses
from isoloss.store.merging import merge_studies
from isoloss.store.tables import StudyResults, load_study
from isoloss.store.true_losses import true_val_loss
from isoloss.study.studyfile import dump_study, parse_study
from isoloss.study.synthetic import HiddenMarkov, Markov, synthetic_of
from tests.test_explore import unpacked

PAIRS = {"synthetic": "markov", "order": 2, "symbols": 8, "seed": 3, "tokens": 200_000}
HIDDEN = {"synthetic": "hidden_markov", "states": 3, "symbols": 4, "seed": 3, "tokens": 5000}
STUDY = """name: s
corpus: {{synthetic: markov, order: 2, symbols: 8, seed: 3, tokens: 2e5}}
base: {{n_layer: 1, n_head: 1, n_embd: 8, batch_size: 2, max_iters: 4, eval_interval: 2, eval_val_tokens: 4096}}
factors: {{block_size: [{sizes}]}}
"""


def markov(**changes: Any) -> MarkovSource:
    stated = synthetic_of({**PAIRS, **changes})
    assert isinstance(stated, Markov)
    return MarkovSource(stated)


def hidden(**changes: Any) -> HiddenMarkovSource:
    stated = synthetic_of({**HIDDEN, **changes})
    assert isinstance(stated, HiddenMarkov)
    return HiddenMarkovSource(stated)


def drawn(source: Source, tokens: int, seed: int = 3) -> np.ndarray:
    return np.concatenate([*source.text(seed, tokens)]).astype(np.int64)


def counted_entropy(text_N: np.ndarray, length: int, symbols: int) -> float:
    """Entropy of a symbol given the `length` before it, by counts of a text."""
    codes_N = sum(
        text_N[place : len(text_N) - length + place] * symbols ** (length - place) for place in range(length + 1)
    )
    counts_CxV = np.bincount(codes_N, minlength=symbols ** (length + 1)).reshape(-1, symbols)
    shares_CxV = counts_CxV / np.maximum(counts_CxV.sum(axis=1, keepdims=True), 1)
    losses_CxV = -np.log(np.where(counts_CxV > 0, shares_CxV, 1))
    return float((counts_CxV * losses_CxV).sum() / counts_CxV.sum())


def test_counts_of_a_long_text_approach_the_stated_entropy_rate() -> None:
    source = markov()
    text_N, rate = drawn(source, 1_000_000), source.entropy_rate()
    shorter, exact, longer = (counted_entropy(text_N, length, 8) for length in (1, 2, 3))
    assert exact == pytest.approx(rate.value, abs=0.004) and rate.low == rate.value == rate.high
    assert shorter > rate.value + 0.1  # the second symbol back tells something
    assert longer == pytest.approx(rate.value, abs=0.006)  # the third does not


@pytest.mark.parametrize("make", [markov, hidden])
def test_the_text_is_one_chain_however_many_stretches_it_is_drawn_in(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make()
    whole_N = drawn(source, 4000)
    monkeypatch.setattr(chains, "LANES", 7)
    monkeypatch.setattr(chains, "STEPS", 30)
    assert (drawn(source, 4000) == whole_N).all() and (drawn(source, 999) == whole_N[:999]).all()
    state_1, found = np.array([0]), list[int]()
    for bits_1 in random_bits(stream_key(3, Purpose.TEXT), np.arange(4000))[:, None]:
        state_1 = source.advance(state_1, bits_1)
        found.append(int(source.emit(state_1, bits_1)[0]))
    assert found == whole_N.tolist()


def shares_by_brute_force(chain_CxC: np.ndarray) -> np.ndarray:
    """The stationary distribution, as a null vector."""
    n = len(chain_CxC)
    system = np.vstack([chain_CxC.T - np.eye(n), np.ones(n)])
    return np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_losses_of_a_chain_are_those_of_summing_over_all_that_a_window_does_not_show(order: int) -> None:
    source, length = markov(symbols=3, order=order), 5
    contexts = [*itertools.product(range(3), repeat=order)]
    rows = {
        c: np.bincount(source._flat_rows.reshape(-1, UNITS)[i], minlength=3) / UNITS for i, c in enumerate(contexts)
    }
    chain = np.array([[rows[c][d[-1]] * (c[1:] == d[:-1]) for d in contexts] for c in contexts])
    share = dict(zip(contexts, shares_by_brute_force(chain), strict=True))

    def probability(block: tuple[int, ...]) -> float:
        total = 0.0
        for before in contexts:  # it ends where the block begins
            p, context = share[before], before
            for symbol in block:
                p, context = p * rows[context][symbol], (*context[1:], symbol)
            total += p
        return total

    blocks = [*itertools.product(range(3), repeat=length)]
    expected = [
        [-np.log(probability(block[: t + 1]) / probability(block[:t])) for t in range(1, length)] for block in blocks
    ]
    np.testing.assert_allclose(source.losses(np.array(blocks)), expected, atol=1e-10)
    by_rows = sum(share[c] * -(rows[c] * np.log(rows[c])).sum() for c in contexts)
    assert source.entropy_rate().value == pytest.approx(by_rows, abs=1e-10)


def test_losses_of_a_hidden_chain_are_those_of_summing_over_all_paths() -> None:
    source, length = hidden(), 4
    next_SxS, symbol_SxV = (
        np.stack([np.bincount(row, minlength=n) for row in rows.reshape(-1, UNITS)]) / UNITS
        for rows, n in ((source._transitions, 3), (source._emissions, 4))
    )
    share_S = shares_by_brute_force(next_SxS)

    def probability(block: tuple[int, ...]) -> float:
        total = 0.0
        for path in itertools.product(range(3), repeat=len(block)):
            p = share_S[path[0]] * symbol_SxV[path[0], block[0]]
            for (a, b), symbol in zip(itertools.pairwise(path), block[1:], strict=True):
                p *= next_SxS[a, b] * symbol_SxV[b, symbol]
            total += p
        return float(total)

    blocks = [*itertools.product(range(4), repeat=length)]
    expected = [
        [-np.log(probability(block[: t + 1]) / probability(block[:t])) for t in range(1, length)] for block in blocks
    ]
    np.testing.assert_allclose(source.losses(np.array(blocks)), expected, atol=1e-10)


def test_the_entropy_rate_of_a_hidden_chain_lies_between_the_bounds_of_short_windows() -> None:
    source = hidden()
    text_N, rate = drawn(source, 400_000, seed=9), source.entropy_rate()
    assert rate.high - rate.low < 0.01 and "forward algorithm" in rate.method
    whole = source.losses(text_N.reshape(-1, 400))[:, 200:].mean()  # another text of the source
    assert whole == pytest.approx(rate.value, abs=0.008)
    assert counted_entropy(text_N, 3, 4) > rate.low  # conditioning on less never lowers it


def test_bounds_of_the_entropy_rate_of_a_hidden_chain_are_those_of_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """H(X2 | X1, S1) and H(X3 | X1, X2), summed over all texts and all first states."""
    source = hidden()
    share_S = source.stationary()
    monkeypatch.setattr(hidden_markov, "MAX_JOINT", 3 * 4**2)
    for conditioned, found in zip((True, False), source.entropy_bounds(), strict=True):
        starts = np.diag(share_S) if conditioned else share_S[None]
        symbols = 1 if conditioned else 2  # as many as MAX_JOINT allows before the last
        total = 0.0
        for start_S in starts:
            for text in itertools.product(range(4), repeat=symbols):
                joint_S = start_S
                for symbol in text:
                    joint_S = joint_S * source._symbol_SxV[:, symbol] @ source._next_SxS  # type: ignore[reportPrivateUsage]
                next_V = joint_S @ source._symbol_SxV  # type: ignore[reportPrivateUsage]
                total -= float((next_V * np.log(next_V / next_V.sum())).sum())
        assert found == pytest.approx(total, rel=1e-12)
    monkeypatch.undo()
    least, most = source.entropy_bounds()
    rate = source.entropy_rate()
    assert 0 < least <= rate.low <= rate.value <= rate.high <= most and most - least < 0.01
    assert f"exact bounds {least:.4f} and {most:.4f}" in rate.method


def test_documents_have_no_true_loss(tmp_path: Path) -> None:
    """Their ends are foretold by which windows are read, and not by the source."""
    study = replace(parse_study(STUDY.format(sizes=32), "s"), document_separator="1")
    found = run_study(study, tmp_path / "divided", RunOptions("cpu", compile="off"), executor=Inline())
    assert found.summary()["true_val_loss"].is_null().all()
    assert {*found.summary()["entropy_rate"]} == {source_named(study.text.name).entropy_rate().value}


def test_no_predictor_loses_less_than_the_source_on_its_windows() -> None:
    """Counts of all pairs of the training split, smoothed by what comes after one symbol."""
    source, tokens = markov(), prepare(synthetic_of(PAIRS).name)
    config = parse_study(STUDY.format(sizes=32), "s").expand(tokens.facts)[0]
    least = true_val_loss(source, tokens, config)
    train_N = tokens.train_N.astype(np.int64)
    counts = np.full((8, 8, 8), 0.5)
    np.add.at(counts, (train_N[:-2], train_N[1:-1], train_N[2:]), 1)
    of_pairs, of_one = counts / counts.sum(-1, keepdims=True), counts.sum(0) / counts.sum((0, 2))[:, None]
    starts = np.arange(128) * ((len(tokens.val_N) - 1) // 32) // 128 * 32
    blocks = tokens.val_N.astype(np.int64)[starts[:, None] + np.arange(33)]
    first = -np.log(of_one[blocks[:, 0], blocks[:, 1]])
    rest = -np.log(of_pairs[blocks[:, :-2], blocks[:, 1:-1], blocks[:, 2:]])
    counted = np.column_stack([first, rest]).mean()
    assert least < counted < least + 0.02
    assert least == pytest.approx(source.losses(blocks).mean(), abs=1e-12)


def test_the_true_loss_is_that_of_the_characters_whatever_their_tokens_are() -> None:
    """Symbols are digits, small and then capital letters; tokens are in the order of characters or bytes."""
    name = synthetic_of({**PAIRS, "symbols": 40, "order": 1}).name
    study = replace(parse_study(STUDY.format(sizes=32), "s"), corpus=name)
    losses = [
        true_val_loss(source_named(name), tokens, study.expand(tokens.facts)[0])
        for tokens in (prepare(name, "char"), prepare(name, "byte"))
    ]
    assert losses[0] == losses[1] == pytest.approx(source_named(name).entropy_rate().value, abs=0.1)


def test_texts_stay_what_they_are() -> None:
    """Where this fails, GENERATOR_VERSION has to be raised: caches hold texts of the sources that were."""
    hashes = [sha256_bytes(drawn(source, 2000).astype(np.uint8).tobytes())[:12] for source in (markov(), hidden())]
    assert hashes == ["68c822f285b7", "dcd2279d63d2"]


def test_a_text_is_written_once_and_again_where_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    name, said = synthetic_of(HIDDEN).name, list[str]()
    first = prepare(name, say=said.append)
    path = next((tmp_path / "corpora").glob("*.txt"))
    content = path.read_bytes()
    assert first.sha256 == sha256_bytes(content) and len(content) == 5000 and set(content.decode()) == set("0123")
    assert "".join(CHARACTERS[symbol] for symbol in drawn(source_named(name), 5000)) == content.decode()
    prepare(name, say=said.append)
    assert said == [f"writing 5,000 symbols of {name}"]
    path.write_bytes(content[:-1] + b"z")
    assert prepare(name, say=said.append).sha256 == first.sha256 and path.read_bytes() == content
    assert len(said) == 2


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        ("{synthetic: markov, order: 2, symbols: 1, seed: 1, tokens: 5e4}", "symbols=1: Input should be greater"),
        ("{synthetic: markov, order: 9, symbols: 32, seed: 1, tokens: 5e4}", "32^9 contexts of symbols and order are"),
        ("{synthetic: markof, order: 2}", "synthetic='markof' is no kind of text; did you mean 'markov'?"),
        ("{order: 2, symbols: 9}", "expected a known name, a path, a list of them, {files: …, field: …}, {synthetic"),
        ("{synthetic: markov, order: 2, symbols: 9, seed: 1, tokens: 50}", "tokens=50: Input should be greater"),
        ("{synthetic: markov, order: 2, symbols: 9, seed: 1}", "'tokens' is missing; markov needs symbols, seed, "),
        ("{synthetic: markov, order: 2.5, symbols: 9, seed: 1, tokens: 5e4}", "order=2.5: Input should be a valid"),
        ("{synthetic: markov, order: true, symbols: 9, seed: 1, tokens: 5e4}", "order=True: Input should be a valid"),
        ("{synthetic: markov, states: 2, order: 1, symbols: 9, seed: 1, tokens: 5e4}", "unknown key 'states' of "),
        ("'synthetic:markov,order=1,symbols=9,seed=1,tokens=7'", "tokens=7: Input should be greater"),
        (
            "{synthetic: grammar, categories: 4, rules: 16, depth: 3, symbols: 9, seed: 1, tokens: 5e4}",
            "48^3 states of rules and depth are more than 65,536; lower one",
        ),
        (
            "{synthetic: hierarchy, rules: 4, branching: 2, depth: 2, symbols: 3, seed: 1, tokens: 5e4}",
            "12 rules on a level are more than 9; lower rules",
        ),
        (
            "{synthetic: hierarchy, rules: 4, branching: 2, depth: 8, symbols: 9, seed: 1, tokens: 5e4}",
            "256 symbols of a sentence are more than 128; lower depth or branching",
        ),
        (
            "{synthetic: hierarchy, rules: 4, branching: 8, depth: 1, symbols: 9, seed: 1, tokens: 5e4}",
            "9^8 right sides of symbols and branching are more than 1,048,576; lower one",
        ),
        (
            "{synthetic: hierarchy, share: 2, rules: 4, branching: 2, depth: 2, symbols: 9, seed: 1, tokens: 5e4}",
            "unknown key 'share' of hierarchy",
        ),
        (
            "[a.txt, 'synthetic:markov,order=1']",
            "'synthetic:markov,order=1' is a synthetic text, which stands in no list",
        ),
    ],
)
def test_what_makes_no_source_is_said_in_one_line(corpus: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_study(f"name: s\ncorpus: {corpus}\n", "s.yaml")
    assert str(raised.value).startswith(f"s.yaml:2: corpus: {said}") and "\n" not in str(raised.value)


def test_a_study_and_the_command_line_spell_the_same_text_alike() -> None:
    stated = parse_study(f"name: s\ncorpus: {json.dumps(PAIRS)}\n", "s")
    assert stated == parse_study("name: s\ncorpus: 'synthetic:markov,tokens=2e5,symbols=8,seed=3,order=2'\n", "s")
    assert stated == parse_study(dump_study(stated), "again")
    with pytest.raises(ConfigError, match="is in corpus and in val_corpus"):  # it would begin as the other does
        parse_study(f"name: s\ncorpus: {json.dumps(PAIRS)}\nval_corpus: {json.dumps({**PAIRS, 'tokens': 5000})}\n", "s")


def trained(folder: Path, sizes: str) -> StudyResults:
    study = parse_study(STUDY.format(sizes=sizes), "s")
    return run_study(study, folder, RunOptions("cpu", compile="off"), executor=Inline())


def test_a_study_records_the_true_loss_of_every_choice_of_windows(tmp_path: Path) -> None:
    first = trained(tmp_path / "a", "16")
    assert first.summary().select("entropy_rate", "true_val_loss").null_count().row(0) == (0, 0)
    grown, other = trained(tmp_path / "a", "16, 8").summary(), trained(tmp_path / "b", "8, 4").summary()
    by_size = dict(grown.select("block_size", "true_val_loss").iter_rows())
    assert by_size[16] == first.summary()["true_val_loss"][0] < by_size[8]  # shorter windows show less
    assert (grown["final_val_loss"] > grown["true_val_loss"]).all()
    report = take_snapshot(load_study(tmp_path / "a"))
    lines = unpacked(explorer_data(report))["references"]["val_loss"]  # among the loss curves
    assert [value for _, value, bound in lines if bound] == sorted(by_size.values())
    assert f"{by_size[8]:.4f} (block_size 8, eval_val_tokens 4096)" in " ".join(method_chapter(report).texts)
    (tmp_path / "a/true_losses.json").write_text('{"entropy_rate": 0.1}')
    assert "true_val_loss" not in load_study(tmp_path / "a").summary().columns  # damaged, so not used
    assert trained(tmp_path / "a", "16, 8").summary().equals(grown)
    joined = merge_studies([tmp_path / "a", tmp_path / "b"], tmp_path / "c").results.summary()
    both = by_size | dict(other.select("block_size", "true_val_loss").iter_rows())
    assert dict(joined.select("block_size", "true_val_loss").iter_rows()) == both and len(both) == 3


def test_tokens_that_are_no_symbols_have_no_true_loss_and_a_restart_computes_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parse_study(STUDY.format(sizes=8).replace("2e5", "2e3"), "s").with_settings({"tokenizer": "bpe:260"})

    def rows() -> list[tuple[float | None, ...]]:
        found = run_study(study, tmp_path / "w", RunOptions("cpu", compile="off"), executor=Inline())
        return found.summary().select("entropy_rate", "true_val_loss").rows()

    first = rows()
    assert first[0][0] == pytest.approx(markov().entropy_rate().value) and first[0][1] is None
    monkeypatch.setattr(true_losses, "source_named", lambda name: pytest.fail("computed again"))
    assert rows() == first


def test_a_natural_text_has_no_true_loss(tmp_path: Path, text_file: Path) -> None:
    study = replace(parse_study(STUDY.format(sizes=8), "s"), corpus=str(text_file))
    found = run_study(study, tmp_path / "w", RunOptions("cpu", compile="off"), executor=Inline())
    assert "true_val_loss" not in found.summary().columns and not found.paths.true_losses.exists()


@pytest.mark.parametrize(("truth", "covered"), [(1.7, True), (1.5, False), (1.9, False)])
def test_a_fit_says_whether_its_floor_covers_the_true_loss(truth: float, covered: bool) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"N": n, "D": d, "loss": 1.7 + 400 / n**0.5 + 900 / d**0.5 + rng.normal(0, 0.002), "true_val_loss": truth}
        for n in np.geomspace(1e4, 1e6, 5)
        for d in np.geomspace(1e6, 1e8, 4)
    ]
    found = analyse_scaling(pl.DataFrame(rows), "LND", {"N": "N", "D": "D", "loss": "loss"})
    assert json.loads(scaling_as_json(found))["true_floor"] == {
        "loss": truth,
        "covered": covered,
        "unit": "nats/token",
    }
    fits = f"the interval of the fitted floor {'covers' if covered else 'does not cover'} that"
    source = f"The source of this text loses {truth:.4f} nats/token on these windows"
    sentence = f"{source}, and no model that sees no more can lose less: {fits}."
    assert sentence in scaling_chapter(found).answer
    figure = next(law_figures(found))
    assert figure.frame.filter(pl.col("drawn") == "true loss")["loss"].to_list() == [truth]
    layers = figure.draw(WIDE).to_dict()["layer"]
    assert [layer["encoding"]["y"]["field"] for layer in layers if layer["mark"]["type"] == "rule"] == ["loss"]
    assert all(layer["encoding"]["y"]["scale"]["domain"][0] < truth for layer in layers if "y" in layer["encoding"])
    in_bits = pl.DataFrame(rows).with_columns(final_val_bpb=pl.col("loss") / log(2))
    of_bits = analyse_scaling(in_bits, "LND", {"N": "N", "D": "D", "loss": "final_val_bpb"})
    undetermined = pl.DataFrame([{**row, "loss": 2.0 + number % 3 / 100} for number, row in enumerate(rows)])
    nothing = scaling_chapter(analyse_scaling(undetermined, "LND", {"N": "N", "D": "D", "loss": "loss"}))
    assert nothing.answer[0].startswith("These runs do not determine the law")
    assert nothing.answer[-1].endswith("there is no fitted floor to hold against that.")
    assert of_bits.true_floor == TrueFloor(truth / log(2), covered, "bits/byte")
    assert f"{truth / log(2):.4f} bits/byte" in scaling_chapter(of_bits).answer[1]
    other = in_bits.rename({"loss": "final_train_loss"})
    assert analyse_scaling(other, "LND", {"N": "N", "D": "D", "loss": "final_train_loss"}).true_floor is None
    unlike = pl.DataFrame([*rows, {**rows[0], "true_val_loss": 1.6}])
    in_size = analyse_scaling(pl.DataFrame(rows[3::4]), "LN", {"N": "N", "loss": "loss"})
    assert in_size.true_floor == TrueFloor(truth, None, "nats/token")  # its floor holds what these tokens leave
    assert analyse_scaling(unlike, "LND", {"N": "N", "D": "D", "loss": "loss"}).true_floor is None
