"""First evaluations: runs of equal initial weights take over the row of the first of them that was evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from isoloss.design.prefixes import alike_at_first
from isoloss.design.trunks import forks
from isoloss.errors import IsolossError
from isoloss.execution.context import TrainingContext
from isoloss.execution.resuming import StartingPoint
from isoloss.store.layout import RunPaths
from isoloss.store.records import FIRST_EVALUATION, NUMERICS
from isoloss.store.run import NOTHING, check_rows, eval_rows, lasting_rows, read_status
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.training.loop import EvalRow
from isoloss.training.numerics import Numerics, differences


def runs_alike(configs: Sequence[RunConfig], stack: int, ranks: int) -> dict[str, tuple[str, ...]]:
    """By run id, the runs whose evaluations before their first step are equal to the bit, itself among them.

    None where runs are planned to be stacked, whose roundings may depend on their stack, or shared by several ranks.
    """
    if stack > 1 or ranks > 1:
        return {}
    groups = [tuple(map(run_id, group)) for group in alike_at_first(configs)]
    return {run: group for group in groups for run in group}


def expected_takers(configs: Sequence[RunConfig], stack: int, at_once: int) -> set[str]:
    """Ids of the runs that will take over their first evaluation: of those alike all but the first, of which as many as
    run at once may be evaluated each by itself.
    """
    begun, alike = forks(configs), runs_alike(configs, stack, ranks=1)
    made = {run for group in set(alike.values()) for run in [run for run in group if run not in begun][:at_once]}
    return alike.keys() - made - begun.keys()


def taking_over(context: TrainingContext, start: StartingPoint) -> StartingPoint:
    """The same with the first evaluation of another run, where it has none and one that is equal was acknowledged."""
    run, progress = run_id(start.state.config), start.state.progress
    if progress.step or progress.evaluated_step >= 0:
        return start
    now = context.numerics(start.state.config.precision)
    for other in context.alike_at_first.get(run, ()):
        if other != run:
            with suppress(IsolossError):  # what cannot be read, or is damaged, is computed again
                if found := _first_evaluation(context.study.run(other), now):
                    row, source = found
                    losses = (row.train_loss, row.val_loss, row.val_bpb) if start.state.config.ema else (None,) * 3
                    train, val, bits = losses  # the average is the weights
                    row = replace(row, ema_train_loss=train, ema_val_loss=val, ema_val_bpb=bits)
                    return replace(start, first_evaluation=row, taken_over={FIRST_EVALUATION: source})
    return start


def _first_evaluation(paths: RunPaths, now: Numerics) -> tuple[EvalRow, str] | None:
    """A run's evaluation before its first step and the run that made it, where that is on the disk and had these
    numerics. Raises StoreError.
    """
    if not paths.rows_bytes("evals"):
        return None
    status = read_status(paths)
    numerics, extent = status.provenance.get(NUMERICS), lasting_rows(paths, status).get("evals", NOTHING)
    if not numerics or numerics[0]["step"] or differences(numerics[0], now) or not extent.size:
        return None
    check_rows(paths.evals, extent)
    first = eval_rows(paths, extent)[0]
    if first["step"]:
        return None
    return EvalRow(**first), status.provenance.get(FIRST_EVALUATION, paths.folder.name)
