"""What the parts of a fitted scaling law are called in sentences, tables and figures alike."""

from __future__ import annotations

from typing import Any

import polars as pl

from isoloss.analysis.frontier import HoldOut
from isoloss.analysis.scaling import FIXED, Fit
from isoloss.study.datasets import COMPARED_IN
from isoloss.wording import counted, listed, number, of_runs, si

MEANINGS = {
    "params_non_embedding": "parameters without embeddings", "params_total": "parameters with embeddings",
    "N": "parameters", "train_tokens": "training tokens", "D": "training tokens", "train_flops": "training FLOPs",
    "C": "training FLOPs", "U": "unique tokens", "unique_tokens": "unique training tokens",
    "final_val_loss": "final validation loss", "final_val_bpb": "final validation loss",
}  # fmt: skip
"""What a column holds, where its name tells; other columns are called by their names."""
NOUNS = {"N": "size", "D": "number of tokens", "C": "compute"}


def flop(compute: float) -> str:
    """A compute like 20 TFLOP."""
    return f"{si(compute)}FLOP"


def meaning_of(fit: Fit, axis: str) -> str:
    """What a variable or the loss of a fit is, in words."""
    return MEANINGS.get(fit.columns[axis], fit.columns[axis])


def loss_title(fit: Fit) -> str:
    """The loss with its unit, where that is known."""
    units = {f"final_{column}": f" ({unit.replace(' per ', '/')})" for column, unit in COMPARED_IN.items()}
    return f"{meaning_of(fit, 'loss')}{units.get(fit.columns['loss'], '')}"


def at_tokens(tokens: float) -> str:
    """A line at one number of tokens."""
    return f"D = {si(tokens)}"


def interval_method(fit: Fit) -> str:
    """Which interval is meant, by which method, and what it holds fixed."""
    assert fit.uncertainty is not None
    bare = {name: parameter.estimate for name, parameter in fit.parameters.items() if parameter.se is None}
    given = [name for name, estimate in bare.items() if estimate.method == FIXED]
    fixed = [name for name in bare if name not in given]
    method = f"{fit.uncertainty.method}{f', {listed(fixed)} held at its bound' if fixed else ''}"
    return f"95%, {method}{f', {listed(given)} as given' if given else ''}"


def fitted_runs(fit: Fit) -> str:
    """How many runs were fitted, '45 runs in 24 cells'."""
    return counted(fit.n, "run") + ("" if fit.n_cells == fit.n else f" in {counted(fit.n_cells, 'cell')}")


def held_out_in_words(held: HoldOut) -> str:
    """How many runs lie inside their interval, and how far and to which side the law is off."""
    return (
        f"95% prediction intervals hold {of_runs(held.n_inside, len(held.rows))}, and predictions are "
        f"{number(abs(held.mean_error), '.2g')} too {'high' if held.mean_error < 0 else 'low'} on average"
    )


def held_out_frame(held: HoldOut) -> pl.DataFrame:
    """Held-out runs, the smallest first: variables, seed, observed, predicted and residual with their intervals."""
    rows: list[dict[str, Any]] = []
    for row in held.rows:
        ends = {"": row.predicted.value, "_low": row.predicted.low, "_high": row.predicted.high}
        predicted = {f"predicted{end}": value for end, value in ends.items()}
        residual = {f"residual{end}": None if value is None else value - row.observed for end, value in ends.items()}
        where = "inside" if row.inside else "outside"
        rows.append({**row.point, "seed": row.seed, "observed": row.observed, **predicted, **residual, "where": where})
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.sort([axis for axis in NOUNS if axis in frame.columns], maintain_order=True)
