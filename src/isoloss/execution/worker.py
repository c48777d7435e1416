"""Train one stack into the store, from wherever its runs were left."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any

import torch

from isoloss.data.tokens import Tokens, open_tokens
from isoloss.errors import InUseError, StoreError
from isoloss.execution.plan import TOGETHER, Stack
from isoloss.execution.recorder import Emit, Event, RunRecorder, Silent
from isoloss.execution.resuming import Begun, begun_together, continued
from isoloss.execution.reuse import CONTINUES
from isoloss.execution.workplace import Workplace
from isoloss.files import explained, locked, remove_leftovers
from isoloss.spec.config import RunConfig
from isoloss.spec.identity import run_id
from isoloss.store.layout import RunPaths
from isoloss.store.records import NUMERICS
from isoloss.store.run import RunStatus, create_run, read_status, write_status
from isoloss.training import checkpoint
from isoloss.training.device import describe, peak
from isoloss.training.distributed import Ranks
from isoloss.training.loop import train
from isoloss.training.state import stack

NOTICE_S = 2.0
LOCK_TIMEOUT_S = 600.0
"""How long a run's previous writer, orphaned by a kill, is given to notice and let go: it may be evaluating."""


def train_stack(
    place: Workplace,
    configs: Stack,
    emit: Emit = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> None:
    """Train runs to their ends, or until told to stop; each leaves its files and a status.

    What goes wrong fails these runs with their reason, and is no exception of the caller's. A stack for which the
    memory is too small is split in two.
    """
    ranks = ranks or Ranks()
    recorders: dict[str, RunRecorder] = {}
    failure = _attempt(place, configs, recorders, emit, should_stop, ranks)
    if failure is None:
        return
    if ranks.world > 1:
        raise failure
    left = tuple(config for config in configs if not _has_ended(recorders, config))
    if len(configs) > 1 and _out_of_memory(failure):
        gc.collect()
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(left) + 1) // 2
        note = f"not enough memory for {len(configs)} runs in one stack: going on with at most {half}"
        emit(Event(run_id(configs[0]), "running", 0, reason=note))
        for part in filter(None, (left[:half], left[half:])):
            train_stack(place, part, emit, should_stop)
    else:
        _fail(place, left, failure, emit)


def _attempt(
    place: Workplace,
    configs: Stack,
    recorders: dict[str, RunRecorder],
    emit: Emit,
    should_stop: Callable[[], bool],
    ranks: Ranks,
) -> Exception | None:
    """Train under the runs' locks; what went wrong, after letting go of the runs' files."""
    with ExitStack() as held:
        try:
            tokens = open_tokens(place.tokens_folder)
            if ranks.rank == 0:
                for config in configs:
                    _claim(place.study.run(run_id(config)), held, emit)
            for found in begun_together(place.study, configs, emit):
                _train_alike(place, found, tokens, recorders, emit, should_stop, ranks)
        except Exception as error:
            for recorder in recorders.values():
                recorder.abandon()
            return error
    return None


def _claim(run: RunPaths, held: ExitStack, emit: Emit) -> None:
    """Hold a run's lock; who has to wait for it says so. Raises InUseError."""
    in_use = f"{run.folder} is being written by another process"
    try:
        held.enter_context(locked(run.lock, NOTICE_S, lambda: in_use))
    except InUseError:
        emit(Event(run.folder.name, "running", 0, reason=f"{in_use}: waiting for it to let go"))
        held.enter_context(locked(run.lock, LOCK_TIMEOUT_S, lambda: in_use))


def _out_of_memory(failure: BaseException | None) -> bool:
    """Whether a failure is, or came of, a lack of memory; lets go of the tensors that its frames hold."""
    found = False
    while failure is not None:
        failure.__traceback__ = None
        found = found or isinstance(failure, torch.OutOfMemoryError)
        failure = failure.__cause__ or failure.__context__
    return found


def _train_alike(
    place: Workplace,
    found: Sequence[Begun],
    tokens: Tokens,
    recorders: dict[str, RunRecorder],
    emit: Emit,
    should_stop: Callable[[], bool],
    ranks: Ranks,
) -> None:
    states, precision = [one.state for one in found], found[0].state.config.precision
    ranks.barrier()
    kernels = place.kernels(precision)
    if ranks.rank:
        stacked = stack(states, place.device, kernels)
        train(stacked, tokens, lambda config: Silent(), ranks=ranks, should_stop=should_stop)
        return
    now = place.numerics(precision)
    layout = {"stack_width": len(found), "ranks": ranks.world, "kernels": kernels.name}
    measured = {"peak": asdict(peak(place.device, precision, place.threads))}
    provenance = {**describe(place.device).as_dict(), **layout, **measured}
    together = [run_id(state.config) for state in states]
    for run, one in zip(together, found, strict=True):
        beside = {NUMERICS: continued(one.numerics, one.step, now), TOGETHER: together}
        recorders[run] = _open_recorder(place, one, provenance, beside, emit)
    stopped = train(
        stack(states, place.device, kernels),  # no name here, so that what leaves the stack leaves the memory
        tokens,
        lambda config: recorders[run_id(config)],
        ranks=ranks,
        should_stop=should_stop,
        alive=lambda config, step: recorders[run_id(config)].alive(step),
    )
    if stopped is not None:
        for config, progress in zip(stopped.members, stopped.progress, strict=True):
            recorder = recorders[run_id(config)]
            recorder.close()
            recorder.status("pending", progress, f"stopped at step {progress.step}; the same command continues")
            emit(Event(run_id(config), "stopped", progress.step))


def _open_recorder(
    place: Workplace, found: Begun, provenance: Mapping[str, Any], beside: Mapping[str, Any], emit: Emit
) -> RunRecorder:
    """Bring a run's rows back to where its state is, and open it for writing."""
    state, progress = found.state, found.state.progress
    paths = place.study.run(run_id(state.config))
    provenance = {**provenance, NUMERICS: beside[NUMERICS]}
    before = read_status(paths).provenance.get(CONTINUES)
    provenance = provenance if before is None else {**provenance, CONTINUES: before}
    create_run(paths, state.config)
    remove_leftovers(paths.folder)
    with explained(paths.samples):
        paths.samples.unlink(missing_ok=True)  # of what the run was before
    if progress.step:
        checkpoint.promote_best(paths.folder, state)
    recorder = RunRecorder(paths, state.config, provenance, beside, emit, found.rows)
    recorder.status("running", progress, "")
    emit(Event(run_id(state.config), "running", progress.step))
    return recorder


def _has_ended(recorders: Mapping[str, RunRecorder], config: RunConfig) -> bool:
    recorder = recorders.get(run_id(config))
    return recorder is not None and recorder.ended


def _fail(place: Workplace, configs: Stack, error: BaseException, emit: Emit) -> None:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    for config in configs:
        if not isinstance(error, InUseError):  # else it is for that other process to say how the run stands
            write_failed(place.study.run(run_id(config)), reason)
        emit(Event(run_id(config), "failed", 0, reason=reason))


def write_failed(paths: RunPaths, reason: str) -> None:
    """Mark a run failed, as far as the disk still allows."""
    with suppress(StoreError):
        write_status(paths, RunStatus("failed", reason))
