"""What the page's scripts are given: both tables, the curves of every run, and samples, packed into one line of text.

JSON describes it; curves follow as bytes. All is deflated and written as base64, which no text of a study can break out
of. The same study gives the same text.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from isoloss.analysis.levels import largest_difference, level_means
from isoloss.analysis.roles import are_quantities
from isoloss.report.chart import scripts
from isoloss.report.colours import CATEGORIES
from isoloss.report.loss_references import loss_references
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Table
from isoloss.study import compute
from isoloss.wording import level

MAX_POINTS, MIN_POINTS, ALL_POINTS = 64, 16, 240_000
"""Points of a run's curve, at most and at least, and about how many of all runs together."""
MAX_SAMPLE, MAX_SAMPLES = 4_000, 200_000
"""Characters of a run's samples, and of all samples together; those of the best runs come first."""

EVALS, STEPS = ("train_loss", "val_loss"), ("loss", "lr", "grad_norm", "seconds")
AVERAGED_EVALS = (*EVALS, "ema_val_loss")
"""Columns of the two sets of curves; of evaluations also the average's losses, where a run has them."""


def payload(snapshot: Snapshot, configurations: Table, runs: Table) -> str:
    """The text of the page's data block, of the tables of `report/chapters/runs.py`; rows keep their order."""
    ids, keys = runs.frame["run_id"].to_list(), configurations.frame["key"].to_list()
    number = {key: i for i, key in enumerate(keys)}
    configs = [snapshot.configs[run] for run in ids]
    points = min(MAX_POINTS, max(MIN_POINTS, ALL_POINTS // max(len(ids), 1)))
    evals = snapshot.curves.evals
    shown = EVALS if evals["ema_val_loss"].is_null().all() else AVERAGED_EVALS
    if snapshot.compared_loss == "val_bpb":
        shown, evals = ("val_bpb", *shown), _with_bits_per_byte(evals, snapshot.table)
    sets = {
        "evals": _curves(evals, ids, shown, points),
        "steps": _curves(snapshot.curves.steps, ids, STEPS, points),
    }
    described = {
        "factors": _factors(snapshot, configurations.frame),
        "categories": CATEGORIES,
        "configurations": {**_table(configurations), "key": keys, "label": configurations.frame["label"].to_list()},
        "runs": {
            **_table(runs),
            "id": ids,
            "label": runs.frame["label"].to_list(),
            "configuration": [number[key] for key in runs.frame["key"]],
            "tokens": [compute.tokens_per_step(config) for config in configs],
            "flops": [compute.tokens_per_step(config) * compute.flops_per_token(config) for config in configs],
        },
        "samples": _samples(snapshot, ids),
        "references": loss_references(snapshot),
        "curves": {name: header for name, (header, _) in sets.items()},
    }
    text = json.dumps(described, separators=(",", ":"), allow_nan=False).encode()
    packed = len(text).to_bytes(4, "little") + text + b"".join(planes for _, planes in sets.values())
    return b64encode(zlib.compress(packed)).decode()


def _with_bits_per_byte(evals: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """Evaluations with val_bpb: bits a byte go with nats a token, as all evaluations of a run score the same tokens.

    Of random windows they score as many, and nearly as many bytes.
    """
    rates = table.select("run_id", rate=pl.col("best_val_bpb") / pl.col("best_val_loss"))
    joined = evals.join(rates, on="run_id", how="left", maintain_order="left")
    return joined.with_columns(val_bpb=pl.col("val_loss") * pl.col("rate"))


@cache
def explore_scripts() -> tuple[str, ...]:
    """The page's scripts, in order: Vega, DataTables (MIT licence, from the wheel of itables), and our own."""
    tables = re.sub(r"export\s*\{[^}]*?([\w$]+) as jQuery[^}]*\}", r"globalThis.jQuery=\1", _from_wheel("dt_bundle.js"))
    own = (_template(f"{name}.js") for name in ("curves", "tables", "charts", "explore"))
    return scripts("globalThis.vegaEmbed = vegaEmbed;"), tables, "\n".join(own)


@cache
def explore_styles() -> tuple[str, ...]:
    """The styles of DataTables, and what this package changes."""
    return _from_wheel("dt_bundle.css"), _template("explore.css")


def _template(name: str) -> str:
    return (files("isoloss.report") / "templates" / name).read_text("utf-8")


def _from_wheel(name: str) -> str:
    # Importing itables would load pandas, and take a second.
    return Path(str(distribution("itables").locate_file(f"itables/html/{name}"))).read_text(encoding="utf-8")


def _factors(snapshot: Snapshot, table: pl.DataFrame) -> list[dict[str, Any]]:
    """Each factor with its levels, their colours, and each configuration's level; the largest effect comes first."""
    colours = snapshot.colours
    factors: list[tuple[float, dict[str, Any]]] = []
    for factor in snapshot.factors:
        levels = list(snapshot.study.varied[factor])
        number = {repr(value): i for i, value in enumerate(levels)}
        difference = largest_difference(level_means(snapshot.done, factor, f"best_{snapshot.compared_loss}")) or 0.0
        described = {
            "name": factor,
            "levels": [level(value) for value in levels],
            "numbers": levels if are_quantities(factor, levels) else None,
            "colours": [colours[factor][level(value)] for value in levels],
            "level": [number[repr(value)] for value in table[factor]],
        }
        factors.append((difference, described))
    return [described for _, described in sorted(factors, key=lambda pair: -pair[0])]


def _table(table: Table) -> dict[str, Any]:
    """Columns with their words, and their numbers where they have some."""
    cells = list(zip(*table.cells(), strict=True)) or [() for _ in table.columns]
    columns = [
        {
            "name": column.name,
            "title": column.head,
            "words": words,
            "numbers": _numbers(table.frame[column.name]),
        }
        for column, words in zip(table.columns, cells, strict=True)
    ]
    return {"columns": columns}


def _numbers(values: pl.Series) -> list[float | None] | None:
    """Seven digits of each, or None for a column of words."""
    if not values.dtype.is_numeric():
        return None
    return values.set(~values.is_finite(), None).round_sig_figs(7).to_list()


def _samples(snapshot: Snapshot, ids: Sequence[str]) -> Mapping[str, str]:
    """What runs wrote, by their number, as far as there is room."""
    samples, room = dict[str, str](), MAX_SAMPLES
    for number, run in enumerate(ids):
        text = snapshot.results.samples(run)
        if text is not None and room > 0:
            samples[str(number)] = text[: min(MAX_SAMPLE, room)]
            room -= len(samples[str(number)])
    return samples


def _curves(
    table: pl.DataFrame, ids: Sequence[str], columns: Sequence[str], points: int
) -> tuple[dict[str, Any], bytes]:
    """The curves of all runs, one after another: their steps as grids that runs share, their values as bytes."""
    extents = table.with_row_index("row").group_by("run_id").agg(first=pl.col("row").min(), rows=pl.len())
    places = {run: (first, rows) for run, first, rows in extents.iter_rows()}
    step_n = table["step"].to_numpy()
    grids, grid_of, chosen = dict[bytes, list[int]](), list[int](), [np.empty(0, np.int64)]
    numbers = dict[bytes, int]()
    for run in ids:
        first, rows = places.get(run, (0, 0))
        chosen.append(first + _spread(rows, points))
        key = step_n[chosen[-1]].tobytes()
        grid_of.append(numbers.setdefault(key, len(numbers)))
        if key not in grids:
            grids[key] = step_n[chosen[-1]].tolist()
    row_n = np.concatenate(chosen)
    values = (table[column].cast(pl.Float32()).fill_null(np.nan).to_numpy()[row_n] for column in columns)
    return {"columns": list(columns), "grids": [*grids.values()], "grid": grid_of}, b"".join(map(as_planes, values))


@cache
def _spread(rows: int, points: int) -> NDArray[np.int64]:
    """At most so many places among rows, evenly, the first and the last among them."""
    return np.arange(rows) if rows <= points else np.linspace(0, rows - 1, points).round().astype(np.int64)


def as_planes(values: NDArray[np.float32]) -> bytes:
    """The upper three bytes of each float32 (a relative error of 1.5e-5), all first bytes first: they deflate well."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = np.where(np.isfinite(values), bits + 0x80, bits)
    return b"".join(((rounded >> shift) & 0xFF).astype(np.uint8).tobytes() for shift in (24, 16, 8))
