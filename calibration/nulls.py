"""Studies in which nothing has an effect: how many of them claim one after Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import numpy as np
import polars as pl

from calibration.factorials import RESPONSE, WIDTH, Design, two_level
from calibration.measure import Experiment, Tally
from isoloss.analysis.claim import Evidence
from isoloss.analysis.claims import adjusted_p, judge
from isoloss.analysis.effects import analyse_effects
from isoloss.analysis.estimate import holm
from isoloss.analysis.exploration import exploratory_claims, study_effects
from isoloss.analysis.pairs import paired_effects
from isoloss.study.hypotheses import EffectStated

ALPHA = 0.05
DESIGNS = {
    "2×2×2×2 × 3 seeds": two_level(4, 3),
    "2^5 unreplicated": two_level(5),
    "3×3×2 × 3 seeds": Design(("n_embd", "batch_size", "dropout"), (WIDTH, (8, 16, 32), (0.1, 0.2)), 3),
}


def false_claims(repetitions: int) -> list[Experiment]:
    """Does a study without effects claim any?"""
    return [Experiment(case, "false", repetitions, partial(_claims_any, design)) for case, design in DESIGNS.items()]


def _claims_any(design: Design, generator: np.random.Generator) -> Mapping[str, Tally]:
    table = design.simulate(np.full(design.shape, 2.0), generator)
    effects = analyse_effects(table, RESPONSE, design.names, design.block)
    pairs = [pair.difference for pair in paired_effects(table, RESPONSE, design.names, design.block)]
    stated, page = _claimed(design, table, generator)
    found = {
        "effects, Holm": any(effect.p_holm is not None and effect.p_holm < ALPHA for effect in effects.effects),
        "paired t, Holm": min(holm([pair.p or 1.0 for pair in pairs])) < ALPHA,
        "sign flips, Holm": min(holm([pair.p_sign_flip for pair in pairs])) < ALPHA,
        "stated hypotheses": stated,
        "stated or exploratory": page,
    }
    if effects.screening is not None:
        found["simultaneous margin"] = any(effect.active for effect in effects.screening.effects)
    return {name: (int(claimed), 1) for name, claimed in found.items()}


def _claimed(design: Design, table: pl.DataFrame, generator: np.random.Generator) -> tuple[bool, bool]:
    """Whether a stated hypothesis is claimed either way, and whether anything is, exploratory claims included.

    One hypothesis a factor, in a direction drawn at random.
    """
    hypotheses = [
        EffectStated(says=f"{name} matters", kind="effect", factor=name, direction=direction, response=RESPONSE)
        for name, direction in zip(
            design.names, generator.choice(["up", "down"], len(design.names)).tolist(), strict=True
        )
    ]
    runs = table.with_columns(run_id=pl.format("run-{}", "row"), device=pl.lit("cpu"))
    evidence = Evidence(runs, dict(zip(design.names, design.levels, strict=True)), _not_needed, _not_needed)
    claims, effects = judge(hypotheses, evidence), study_effects(evidence)
    stated = any(claim.verdict in ("supported", "contradicted") for claim in claims)
    adjusted = adjusted_p(hypotheses, claims, effects)
    return stated, stated or bool(exploratory_claims(effects, adjusted, evidence.run_ids))


def _not_needed(_: float) -> NoReturn:
    raise AssertionError("an effect is judged without curves and step times")
