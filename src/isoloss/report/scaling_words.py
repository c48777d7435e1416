"""What is said of a study's scaling law: sentences and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt

import polars as pl

from isoloss.analysis.estimate import Estimate
from isoloss.analysis.frontier import Frontier, HoldOut
from isoloss.analysis.laws import AXES
from isoloss.analysis.scaling import Fit
from isoloss.analysis.solve import OBJECTIVES
from isoloss.report import wording as say
from isoloss.report.parts import Table
from isoloss.report.scaling_fit import StudyLaw
from isoloss.report.scaling_frames import flop
from isoloss.report.scaling_gallery import interval
from isoloss.report.snapshot import Snapshot

VARIABLES = {"N": "N is the number of parameters without embeddings", "D": "D is the number of training tokens"}
SYMBOLS = {"E": "E", "A": "A", "B": "B", "alpha": "α", "beta": "β"}
LADDERS = ("n_layer", "n_embd", "max_iters")
"""Factors that a law in N and D is meant to describe."""
ALSO_CHANGE = {"batch_size": "D", "gradient_accumulation_steps": "D", "block_size": "D", "bias": "N"}
"""Factors that change N or D, and training besides."""


MISFIT = 2.0
"""Residuals of cells this many times what runs of a cell differ by are called misfit; a rule of thumb."""


def law_sentences(snapshot: Snapshot, found: StudyLaw) -> list[str]:
    """The law with its intervals, how it was fitted, what follows from it, and every caution."""
    return [
        *_data(found.fit), *left_out(snapshot), *_law(found), *_frontier(found), *_profiles(found), *_held_out(found),
        *_besides(snapshot, found.done), *_cautions(found),
    ]  # fmt: skip


def no_law(snapshot: Snapshot, fit: Fit) -> list[str]:
    """Why an unidentified fit is no law."""
    first = (
        f"These runs do not identify a scaling law {fit.law.formula}, so none of its numbers are given: "
        f"{say.plural(fit.n, 'done run')} lie in {say.plural(fit.n_cells, 'cell')} of equal "
        f"{' and '.join(AXES[fit.form])}; {_variables(fit)}."
    )
    return [first, *left_out(snapshot), *(caution.text for caution in fit.cautions)]


def law_tables(found: StudyLaw) -> list[tuple[str, Table]]:
    """Parameters, compute-optimal sizes and held-out runs, each under a caption."""
    fit, held = found.fit, found.held
    tables = [(f"Parameters of the law; n = {say.plural(fit.n, 'run')}, {interval(fit)}.", _parameter_table(found))]
    if found.frontier is not None:
        caption = "Size and tokens with the lowest loss at a compute C = 6ND, by the law; "
        caption += f"n = {say.plural(fit.n, 'run')}, {interval(fit)}."
        tables.append((caption, _frontier_table(found.frontier)))
    if held is not None:
        caption = f"Held-out runs, n = {len(held.rows)}, by the law fitted to the other {held.fit.n:,}; "
        tables.append((caption + "95% prediction interval of one new run.", _held_out_table(held)))
    return tables


def _data(fit: Fit) -> Iterator[str]:
    cells = f", in {say.plural(fit.n_cells, 'cell')} of equal {' and '.join(AXES[fit.form])}"
    yield (
        f"The law {fit.law.formula} is fitted to the final validation loss L of {say.plural(fit.n, 'run')} that are "
        f"done{cells if fit.n_cells < fit.n else ''}; {_variables(fit)}."
    )


def _variables(fit: Fit) -> str:
    return " and ".join(VARIABLES[axis] for axis in AXES[fit.form])


def left_out(snapshot: Snapshot) -> Iterator[str]:
    """How many runs are not done, by state."""
    states = [f"{n:,} {state}" for state, n in sorted(snapshot.counts.items()) if state != "done"]
    if states:
        total = len(snapshot.table)
        yield f"{total - len(snapshot.done):,} of {total:,} runs are not done and not part of it: {say.listed(states)}."


def _law(found: StudyLaw) -> Iterator[str]:
    fit, solution = found.fit, found.fit.solution
    assert solution is not None  # an identified fit has been solved
    stated = [f"{SYMBOLS[name]} = {_with_interval(p.estimate)}" for name, p in fit.parameters.items()]
    yield f"{say.listed(stated)}; in brackets the {interval(fit)}, n = {say.plural(fit.n, 'run')}."
    delta = f" (δ = {fit.objective.delta:g})" if fit.objective.name == "huber" else ""
    yield (
        f"The objective, {OBJECTIVES[fit.objective.name]}{delta}, is {solution.value:.4g} at its minimum, where its "
        f"gradient has norm {solution.gradient_norm:.1e}; of a grid of {solution.n_starts:,} starts the "
        f"{solution.n_polished} best were polished, and {solution.n_agreeing} of these agree on it."
    )
    yield from _misfit(found)
    if found.with_embeddings is not None:
        exponents = _exponents(found.with_embeddings)
        if exponents:
            yield f"With embeddings counted in N, {say.listed(exponents)}."
        else:
            yield "With embeddings counted in N, these runs do not identify the law."
    for name, values in found.others.items():
        shown = [
            f"{SYMBOLS[parameter]} = {value:.4g}"
            for parameter in fit.parameters
            if (value := values.get(parameter)) is not None
        ]
        yield f"By {OBJECTIVES[name]} instead: {say.listed(shown) if shown else 'a term of the law ends at a bound'}."


def _misfit(found: StudyLaw) -> Iterator[str]:
    """How far the law misses cells, beside how far the runs of a cell differ."""
    fit = found.fit
    if fit.n == fit.n_cells or fit.uncertainty is None:
        return
    logs = pl.col(fit.columns["loss"]).log()
    cells = [fit.columns[axis] for axis in AXES[fit.form]]
    squares = found.done.select((logs - logs.mean().over(cells)) ** 2).sum().item()
    within, between = sqrt(squares / (fit.n - fit.n_cells)), fit.uncertainty.noise
    text = (
        f"As a share of the loss, a run's standard deviation is {say.percent(within)} among runs of one cell and "
        f"{say.percent(between)} as the residuals of whole cells show it"
    )
    if between > MISFIT * within:
        text += ": the law itself misses, its intervals hold that misfit, and more seeds would not narrow them"
    yield f"{text}."


def _exponents(fit: Fit) -> list[str]:
    names = [name for name in ("alpha", "beta") if name in fit.parameters]
    return [f"{SYMBOLS[name]} = {_with_interval(fit.parameters[name].estimate)}" for name in names]


def _frontier(found: StudyLaw) -> Iterator[str]:
    if found.frontier is None:
        return
    a, b = found.frontier.a, found.frontier.b
    yield (
        f"By the law, the lowest loss at a compute C = 6ND is reached by N* ∝ C^a and D* ∝ C^b with a = "
        f"{_with_interval(a)} and b = {_with_interval(b)}, 95% intervals, n = {say.plural(a.n, 'run')}."
    )
    beyond = [flop(optimum.flops) for optimum in found.frontier.optima if optimum.beyond]
    if beyond:
        yield f"At {say.listed(beyond)} it lies outside the sizes or tokens that were trained: there it extrapolates."


def _profiles(found: StudyLaw) -> Iterator[str]:
    for profile in found.profiles:
        what = f"{say.plural(profile.n, 'run')} of {len(profile.sizes)} sizes at about {flop(profile.flops)}"
        if profile.optimal_params is None:
            yield f"{what} form an IsoFLOP profile without a minimum: {' '.join(c.text for c in profile.cautions)}"
        else:
            lowest = _with_interval(profile.optimal_params, say.si)
            yield f"{what}, fitted by a {profile.curve} of their own, are lowest at N = {lowest}, a 95% interval."


def _held_out(found: StudyLaw) -> Iterator[str]:
    held, axis = found.held, AXES[found.fit.form][0]
    if held is None:
        yield f"Without the largest {axis} these runs do not identify the law, so it was not tested on held-out runs."
        return
    yield (
        f"Fitted without the largest {axis}, {say.count(round(held.level))}, the law predicts the "
        f"{say.plural(len(held.rows), 'run')} there with a mean error (observed minus predicted) of "
        f"{held.mean_error:+.4f} nats/token; {held.n_inside} of {len(held.rows)} lie inside their 95% prediction "
        "interval."
    )


def _besides(snapshot: Snapshot, done: pl.DataFrame) -> Iterator[str]:
    """What the runs differ in beyond N and D, and what the law has no term for."""
    others = [factor for factor in snapshot.factors if factor not in LADDERS and factor not in ALSO_CHANGE]
    if others:
        whose = "its" if len(others) == 1 else "their"
        yield f"The study also varies {say.listed(others)}: {whose} effects are in the residuals of the fit."
    for factor in snapshot.factors:
        if factor in ALSO_CHANGE:
            axis = ALSO_CHANGE[factor]
            yield f"{factor} changes {axis}: what else it does to training is taken for an effect of {axis}."
    rises = (done["final_val_loss"] - done["best_val_loss"]).drop_nulls()
    risen = rises.filter(rises > 0)
    if len(risen):
        yield (
            f"In {len(risen):,} of {say.plural(len(rises), 'run')} the last validation loss is not the lowest, by up "
            f"to {max(risen):.4f} nats/token; the law has no term for overfitting."
        )


def _cautions(found: StudyLaw) -> Iterator[str]:
    """Every caution of the fit, and of the fits beside it those it does not share."""
    yield from (caution.text for caution in found.fit.cautions)
    known = {caution.code for caution in found.fit.cautions}
    beside = {
        "With embeddings counted in N": found.with_embeddings,
        "Without the held-out runs": found.held and found.held.fit,
    }
    for where, fit in beside.items():
        for caution in fit.cautions if fit else ():
            if caution.code not in known:
                yield f"{where}: {caution.text}"


def _parameter_table(found: StudyLaw) -> Table:
    counted = found.with_embeddings.parameters if found.with_embeddings else {}
    rows: list[dict[str, str | float | None]] = []
    for name, parameter in found.fit.parameters.items():
        row: dict[str, str | float | None] = {"parameter": SYMBOLS[name], **_ends("value", parameter.estimate)}
        row |= {f"value by {other}": values.get(name) for other, values in found.others.items()}
        if name in counted:
            row |= _ends("embeddings in N", counted[name].estimate)
        rows.append(row)
    exact = pl.DataFrame(rows, infer_schema_length=None)
    words = [
        [say.MISSING if v is None else v if isinstance(v, str) else f"{v:.4g}" for v in row] for row in exact.rows()
    ]
    return Table(exact.columns, words, exact=exact)


def _frontier_table(found: Frontier) -> Table:
    columns: list[tuple[str, Callable[[float | None], str], list[Estimate]]] = [
        ("N*", say.si, [optimum.n_params for optimum in found.optima]),
        ("D*", say.si, [optimum.tokens for optimum in found.optima]),
        ("loss", say.loss, [optimum.loss for optimum in found.optima]),
    ]
    computes = [optimum.flops for optimum in found.optima]
    exact: dict[str, list[float | None]] = {"C": [*computes]}
    words: list[list[str]] = [[flop(optimum.flops)] for optimum in found.optima]
    for name, spell, estimates in columns:
        for i, estimate in enumerate(estimates):
            ends = _ends(name, estimate)
            words[i] += [spell(value) for value in ends.values()]
            for column, value in ends.items():
                exact.setdefault(column, []).append(value)
    for row, optimum in zip(words, found.optima, strict=True):
        row.append("extrapolated" if optimum.beyond else "among the runs")
    table = pl.DataFrame(exact).with_columns(extrapolated=pl.Series([optimum.beyond for optimum in found.optima]))
    return Table([*exact, "where"], words, exact=table)


def _held_out_table(held: HoldOut) -> Table:
    rows = [
        {
            **row.point,
            "observed": row.observed,
            **_ends("predicted", row.predicted),
            "error": row.error,
            "inside": row.inside,
        }
        for row in held.rows
    ]
    words = [
        [
            *(say.count(round(value)) for value in row.point.values()),
            say.loss(row.observed),
            *(say.loss(value) for value in _ends("", row.predicted).values()),
            f"{row.error:+.4f}",
            "yes" if row.inside else "no",
        ]
        for row in held.rows
    ]
    exact = pl.DataFrame(rows)
    return Table(exact.columns, words, numbers_from=0, exact=exact)


def _ends(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}


def _with_interval(estimate: Estimate, spell: Callable[[float], str] = "{:.4g}".format) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{spell(estimate.value)} ({estimate.method}: no interval)"
    return f"{spell(estimate.value)} ({spell(estimate.low)} to {spell(estimate.high)})"
