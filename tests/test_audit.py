"""The design audit: every finding with a study that has it and one that has not; detectable effects against oracles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.power import TTestIndPower, TTestPower

from isoloss.cli import run_command_line
from isoloss.design.audit import audit
from isoloss.design.power import detectable_effect, minimum_detectable_effect, seeds_needed
from isoloss.design.prefixes import prefix_groups, training_key
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.execution.executor import Inline
from isoloss.execution.study import RunOptions, run_study
from isoloss.study.config import RunConfig
from isoloss.study.hypotheses import Hypothesis
from isoloss.study.identity import run_id
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study
from isoloss.study.studyfile import builtin_studies, find_study, parse_study
from isoloss.study.texts import DataFacts

SHAKESPEARE = DataFacts("86c4", 65, 111_540, 1_003_854)
TRAIN_TOKENS = 1_003_854


def stated(**values: Any) -> Hypothesis:
    return make_hypothesis({"says": "It is so.", **values}, 1)


WIDER = stated(kind="effect", factor="n_embd", direction="down")
ALPHA = stated(kind="exponent", parameter="alpha", low=0.2, high=1)
BETA_D = stated(kind="exponent", form="LD", parameter="beta", low=0.2, high=1)


def study(*hypotheses: Hypothesis, seeds: int = 2, base: dict[str, Any] | None = None, **factors: Any) -> Study:
    levels = {name: tuple(values) for name, values in factors.items()}
    return Study("s", "x", base=base or {}, factors=levels, hypotheses=hypotheses).with_seeds(seeds)


def audited(audited_study: Study, **known: Any) -> list[Diagnostic]:
    return audit(audited_study, audited_study.expand(SHAKESPEARE), **known)


def finding(code: str, audited_study: Study, **known: Any) -> Diagnostic | None:
    found = [one for one in audited(audited_study, **known) if one.code == code]
    assert len(found) <= 1
    return found[0] if found else None


def sentence(code: str, audited_study: Study, **known: Any) -> str:
    found = finding(code, audited_study, **known)
    assert found is not None
    return found.text


@pytest.mark.parametrize("n", [2, 3, 9, 16, 64])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.95), (0.9, 0.99), (0.2, 0.9)])
def test_the_detectable_effect_is_statsmodels(n: int, power: float, level: float) -> None:
    effect = detectable_effect(0.007 * np.sqrt(2 / n), 2 * n - 2, power, level)
    assert TTestIndPower().power(effect / 0.007, n, 1 - level) == pytest.approx(power, abs=1e-9)


def test_the_detectable_effect_is_cohens() -> None:
    """Cohen 1988, table 2.4.1: 64 a group find d = 0.5 and 26 find d = 0.8 with 80% power at two-sided 5%."""
    assert detectable_effect(np.sqrt(2 / 64), 126) == pytest.approx(0.5, abs=0.005)
    assert detectable_effect(np.sqrt(2 / 26), 50) == pytest.approx(0.8, abs=0.01)


def test_the_detectable_effect_is_found_as_often_as_promised() -> None:
    rng, seeds = np.random.default_rng(0), 4
    effect = minimum_detectable_effect(1.0, cells_per_level=3, seeds=seeds, seed_by_factor=0.7)
    runs_dxbxlxc = rng.normal(size=(20_000, seeds, 2, 3)) + rng.normal(size=(20_000, seeds, 1, 1))
    level_dxbxl = runs_dxbxlxc.mean(3)
    difference_dxb = level_dxbxl[..., 1] + effect - level_dxbxl[..., 0] + rng.normal(0, 0.7, (20_000, seeds))
    t_d = difference_dxb.mean(1) / (difference_dxb.std(1, ddof=1) / np.sqrt(seeds))
    assert np.mean(np.abs(t_d) > 3.1824) == pytest.approx(0.8, abs=0.01)  # t table: 3 degrees of freedom, 5%


@pytest.mark.parametrize("difference", [0.002, 0.01, 0.02, 0.03])
def test_seeds_needed_are_those_of_a_paired_test(difference: float) -> None:
    """Two cells that share seeds are pairs: the differences have sd √2 times that of a run."""
    needed = seeds_needed(difference, 0.007, cells_per_level=1, seed_by_factor=0.0)
    power = [
        TTestPower().power(difference / (0.007 * np.sqrt(2)), seeds, 0.05) if seeds > 1 else 0.0
        for seeds in (needed - 1, needed)
    ]
    assert power[0] < 0.8 <= power[1] + 1e-9


def test_one_degree_of_freedom_still_has_an_answer() -> None:
    """Where the effect dwarfs the noise, |t| > 12.706 means |z| < effect / 12.706, and |z| < 1.2816 in 80% of cases."""
    found = minimum_detectable_effect(1.0, cells_per_level=1, seeds=2, seed_by_factor=0.0)
    assert found == pytest.approx(12.706 * 1.2816, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"sd": 0.0}, "noise 0: "),
        ({"sd": float("nan")}, "noise nan: "),
        ({"seeds": 1}, "1 seeds detect nothing"),
        ({"power": 0.04}, "power 0.04 at level 0.95"),
        ({"seed_by_factor": -1.0}, "seed_by_factor -1: "),
    ],
)
def test_what_detects_nothing_is_refused(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        minimum_detectable_effect(**{"sd": 1.0, "cells_per_level": 4, "seeds": 3} | arguments)


def test_group1_is_told_what_it_cannot_show() -> None:
    found = audited(find_study("group1"), data=SHAKESPEARE, hours=0.5)
    text = {one.code: one.text for one in found}
    assert "32 runs with one seed (1337)" in text["one_seed"]
    assert "2 sizes (787,584 and 3,148,032 non-embedding parameters)" in text["too_few_sizes"]
    assert "804,096 parameters with any of them, cut into heads of 32 and 16 dimensions" in text["n_head_same_params"]
    assert "16 of 32 runs end before step 2,000" in text["horizon_before_plateau"]
    assert "0.51 to 2 times the 1,003,854 unique tokens" in text["epochs"]
    assert "32 runs, about 30 min here; 5 seeds find" in text["cost"]
    assert "160 runs, about 2.5 hours here" in text["cost"]
    remedies = {one.code: one.remedy or "" for one in found}
    assert "batch_size 8 at 2,000 steps and 16 at 1,000 both see 1,024,000 tokens" in remedies["tokens_confounded"]
    assert not {"prefix_runs", "horizon_unmatched", "empty_factor", "too_few_horizons"} & set(text)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("quickstart", {"one_learning_rate", "detectable_effect"}),
        ("ladder", {"one_learning_rate", "detectable_effect"}),
    ],
)
def test_sound_studies_are_not_blamed(name: str, limits: set[str]) -> None:
    """Two seeds leave both short of the difference to find: one degree of freedom."""
    found = audited(find_study(name), data=SHAKESPEARE, hours=1.0)
    assert {one.code for one in found if one.severity != "note"} == limits


@pytest.mark.parametrize("name", builtin_studies())
def test_findings_are_whole_sentences_the_gravest_first(name: str) -> None:
    found = audited(find_study(name), data=SHAKESPEARE, hours=1.0)
    order = [("blocks", "limits", "note").index(one.severity) for one in found]
    assert order == sorted(order)
    for one in found:
        assert one.text.endswith(".") and (one.remedy or "").endswith(".")
        assert any(character.isdigit() for character in one.text) or one.code == "device_specific"


def test_one_seed_only_screens() -> None:
    told = finding("one_seed", study(seeds=1, n_head=[2, 4]))
    assert told is not None and told.severity == "limits"
    assert told.remedy == "Train more seeds: --seeds 5 tests effects on 4 degrees of freedom."
    assert finding("one_seed", study(n_head=[2, 4])) is None


def test_seeds_that_decide_a_part_are_said() -> None:
    told = finding("seeds_decide_part", study(seeds=3, init_seed=[1, 2], n_head=[2, 4]))
    assert told is not None and told.severity == "note"
    assert "decide the order of data and dropout alone, since init_seed is stated" in told.text
    assert "which the effect of init_seed shows" in told.text
    constant = finding("seeds_decide_part", study(base={"data_seed": 7}, n_head=[2, 4]))
    assert (
        constant is not None and constant.severity == "limits" and "decide the initial weights alone" in constant.text
    )
    assert constant.remedy == "Leave data_seed unset, or make it a factor."
    assert finding("seeds_decide_part", study(n_head=[2, 4])) is None


def test_seeds_as_factors_are_no_replicates() -> None:
    crossed = study(WIDER, seeds=1, init_seed=[1, 2, 3], data_seed=[1, 2], n_embd=[32, 64])
    told = finding("one_seed", crossed)
    assert (
        told is not None
        and "several of init_seed and data_seed" in told.text
        and "--block data_seed" in (told.remedy or "")
    )
    cost = finding("cost", crossed)
    assert cost is not None and "(with data_seed unset)" in (
        cost.remedy or ""
    )  # else there is nothing for --seeds to decide
    alone = finding("cost", study(seeds=1, init_seed=[1, 2, 3]))
    assert alone is not None and alone.remedy == "Nothing to compare but seeds: add a factor to the study."


def test_a_comparison_says_what_it_can_find() -> None:
    wide = study(WIDER, n_embd=[32, 64], dropout=[0.0, 0.1, 0.2], seeds=3)
    told = finding("detectable_effect", wide)
    assert told is not None and told.severity == "limits" and "from seed to seed by 0.55 of a run's sd" in told.text
    assert "“It is so” compares 9 runs at n_embd 32 with as many at 64 (3 cells, 3 seeds)" in told.text
    assert f"{minimum_detectable_effect(0.007, 3, 3, level=0.96):.3g} nats" in told.text
    loud = finding("detectable_effect", wide, noise_sd=0.05)
    assert loud is not None and loud.severity == "limits" and "sd 0.05 nats (stated)" in loud.text
    assert f"would take {seeds_needed(0.02, 0.05, 3, level=0.96)} seeds: add cells" in (loud.remedy or "")
    loud = finding("detectable_effect", wide, noise_sd=0.02)
    assert loud and f"--seeds {seeds_needed(0.02, 0.02, 3, level=0.96)} " in (loud.remedy or "")


def test_a_response_of_unknown_noise_is_judged_in_its_own_units() -> None:
    smooth = stated(kind="effect", factor="batch_size", direction="down", response="loss_roughness")
    told = sentence("detectable_effect", study(smooth, batch_size=[8, 16], n_head=[2, 4]))
    assert f"{minimum_detectable_effect(1.0, 2, 2, level=0.96):.3g} seed-to-seed sd of loss_roughness" in told
    assert "nats" not in told


@pytest.mark.parametrize("factors", [{}, {"n_embd": [64]}])
def test_a_constant_factor_cannot_be_judged(factors: dict[str, Any]) -> None:
    told = finding("hypothesis_untestable", study(WIDER, base={} if factors else {"n_embd": 64}, **factors))
    assert told is not None and told.severity == "blocks"
    assert "n_embd is 64 in all 2 runs" in told.text
    assert finding("hypothesis_untestable", study(WIDER, n_embd=[32, 64])) is None


def test_an_overridden_factor_leaves_its_hypothesis_unjudged() -> None:
    group1 = find_study("group1").with_settings({"n_embd": 128})
    told = finding("hypothesis_untestable", group1)
    assert told is not None and "“Wider models reach lower validation loss” can't be judged" in told.text
    assert finding("too_few_sizes", group1) is None


def test_a_plateau_needs_runs_that_get_there() -> None:
    plateau = stated(kind="plateau", by_step=1500)
    told = finding("horizon_before_plateau", study(plateau, max_iters=[1000, 2000]))
    assert told is not None and told.severity == "limits" and "2 of 4 runs end before step 1,500" in told.text
    short = finding("horizon_before_plateau", study(plateau, base={"max_iters": 1000}))
    assert short is not None and short.severity == "blocks"
    assert finding("horizon_before_plateau", study(plateau, base={"max_iters": 1500})) is None
    assert finding("too_few_evaluations", study(plateau, base={"max_iters": 1500, "eval_interval": 100})) is None
    seldom = finding("too_few_evaluations", study(plateau, base={"max_iters": 1500, "eval_interval": 500}))
    assert seldom is not None and seldom.severity == "blocks"


def test_spikes_need_evaluations_on_the_way() -> None:
    spikes = stated(kind="spikes")
    told = finding("no_evaluation_within", study(spikes, base={"eval_interval": 500}, max_iters=[500, 1000]))
    assert told is not None and told.severity == "limits" and "2 of 4 runs" in told.text
    assert finding("no_evaluation_within", study(spikes, base={"eval_interval": 499}, max_iters=[500, 1000])) is None


def test_a_statement_about_a_device_is_announced() -> None:
    mfu = {"kind": "range", "response": "mfu_a100", "low": 0.001, "high": 0.002}
    assert "runs trained on cuda" in sentence("device_specific", study(stated(**mfu, device="cuda")))
    assert finding("device_specific", study(stated(**mfu))) is None


def test_two_sizes_identify_no_exponent() -> None:
    told = finding("too_few_sizes", study(n_embd=[32, 64]))
    assert told is not None and told.severity == "limits" and "so 2 sizes can't identify" in told.text
    asked = finding("too_few_sizes", study(ALPHA, n_embd=[32, 64], max_iters=[100, 200, 400]))
    assert asked is not None and asked.severity == "blocks"
    alone = finding("too_few_sizes", study(ALPHA, max_iters=[100, 200, 400]))
    assert alone is not None and "The study has 1 size (" in alone.text
    for sound in (study(n_embd=[32, 64, 128]), study(n_head=[2, 4]), study(bias=[False, True]), study(BETA_D)):
        assert finding("too_few_sizes", sound) is None


def test_two_horizons_identify_no_exponent() -> None:
    told = finding("too_few_horizons", study(max_iters=[1000, 2000]))
    assert told is not None and told.severity == "limits" and "2 horizons (768,000 and 1,536,000" in told.text
    asked = finding("too_few_horizons", study(BETA_D, max_iters=[1000, 2000]))
    assert asked is not None and asked.severity == "blocks"
    assert finding("too_few_horizons", study(n_embd=[32, 64, 128])) is None
    assert finding("too_few_horizons", study(BETA_D, max_iters=[500, 1000, 2000])) is None


def test_a_law_in_compute_needs_three_budgets() -> None:
    law = stated(kind="exponent", form="LC", parameter="alpha", low=0, high=1)
    told = finding("too_few_budgets", study(law, max_iters=[500, 1000]))
    assert told is not None and told.severity == "blocks"
    assert finding("too_few_budgets", study(law, max_iters=[500, 1000, 2000])) is None
    assert finding("too_few_budgets", study(max_iters=[500, 1000])) is None


def test_sizes_tied_to_tokens_are_told_apart_from_crossed_ones() -> None:
    crossed = study(ALPHA, n_embd=[32, 64, 128], max_iters=[500, 2000, 8000])
    configs = crossed.expand(SHAKESPEARE)
    diagonal = [c for c in configs if {32: 500, 64: 2000, 128: 8000}[c.n_embd] == c.max_iters]
    [told] = [one for one in audit(crossed, diagonal) if one.code == "sizes_tied_to_tokens"]
    assert told.severity == "blocks" and "Over 6 runs" in told.text and "r = 1.000" in told.text
    assert finding("sizes_tied_to_tokens", crossed) is None


def test_what_is_offered_to_a_stated_law_is_counted() -> None:
    sound = study(ALPHA, n_embd=[32, 64, 128], max_iters=[500, 1000, 2000, 4000])
    assert "3 sizes (49,440 to 787,584 non-embedding parameters) and 4 horizons" in sentence("scaling_design", sound)
    assert finding("scaling_design", study(ALPHA, n_embd=[32, 64])) is None
    assert finding("scaling_design", study(n_embd=[32, 64, 128])) is None


def test_heads_change_no_size() -> None:
    assert "n_head (2, 4 and 8)" in sentence("n_head_same_params", study(n_head=[2, 4, 8]))
    assert finding("n_head_same_params", study(n_embd=[32, 64])) is None


def test_a_factor_with_one_level_is_constant() -> None:
    assert "one level, 0.1" in sentence("constant_factor", study(dropout=[0.1], n_head=[2, 4]))
    assert finding("constant_factor", study(dropout=[0.1, 0.2])) is None


@pytest.mark.parametrize(
    ("factors", "base", "expected"),
    [
        ({"eval_interval": [50, 100]}, {}, "eval_interval (50 and 100) changes nothing in 4 of 4 runs"),
        (
            {"eval": ["exact", "sampled"], "n_head": [2, 4]},
            {},
            "eval (exact and sampled) changes nothing in 8 of 8 runs",
        ),
        ({"ema": [0.0, 0.99]}, {}, "ema (0 and 0.99) changes nothing in 4 of 4 runs: weights are averaged beside"),
        ({"min_lr": [0.0, 1e-4]}, {"decay_lr": False}, "min_lr (0 and 0.0001) changes nothing in 4 of 4 runs"),
        (
            {"warmup_iters": [0, 9], "decay_lr": [False, True]},
            {},
            "warmup_iters (0 and 9) changes nothing in 4 of 8 runs",
        ),
    ],
)
def test_a_factor_that_training_does_not_read_is_empty(
    factors: dict[str, Any], base: dict[str, Any], expected: str
) -> None:
    assert sentence("empty_factor", study(base=base, **factors)).startswith(expected)


@pytest.mark.parametrize(
    ("compared", "told"),
    [
        ({"ema": [0, 0.9, 0.99]}, True),
        ({"ema": [0.9, 0.99]}, False),
        ({"n_embd": [32, 64]}, True),
        ({"n_embd": [32, 64], "ema": [0, 0.9]}, False),
    ],
)
def test_averages_are_compared_where_both_levels_have_some(compared: dict[str, Any], told: bool) -> None:
    factor = next(iter(compared))
    lower = stated(says="lower", kind="effect", factor=factor, direction="down", response="best_ema_val_loss")
    found = finding("hypothesis_untestable", study(lower, **compared))
    assert (found is not None and "averaged weights" in found.text) == told


@pytest.mark.parametrize("factors", [{"min_lr": [0.0, 1e-4]}, {"warmup_iters": [0, 9]}, {"lr_decay_iters": [500, 900]}])
def test_a_factor_that_training_reads_is_not_empty(factors: dict[str, Any]) -> None:
    assert finding("empty_factor", study(**factors)) is None


def test_batch_size_is_confounded_with_tokens() -> None:
    batch = study(batch_size=[8, 32])
    told = finding("tokens_confounded", batch)
    assert told is not None and told.severity == "note"
    assert "(1,024,000 and 4,096,000 at 2,000 steps)" in told.text
    assert (told.remedy or "").endswith("make max_iters a factor with levels 4 times apart.")
    asked = study(stated(kind="effect", factor="batch_size", direction="down"), batch_size=[8, 32])
    assert [one.severity for one in audited(asked) if one.code == "tokens_confounded"] == ["limits"]
    assert finding("tokens_confounded", study(n_head=[2, 4])) is None


def test_widths_at_one_learning_rate() -> None:
    told = finding("one_learning_rate", study(n_embd=[32, 128]))
    assert told is not None and told.severity == "note" and "2 widths (32 to 128)" in told.text
    asked = finding("one_learning_rate", study(WIDER, n_embd=[32, 128]))
    assert asked is not None and asked.severity == "limits"
    assert finding("one_learning_rate", study(WIDER, n_embd=[32, 128], learning_rate=[1e-3, 2e-3])) is None
    assert finding("one_learning_rate", study(n_embd=[96, 128])) is None


def test_runs_with_one_decay_for_all_horizons_are_prefixes() -> None:
    fixed = study(base={"lr_decay_iters": 2000}, max_iters=[500, 1000, 2000], n_head=[2, 4])
    assert sentence("prefix_runs", fixed).startswith("8 of 12 runs are the first steps of a longer one")
    unmatched = finding("horizon_unmatched", fixed)
    assert unmatched is not None and unmatched.severity == "limits"
    assert "8 of 12 runs" in unmatched.text and "(lr_decay_iters 2,000, max_iters 500 and 1,000)" in unmatched.text
    asked = finding("horizon_unmatched", study(BETA_D, base={"lr_decay_iters": 2000}, max_iters=[500, 1000, 2000]))
    assert asked is not None and asked.severity == "blocks"
    constant = study(base={"decay_lr": False}, max_iters=[500, 1000])
    assert finding("prefix_runs", constant) is not None and finding("horizon_unmatched", constant) is None
    for matched in (study(max_iters=[500, 1000, 2000]), study(base={"lr_decay_iters": 9000}, n_head=[2, 4])):
        assert finding("prefix_runs", matched) is finding("horizon_unmatched", matched) is None


def test_prefix_groups_hold_each_run_with_the_longest_last() -> None:
    fixed = study(base={"lr_decay_iters": 2000}, max_iters=[2000, 500, 1000], n_head=[2, 4]).expand(SHAKESPEARE)
    groups = prefix_groups(fixed)
    assert len(groups) == 4  # heads by seeds
    assert {tuple(config.max_iters for config in group) for group in groups} == {(500, 1000, 2000)}
    assert {len({(c.n_head, c.seed) for c in group}) for group in groups} == {1}
    assert {run_id(config) for group in groups for config in group} == {run_id(config) for config in fixed}
    assert prefix_groups(study(max_iters=[500, 1000]).expand(SHAKESPEARE)) == []
    # lr_decay_iters stands for the same horizon whether it is stated or follows max_iters
    stated_once = study(max_iters=[500, 1000], lr_decay_iters=[1000, 2000], seeds=1).expand(SHAKESPEARE)
    assert [[c.decay_horizon for c in group] for group in prefix_groups(stated_once)] == [[1000, 1000], [2000, 2000]]


def test_prefixes_are_known_by_the_seeds_that_decide_them() -> None:
    base = study(base={"decay_lr": False}, seeds=1, max_iters=[500, 1000]).expand(SHAKESPEARE)
    long = base[1].model_copy(update={"seed": 3, "init_seed": base[0].seed, "data_seed": base[0].seed})
    assert prefix_groups([base[0], long]) == [(base[0], long)]
    assert prefix_groups([base[0], base[1].model_copy(update={"data_seed": 3})]) == []


def test_prefixes_are_evaluated_alike() -> None:
    mixed = study(base={"decay_lr": False}, max_iters=[500, 1000], eval_interval=[50, 100], seeds=1)
    groups = prefix_groups(mixed.expand(SHAKESPEARE))
    assert sorted({c.eval_interval for c in group} for group in groups) == [{50}, {100}]


def test_prefixes_train_the_same_losses(text_file: Path, tmp_path: Path) -> None:
    base = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "dropout": 0.2}
    base |= {"lr_decay_iters": 12, "warmup_iters": 2, "eval_interval": 5, "eval_train_tokens": 256}
    fixed = Study("fixed", str(text_file), base=base, factors={"max_iters": (7, 12)})
    results = run_study(fixed, tmp_path, RunOptions(device="cpu", precision="fp32"), executor=Inline())
    [(short, long)] = prefix_groups(results.configs)
    columns = ["step", "loss", "lr", "grad_norm"]
    losses = [results.metrics(run_id(config)).select(columns) for config in (short, long)]
    assert (len(losses[0]), len(losses[1])) == (7, 12)
    assert losses[0].equals(losses[1].head(7))
    evaluations = [results.evals(run_id(config)).drop("eval_time_s") for config in (short, long)]
    assert [rows["step"].to_list() for rows in evaluations] == [[0, 5, 7], [0, 5, 10, 12]]
    assert evaluations[0].head(2).equals(evaluations[1].head(2))


def test_equal_training_keys_mean_equal_training() -> None:
    def key(**settings: Any) -> object:
        return training_key(RunConfig(corpus="x", corpus_sha256="1", vocab_size=65, **settings))

    assert key() == key(eval_interval=7) == key(eval="sampled") == key(lr_decay_iters=2000) == key(ema=0.9)
    assert key(decay_lr=False) == key(decay_lr=False, min_lr=0.0) == key(decay_lr=False, warmup_iters=0)
    assert len({key(), key(seed=1), key(min_lr=0.0), key(max_iters=1000), key(decay_lr=False), key(dropout=0.1)}) == 6


def test_epochs_are_counted_where_the_text_is_known() -> None:
    short, long = study(base={"max_iters": 2000}), study(max_iters=[2000, 20_000])
    told = finding("epochs", short, data=SHAKESPEARE)
    assert told is not None and told.severity == "note" and "1.5 times" in told.text and "none goes" in told.text
    many = finding("epochs", long, data=SHAKESPEARE)
    assert many is not None and many.severity == "limits" and "1.5 to 15 times" in many.text
    assert "2 of 4 runs go beyond 10 times" in many.text
    assert finding("epochs", long) is None


def test_the_cost_says_what_resolving_takes() -> None:
    assert "4 runs, about 3.0 hours here" in sentence("cost", study(n_head=[2, 4]), hours=3.0)
    few = finding("cost", study(n_head=[2, 4]), hours=3.0, noise_sd=0.02)
    needed = seeds_needed(0.02, 0.02, cells_per_level=1)
    assert few is not None and few.remedy == f"Train it with --seeds {needed}."
    assert f"{2 * needed} runs, about {3 * needed / 2:.1f} hours here" in few.text
    many = finding("cost", study(n_head=[2, 4], seeds=20))
    assert many is not None and many.remedy == "Nothing to change." and "here" not in many.text
    assert sentence("cost", study(seeds=1)) == "The study is 1 run."


def test_a_stated_optimum_needs_levels_that_bracket_it() -> None:
    best = stated(kind="optimum", factor="learning_rate", low=1e-4, high=1e-2)
    enough = study(best, learning_rate=[3e-5, 3e-4, 1e-3, 3e-3, 3e-2])
    assert not {"few_levels", "not_bracketed", "hypothesis_untestable"} & {each.code for each in audited(enough)}
    few = study(best, learning_rate=[1e-4, 1e-3, 1e-2])
    assert "show no more than a parabola" in sentence("few_levels", few)
    assert "0.0001 and 0.01 is not inside the grid" in sentence("not_bracketed", few)
    assert "learning_rate has 0 levels" in sentence("hypothesis_untestable", study(best, n_embd=[64, 128]))
    stays = stated(kind="optimum", factor="learning_rate", moved_by="n_embd", tolerance=0.2)
    alone = study(stays, learning_rate=[3e-5, 3e-4, 1e-3, 3e-3, 3e-2])
    assert "n_embd has 0 levels" in sentence("hypothesis_untestable", alone)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_noise_is_refused(noise: float) -> None:
    with pytest.raises(ConfigError, match="noise"):
        audited(study(n_head=[2, 4]), noise_sd=noise)


def test_reading_a_study_and_its_prefixes_needs_no_scipy() -> None:
    program = (
        "import sys, isoloss.design.audit, isoloss.study.studyfile\nassert not {'scipy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_plan_shows_the_audit(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "n_layer=1", "--set", "block_size=8", "--set", "max_iters=20", "--device", "cpu"]
    assert run_command_line(["plan", "group1", *small]) == 0
    out = capsys.readouterr().out
    [_, printed] = out.split("\nAudit\n")
    assert "  too_few_sizes (limits)\n    The study has 2 sizes (" in printed
    assert "\n    → Train at least 3 sizes" in printed
    assert max(map(len, printed.splitlines())) <= 110
    assert run_command_line(["plan", "group1", *small, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["audit"]
    assert {"one_seed", "too_few_sizes", "n_head_same_params", "cost"} <= {one["code"] for one in listed}
    assert {tuple(sorted(one)) for one in listed} == {("code", "remedy", "sentence", "severity")}


def test_a_factor_that_another_goes_along_with_cannot_be_judged() -> None:
    text = (
        "name: x\npaired: {n_embd: [64, 128], learning_rate: [3e-3, 1e-3]}\nfactors: {dropout: [0.0, 0.1]}\nseeds: 3\n"
    )
    text += "hypotheses: [{says: Wider is better, kind: effect, factor: n_embd, direction: down},\n"
    text += "             {says: Dropout costs, kind: effect, factor: dropout, direction: up}]"
    study = parse_study(text, "x.yaml")
    found = audit(study, study.expand(DataFacts("0" * 64, 65, 111_540, 1_003_854)))
    (blocked,) = [each for each in found if each.code == "hypothesis_untestable"]
    assert "Wider is better" in blocked.text and "learning_rate changes with n_embd" in blocked.text
    assert blocked.severity == "blocks" and blocked.remedy and "learning_rate under base" in blocked.remedy
    (power,) = [each for each in found if "80% power" in each.text and "“" in each.text]
    assert "Dropout costs" in power.text and "Wider" not in power.text
