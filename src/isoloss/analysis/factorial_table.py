"""The runs of a factorial: which cell and block each belongs to, read from anyone's table and checked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from isoloss.analysis.columns import Rows, usable_rows
from isoloss.analysis.evaluations import check_one_row_a_run, identifies_runs
from isoloss.analysis.factor import MAX_LEVELS, Factor, plain_column, read_factor
from isoloss.analysis.roles import names_runs, names_seeds
from isoloss.analysis.unlisted import unlisted_columns
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError

MAX_FACTORS = 12
MAX_COLUMNS = 600
"""Of a model with all two-factor interactions; beyond it a table is no factorial and its fit no matter of seconds."""
MAX_MISSING = 0.5
"""Of the combinations of cell and block, the share without a run from which on blocks are not compared."""
ROW = "\0row"
"""The column of rows' numbers, by a name that no column of a table has."""
ROUNDING = 1e-12
"""A standard deviation below this share of the largest response is rounding, not noise."""
MAX_RESPONSE = 1e150
"""Of a response: sums of squares beyond it leave double precision."""


@dataclass(frozen=True)
class FactorialTable:
    """Runs sorted into c cells (combinations of levels) and b blocks; b is 1 without a block.

    `counts_cxb` are runs, `means_cxb` their mean responses, `within_ss_c` the sums of squares of runs about those.
    `response_n` and `run_n` have each run's response and name (called run), or its row from 1 (called row); `group_n`
    is its place in the ravelled `counts_cxb`. `blocks` are the b blocks' names, none without a block.
    """

    response: str
    n: int
    factors: tuple[Factor, ...]
    block: str | None
    cells_cxf: NDArray[np.intp]
    counts_cxb: NDArray[np.float64]
    means_cxb: NDArray[np.float64]
    within_ss_c: NDArray[np.float64]
    largest: float
    cautions: tuple[Diagnostic, ...]
    response_n: NDArray[np.float64]
    group_n: NDArray[np.intp]
    run_n: pl.Series
    blocks: tuple[float | str | bool, ...]

    @property
    def within_ss(self) -> float:
        """The sum of squares of runs about the mean of their cell and block."""
        return float(self.within_ss_c.sum())

    @property
    def n_cells(self) -> int:
        """Combinations of levels that have runs."""
        return len(self.cells_cxf)

    @property
    def replicated(self) -> bool:
        """Whether any cell has more than one run."""
        return self.n > self.n_cells

    @property
    def complete(self) -> bool:
        """Whether every combination of levels has runs."""
        return self.n_cells == int(np.prod([len(factor.levels) for factor in self.factors], dtype=np.int64))

    @property
    def cell_n(self) -> NDArray[np.intp]:
        """The cell of each run."""
        return self.group_n // self.counts_cxb.shape[1]

    @property
    def block_n(self) -> NDArray[np.intp]:
        """The block of each run."""
        return self.group_n % self.counts_cxb.shape[1]

    @property
    def rounding(self) -> float:
        """A standard deviation of runs that is rounding, not noise."""
        return ROUNDING * self.largest

    def position(self, factor: str) -> int | None:
        """Where a factor stands; None of one that does not vary."""
        return next((number for number, each in enumerate(self.factors) if each.name == factor), None)

    def name(self, term: Sequence[int]) -> str:
        """A term in words: `n_embd × dropout`."""
        return " × ".join(self.factors[position].name for position in term)

    def levels_of(self, run: int) -> dict[str, float | str | bool]:
        """What a run was trained at: a level of every factor, and its block."""
        cell, block = int(self.cell_n[run]), int(self.block_n[run])
        found = {f.name: f.levels[int(self.cells_cxf[cell, place])] for place, f in enumerate(self.factors)}
        return found if self.block is None else {**found, self.block: self.blocks[block]}


