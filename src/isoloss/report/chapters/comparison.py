"""Two studies side by side: the settings in which they differ, what they share, and the difference of their losses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl

from isoloss.analysis.estimate import p_in_words
from isoloss.analysis.pairs import PairedDifference, paired_difference
from isoloss.analysis.tuned import best_rows
from isoloss.report.chapter import Chapter
from isoloss.report.format import spelled_interval
from isoloss.report.table import Column, Table
from isoloss.store.merging import check_same_text
from isoloss.store.tables import StudyResults
from isoloss.study.config import SETTINGS
from isoloss.study.datasets import COMPARED_IN, compared_loss
from isoloss.wording import counted, level, listed


@dataclass(frozen=True)
class Comparison:
    """Two studies, the second minus the first.

    `differing` has each setting in which they differ, with the values of either; `shared` a row for each cell and seed
    that both have, apart from those settings, with both losses. `difference` is None with fewer than two pairs.
    """

    names: tuple[str, str]
    differing: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]]
    shared: pl.DataFrame
    difference: PairedDifference | None
    unit: str


def compare_studies(first: StudyResults, second: StudyResults) -> Comparison:
    """Compare the best validation losses of two studies over the cells and seeds they share.

    Settings of which they share no value are what is compared; all others have to agree, and runs that then agree
    within a study are averaged; of a study that tunes settings, the runs at their best values. With two shared seeds or
    more the pairs of a seed are averaged to one. Raises ConfigError for studies of different texts or tokenizers.
    """
    check_same_text(first, second)
    values = {name: tuple(_values(each, name) for each in (first, second)) for name in SETTINGS}
    differing = {name: (a, b) for name, (a, b) in values.items() if set(a) != set(b)}
    tuned = {*first.study.tuned, *second.study.tuned}
    keys = [name for name, (a, b) in values.items() if set(a) & set(b) and name not in tuned]
    of_first, of_second = (_means(each, keys) for each in (first, second))
    rows = [
        {**dict(zip((*keys, "seed"), key, strict=True)), "first": of_first[key], "second": of_second[key]}
        for key in of_first
        if key in of_second
    ]
    shown = [name for name in (*keys, "seed") if name == "seed" or len({row[name] for row in rows}) > 1]
    shared = pl.DataFrame(
        [{name: row[name] for name in (*shown, "first", "second")} for row in rows],
        schema=None if rows else {"seed": pl.Int64(), "first": pl.Float64(), "second": pl.Float64()},
        infer_schema_length=None,
    )
    pairs = shared
    if shared["seed"].n_unique() > 1:
        pairs = shared.group_by("seed", maintain_order=True).agg(pl.col("first", "second").mean())
    found = None
    if len(pairs) > 1:
        found = paired_difference(pairs["first"].to_numpy(), pairs["second"].to_numpy(), np.random.default_rng(0))
    names = str(first.paths.folder), str(second.paths.folder)
    return Comparison(names, differing, shared, found, COMPARED_IN[compared_loss(first.study.datasets)])


def comparison_chapter(found: Comparison) -> Chapter:
    """What a comparison says."""
    differing = pl.DataFrame(
        [{"setting": name, "first": _said(a), "second": _said(b)} for name, (a, b) in found.differing.items()],
        schema={"setting": pl.String(), "first": pl.String(), "second": pl.String()},
    )
    first, second = found.names
    heads = (Column("setting", "setting"), Column("first", first, width=40), Column("second", second, width=40))
    rows = found.shared.with_columns((pl.col("second") - pl.col("first")).alias("difference"))
    columns = [Column(name, name) for name in found.shared.columns if name not in ("first", "second")]
    columns += [
        Column("first", first, "loss"),
        Column("second", second, "loss"),
        Column("difference", "difference", "difference"),
    ]
    tables = [Table("differing", "Settings in which the studies differ.", differing, heads)] if len(differing) else []
    if len(rows):
        tables.append(Table("shared", f"Best validation loss of {counted(len(rows), 'shared run')}.", rows, columns))
    return Chapter(
        "comparison", f"{second} against {first}", list(_answer(found)), tables=tables, details=[_method(found)]
    )


def comparison_as_json(found: Comparison) -> str:
    """One object, at full precision."""
    differing = {name: {"first": a, "second": b} for name, (a, b) in found.differing.items()}
    difference = found.difference and asdict(found.difference)
    document = {"differing": differing, "shared": found.shared.to_dicts(), "difference": difference}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def _answer(found: Comparison) -> Iterator[str]:
    settings = listed(found.differing) if found.differing else "no setting"
    yield f"They differ in {settings}; apart from that they share {counted(len(found.shared), 'finished run')}."
    if found.difference is None:
        return
    estimate = found.difference.estimate
    size = spelled_interval(estimate.value, estimate.low, estimate.high, "difference")
    p = "" if found.difference.p is None else f", p {p_in_words(found.difference.p)}"
    yield f"The best validation loss of {found.names[1]} minus that of {found.names[0]} is {size} {found.unit}{p}."


def _method(found: Comparison) -> str:
    if found.difference is None:
        return "A difference needs two shared seeds, or two shared cells."
    by = "the mean over shared cells of each seed" if found.shared["seed"].n_unique() > 1 else "the shared cells"
    return f"Paired t test and 95% interval by {by}: {found.difference.estimate.method}."


def _values(results: StudyResults, setting: str) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(getattr(config, setting) for config in results.configs))


def _means(results: StudyResults, keys: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """The mean loss of the done runs that agree in some settings and the seed."""
    by = f"best_{compared_loss(results.study.datasets)}"
    done = results.summary().filter(pl.col("status") == "done").drop_nulls(by)
    if tuned := results.study.tuned:
        compared = {name: levels for name, levels in results.study.varied.items() if name not in tuned}
        done, _ = best_rows(done, compared, [*tuned], by, equally_many=True)
    losses: dict[tuple[Any, ...], list[float]] = {}
    for run, loss in done.select("run_id", by).iter_rows():
        config = results.configs_by_id[run]
        losses.setdefault((*(getattr(config, key) for key in keys), config.seed), []).append(loss)
    return {key: fmean(of_key) for key, of_key in losses.items()}


def _said(values: tuple[Any, ...]) -> str:
    return ", ".join(map(level, values))
