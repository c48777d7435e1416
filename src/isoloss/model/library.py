"""The compiled library of kernels.cpp and what it includes: built on first use, then loaded from the cache.

The system's compiler builds it for this processor; its name in the cache is a hash of source, flags, compiler and
processor, so that a machine compiles it once.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from isoloss.errors import CompilerError, StoreError
from isoloss.files import cache_dir, sha256_bytes, write_atomically

SOURCES = tuple(map(Path(__file__).with_name, ("kernels.cpp", "vectors.hpp", "attention.hpp")))
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-shared",
    "-fPIC",
)
"""No -ffast-math: a NaN has to stay one, for divergence is detected by it."""

COMPILE_TIMEOUT_S = 300
SUFFIXES = {torch.float32: "fp32", torch.bfloat16: "bf16"}

_Int, _Pointer, _Float = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
_MASK = (_Pointer, _Pointer, _Pointer, _Int)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "embed": (_Int, _Int, _Int, _Pointer, _Pointer, _Pointer, *_MASK, _Pointer),
    "embed_backward": (_Int, _Int, _Int, _Pointer, _Pointer, *_MASK, _Pointer, _Pointer),
    "add_norm": (_Int, _Int, ctypes.c_int, _Pointer, _Pointer, *_MASK, *(6 * (_Pointer,))),
    "norm_backward": (_Int, _Int, ctypes.c_int, *(9 * (_Pointer,)), *_MASK),
    "norm_rotate": (*(5 * (_Int,)), _Pointer, _Pointer, _Pointer),
    "norm_rotate_backward": (*(5 * (_Int,)), *(4 * (_Pointer,))),
    "attend": (*(6 * (_Int,)), _Float, _Pointer, _Pointer, _Pointer, *_MASK),
    "attend_backward": (*(6 * (_Int,)), _Float, *(4 * (_Pointer,)), *_MASK),
    "gelu": (_Int, _Pointer, _Pointer, _Pointer),
    "multiply": (_Int, _Pointer, _Pointer),
    "swiglu": (_Int, _Int, _Pointer, _Pointer),
    "swiglu_backward": (_Int, _Int, _Pointer, _Pointer),
    "cross_entropy": (_Int, _Int, _Int, _Pointer, _Pointer, _Pointer),
    "adamw": (_Int, *(5 * (_Pointer,)), *(7 * (_Float,))),
}
"""Argument types of the functions of kernels.cpp, each of which exists for fp32 and bf16."""


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels. Raises CompilerError, one line, when they cannot be compiled or loaded."""
    path = _compiled()
    try:
        return _load(path)
    except OSError:
        path.unlink(missing_ok=True)  # a file cut short by a crash: compile again
    path = _compiled()
    try:
        return _load(path)
    except OSError as error:
        raise CompilerError(f"cannot load {path}: {str(error).splitlines()[0]}") from error


def cxx_compiler() -> str:
    """Path of the system's C++ compiler. Raises CompilerError."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if found is None:
        raise CompilerError("no C++ compiler (c++, g++ or clang++)")
    return found


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        for suffix in ("fp32",) if name.startswith("embed") else SUFFIXES.values():
            function = getattr(loaded, f"{name}_{suffix}")
            function.argtypes = arguments
            function.restype = ctypes.c_double if name == "cross_entropy" else None
    return loaded


def _compiled() -> Path:
    """The library's path, compiled if need be."""
    compiler = cxx_compiler()
    flags = (*FLAGS, *_wide_vectors())
    version = _run([compiler, "--version"])
    identity = [*(path.read_bytes() for path in SOURCES), " ".join(flags).encode(), version.encode(), _processor()]
    path = cache_dir() / "kernels" / f"{sha256_bytes(bytes(1).join(identity))[:16]}.so"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_private(path.parent)
        if not path.is_file():
            write_atomically(path, lambda temporary: _run([compiler, *flags, "-o", str(temporary), str(SOURCES[0])]))
    except (OSError, StoreError) as error:
        raise CompilerError(f"cannot compile into {path.parent}: {error}") from error
    return path


def _check_private(folder: Path) -> None:
    """Refuse to load code from a folder that other users can write to."""
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022):
        raise CompilerError(f"{folder} can be written by others; make it writable for you alone or set ISOLOSS_CACHE")


def _run(command: list[str]) -> str:
    """What a command prints. Raises CompilerError with its first error message."""
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=COMPILE_TIMEOUT_S,
            env=environment,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        lines = done.stderr.splitlines()
        message = next((line for line in lines if "error" in line), lines[0] if lines else "no reason given")
        raise CompilerError(f"{command[0]} failed: {message.strip()}")
    return done.stdout


def _processor() -> bytes:
    """What -march=native looks at: the processor's model and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return b""
    return b"\n".join(
        sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model", b"vendor_id"))})
    )


def _wide_vectors() -> tuple[str, ...]:
    return ("-mprefer-vector-width=512",) if b"avx512f" in _processor() else ()
