"""Designs and formulas: which cells a study has, what each holds, and what is refused, with its line."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.design.audit import audit
from isoloss.errors import ConfigError
from isoloss.study.compute import params_non_embedding, tokens_per_step, train_flops, train_tokens
from isoloss.study.formula import with_formulas_computed
from isoloss.study.fractions import constant_products, generators
from isoloss.study.studyfile import dump_study, parse_study
from isoloss.study.texts import DataFacts

FACTS = DataFacts("", 65)


def cells(text: str, *settings: str) -> list[tuple[Any, ...]]:
    """Values of settings in each cell, and the file survives being written and read."""
    study = parse_study(f"name: s\n{text}", "s.yaml")
    assert parse_study(dump_study(study), "again") == study
    configs = study.expand(FACTS)
    assert study.size == len(configs)
    return [tuple(getattr(config, name) for name in settings) for config in configs]


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_study(f"name: s\n{text}", "s.yaml")
    return str(error.value)


def test_paired_settings_go_together_and_cross_with_factors() -> None:
    text = "factors: {dropout: [0.0, 0.1]}\npaired: {n_embd: [64, 128], learning_rate: [3e-3, 1e-3]}"
    assert cells(text, "n_embd", "learning_rate", "dropout") == [
        (64, 3e-3, 0.0), (64, 3e-3, 0.1), (128, 1e-3, 0.0), (128, 1e-3, 0.1)
    ]  # fmt: skip
    two = "paired: [{n_embd: [64, 128], n_head: [2, 4]}, {n_layer: [1, 2], dropout: [0.0, 0.1]}]"
    assert len(cells(two, "n_embd")) == 4


def test_runs_are_stated_one_by_one() -> None:
    text = "runs: [{n_embd: 32, n_head: 2}, {n_embd: 64, n_head: 4}, {n_embd: 32, n_head: 4}]\nseeds: 2"
    assert cells(text, "n_embd", "n_head", "seed")[::2] == [(32, 2, 1337), (64, 4, 1337), (32, 4, 1337)]


def test_what_is_excluded_matches_in_all_entries() -> None:
    text = "factors: {n_embd: [32, 64], n_head: [2, 4]}\nexclude: [{n_embd: 32, n_head: 4}]"
    assert cells(text, "n_embd", "n_head") == [(32, 2), (64, 2), (64, 4)]


def test_one_at_a_time_has_a_centre_and_single_changes() -> None:
    text = "factors: {n_layer: [1, 2, 3], dropout: [0.0, 0.1]}\ndesign: one_at_a_time"
    assert cells(text, "n_layer", "dropout") == [(1, 0.0), (2, 0.0), (3, 0.0), (1, 0.1)]
    assert cells(f"{text}\ncentre: {{n_layer: 2}}", "n_layer", "dropout") == [(2, 0.0), (1, 0.0), (3, 0.0), (2, 0.1)]


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_sampled_values_lie_in_their_ranges_and_are_the_same_each_time(method: str) -> None:
    text = (
        "factors: {learning_rate: {from: 1e-4, to: 1e-2, scale: log}, n_layer: {from: 1, to: 4}, bias: [true, false]}\n"
        f"design: {{{method}: 64, seed: 3}}"
    )
    drawn = cells(text, "learning_rate", "n_layer", "bias")
    assert drawn == cells(text, "learning_rate", "n_layer", "bias") and len(set(drawn)) == 64
    assert drawn != cells(text.replace("seed: 3", "seed: 4"), "learning_rate", "n_layer", "bias")
    logs = np.log10([rate for rate, *_ in drawn])
    assert -4 <= logs.min() < -3.8 and -2.2 < logs.max() <= -2 and abs(logs.mean() + 3) < 0.25
    assert {layers for _, layers, _ in drawn} == {1, 2, 3, 4} and {bias for *_, bias in drawn} == {True, False}


def test_a_sobol_sequence_spreads_better_than_independent_draws() -> None:
    text = "factors: {dropout: {from: 0.0, to: 0.8}, weight_decay: {from: 0.0, to: 0.8}}\ndesign: {METHOD: 64}"
    boxes = {}
    for method in ("sobol", "random"):
        drawn = cells(text.replace("METHOD", method), "dropout", "weight_decay")
        boxes[method] = len({(int(a * 10), int(b * 10)) for a, b in drawn})
    assert boxes["sobol"] > 55 > boxes["random"]


@pytest.mark.parametrize(
    ("factors", "generated", "resolution"),
    [(3, 1, 3), (5, 1, 5), (5, 2, 3), (6, 2, 4), (7, 3, 4), (7, 4, 3), (8, 2, 5), (8, 4, 4), (9, 2, 6), (11, 4, 5)],
)
def test_fractions_have_the_highest_resolution_there_is(factors: int, generated: int, resolution: int) -> None:
    """Against the table of Box, Hunter and Hunter (1978)."""
    words = [word | 1 << (factors - generated + i) for i, word in enumerate(generators(factors, generated))]
    group = [0]
    for word in words:
        group += [word ^ other for other in group]
    assert len(set(group)) == 2**generated and min(word.bit_count() for word in group[1:]) == resolution


def test_a_fraction_is_balanced_in_every_factor_and_pair() -> None:
    names = ("n_layer", "n_head", "dropout", "batch_size", "weight_decay")
    levels = ("[1, 2]", "[2, 4]", "[0.0, 0.1]", "[4, 8]", "[0.0, 0.1]")
    text = "factors:\n" + "".join(f"  {name}: {given}\n" for name, given in zip(names, levels, strict=True))
    half = cells(f"{text}design: {{fraction: 1/2}}", *names)
    assert len(half) == 16 and set(half) < set(cells(text, *names))
    for a, b in itertools.combinations(range(5), 2):
        assert set(Counter((cell[a], cell[b]) for cell in half).values()) == {4}


@pytest.mark.parametrize(
    ("levels", "share", "said"),
    [
        (5, "1/2", "of resolution 5: it confounds main effects and interactions of two factors only"),
        (
            4,
            "1/2",
            "of resolution 4: it confounds interactions of two factors with each other (dropout × batch_size with ",
        ),
        (
            3,
            "1/2",
            "of resolution 3: it confounds main effects with interactions of two factors (n_layer with n_embd × ",
        ),
    ],
)
def test_the_audit_says_what_a_fraction_confounds(levels: int, share: str, said: str) -> None:
    given = {"n_layer": [1, 2], "n_embd": [32, 64], "dropout": [0.0, 0.1], "batch_size": [4, 8], "bias": [True, False]}
    factors = dict(list(given.items())[:levels])
    study = parse_study(json.dumps({"name": "s", "factors": factors, "design": {"fraction": share}}), "s.yaml")
    (told,) = [one for one in audit(study, study.expand(FACTS)) if one.code == "aliased_effects"]
    assert said in told.text and (told.severity == "note") == (levels == 5)
    values = [[getattr(config, name) == given[name][1] for config in study.expand(FACTS)] for name in factors]
    for word in constant_products(levels, 1):  # the product of these factors' levels is the same in every cell
        of_word = [values[i] for i in range(levels) if word >> i & 1]
        assert len({sum(not high for high in cell) % 2 for cell in zip(*of_word, strict=True)}) == 1


def test_formulas_are_computed_in_every_cell() -> None:
    text = (
        "base: {n_head: = n_embd / 32, learning_rate: = 0.33 * sqrt(batch_size) / n_embd,\n"
        "  lr_decay_iters: = max_iters, max_iters: = 20 * params_non_embedding / tokens_per_step}\n"
        "factors: {n_embd: [64, 128]}"
    )
    study = parse_study(f"name: s\n{text}", "s.yaml")
    for config, (width, heads) in zip(study.expand(FACTS), ((64, 2), (128, 4)), strict=True):
        assert (config.n_embd, config.n_head, config.lr_decay_iters) == (width, heads, config.max_iters)
        assert config.learning_rate == pytest.approx(0.33 * 12**0.5 / width)
        assert abs(train_tokens(config) - 20 * params_non_embedding(config)) <= tokens_per_step(config) / 2


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("= n_embd / 30", "gives 4.26667, no whole number; choose other levels, or use round(), floor() or ceil()"),
        ("= n_embd / 0", "divides by zero"),
        ("= n_head + 1", "circular: n_head needs n_head"),
        ("= lr", "names 'lr': use learning_rate"),
        ("= __import__('os')", "names '__import__'"),
        ("= n_embd.real", "holds what is not computed"),
        ("= [1][0]", "holds what is not computed"),
        ("= 9 ** 9 ** 9", "has no value"),
        ("= log(-1)", "has no value"),
        ("= lr_decay_iters", "lr_decay_iters is not set"),
        ("= n_embd /", "is no formula"),
        ("= " + "1 + " * 100 + "1", "more than 300 characters"),
    ],
)
def test_what_is_no_formula_is_refused_with_its_line(formula: str, said: str) -> None:
    message = refused(f'base:\n  n_head: "{formula}"')
    assert message.startswith("s.yaml:3: n_head") and said in message


def test_formulas_that_need_each_other_in_a_circle_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_layer needs n_head needs n_layer"):
        with_formulas_computed({"n_layer": "= n_head", "n_head": "= n_layer"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("paired: {n_embd: [64, 128], n_head: [2]}", "s.yaml:2: paired settings need equally many levels"),
        ("factors: {n_embd: [32]}\nexclude: [{n_embd: 32}]", "s.yaml:3: exclude leaves none of 1 cells"),
        ("factors: {n_embd: [32]}\nexclude: [{n_embd: 64}]", "s.yaml:3: exclude: no cell has n_embd 64"),
        ("factors: {n_embd: [32]}\nexclude: [{dropout: 0.1}]", "s.yaml:3: exclude: dropout is no factor"),
        ("factors: {dropout: {from: 0, to: 0.1}}", "s.yaml:2: factor 'dropout' is a range; add design:"),
        ("factors: {dropout: {from: 0, to: 1.5}}\ndesign: {random: 4}", "s.yaml:2: dropout=1.5"),
        ("factors: {dropout: {from: 0.2, to: 0.1}}\ndesign: {random: 4}", "from 0.2 is not below to 0.1"),
        ("factors: {dropout: {from: 0, to: 0.1, scale: log}}\ndesign: {random: 4}", "a log scale begins above 0"),
        ("factors: {dropout: {low: 0, to: 0.1}}\ndesign: {random: 4}", "expected a range, like {from: 1e-4"),
        ("factors: {n_embd: [32, 64]}\ndesign: {random: 0}", "s.yaml:3: design: random=0"),
        ("factors: {n_embd: [32, 64]}\ndesign: {fraction: 1/3}", "s.yaml:3: design: fraction='1/3'"),
        (
            "factors: {n_embd: [32, 64]}\ndesign: {fraction: 1/2}",
            "s.yaml:3: design: with no 1/2 of the combinations of 1",
        ),
        (
            "factors: {n_embd: [32, 64, 96]}\ndesign: {fraction: 1/2}",
            "s.yaml:2: design: a fraction needs factors of",
        ),
        ("factors: {n_embd: [32, 64]}\ndesign: latin", "s.yaml:3: design='latin': expected one_at_a_time, {random"),
        ("factors: {n_embd: [32, 64]}\ncentre: {n_embd: 64}", "s.yaml:3: centre: only design: one_at_a_time"),
        ("factors: {n_embd: [32]}\ndesign: one_at_a_time\ncentre: {n_embd: 64}", "s.yaml:4: centre: n_embd 64"),
        ("runs: [{n_embd: 32}, {n_head: 2}]", "stands in some entries and not in others"),
        ("runs: [{n_embd: 32}]\nfactors: {n_embd: [64]}", "'n_embd' is both"),
        ("factors: {n_head: [= n_embd / 32]}", "is a formula, which stands under base"),
        ("factors: {n_embd: [32, 64], n_head: [3]}", "not divisible"),
    ],
)
def test_what_is_wrong_with_a_design_is_one_line_with_its_place(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize(
    ("kind", "levels", "spent"),
    [
        ("flops", "[1e11, 1e12]", train_flops),
        ("tokens", "[2e5, 1e6]", train_tokens),
        ("tokens_per_parameter", "[5, 20]", lambda config: train_tokens(config) / params_non_embedding(config)),
    ],
)
def test_budgets_are_met_within_two_percent_and_stated_in_the_directory(kind: str, levels: str, spent: Any) -> None:
    text = (
        f"budgets: {{{kind}: {levels}, n_embd: [32, 64]}}\nbase: {{n_layer: 2, warmup_iters: = 0.1 * max_iters,\n"
        "  eval_interval: = max_iters / 4}\nfactors: {dropout: [0.0, 0.1]}\nseeds: 2"
    )
    study = parse_study(f"name: s\n{text}", "s.yaml")
    configs = study.expand(FACTS)
    assert study.size == len(configs) == 16
    low, high = map(float, levels.strip("[]").split(","))
    for i, config in enumerate(configs):
        assert spent(config) == pytest.approx((low, high)[i // 2 % 2], rel=0.02)
        assert config.warmup_iters == round(0.1 * config.max_iters)
    stated = study.resolved(FACTS)
    assert stated.expand(FACTS) == configs and parse_study(dump_study(stated), "again") == stated
    assert set(stated.varied) == {"n_embd", "dropout", "max_iters"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budgets: {flops: [1e6], n_embd: [32]}", "s.yaml:2: budgets: 1e+06 flops are"),
        ("budgets: {flops: [1e20], n_embd: [32]}", "and a run has at most 2,000,000"),
        ("budgets: {flops: [], n_embd: [32]}", "s.yaml:2: budgets: flops has no levels"),
        ("budgets: {flops: [-1], n_embd: [32]}", "expected a number above 0"),
        ("budgets: {n_embd: [32]}", "s.yaml:2: budgets: state levels of one of flops, tokens, tokens_per_parameter"),
        ("budgets: {tokens: [1e6], n_embd: [32]}\nbase: {max_iters: 5}", "s.yaml:3: max_iters follows from budgets"),
    ],
)
def test_budgets_that_no_cell_can_meet_are_refused_with_their_line(text: str, said: str) -> None:
    assert said in refused(text)


def test_a_constant_setting_leaves_the_rest_of_a_design_as_it_is() -> None:
    text = "factors: {n_layer: [2, 4], dropout: [0.0, 0.1]}\ndesign: one_at_a_time\ncentre: {n_layer: 4}"
    study = parse_study(f"name: s\n{text}\nexclude: [{{n_layer: 2, dropout: 0.0}}]", "s.yaml")
    assert study.with_settings({"n_layer": 4}).varied == {"dropout": (0.0, 0.1)}
    runs = parse_study("name: s\nruns: [{n_layer: 2, n_embd: 64}, {n_layer: 2, n_embd: 128}]", "s.yaml")
    assert runs.with_settings({"n_embd": 64}).size == 1
    text = "factors: {dropout: {from: 0, to: 0.5}, weight_decay: {from: 0, to: 1}}\ndesign: {seed: 1, random: 5}"
    search = parse_study(f"name: s\n{text}", "s.yaml")
    assert search.with_settings({"dropout": 0.1}).varied["weight_decay"] == search.varied["weight_decay"]


@pytest.mark.parametrize(
    "text",
    [
        "design: {fraction: 1/0}",
        "runs: [{n_layer: 2, n_embd: 64}, {n_layer: 4}]",
        "runs: [{n_layer: [2]}]",
        "paired: [{}]\ndesign: one_at_a_time",
        "budgets: {flops: [[1e12]], n_embd: [32]}",
        "factors: {n_embd: [32]}\nbudgets: {flops: [1e12], n_embd: [64]}",
        "base: {n_layer: = seed}",
    ],
)
def test_odd_files_are_refused_in_a_line(text: str) -> None:
    stated = "hypotheses: [{says: It is so, kind: effect, factor: n_embd, direction: up}]"
    assert refused(f"{text}\n{stated}").startswith("s.yaml")


def test_long_formulas_take_no_time() -> None:
    names = ("beta1", "beta2", "min_lr", "weight_decay", "grad_clip", "learning_rate")
    chain = {name: f"= max({', '.join([after] * 15)})" for name, after in itertools.pairwise(names)}
    assert with_formulas_computed(chain)["beta1"] == 1e-3
    deep = {name: f"= {'-' * 280}{after}" for name, after in itertools.pairwise(names)}
    with contextlib.suppress(ConfigError):  # or refused, in one line
        with_formulas_computed(deep)


EXAMPLES = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[1] / "docs/designs.md").read_text(), re.DOTALL)
SIZES = {"grid": 18, "paired": 18, "without_a_corner": 8, "candidates": 15, "around_a_centre": 30, "search": 60,
         "half": 48, "formulas": 2, "profiles": 15}  # fmt: skip


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_of_the_page_on_designs_is_a_study(text: str) -> None:
    study = parse_study(text, "docs/designs.md")
    assert len(study.expand(FACTS)) == SIZES[study.name] and len(EXAMPLES) == len(SIZES)
