"""Studies whose effects differ from seed to seed: false claims, intervals of claims, and the power that is left.

32 cells of five factors with two levels. The difference between a factor's levels has, from seed to seed, a standard
deviation of `ratio` times the noise of a run: in the first factor alone, or in all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from calibration.factorials import NOISE, RESPONSE, SEED_NOISE
from calibration.measure import Experiment, Tally, held
from isoloss.analysis.claim import Claim, Evidence
from isoloss.analysis.claims import adjusted_p, judge
from isoloss.analysis.effects import Effects
from isoloss.analysis.exploration import exploratory_claims, study_effects
from isoloss.design.power import STATED_SHARE, minimum_detectable_effect
from isoloss.study.hypotheses import EffectStated

FACTORS = ("n_embd", "n_head", "batch_size", "dropout", "n_layer")
STATED = FACTORS[:4]
RATIOS = (0.0, 0.25, 0.55, 1.0)
DIFFERENCES = (0.01, 0.2)
"""In nats, whose power is measured."""


@dataclass(frozen=True)
class Scenario:
    """A study of 32 cells; `varying` factors have effects that differ from seed to seed; `lost` runs are missing."""

    seeds: int
    ratio: float
    varying: int
    lost: int = 0

    def __str__(self) -> str:
        where = "" if not self.ratio else " in one factor" if self.varying == 1 else " in all factors"
        return f"{self.seeds} seeds, seed × factor {self.ratio:g}{where}{', 1 run lost' if self.lost else ''}"

    def simulate(self, difference: float, generator: np.random.Generator) -> pl.DataFrame:
        """A row a run; the first factor's second level is `difference` nats above its first."""
        cell_cxf = np.array(list(itertools.product((0, 1), repeat=len(FACTORS))))
        loss_cxs = generator.normal(2.0 + generator.normal(0, SEED_NOISE, self.seeds), NOISE, (32, self.seeds))
        slope_fxs = np.zeros((len(FACTORS), self.seeds))
        slope_fxs[: self.varying] = generator.normal(0, self.ratio * NOISE, (self.varying, self.seeds))
        slope_fxs[0] += difference
        loss_cxs += (cell_cxf - 0.5) @ slope_fxs
        runs = [
            {**dict(zip(FACTORS, cell_cxf[c].tolist(), strict=True)), "seed": s, RESPONSE: loss_cxs[c, s]}
            for c in range(32)
            for s in range(self.seeds)
        ]
        kept = np.sort(generator.permutation(len(runs))[self.lost :])
        return pl.DataFrame(runs)[kept].with_columns(pl.format("run-{}", pl.int_range(pl.len())).alias("run_id"))


def scenarios() -> list[Scenario]:
    """Every combination: 3 and 5 seeds, ratios, one factor or all, and whether a run is lost."""
    found = itertools.product((3, 5), RATIOS, (1, len(FACTORS)), (0, 1))
    return [Scenario(*each) for each in found if each[1] or each[2] == 1]


def false_claims(repetitions: int) -> list[Experiment]:
    """Does a study without effects make any false statement?"""
    return [Experiment(str(each), "false", repetitions, partial(_false, each)) for each in scenarios()]


def coverage(repetitions: int) -> list[Experiment]:
    """Do the intervals of claims and of the effects table hold the truth?"""
    return [Experiment(str(each), "cover", repetitions, partial(_covered, each)) for each in scenarios()]


def power(repetitions: int) -> list[Experiment]:
    """How often is a stated difference found, and one that the audit says is found in 80% of studies?"""
    return [Experiment(str(each), "right", repetitions, partial(_found, each)) for each in scenarios()]


def _false(scenario: Scenario, generator: np.random.Generator) -> Mapping[str, Tally]:
    claims, explored, _ = _analysed(scenario.simulate(0.0, generator), STATED)
    stated = any(claim.verdict in ("supported", "contradicted") for claim in claims)
    _, alone, _ = _analysed(scenario.simulate(0.0, generator), ())
    return {
        "stated": (int(stated), 1),
        "stated or exploratory": (int(stated or bool(explored)), 1),
        "exploratory, nothing stated": (int(bool(alone)), 1),
    }


def _covered(scenario: Scenario, generator: np.random.Generator) -> Mapping[str, Tally]:
    claims, _, effects = _analysed(scenario.simulate(0.01, generator), STATED)
    truths = {"n_embd": 0.01}
    first, *others = [
        held(c.estimate.low, c.estimate.high, truths.get(factor, 0.0)) if c.estimate else (0, 0)
        for factor, c in zip(STATED, claims, strict=True)
    ]
    pairs = [held(e.estimate.low, e.estimate.high, 0.0) for e in effects.effects if len(e.factors) == 2 and e.estimate]
    return {"claim on the first factor": first, "other claims": _sum(others), "interactions": _sum(pairs)}


def _found(scenario: Scenario, generator: np.random.Generator) -> Mapping[str, Tally]:
    found: dict[str, Tally] = {}
    for difference in DIFFERENCES:
        claims, _, _ = _analysed(scenario.simulate(difference, generator), STATED)
        found[f"{difference:g} nats"] = (int(claims[0].verdict == "supported"), 1)
    promised = minimum_detectable_effect(
        NOISE, 16, scenario.seeds, seed_by_factor=scenario.ratio, level=1 - 0.05 * STATED_SHARE
    )
    claims, _, _ = _analysed(scenario.simulate(promised, generator), STATED[:1])
    found["80% by the audit"] = (int(claims[0].verdict == "supported"), 1)
    return found


def _analysed(runs: pl.DataFrame, stated: tuple[str, ...]) -> tuple[list[Claim], list[Claim], Effects]:
    hypotheses = [
        EffectStated(says=f"{name} raises it", kind="effect", factor=name, direction="up", response=RESPONSE)
        for name in stated
    ]
    evidence = Evidence(
        runs.with_columns(device=pl.lit("cpu")), dict.fromkeys(FACTORS, (0, 1)), NotImplemented, NotImplemented
    )
    claims, effects = judge(hypotheses, evidence), study_effects(evidence)
    assert isinstance(effects, Effects)
    explored = exploratory_claims(effects, adjusted_p(hypotheses, claims, effects), evidence.run_ids)
    return claims, explored, effects


def _sum(tallies: list[Tally]) -> Tally:
    return sum(hits for hits, _ in tallies), sum(n for _, n in tallies)
