"""Grammars and random hierarchies: their sentences, the loss that no model can go below, and what their entropy is."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from math import log
from typing import Any

import numpy as np
import pytest

from isoloss.data import derivations, sources
from isoloss.data.derivations import Level, derivation_entropy
from isoloss.data.grammar import GrammarSource
from isoloss.data.hierarchy import HierarchySource
from isoloss.data.synthetic import source_named
from isoloss.data.tokens import prepare
from isoloss.files import sha256_bytes
from isoloss.store.true_losses import true_val_loss
from isoloss.study.studyfile import parse_study
from isoloss.study.synthetic import synthetic_of

GRAMMAR = {"synthetic": "grammar", "categories": 2, "rules": 2, "depth": 2, "symbols": 3, "seed": 1, "tokens": 20_000}
HIERARCHY = {
    "synthetic": "hierarchy", "rules": 2, "branching": 2, "depth": 2, "symbols": 3, "seed": 2, "tokens": 20_000
}  # fmt: skip
Derived = GrammarSource | HierarchySource
Sentence = tuple[int, ...]


def source_of(stated: Mapping[str, Any], **changes: Any) -> Derived:
    found = source_named(synthetic_of({**stated, **changes}).name)
    assert isinstance(found, Derived)
    return found


def derivations_of(levels: list[Level], part: int = 0, number: int = 0) -> Iterator[tuple[Sentence, float]]:
    """All that a category can become, once for each derivation, with its probability."""
    if number == len(levels):
        yield (part,), 1.0
        return
    level = levels[number]
    for rule, parts in enumerate(level.parts_CxRxP[part]):
        p = (level.rows_CxU[part] == rule).mean()
        below = [[*derivations_of(levels, each, number + 1)] for each in parts.tolist() if each >= 0]
        for chosen in itertools.product(*below):
            sentence = tuple(itertools.chain.from_iterable(each for each, _ in chosen))
            yield sentence, float(p * np.prod([q for _, q in chosen]))


def probability_of_blocks(source: Derived) -> Any:
    """Of a block that begins anywhere in sentences that follow each other, by going through all sentences."""
    sentences = Counter[Sentence]()
    for sentence, p in derivations_of(source._levels):
        sentences[sentence] += p  # type: ignore[assignment]
    assert sum(sentences.values()) == pytest.approx(1)
    length = sum(p * len(sentence) for sentence, p in sentences.items())

    def after(rest: Sentence, block: Sentence) -> float:
        shown = min(len(rest), len(block))
        return begun(block[shown:]) if rest[:shown] == block[:shown] else 0.0

    @cache
    def begun(block: Sentence) -> float:
        return sum(p * after(sentence, block) for sentence, p in sentences.items()) if block else 1.0

    def probability(block: Sentence) -> float:
        places = ((p, sentence[place:]) for sentence, p in sentences.items() for place in range(len(sentence)))
        return sum(p / length * after(rest, block) for p, rest in places)

    return probability


@pytest.mark.parametrize(
    ("stated", "block"),
    [(GRAMMAR, 6), (GRAMMAR | {"depth": 3, "seed": 6}, 4), (HIERARCHY, 7), (HIERARCHY | {"branching": 3}, 6)],
)
def test_losses_are_those_of_summing_over_all_sentences(stated: dict[str, Any], block: int) -> None:
    source = source_of(stated)
    probability = cache(probability_of_blocks(source))
    blocks = [each for each in itertools.product(range(3), repeat=block) if probability(each) > 0]
    expected = [[-log(probability(each[: t + 1]) / probability(each[:t])) for t in range(1, block)] for each in blocks]
    np.testing.assert_allclose(source.losses(np.array(blocks)), expected, atol=1e-9)
    assert len(blocks) > 10


@pytest.mark.parametrize("branching", [2, 3])
def test_a_sentence_of_a_hierarchy_has_one_derivation_and_all_are_equally_likely(branching: int) -> None:
    source = source_of(HIERARCHY, branching=branching)
    found = [*derivations_of(source._levels)]
    choices = 1 + branching  # below the first symbol: one on the first level, one for each symbol of the next
    assert len({sentence for sentence, _ in found}) == len(found) == 3 * 2**choices
    assert {len(sentence) for sentence, _ in found} == {branching**2}
    assert [p for _, p in found] == pytest.approx([1 / len(found)] * len(found))
    rate = source.entropy_rate()
    assert rate.low == rate.value == rate.high == pytest.approx(log(len(found)) / branching**2)


def test_the_entropy_rate_of_a_grammar_lies_between_the_bounds() -> None:
    source = source_of(GRAMMAR)
    found, rate = [*derivations_of(source._levels)], source.entropy_rate()
    length = sum(p * len(sentence) for sentence, p in found)
    assert len({sentence for sentence, _ in found}) < len(found)  # some are derived in several ways
    assert derivation_entropy(source._levels) == pytest.approx(-sum(p * log(p) for _, p in found) / length)
    probability = probability_of_blocks(source)
    given_6, given_7 = (
        -sum(p * log(p) for each in itertools.product(range(3), repeat=n) if (p := probability(each)) > 0)
        for n in (6, 7)
    )
    assert rate.low < given_7 - given_6  # conditioning on less never lowers it
    assert rate.value < derivation_entropy(source._levels) and rate.high - rate.low < 0.02


@pytest.mark.parametrize(
    "stated", [GRAMMAR | {"symbols": 12, "categories": 5, "depth": 3}, HIERARCHY | {"symbols": 8, "depth": 3}]
)
def test_a_text_is_as_likely_as_its_source_says(stated: dict[str, Any]) -> None:
    """The loss on another text of the source is the entropy rate, where enough of the text is seen."""
    source = source_of(stated)
    text_N = np.concatenate([*source.text(77, 1 << 16)]).astype(np.int64)
    late = source.losses(text_N.reshape(-1, 128))[:, 64:].mean()
    assert late == pytest.approx(source.entropy_rate().value, abs=0.02)


@pytest.mark.parametrize(("stated", "sha256"), [(GRAMMAR, "d01b6d184509"), (HIERARCHY, "755a8b6ed89c")])
def test_a_text_is_a_function_of_its_seed_and_begins_with_the_shorter(
    stated: dict[str, Any], sha256: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the hash differs, GENERATOR_VERSION has to be raised: caches hold texts of the sources that were."""
    source = source_of(stated)
    whole_N = np.concatenate([*source.text(3, 9000)])
    monkeypatch.setattr(derivations, "SENTENCES", 7)
    pieces = [*source.text(3, 9000)]
    assert len(pieces) > 100 and (np.concatenate(pieces) == whole_N).all()
    assert (np.concatenate([*source.text(3, 1001)]) == whole_N[:1001]).all() and len(whole_N) == 9000
    assert (np.concatenate([*source.text(4, 1001)]) != whole_N[:1001]).any()
    assert sha256_bytes(whole_N.tobytes())[:12] == sha256


@pytest.mark.parametrize("stated", [GRAMMAR, HIERARCHY])
def test_losses_do_not_depend_on_how_many_blocks_are_taken_at_a_time(
    stated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(stated)
    blocks_BxT1 = np.concatenate([*source.text(1, 900)]).astype(np.int64).reshape(-1, 9)
    at_once = source.losses(blocks_BxT1)
    monkeypatch.setattr(sources, "MAX_NUMBERS", 40)
    np.testing.assert_allclose(source.losses(blocks_BxT1), at_once, rtol=1e-12)


@pytest.mark.parametrize("stated", [GRAMMAR, HIERARCHY])
def test_a_study_on_it_has_a_true_loss_above_the_entropy_rate(stated: dict[str, Any]) -> None:
    name = synthetic_of(stated).name
    tokens = prepare(name)
    config = parse_study(f"name: s\ncorpus: '{name}'\nbase: {{block_size: 16, n_embd: 8, n_head: 1}}", "s")
    loss = true_val_loss(source_named(name), tokens, config.expand(tokens.facts)[0])
    assert source_named(name).entropy_rate().low < loss < log(3)