def _without_copies(rows: Rows, keys: Sequence[str], response: str, block: str | None) -> tuple[Rows, list[Diagnostic]]:
    """Without copies: rows that equal another in every column, or in a run's name, its levels and its response.

    Where neither a block nor a run's name tells replicates apart, equal rows may be ties by rounding, and stay.
    """
    table, own = rows.table, [name for name in rows.table.columns if name != ROW]
    names = [name for name in own if name not in (*keys, response) and identifies_runs(table, name, keys)]
    kept = table.unique(own, keep="first", maintain_order=True)
    for name in names:
        unnamed = kept[name].is_null()
        kept = kept.filter(unnamed | kept.select(pl.struct(name, *keys, response).is_first_distinct()).to_series())
    copies = len(table) - len(kept)
    if not copies:
        return rows, []
    told_apart = block is not None or any(names_runs(name) or names_seeds(name) for name in own)
    if told_apart:
        text = f"{copies:,} of {len(table):,} rows repeat another row or a run; they are left out."
        return Rows(kept, rows.cautions), [Diagnostic("duplicate_rows", "limits", text)]
    text = (
        f"{copies:,} of {len(table):,} rows equal another in every column: runs with equal responses as rounded, or "
        "copies. They count as runs."
    )
    remedy = "Add a column that tells runs apart, such as the seed, or remove copies."
    return rows, [Diagnostic("duplicate_rows", "limits", text, remedy)]


def read_factorial_table(
    table: pl.DataFrame, response: str, factors: Sequence[str], block: str | None
) -> FactorialTable:
    """Sort the rows of a table (one a run) by the levels of `factors` and by `block`.

    A factor with one level is dropped; a block whose levels have runs in too few cells is ignored; both leave a
    caution. Raises ConfigError when a column is missing or serves twice, when there are too many factors or levels,
    and when rows are evaluations of runs.
    """
    names = list(dict.fromkeys(factors))
    check_roles(response, names, block)
    if len(names) > MAX_FACTORS:
        raise ConfigError(f"{len(names)} factors are too many: at most {MAX_FACTORS}", ("factors",))
    keys = [*names, block] if block is not None else names
    floats = [name for name in keys if name in table.columns and table.schema[name].is_float()]
    others = [name for name in keys if name not in floats]
    rows = usable_rows(table.with_row_index(ROW, offset=1), numeric=[response, *floats], other=others)
    rows, said = _without_copies(rows, keys, response, block)
    rows, run_n = _named_runs(rows)
    check_one_row_a_run(rows.table, response, names, block)
    cautions = [*rows.cautions, *said, *_unlisted(rows, response, names, block)]
    read = [read_factor(rows.table[name]) for name in names]
    for factor, _ in read:
        if len(factor.levels) == 1:
            text = (
                f"{factor.name} is {factor.levels[0]} in every run that has it: nothing can be said about its effect."
            )
            cautions.append(Diagnostic("one_level", "blocks", text))
    read = [(factor, codes_n) for factor, codes_n in read if len(factor.levels) > 1]
    _check_size([factor for factor, _ in read])
    shape = tuple(len(factor.levels) for factor, _ in read)
    n = len(rows.table)
    cell_n = np.ravel_multi_index([codes_n for _, codes_n in read], shape) if read else np.zeros(n, dtype=np.intp)
    cells_c, cell_n = np.unique(cell_n, return_inverse=True)
    block_n, blocks = np.zeros(n, dtype=np.intp), ()
    if block is not None:
        column = plain_column(rows.table[block])
        block, block_n, said = _usable_block(column, cell_n, len(cells_c))
        blocks = () if block is None else tuple(np.unique(column.to_numpy()).tolist())
        cautions.extend(said)
    y_n = rows.floats(response)
    if float(np.abs(y_n).max()) > MAX_RESPONSE:
        raise ConfigError(
            f"'{response}' holds values beyond {MAX_RESPONSE:g}, whose squares overflow: rescale it", (response,)
        )
    size = (len(cells_c), int(block_n.max()) + 1)
    group_n = np.ravel_multi_index((cell_n, block_n), size)
    counts_cxb = np.bincount(group_n, minlength=size[0] * size[1]).astype(np.float64)
    # The mean of a group is taken of differences from one of its runs, so that equal responses leave no rounding.
    origin_cxb = np.zeros(size[0] * size[1])
    origin_cxb[group_n] = y_n
    above_n = y_n - origin_cxb[group_n]
    above_cxb = np.bincount(group_n, above_n, minlength=len(counts_cxb)) / np.maximum(counts_cxb, 1)
    return FactorialTable(
        response=response,
        n=n,
        factors=tuple(factor for factor, _ in read),
        block=block,
        cells_cxf=np.stack(np.unravel_index(cells_c, shape), axis=1) if read else np.zeros((1, 0), dtype=np.intp),
        counts_cxb=counts_cxb.reshape(size),
        means_cxb=(origin_cxb + above_cxb).reshape(size),
        within_ss_c=np.bincount(cell_n, (above_n - above_cxb[group_n]) ** 2).astype(np.float64),
        largest=float(np.abs(y_n).max()),
        cautions=(*cautions, *_confounded([factor.name for factor, _ in read], [codes_n for _, codes_n in read])),
        response_n=y_n,
        group_n=group_n,
        run_n=run_n,
        blocks=blocks,
    )


