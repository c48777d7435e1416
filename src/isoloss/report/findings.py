"""Everything the report says of a study beyond describing its runs: each analysis, computed once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from isoloss.analysis.claim import AdjustedP, Claim, Evidence
from isoloss.analysis.claims import adjusted_p, judge
from isoloss.analysis.convergence import Convergence
from isoloss.analysis.effects import Effects
from isoloss.analysis.exploration import exploratory_claims, study_effects
from isoloss.analysis.positions import PositionLosses, position_losses
from isoloss.analysis.scaling_results import ScalingResults, study_law
from isoloss.analysis.tuned import at_best_values
from isoloss.design.audit import audit
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.report.evidence import evidence
from isoloss.report.snapshot import Snapshot
from isoloss.store.revisions import stated_beforehand
from isoloss.study.hypotheses import PlateauStated
from isoloss.wording import counted

TOLERANCE = 0.02
"""Nats per doubling of steps below which a run has plateaued, where no hypothesis states another."""


@dataclass(frozen=True)
class Findings:
    """What the runs that are done show. An analysis they do not allow is the diagnostic that says why."""

    evidence: Evidence
    compared: Evidence
    """What effects and the law rest on: the evidence, or what is left of it at the best values of tuned settings."""
    claims: list[Claim]
    exploratory: list[Claim]
    adjusted: dict[str, AdjustedP]
    """The adjusted p of every effect on the best validation loss that was looked at, by its term."""
    effects: Effects | Diagnostic
    convergence: Convergence | Diagnostic
    scaling: ScalingResults | Diagnostic
    audit: list[Diagnostic]
    positions: PositionLosses | None
    """None where no run has told, and where losses per token do not compare."""


def find(snapshot: Snapshot) -> Findings:
    """All analyses of a study."""
    study, runs = snapshot.study, evidence(snapshot)
    tolerance = next((h.tolerance for h in study.hypotheses if isinstance(h, PlateauStated)), TOLERANCE)
    compared = at_best_values(runs)
    effects, claims = study_effects(compared), judge(study.hypotheses, runs)
    adjusted = adjusted_p(study.hypotheses, claims, effects)
    exploratory = exploratory_claims(effects, adjusted, compared.run_ids)
    beforehand = stated_beforehand(snapshot.results.paths, study)
    late = [stated not in beforehand for stated in study.hypotheses]
    claims = [replace(claim, after_training=after) for claim, after in zip(claims, late, strict=True)]
    waiting = snapshot.counts["pending"] + snapshot.counts["running"]
    if waiting:  # whoever judges again and again while runs come in is misled once in a while
        claims, exploratory = [_not_yet(claim, waiting, study.size) for claim in claims], []
    return Findings(
        runs,
        compared,
        claims,
        exploratory,
        adjusted,
        effects,
        _convergence(runs, tolerance),
        _law(snapshot, compared),
        _audit(snapshot, effects),
        None
        if snapshot.compared_loss != "val_loss"
        else position_losses(snapshot.curves.positions, snapshot.done, snapshot.factors),
    )


def _not_yet(claim: Claim, waiting: int, runs: int) -> Claim:
    sentence = f"{waiting:,} of {counted(runs, 'run')} are still to be trained; it is judged when all have ended."
    return replace(
        claim, verdict="not judged yet", sentence=sentence, estimate=None, p=None, p_adjusted=None, probability=None
    )


def _law(snapshot: Snapshot, compared: Evidence) -> ScalingResults | Diagnostic:
    kept = pl.col("run_id").is_in([*compared.run_ids, *compared.lost["run_id"]])
    table, done = (rows.filter(kept) if snapshot.study.tuned else rows for rows in (snapshot.table, snapshot.done))
    return study_law(table, done, [*compared.factors])


def _audit(snapshot: Snapshot, effects: Effects | Diagnostic) -> list[Diagnostic]:
    """The design audit, by the noise that the runs themselves show where they are replicated."""
    noise = None if isinstance(effects, Diagnostic) or not effects.replicated else effects.error
    if snapshot.compared_loss != "val_loss":  # the audit's differences are in nats
        noise = None
    return audit(
        snapshot.study,
        list(snapshot.configs.values()),
        noise_sd=noise.sd if noise else None,
        noise_origin=f"measured in these runs on {noise.df:.4g} degrees of freedom" if noise else "",
        data=snapshot.results.facts,
    )


def _convergence(runs: Evidence, tolerance: float) -> Convergence | Diagnostic:
    try:
        return runs.convergence(tolerance)
    except ConfigError as error:
        return Diagnostic("no_convergence", "blocks", f"Nothing can be said of convergence: {error}.")
