"""Choice of kernels: compiled ones on a CPU that has a compiler, Triton's on CUDA, torch's everywhere else."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch

from isoloss.errors import CompilerError
from isoloss.model.functions import Kernels
from isoloss.model.library import SUFFIXES, library
from isoloss.model.native import Native

MAX_NATIVE_THREADS = 4
"""Compiled kernels use one thread; with more threads than this for the matrix products torch's own are faster."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_THRESHOLD_BYTES, MMAP_THRESHOLD_BYTES = 512 << 20, 32 << 20


def compiled_kernels(say: Callable[[str], None]) -> bool:
    """Whether the fast kernels are, or could be, compiled; if not, a line says why and what it costs."""
    try:
        library()
    except CompilerError as error:
        say(f"fast kernels unavailable, training takes about 1.5 times as long: {error}")
        return False
    return True


def triton_kernels(say: Callable[[str], None]) -> bool:
    """Whether Triton is there to fuse a GPU's operations; if not, a line says so."""
    if find_spec("triton") is None:
        say("Triton is not installed: on the GPU each operation is a kernel of torch's; isoloss[triton] fuses them")
        return False
    return True


def kernels_for(dtype: torch.dtype, device: torch.device, *, compiled: bool, threads: int | None = None) -> Kernels:
    """The kernels for a dtype, device and number of threads; None is this process's number.

    Raises CompilerError when compiled ones are asked for and missing.
    """
    threads = threads or torch.get_num_threads()
    if compiled and device.type == "cuda" and triton_kernels(lambda line: None):
        return Kernels(dtype, triton=True)
    if compiled and device.type == "cpu" and dtype in SUFFIXES and threads <= MAX_NATIVE_THREADS:
        library()
        return Kernels(dtype, Native(dtype))
    return Kernels(dtype)


def keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees for the next one, instead of returning it to the system.

    With 128 wide and batch 16 a step takes 44 ms with it and 51 without. Elsewhere than on glibc this does nothing.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
            libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
