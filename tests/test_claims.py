"""Claims on tables whose truth is known: what the data resolve is said, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.claim import AdjustedP, Claim, Evidence
from isoloss.analysis.claims import adjusted_p, judge
from isoloss.analysis.convergence import Convergence, analyse_convergence
from isoloss.analysis.curves import Spikes, pooled, spike_report
from isoloss.analysis.effects import Effects
from isoloss.analysis.estimate import holm, p_in_words
from isoloss.analysis.exploration import exploratory_claims, study_effects
from isoloss.study.hypotheses import Hypothesis
from isoloss.study.stated_hypotheses import make_hypothesis

FACTORS = {"n_embd": (128, 256), "dropout": (0.1, 0.2), "batch_size": (8, 16)}


def evidence(
    effect: Callable[[dict[str, Any]], float] = lambda cell: 0.0,
    *,
    seeds: int = 3,
    noise: float = 0.005,
    seed: int = 0,
    curve: Callable[[np.ndarray], np.ndarray] = lambda step: 1.5 + 2 * step**-0.3,
    last_step: int = 2000,
    slow: tuple[int, ...] = (),
) -> Evidence:
    rng = np.random.default_rng(seed)
    rows = [
        {
            "run_id": f"{i:04}",
            "seed": s,
            "device": "cpu",
            "program": f"{i:04}",
            "shuffled": True,
            **cell,
            "best_val_loss": 2 + effect(cell) + rng.normal(0, noise),
        }
        for i, (cell, s) in enumerate(
            itertools.product(
                (dict(zip(FACTORS, levels, strict=True)) for levels in itertools.product(*FACTORS.values())),
                range(seeds),
            )
        )
    ]
    steps = np.arange(last_step // 20, last_step + 1, last_step // 20)

    def convergence(tolerance: float) -> Convergence:
        frames = [pl.DataFrame({"run": row["run_id"], "step": steps, "loss": curve(steps)}) for row in rows]
        noisy = pl.concat(frames).with_columns(loss=pl.col("loss") + 1e-4 * rng.normal(size=len(rows) * len(steps)))
        return analyse_convergence(noisy, tolerance=tolerance)

    def spikes(times: float) -> Spikes:
        time_n = rng.normal(1, 0.02, 400)
        time_n[list(slow)] = 5.0
        return pooled([spike_report(time_n, [100, 200, 300], times)])

    return Evidence(pl.DataFrame(rows), FACTORS, convergence, spikes)


def claim(found: Evidence, **stated: Any) -> Claim:
    (only,) = judge([make_hypothesis({"says": "It is so", **stated}, 1)], found)
    return only


def explore(hypotheses: list[Hypothesis], found: Evidence) -> tuple[list[Claim], dict[str, AdjustedP]]:
    """The exploratory claims, and the adjusted p of every term."""
    effects = study_effects(found)
    adjusted = adjusted_p(hypotheses, judge(hypotheses, found), effects)
    return exploratory_claims(effects, adjusted, found.run_ids), adjusted


WIDER = {"kind": "effect", "factor": "n_embd", "direction": "down"}


def narrower_is_worse(cell: dict[str, Any]) -> float:
    return 0.05 * (cell["n_embd"] == 128)


def test_an_effect_is_supported_contradicted_or_left_open() -> None:
    supported = claim(evidence(narrower_is_worse), **WIDER)
    assert supported.verdict == "supported" and not supported.screening
    assert (
        supported.estimate
        and supported.estimate.low
        and supported.estimate.low < -0.05 < (supported.estimate.high or 0)
    )
    assert "n_embd 256 minus that at 128" in supported.sentence and "n = 24" in supported.sentence
    assert "t on 2 df of seed × n_embd" in supported.sentence and len(supported.run_ids) == 24
    assert claim(evidence(narrower_is_worse), **(WIDER | {"direction": "up"})).verdict == "contradicted"
    assert claim(evidence(), **WIDER).verdict == "not resolved"


def test_a_hypothesis_may_be_about_some_runs_alone() -> None:
    """Width helps by 0.1 at one dropout and harms by as much at the other: averaged over both nothing is left."""
    found = evidence(lambda cell: 0.1 * (1 if cell["dropout"] == 0.2 else -1) * (cell["n_embd"] == 256))
    effect = {"kind": "effect", "factor": "n_embd", "direction": "down"}
    at_low, at_high = (claim(found, **effect, where={"dropout": level}) for level in (0.1, 0.2))
    assert (at_low.verdict, at_high.verdict, claim(found, **effect).verdict) == (
        "supported",
        "contradicted",
        "not resolved",
    )
    assert at_low.estimate is not None and abs(at_low.estimate.value + 0.1) < 0.02 and len(at_low.run_ids) == 12
    absent = claim(found, **effect, where={"n_head": 4})
    assert absent.verdict == "not resolved" and "does not say what n_head is, of which it speaks" in absent.sentence
    stated = make_hypothesis({"says": "It is so", **effect, "where": {"dropout": 0.1}}, 1)
    assert adjusted_p([stated], judge([stated], found), study_effects(found))["n_embd"].stated is False


def test_one_seed_screens() -> None:
    screened = claim(evidence(narrower_is_worse, seeds=1), **WIDER)
    assert screened.screening and "Lenth" in screened.sentence


def test_null_studies_make_few_false_claims() -> None:
    hypotheses = [
        make_hypothesis({"says": "It is so", "kind": "effect", "factor": factor, "direction": "down"}, i)
        for i, factor in enumerate(FACTORS, 1)
    ]
    stated = explored = 0
    for seed in range(150):
        null = evidence(seed=seed)
        stated += any(found.verdict != "not resolved" for found in judge(hypotheses, null))
        explored += bool(explore([], null)[0])
    assert stated <= 15 and explored <= 15  # 5% of 150 is 7.5; 15 has a chance of 1 in 100


def test_ratios_ranges_and_shares_share_the_error_rate() -> None:
    """Truths at the very end of a stated range: 1 of 20 such studies may be wrong about any of three."""
    hypotheses = [
        make_hypothesis(
            {
                "says": "It is so",
                "kind": "ratio",
                "response": "best_val_loss",
                "factor": factor,
                "low": 1.0,
                "high": 2.0,
            },
            i,
        )
        for i, factor in enumerate(FACTORS, 1)
    ]
    wrong = sum(
        any(found.verdict == "contradicted" for found in judge(hypotheses, evidence(seed=seed))) for seed in range(150)
    )
    assert wrong <= 9  # 2% of 150 are 3, one end of three intervals at 1.3%; unadjusted 11 would be expected
    alone, among = (
        judge(
            [make_hypothesis({"says": "It is so", "kind": "plateau", "by_step": 1500}, i) for i in range(n)], evidence()
        )[0]
        for n in (1, 4)
    )
    assert "96% interval" in alone.sentence and "99% interval" in among.sentence
    assert alone.estimate == among.estimate and alone.estimate is not None and alone.estimate.level == 0.95


def test_what_nobody_stated_is_exploratory() -> None:
    found = evidence(narrower_is_worse)
    claims, adjusted = explore([], found)
    assert [c.says for c in claims] == ["best_val_loss depends on n_embd"] and len(adjusted) == 6
    assert not claims[0].stated and "adjusted for 6 effects" in claims[0].sentence
    assert not claims[0].screening
    assert [c.screening for c in explore([], evidence(narrower_is_worse, seeds=1))[0]] == [True]
    assert explore([make_hypothesis({"says": "It is so", **WIDER}, 1)], found)[0] == []


def test_a_plateau_is_judged_on_the_runs_that_were_trained_so_far() -> None:
    stated = {"kind": "plateau", "by_step": 1500}
    assert claim(evidence(), **stated).verdict == "contradicted"
    flat = evidence(curve=lambda step: 1.5 + np.exp(-step / 100))
    assert claim(flat, **stated).verdict == "supported"
    short = claim(evidence(last_step=1000), **stated)
    assert short.verdict == "not resolved" and "No run was trained for 1,500 steps" in short.sentence


def test_a_range_is_of_its_device_alone() -> None:
    stated = {"kind": "range", "response": "best_val_loss", "low": 1.9, "high": 2.1}
    assert claim(evidence(), **stated).verdict == "supported"
    assert claim(evidence(), **(stated | {"low": 2.05})).verdict == "contradicted"
    assert claim(evidence(), **(stated | {"low": 2.0})).verdict == "not resolved"
    elsewhere = claim(evidence(), **(stated | {"device": "cuda"}))
    assert elsewhere.verdict == "not applicable" and "trained on cpu" in elsewhere.sentence
    found = evidence()
    later = found.table.with_columns(device=pl.lit("cuda"), best_val_loss=pl.col("best_val_loss") + 1)
    mixed = Evidence(pl.concat([found.table, later]), FACTORS, found.convergence, found.spikes)
    here = claim(mixed, **(stated | {"device": "cpu"}))
    assert here.verdict == "supported" and here.estimate and here.estimate.n == len(here.run_ids) == 24


def test_an_interval_that_ends_where_the_range_does_lies_within_it() -> None:
    """Values without spread have an interval without width."""
    found = evidence(noise=0.0)
    stated = {"kind": "range", "response": "best_val_loss"}
    assert claim(found, **stated, low=2.0, high=3.0).verdict == "supported"
    assert claim(found, **stated, low=1.0, high=2.0).verdict == "supported"


def test_spikes_after_evaluations() -> None:
    assert claim(evidence(slow=(100, 200, 300) * 1), kind="spikes").verdict == "not resolved"  # three could be chance
    many = Evidence(
        evidence().table,
        FACTORS,
        evidence().convergence,
        lambda t: pooled([evidence(slow=(100, 200, 300)).spikes(t)] * 9),
    )
    assert claim(many, kind="spikes").verdict == "supported"
    assert "27" in claim(many, kind="spikes").sentence
    assert claim(evidence(), kind="spikes").verdict == "not resolved"


def test_a_ratio_of_levels() -> None:
    found = evidence(lambda cell: 2.0 * (cell["batch_size"] == 16))
    stated = {"kind": "ratio", "factor": "batch_size", "response": "best_val_loss"}
    supported = claim(found, **stated, low=1.9, high=2.1)
    assert supported.verdict == "supported" and supported.estimate
    assert supported.estimate.value == pytest.approx(2, rel=0.01)
    assert claim(found, **stated, low=3.0).verdict == "contradicted"


def ladder(sizes: int) -> Evidence:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 3e6, sizes), np.geomspace(5e5, 1.5e7, 5), indexing="ij"))
    loss = (1.4 + 60 / n**0.38 + 160 / d**0.39) * np.exp(np.random.default_rng(0).normal(0, 1e-3, len(n)))
    columns = {
        "params_non_embedding": n,
        "train_tokens": d,
        "final_val_loss": loss,
        "seed": np.zeros(len(n), dtype=int),
    }
    table = pl.DataFrame({"run_id": [str(i) for i in range(len(n))], **columns})
    return Evidence(table, {"n_embd": [1, 2]}, evidence().convergence, evidence().spikes)


def test_an_exponent_needs_a_law_that_is_identified() -> None:
    stated = {"kind": "exponent", "parameter": "alpha", "low": 0.2, "high": 1.0}
    assert claim(ladder(6), **stated).verdict == "supported"
    assert claim(ladder(6), **(stated | {"low": 0.8})).verdict == "contradicted"
    two = claim(ladder(2), **stated)
    assert two.verdict == "not resolved" and "not identified" in two.sentence


@pytest.mark.parametrize(
    "stated",
    [
        {"kind": "effect", "factor": "n_layer", "direction": "down"},
        {"kind": "effect", "factor": "n_embd", "direction": "down", "response": "eval_time_s"},
        {"kind": "range", "response": "mfu", "low": 0, "high": 1},
    ],
)
def test_what_cannot_be_judged_says_why(stated: dict[str, Any]) -> None:
    found = claim(evidence(), **stated)
    assert found.verdict == "not resolved" and found.estimate is None
    assert any(word in found.sentence for word in ("does not vary", "did you mean", "no column"))


def test_every_claim_stands_in_its_place_and_is_adjusted_with_the_others() -> None:
    hypotheses = [
        make_hypothesis({"says": "Wider", **WIDER}, 1),
        make_hypothesis({"says": "Spikes", "kind": "spikes"}, 2),
        make_hypothesis({"says": "Dropout", "kind": "effect", "factor": "dropout", "direction": "up"}, 3),
    ]
    claims = judge(hypotheses, evidence(narrower_is_worse))
    assert [c.says for c in claims] == ["Wider", "Spikes", "Dropout"]
    tested = [claims[0].p or 1.0, claims[2].p or 1.0]
    assert [claims[0].p_adjusted, claims[2].p_adjusted] == pytest.approx(
        [p / 0.8 * 3 / 2 for p in holm(tested)]  # the spikes have a third of the 4%
    )
    assert "adjusted for 3 stated hypotheses" in claims[2].sentence and claims[1].p is None


def test_a_claim_says_when_its_effect_depends_on_another_factor() -> None:
    found = claim(evidence(lambda cell: 0.05 * (cell["n_embd"] == 128) * (1 + (cell["dropout"] == 0.2))), **WIDER)
    assert found.verdict == "supported"
    assert "changes with dropout" in next(c.text for c in found.cautions if c.code == "interaction")
    assert not [c for c in claim(evidence(narrower_is_worse), **WIDER).cautions if c.code == "interaction"]


def test_holm_steps_down_and_never_falls() -> None:
    """0.04 times 1 is below 0.03 times 2: the running maximum keeps the order of the p-values."""
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02], rel=1e-12)
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_effect_has_one_adjusted_p() -> None:
    """A stated main effect that of its claim, all else Holm's over all terms divided by the fifth that is left."""

    def together(cell: dict[str, Any]) -> float:
        wide, dropped = cell["n_embd"] == 256, cell["dropout"] == 0.2
        return -0.01 * wide + 0.006 * (wide == dropped) + 0.004 * (cell["batch_size"] == 16)

    found = evidence(together)
    effects = study_effects(found)
    assert isinstance(effects, Effects)
    holms = {effect.term: effect.p_holm for effect in effects.effects}
    hypotheses = [
        make_hypothesis({"says": "Wider", **WIDER}, 1),
        make_hypothesis({"says": "Spikes", "kind": "spikes"}, 2),
    ]
    claims = judge(hypotheses, found)
    adjusted = adjusted_p(hypotheses, claims, effects)
    assert adjusted["n_embd"] == AdjustedP(claims[0].p_adjusted or 0.0, stated=True)
    assert claims[0].p_adjusted == pytest.approx(2 * (claims[0].p or 1) / 0.8, rel=1e-12)
    for term in ("n_embd × dropout", "batch_size", "dropout"):
        assert adjusted[term].p == pytest.approx(min(1.0, (holms[term] or 0.0) / 0.2), rel=1e-12)
        assert not adjusted[term].stated
    assert 1e-12 < adjusted["n_embd × dropout"].p < 0.05
    assert adjusted_p([], [], effects)["batch_size"].p == holms["batch_size"]
    explored = exploratory_claims(effects, adjusted, found.run_ids)
    assert {claim.says: claim.p_adjusted for claim in explored}[
        "best_val_loss depends on interaction n_embd × dropout"
    ] == (adjusted["n_embd × dropout"].p)
    (caution,) = (each for each in claims[0].cautions if each.code == "interaction")
    assert f"(adjusted p {p_in_words(adjusted['n_embd × dropout'].p)})" in caution.text


