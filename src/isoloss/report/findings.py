"""Everything the page says beyond describing its runs, computed once."""

from __future__ import annotations

from dataclasses import dataclass

from isoloss.analysis.claims import AdjustedP, Claim, Evidence, adjusted_p, judge
from isoloss.analysis.convergence import Convergence
from isoloss.analysis.effects import Effects
from isoloss.analysis.scaling_results import ScalingResults, study_law
from isoloss.analysis.exploration import exploratory_claims, study_effects
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.report.evidence import evidence
from isoloss.report.snapshot import Snapshot
from isoloss.spec.audit import audit
from isoloss.spec.hypotheses import PlateauStated

TOLERANCE = 0.02
"""Nats per doubling of steps below which a run has plateaued, where no hypothesis states another."""


@dataclass(frozen=True)
class Findings:
    """What the done runs show. An analysis they do not allow is one sentence that says why."""

    claims: list[Claim]
    exploratory: list[Claim]
    adjusted: dict[str, AdjustedP]
    """The adjusted p of every effect on the best validation loss that was looked at, by its term."""
    effects: Effects | Diagnostic
    convergence: Convergence | Diagnostic
    scaling: ScalingResults | Diagnostic
    audit: list[Diagnostic]


def find(snapshot: Snapshot) -> Findings:
    """All analyses of a study."""
    study, runs = snapshot.study, evidence(snapshot)
    tolerance = next((h.tolerance for h in study.hypotheses if isinstance(h, PlateauStated)), TOLERANCE)
    effects, claims = study_effects(runs), judge(study.hypotheses, runs)
    adjusted = adjusted_p(study.hypotheses, claims, effects)
    return Findings(
        claims,
        exploratory_claims(effects, adjusted, runs.run_ids),
        adjusted,
        effects,
        _convergence(runs, tolerance),
        study_law(snapshot.table, snapshot.done, snapshot.factors),
        _audit(snapshot, effects),
    )


def _audit(snapshot: Snapshot, effects: Effects | Diagnostic) -> list[Diagnostic]:
    """The design audit, by the noise that the runs themselves show where they are replicated."""
    noise = None if isinstance(effects, Diagnostic) or not effects.replicated else effects.error
    return audit(
        snapshot.study,
        list(snapshot.configs.values()),
        noise_sd=noise.sd if noise else None,
        noise_origin=f"measured in these runs on {noise.df:.4g} degrees of freedom" if noise else "",
        train_tokens_in_corpus=snapshot.tokenizer.get("train_tokens"),
    )


def _convergence(runs: Evidence, tolerance: float) -> Convergence | Diagnostic:
    try:
        return runs.convergence(tolerance)
    except ConfigError as error:
        return Diagnostic("no_convergence", "blocks", f"Nothing can be said of convergence: {error}.")
