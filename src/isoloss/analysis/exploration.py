"""What the runs show though no hypothesis states it: all effects, and a claim for each that chance does not explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from isoloss.analysis.claim import ALPHA, OF_RUNS, AdjustedP, Claim, Evidence
from isoloss.analysis.effects import Effect, Effects, analyse_effects
from isoloss.analysis.estimate import in_words, p_in_words
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.study.datasets import compared_loss, datasets_in, per_byte_notes
from isoloss.wording import counted, listed


def study_effects(evidence: Evidence) -> Effects | Diagnostic:
    """All effects on the best validation loss, or why there are none."""
    if not evidence.factors:
        text = "The study varies no factor, so there is no effect to estimate."
        if evidence.at_best:
            tuned = " ".join(caution.text for caution in evidence.cautions)
            text = f"The study varies nothing but what it tunes, {listed(evidence.at_best)}. {tuned}"
        return Diagnostic("no_factor", "blocks", text)
    if len(evidence.table) < 2:
        done = counted(len(evidence.table), "run")
        return Diagnostic("too_few_runs", "blocks", f"{done} done: an effect is a difference and needs two or more.")
    try:
        datasets = datasets_in(evidence.table)
        per_byte = [Diagnostic("bits_per_byte", "note", text) for text in per_byte_notes(datasets)]
        found = analyse_effects(
            evidence.ended, f"best_{compared_loss(datasets)}", list(evidence.factors), evidence.block
        )
        return replace(found, tuned=evidence.at_best, cautions=(*per_byte, *found.cautions, *evidence.cautions))
    except ConfigError as error:
        return Diagnostic("no_effects", "blocks", f"No effects: {error}.")


def exploratory_claims(
    effects: Effects | Diagnostic, adjusted: Mapping[str, AdjustedP], run_ids: tuple[str, ...]
) -> list[Claim]:
    """A claim for each effect that no hypothesis states and whose adjusted p (`claims.adjusted_p`) is below ALPHA."""
    if isinstance(effects, Diagnostic):
        return []
    cautions = tuple(caution for caution in effects.cautions if caution.code in OF_RUNS)
    return [
        replace(_exploratory(effects, effect, found.p, len(adjusted), run_ids), cautions=cautions)
        for effect in effects.effects
        if (found := adjusted.get(effect.term)) is not None and not found.stated and found.p < ALPHA
    ]


def _exploratory(
    effects: Effects, effect: Effect, p_adjusted: float, looked_at: int, run_ids: tuple[str, ...]
) -> Claim:
    screening = effects.error is not None and effects.error.screening
    of = "interaction " if len(effect.factors) > 1 else ""
    said = f"{effect.contrast}: {in_words(effect.estimate, signed=True)}" if effect.estimate else "its size is unknown"
    if effect.others:
        said += f", one of {1 + len(effect.others)} contrasts, while the test is of all on {effect.df} df"
    sentence = f"{said}; p {p_in_words(effect.p)}, {p_in_words(p_adjusted)} adjusted for {looked_at} effects."
    says = f"{effects.response} depends on {of}{effect.term}"
    return Claim(says, False, "exploratory", screening, sentence, effect.estimate, effect.p, p_adjusted, run_ids)