def test_a_hypothesis_on_another_response_adjusts_no_effect_of_this_one() -> None:
    stated = {"says": "Wider", **WIDER, "response": "final_val_loss"}
    hypotheses = [make_hypothesis(stated, 1)]
    found = evidence(narrower_is_worse)
    effects = study_effects(found)
    assert isinstance(effects, Effects)
    claims = judge(
        hypotheses,
        Evidence(found.table.with_columns(final_val_loss="best_val_loss"), FACTORS, found.convergence, found.spikes),
    )
    assert claims[0].p_adjusted is not None
    adjusted = adjusted_p(hypotheses, claims, effects)
    assert not adjusted["n_embd"].stated and adjusted["n_embd"].p == pytest.approx(
        (effects.effects[0].p_holm or 0) / 0.2
    )


def sweep(slope: float, best: float = 2e-3) -> Evidence:
    """Learning rates at three widths; the best one moves by so many doublings per doubling of width."""
    rng, none = np.random.default_rng(1), evidence()
    factors = {"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "n_embd": (64, 128, 256)}
    rows = [
        {"learning_rate": rate, "n_embd": width, "seed": seed, "device": "cpu",
         "best_val_loss": 2 + 0.02 * np.log2(rate / (best * (width / 128) ** slope)) ** 2 + rng.normal(0, 0.004)}
        for rate, width, seed in itertools.product(*factors.values(), range(3))
    ]  # fmt: skip
    table = pl.DataFrame(rows).with_row_index("run_id").with_columns(pl.col("run_id").cast(pl.String()))
    return Evidence(table, factors, none.convergence, none.spikes)


def test_a_stated_optimum_is_held_against_its_interval() -> None:
    stated = {"kind": "optimum", "factor": "learning_rate"}
    inside = claim(sweep(0), **stated, low=1e-3, high=4e-3)
    assert inside.verdict == "supported" and inside.estimate is not None and inside.estimate.n == 54
    assert "best_val_loss is lowest at learning_rate 0.002" in inside.sentence and "96% interval" in inside.sentence
    assert claim(sweep(0), **stated, low=4e-3).verdict == "contradicted"
    assert claim(sweep(0), **stated, high=2e-3).verdict == "not resolved"
    edge = claim(sweep(0, best=1e-5), **stated, low=1e-5, high=1e-3)
    assert edge.verdict == "not resolved" and [each.code for each in edge.cautions] == ["best_at_edge"]
    assert "interval, open to" in edge.sentence


@pytest.mark.parametrize(("slope", "verdict"), [(0.0, "supported"), (-0.8, "contradicted"), (-0.25, "not resolved")])
def test_that_an_optimum_stays_is_an_equivalence_statement(slope: float, verdict: str) -> None:
    found = claim(sweep(slope), kind="optimum", factor="learning_rate", moved_by="n_embd", tolerance=0.25)
    assert found.verdict == verdict and "doublings per doubling" in found.sentence
    nowhere = claim(sweep(slope), kind="optimum", factor="learning_rate", moved_by="dropout", tolerance=0.25)
    assert nowhere.verdict == "not resolved" and "'dropout'" in nowhere.sentence


def test_a_wider_interval_is_asked_of_an_optimum_among_others() -> None:
    values = {"says": "It is so", "kind": "optimum", "factor": "learning_rate", "low": 1e-3, "high": 4e-3}
    (alone,), (one, _) = (judge([make_hypothesis(values, 1)] * k, sweep(0)) for k in (1, 2))
    assert "96% interval" in alone.sentence and "98% interval" in one.sentence


def test_every_claim_of_a_response_names_a_run_far_outside_the_others() -> None:
    found = evidence()
    wild = pl.when(pl.col("run_id") == "0003").then(9.0).otherwise("best_val_loss").alias("best_val_loss")
    found = replace(found, table=found.table.with_columns(wild))
    ratio = {"kind": "ratio", "factor": "n_embd", "response": "best_val_loss", "low": 0.9, "high": 1.1}
    for stated in (WIDER, ratio):
        assert "outlying_runs" in [caution.code for caution in claim(found, **stated).cautions]
        assert "outlying_runs" not in [caution.code for caution in claim(evidence(), **stated).cautions]
