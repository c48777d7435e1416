"""Processes of our own: they import nothing from the working directory, run no main module and hear no Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
SAFE_PATH_VARIABLE = "PYTHONSAFEPATH"
SPAWN = multiprocessing.get_context("spawn")


def in_another_process(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """What a function of a module gives, or raises, in a process that ends with it."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        with spawning():
            answer = pool.submit(function, *args, **kwargs)
        return answer.result()


@contextmanager
def spawning() -> Iterator[None]:
    """Processes that multiprocessing spawns meanwhile are such processes."""
    with _safe_path(), _without_main_module():
        if hasattr(signal, "pthread_sigmask"):
            resource_tracker.ensure_running()  # else starting a process would, and unblock the signals
        with _block_signals():
            yield


@contextmanager
def _safe_path() -> Iterator[None]:
    """Processes started meanwhile import nothing from the working directory, whose files may be untrusted.

    `python -c`, by which multiprocessing starts them, would look there first; then they get this process's sys.path.
    """
    before = os.environ.get(SAFE_PATH_VARIABLE)
    os.environ[SAFE_PATH_VARIABLE] = "1"
    try:
        yield
    finally:
        del os.environ[SAFE_PATH_VARIABLE]
        if before is not None:
            os.environ[SAFE_PATH_VARIABLE] = before


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Processes started meanwhile do not run the caller's main module, as multiprocessing would have them do.

    A script without `if __name__ == "__main__":` would start its study again in every worker; one that is read from
    standard input, as in `python - <<EOF`, has no file that a worker could run.
    """
    main = sys.modules["__main__"].__dict__
    hidden = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.pop("__spec__")
        main.update(hidden)


@contextmanager
def _block_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM meanwhile; processes started in between inherit that: a Ctrl-C is for this one alone."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
