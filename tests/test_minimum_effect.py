"""Hypotheses with a smallest effect of interest: the interval decides, and p agrees with it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from isoloss.analysis.claims import adjusted_p, judge
from isoloss.analysis.exploration import study_effects
from isoloss.design.power import STATED_SHARE, seeds_needed
from isoloss.errors import ConfigError
from isoloss.study.hypotheses import Hypothesis
from isoloss.study.stated_hypotheses import hypothesis_values, make_hypothesis
from isoloss.study.studyfile import dump_study, parse_study
from tests.test_audit import finding, study
from tests.test_claims import FACTORS, claim, evidence, narrower_is_worse

DOCS = Path(__file__).parents[1] / "docs" / "hypotheses.md"


def wider(at_least: float | None, direction: str = "down") -> dict[str, Any]:
    bound = {} if at_least is None else {"at_least": at_least}
    return {"kind": "effect", "factor": "n_embd", "direction": direction, **bound}


@pytest.mark.parametrize(
    ("at_least", "direction", "verdict"),
    [
        (0.02, "down", "supported"),
        (0.05, "down", "not resolved"),
        (0.09, "down", "contradicted"),
        (0.02, "up", "contradicted"),
        (0.001, "up", "contradicted"),
    ],
)
def test_the_interval_has_to_lie_beyond_the_bound(at_least: float, direction: str, verdict: str) -> None:
    found = claim(evidence(narrower_is_worse, noise=0.004, seeds=5), **wider(at_least, direction))
    assert found.verdict == verdict, found.sentence
    sign = "+" if direction == "up" else "−"
    assert f"held against the {sign}{at_least:g} that it has to lie beyond" in found.sentence


def test_p_is_that_of_a_t_test_against_the_bound() -> None:
    """In a balanced table, what the seeds' own differences give."""
    found = evidence(narrower_is_worse)
    means = found.table.group_by("seed", "n_embd").agg(pl.col("best_val_loss").mean()).sort("seed", "n_embd")
    low, high = (means.filter(n_embd=width)["best_val_loss"].to_numpy() for width in FACTORS["n_embd"])
    judged = claim(found, **wider(0.02))
    assert judged.p == pytest.approx(stats.ttest_1samp(high - low, -0.02).pvalue)


def test_p_and_the_interval_of_the_family_agree() -> None:
    found = evidence(narrower_is_worse, seeds=4, noise=0.01)
    estimate = claim(found, **wider(None)).estimate
    assert estimate is not None and estimate.high is not None
    reach = (estimate.high - estimate.value) / stats.t.ppf(0.975, 3) * stats.t.ppf(1 - 0.05 * STATED_SHARE / 2, 3)
    ends = -(estimate.value + reach), -(estimate.value - reach)
    bounds = [(ends[0] - 1e-6, "supported"), (ends[0] + 1e-6, "not resolved")]
    bounds += [(ends[1] - 1e-6, "not resolved"), (ends[1] + 1e-6, "contradicted")]
    assert [claim(found, **wider(bound)).verdict for bound, _ in bounds] == [verdict for _, verdict in bounds]


def test_effects_at_the_bound_are_seldom_claimed() -> None:
    hypotheses: list[Hypothesis] = [make_hypothesis({"says": "It is so", **wider(0.05)}, 1)]
    runs = (evidence(narrower_is_worse, seed=seed) for seed in range(150))
    assert sum(judge(hypotheses, each)[0].verdict != "not resolved" for each in runs) <= 14  # 4% of 150 is 6


def test_a_difference_from_the_bound_is_no_effect_of_the_factor() -> None:
    """A factor without any effect is told from the bound; the effect's own p must not become that small."""
    found = evidence(noise=0.004, seeds=5)
    hypotheses: list[Hypothesis] = [make_hypothesis({"says": "It is so", **wider(0.05)}, 1)]
    claims, effects = judge(hypotheses, found), study_effects(found)
    assert claims[0].verdict == "contradicted" and (claims[0].p_adjusted or 1) < 0.01
    adjusted = adjusted_p(hypotheses, claims, effects)["n_embd"]
    assert not adjusted.stated and adjusted.p > 0.05


@pytest.mark.parametrize("bound", [0, -0.1, "much"])
def test_the_bound_is_above_zero(bound: Any) -> None:
    with pytest.raises(ConfigError, match="at_least"):
        make_hypothesis({"says": "It is so", **wider(bound)}, 1)


def test_it_is_written_with_the_study_only_where_stated() -> None:
    assert "at_least" not in hypothesis_values(make_hypothesis({"says": "It is so", **wider(None)}, 1))
    assert hypothesis_values(make_hypothesis({"says": "It is so", **wider(0.02)}, 1))["at_least"] == 0.02


def test_the_audit_counts_the_seeds_that_tell_an_effect_from_the_bound() -> None:
    stated = make_hypothesis({"says": "It is so", **wider(0.005)}, 1)
    one = finding("detectable_effect", study(stated, seeds=2, n_embd=(64, 128), dropout=(0.0, 0.2)), noise_sd=0.007)
    needed = seeds_needed(0.005, 0.007, 2, level=1 - 0.05 * STATED_SHARE)
    assert one is not None and one.severity == "limits" and one.remedy is not None
    assert f"--seeds {needed} tells no effect, and one of 0.01, from the stated 0.005" in one.remedy


def test_the_documented_example_is_a_study() -> None:
    example = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[0]
    documented = parse_study(example, "docs/hypotheses.md")
    stated = documented.hypotheses[1]
    assert hypothesis_values(stated)["at_least"] == 0.02
    assert parse_study(dump_study(documented), "again").hypotheses == documented.hypotheses
    rng = np.random.default_rng(0)
    cells = list(itertools.product((64, 128), (0.0, 0.2), (0, 1, 2)))
    rows = [
        {"run_id": str(i), "seed": s, "n_embd": n, "dropout": d, "best_val_loss": 2 + 0.2 * d + rng.normal(0, 0.001)}
        for i, (n, d, s) in enumerate(cells)
    ]
    runs = dataclasses.replace(
        evidence(), table=pl.DataFrame(rows), factors={"n_embd": (64, 128), "dropout": (0.0, 0.2)}
    )
    assert judge([stated], runs)[0].verdict == "supported"  # 0.04, and the bound is 0.02
