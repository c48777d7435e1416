"""What stands out though nobody stated it: exploratory claims, adjusted for everything that was looked at."""

from __future__ import annotations

from collections.abc import Sequence

from isoloss.analysis.claims import ALPHA, Claim, Evidence
from isoloss.analysis.effects import Effect, analyse_effects
from isoloss.analysis.estimate import in_words, p_in_words
from isoloss.errors import ConfigError
from isoloss.spec.hypotheses import EffectStated, Hypothesis
from isoloss.spec.power import STATED_SHARE

EXPLORED = "best_val_loss"
"""The response that is explored."""


def explore(hypotheses: Sequence[Hypothesis], evidence: Evidence) -> tuple[list[Claim], int]:
    """Effects on the best validation loss that stand out though nobody stated them, and how many were looked at.

    Each is adjusted for all of these; effects that a hypothesis states are left to it.
    """
    if not evidence.factors or len(evidence.table) < 2:
        return [], 0
    try:
        found = analyse_effects(evidence.table, EXPLORED, list(evidence.factors), evidence.block)
    except ConfigError:
        return [], 0
    effects = [h for h in hypotheses if isinstance(h, EffectStated)]
    stated, share = {h.factor for h in effects if h.response == EXPLORED}, 1 - STATED_SHARE if effects else 1.0
    tested = [effect for effect in found.effects if effect.p_holm is not None]
    screening = found.error is not None and found.error.screening
    claims = [
        _exploratory(effect, effect.p_holm / share, len(tested), screening, evidence.run_ids)
        for effect in tested
        if effect.p_holm is not None
        and effect.p_holm / share < ALPHA
        and not (len(effect.factors) == 1 and effect.term in stated)
    ]
    return claims, len(tested)


def _exploratory(effect: Effect, p_adjusted: float, looked_at: int, screening: bool, run_ids: tuple[str, ...]) -> Claim:
    of = "interaction " if len(effect.factors) > 1 else ""
    said = f"{effect.contrast}: {in_words(effect.estimate, signed=True)}" if effect.estimate else "its size is unknown"
    if effect.others:
        said += f", one of {1 + len(effect.others)} contrasts, while the test is of all on {effect.df} df"
    sentence = f"{said}; p {p_in_words(effect.p)}, {p_in_words(p_adjusted)} adjusted for {looked_at} effects."
    says = f"{EXPLORED} depends on {of}{effect.term}"
    return Claim(says, False, "exploratory", screening, sentence, effect.estimate, effect.p, p_adjusted, run_ids)
