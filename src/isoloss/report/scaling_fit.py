"""What is fitted to a study's runs: a scaling law by what the study varies, and all that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from isoloss.analysis.frontier import FLOPS_PER_PARAMETER_TOKEN, Frontier, HoldOut, frontier, hold_out_largest
from isoloss.analysis.isoflop import Profile, isoflop_profiles
from isoloss.analysis.laws import AXES, SUMMARY_COLUMNS, Form
from isoloss.analysis.scaling import Fit, fit_law, other_objectives
from isoloss.report.scaling_frames import round_computes
from isoloss.report.snapshot import Snapshot

ALL_PARAMETERS = "params_total"


@dataclass(frozen=True)
class StudyLaw:
    """An identified fit to the runs in `done`, and all that follows from it."""

    fit: Fit
    done: pl.DataFrame
    others: Mapping[str, Mapping[str, float | None]]
    """Point estimates under the other objectives."""
    with_embeddings: Fit | None
    """The same law with embeddings counted in N; None for a law without N."""
    frontier: Frontier | None
    """At round computes; None for a law that is not one of N and D."""
    profiles: Sequence[Profile]
    held: HoldOut | None


def law_form(table: pl.DataFrame) -> Form | None:
    """The law for what a study's design varies, whether or not its runs are done; None where it varies neither."""
    varied = "".join(axis for axis in ("N", "D") if table[SUMMARY_COLUMNS[axis]].n_unique() > 1)
    forms: dict[str, Form] = {"ND": "LND", "N": "LN", "D": "LD"}
    return forms.get(varied)


def fit_done(snapshot: Snapshot, form: Form) -> tuple[Fit, pl.DataFrame]:
    """The law fitted to the final losses of the runs that are done, and these runs.

    Raises ConfigError where no run has a loss or all losses are equal.
    """
    done = snapshot.done
    return fit_law(done, form, {axis: SUMMARY_COLUMNS[axis] for axis in (*AXES[form], "loss")}), done


def follow(fit: Fit, done: pl.DataFrame) -> StudyLaw:
    """What follows from an identified fit."""
    profiles: list[Profile] = []
    if fit.form == "LND":
        flops = FLOPS_PER_PARAMETER_TOKEN * pl.col(SUMMARY_COLUMNS["N"]) * pl.col(SUMMARY_COLUMNS["D"])
        profiles = isoflop_profiles(done.with_columns(C=flops), SUMMARY_COLUMNS["N"], "C", SUMMARY_COLUMNS["loss"])
    counted = {**fit.columns, "N": ALL_PARAMETERS}
    return StudyLaw(
        fit,
        done,
        other_objectives(fit),
        fit_law(done, fit.form, counted) if "N" in AXES[fit.form] else None,
        frontier(fit, round_computes(fit)) if fit.form == "LND" else None,
        profiles,
        hold_out_largest(fit, done),
    )