def _named_runs(rows: Rows) -> tuple[Rows, pl.Series]:
    """The rows without their numbers, and what each run is called: its name where a column has one, else its row."""
    table, row_n = rows.table.drop(ROW), rows.table[ROW].alias("row")
    names = (table[name] for name in table.columns if names_runs(name, surely=True))
    named = next((name for name in names if name.null_count() == 0 and name.is_unique().all()), None)
    return Rows(table, rows.cautions), row_n if named is None else named.cast(pl.String()).alias("run")


def _unlisted(rows: Rows, response: str, names: Sequence[str], block: str | None) -> list[Diagnostic]:
    def remedy(columns: Sequence[str]) -> str:
        return f"List what was varied: --factors {','.join([*names, *columns])}."

    return unlisted_columns(rows.table, rows.floats(response), names, [response, *([block] if block else [])], remedy)


def check_roles(response: str, factors: Sequence[str], block: str | None) -> None:
    """Raises ConfigError when no factor is named or a column serves twice."""
    if not factors:
        raise ConfigError("no factor is named: say which columns were varied", ("factors",))
    if response in factors or response == block:
        role = "a factor" if response in factors else "the block"
        raise ConfigError(f"'{response}' is both the response and {role}", (response,))
    if block in factors:
        raise ConfigError(f"'{block}' is both a factor and the block", (str(block),))


def _check_size(factors: Sequence[Factor]) -> None:
    free = [len(factor.levels) - 1 for factor in factors]
    columns = 1 + sum(free) + sum(a * b for a, b in itertools.combinations(free, 2))
    if columns > MAX_COLUMNS:
        raise ConfigError(
            f"{len(factors)} factors with {', '.join(str(level + 1) for level in free)} levels make a model of "
            f"{columns:,} columns, at most {MAX_COLUMNS}: leave out a factor or merge levels",
            ("factors",),
        )


def _usable_block(
    column: pl.Series, cell_n: NDArray[np.intp], n_cells: int
) -> tuple[str | None, NDArray[np.intp], list[Diagnostic]]:
    """The block, if its levels have runs in most cells, else none; and the block of each run."""
    blocks, block_n = np.unique(column.to_numpy(), return_inverse=True)
    n_blocks = len(blocks)
    ignored = np.zeros(len(block_n), dtype=np.intp)
    if n_blocks == 1:
        text = f"{column.name} is {column[0]} in every run: one block tells nothing about what another would give."
        return None, ignored, [Diagnostic("one_block", "limits", text)]
    missing = n_cells * n_blocks - len(np.unique(cell_n * n_blocks + block_n))
    if missing >= MAX_MISSING * n_cells * n_blocks or len(block_n) < n_cells + n_blocks:
        text = (
            f"{column.name} is ignored as a block: its {n_blocks:,} levels have no run in {missing:,} of the "
            f"{n_cells * n_blocks:,} combinations with cells. How far effects differ from one to another stays unseen."
        )
        return None, ignored, [Diagnostic("block_not_crossed", "limits", text)]
    return column.name, block_n, []


def _confounded(names: Sequence[str], codes: Sequence[NDArray[np.intp]]) -> list[Diagnostic]:
    """Pairs of factors of which one follows from the other in every run."""
    cautions: list[Diagnostic] = []
    for (a, a_n), (b, b_n) in itertools.combinations(zip(names, codes, strict=True), 2):
        pairs = len(np.unique(a_n * MAX_LEVELS + b_n))
        a_tells_b, b_tells_a = pairs == a_n.max() + 1, pairs == b_n.max() + 1
        if a_tells_b and b_tells_a:
            text = f"{a} and {b} change together in every run: their effects cannot be told apart."
            cautions.append(Diagnostic("aliased", "limits", text))
        elif a_tells_b or b_tells_a:
            outer, inner = (b, a) if a_tells_b else (a, b)
            text = f"{outer} is the same in all runs of a level of {inner}: their effects cannot be told apart fully."
            cautions.append(Diagnostic("aliased", "limits", text))
    return cautions
