"""The scaling law of a study as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from isoloss.analysis.laws import SUMMARY_COLUMNS
from isoloss.analysis.scaling import Fit
from isoloss.errors import ConfigError
from isoloss.report import wording as say
from isoloss.report.parts import Figure, Table
from isoloss.report.scaling_fit import fit_done, follow, law_form
from isoloss.report.scaling_gallery import make_scaling_figures
from isoloss.report.scaling_words import law_sentences, law_tables, left_out, no_law
from isoloss.report.snapshot import Snapshot


@dataclass(frozen=True)
class ScalingView:
    """What the page shows of a study's scaling law. `fit` is None where there is nothing to fit one to."""

    fit: Fit | None
    sentences: list[str]
    tables: list[tuple[str, Table]]
    """With a caption each."""
    figures: list[Figure]


def scaling_view(snapshot: Snapshot) -> ScalingView:
    """The law L(N, D), L(N) or L(D), by what the study varies, fitted to the final losses of its runs that are done."""
    form = law_form(snapshot.table)
    if form is None:
        size, tokens = (int(snapshot.table[SUMMARY_COLUMNS[axis]][0]) for axis in ("N", "D"))
        reason = (
            f"No scaling law is fitted: all runs have {say.count(size)} parameters without embeddings and see "
            f"{say.count(tokens)} training tokens, so nothing varies that a law could be about."
        )
        return ScalingView(None, [reason], [], [])
    if snapshot.done.is_empty():
        return ScalingView(None, ["No scaling law is fitted yet: no run is done."], [], [])
    try:
        fit, done = fit_done(snapshot, form)
    except ConfigError as error:
        return ScalingView(None, [f"No scaling law is fitted: {error}.", *left_out(snapshot)], [], [])
    if fit.status == "unidentified":
        return ScalingView(fit, no_law(snapshot, fit), [], [])
    found = follow(fit, done)
    figures = make_scaling_figures(fit, done, found.profiles, found.held)
    return ScalingView(fit, law_sentences(snapshot, found), law_tables(found), figures)
