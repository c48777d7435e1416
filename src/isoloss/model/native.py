"""The operations between the matrix products in C++, compiled here on first use: fused, for one thread of a CPU.

The system's compiler builds the library for this very processor; it is kept in the cache under a hash of its source,
the flags, the compiler and the processor, so that a machine compiles it once.
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
from torch import Tensor

from isoloss.errors import CompilerError, StoreError
from isoloss.files import cache_dir, sha256_bytes, write_atomically
from isoloss.model.dropout import Mask
from isoloss.model.kernels import ADAM_EPS, Normed, Update

SOURCE = Path(__file__).with_name("kernels.cpp")
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
"""No -ffast-math: a NaN has to stay one, for a run that diverges must be seen to."""

COMPILE_TIMEOUT_S = 300
SUFFIXES = {torch.float32: "fp32", torch.bfloat16: "bf16"}

_Int, _Pointer, _Float = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
_MASK = (_Pointer, _Pointer, _Pointer, _Int)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "embed": (_Int, _Int, _Int, _Pointer, _Pointer, _Pointer, *_MASK, _Pointer),
    "embed_backward": (_Int, _Int, _Int, _Pointer, _Pointer, *_MASK, _Pointer, _Pointer),
    "add_norm": (_Int, _Int, _Pointer, _Pointer, *_MASK, *(6 * (_Pointer,))),
    "norm_backward": (_Int, _Int, *(9 * (_Pointer,)), *_MASK),
    "split_heads": (*(5 * (_Int,)), _Pointer, _Pointer, ctypes.c_int),
    "softmax": (_Int, _Int, _Pointer, _Float, _Pointer, _Pointer, *_MASK),
    "softmax_backward": (_Int, _Int, _Pointer, _Pointer, _Float, *_MASK),
    "gelu": (_Int, _Pointer, _Pointer, _Pointer),
    "multiply": (_Int, _Pointer, _Pointer),
    "cross_entropy": (_Int, _Int, _Int, _Pointer, _Pointer, _Pointer),
    "adamw": (_Int, *(5 * (_Pointer,)), *(7 * (_Float,))),
}
"""Argument types of the functions of kernels.cpp, each of which exists for fp32 and bf16."""


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels. Raises CompilerError, one line, when they cannot be had."""
    path = _compiled()
    try:
        return _load(path)
    except OSError:
        path.unlink(missing_ok=True)  # a file a crash cut short: once more
    path = _compiled()
    try:
        return _load(path)
    except OSError as error:
        raise CompilerError(f"cannot load {path}: {str(error).splitlines()[0]}") from error


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
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        raise CompilerError("no C++ compiler (c++, g++ or clang++)")
    flags = (*FLAGS, *_wide_vectors())
    identity = [SOURCE.read_bytes(), " ".join(flags).encode(), _run([compiler, "--version"]).encode(), _processor()]
    path = cache_dir() / "kernels" / f"{sha256_bytes(bytes(1).join(identity))[:16]}.so"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_private(path.parent)
        if not path.is_file():
            write_atomically(path, lambda temporary: _run([compiler, *flags, "-o", str(temporary), str(SOURCE)]))
    except (OSError, StoreError) as error:
        raise CompilerError(f"cannot compile into {path.parent}: {error}") from error
    return path


def _check_private(folder: Path) -> None:
    """Refuse to load code from where somebody else can put it."""
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022):
        raise CompilerError(f"{folder} can be written by others; make it yours alone or set ISOLOSS_CACHE")


def _run(command: list[str]) -> str:
    """What a command prints. Raises CompilerError with its first complaint."""
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
        complaint = next((line for line in lines if "error" in line), lines[0] if lines else "no reason given")
        raise CompilerError(f"{command[0]} failed: {complaint.strip()}")
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


def _at(tensor: Tensor | None, e: int) -> int | None:
    """Address of one member's part."""
    if tensor is None:
        return None
    return tensor.data_ptr() + (e * tensor.stride(0) * tensor.element_size() if e else 0)


def _mask(mask: Mask | None, e: int, row_elements: int) -> tuple[int | None, int | None, int | None, int]:
    if mask is None:
        return None, None, None, 0
    return _at(mask.key_Ex2, e), _at(mask.limit_E, e), _at(mask.scale_E, e), mask.first_row * row_elements


class NativeKernels:
    """The twin of TorchKernels; arrays lie on the CPU and each member's part is contiguous."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        loaded = library()
        self.name = f"native {Path(loaded._name).stem}"
        self._call = {
            name: getattr(loaded, f"{name}_{SUFFIXES[dtype]}") for name in SIGNATURES if not name.startswith("embed")
        }
        self._call |= {name: getattr(loaded, f"{name}_fp32") for name in ("embed", "embed_backward")}

    def embed(self, tokens_ExBxT: Tensor, wte_ExVxC: Tensor, wpe_ExTxC: Tensor, mask: Mask | None) -> Tensor:
        tokens_ExBxT = tokens_ExBxT.contiguous()
        E, B, T = tokens_ExBxT.shape
        C = wte_ExVxC.shape[2]
        x_ExNxC = torch.empty(E, B * T, C)
        for e in range(E):
            tables = _at(tokens_ExBxT, e), _at(wte_ExVxC, e), _at(wpe_ExTxC, e)
            self._call["embed"](B, T, C, *tables, *_mask(mask, e, T * C), _at(x_ExNxC, e))
        return x_ExNxC

    def embed_backward(
        self, tokens_ExBxT: Tensor, grad_ExNxC: Tensor, mask: Mask | None, wte_ExVxC: Tensor, wpe_ExTxC: Tensor
    ) -> None:
        tokens_ExBxT = tokens_ExBxT.contiguous()
        E, B, T = tokens_ExBxT.shape
        C = wte_ExVxC.shape[2]
        for e in range(E):
            grads = _at(wte_ExVxC, e), _at(wpe_ExTxC, e)
            arrays = _at(tokens_ExBxT, e), _at(grad_ExNxC, e)
            self._call["embed_backward"](B, T, C, *arrays, *_mask(mask, e, T * C), *grads)

    def add_norm(
        self,
        x_ExNxC: Tensor,
        added_ExNxC: Tensor | None,
        mask: Mask | None,
        weight_ExC: Tensor,
        bias_ExC: Tensor | None,
        n_rows: int,
    ) -> Normed:
        E, N, C = x_ExNxC.shape
        sum_ExNxC = x_ExNxC if added_ExNxC is None else torch.empty_like(x_ExNxC)
        out_ExNxC, statistics_2xExN = torch.empty(E, N, C, dtype=self.dtype), torch.empty(2, E, N)
        mean_ExN, rstd_ExN = statistics_2xExN
        for e in range(E):
            self._call["add_norm"](
                N, C, _at(x_ExNxC, e), _at(added_ExNxC, e), *_mask(mask, e, N // n_rows * C), _at(weight_ExC, e),
                _at(bias_ExC, e), _at(sum_ExNxC, e), _at(out_ExNxC, e), _at(mean_ExN, e), _at(rstd_ExN, e),
            )  # fmt: skip
        return Normed(sum_ExNxC, out_ExNxC, mean_ExN, rstd_ExN)

    def norm_backward(
        self,
        grad_ExNxC: Tensor,
        normed: Normed,
        weight_ExC: Tensor,
        stream_ExNxC: Tensor,
        grad_weight_ExC: Tensor,
        grad_bias_ExC: Tensor | None,
        mask: Mask | None,
        n_rows: int,
    ) -> Tensor:
        E, N, C = stream_ExNxC.shape
        dropped_ExNxC = torch.empty(E, N, C, dtype=self.dtype)
        for e in range(E):
            self._call["norm_backward"](
                N, C, _at(grad_ExNxC, e), _at(normed.x_ExNxC, e), _at(normed.mean_ExN, e), _at(normed.rstd_ExN, e),
                _at(weight_ExC, e), _at(stream_ExNxC, e), _at(grad_weight_ExC, e), _at(grad_bias_ExC, e),
                _at(dropped_ExNxC, e), *_mask(mask, e, N // n_rows * C),
            )  # fmt: skip
        return dropped_ExNxC

    def split_heads(self, joined_ExBxTxSHD: Tensor, n_parts: int, n_head: int) -> Tensor:
        E, B, T, width = joined_ExBxTxSHD.shape
        head_size = width // n_parts // n_head
        split_SxGxTxD = torch.empty(n_parts, E * B * n_head, T, head_size, dtype=self.dtype)
        arrays = joined_ExBxTxSHD.data_ptr(), split_SxGxTxD.data_ptr()
        self._call["split_heads"](E * B, T, n_parts, n_head, head_size, *arrays, False)
        return split_SxGxTxD

    def join_heads(self, split_SxGxTxD: Tensor, n_members: int, n_head: int) -> Tensor:
        S, G, T, D = split_SxGxTxD.shape
        joined_ExBxTxSHD = torch.empty(n_members, G // n_members // n_head, T, S * n_head * D, dtype=self.dtype)
        arrays = split_SxGxTxD.data_ptr(), joined_ExBxTxSHD.data_ptr()
        self._call["split_heads"](G // n_head, T, S, n_head, D, *arrays, True)
        return joined_ExBxTxSHD

    def softmax(self, scores_GxTxT: Tensor, scale: float, mask: Mask | None, n_rows: int) -> tuple[Tensor, Tensor]:
        G, T, _ = scores_GxTxT.shape
        probs_GxTxT = torch.empty_like(scores_GxTxT)
        dropped_GxTxT = probs_GxTxT if mask is None else torch.empty_like(scores_GxTxT)
        for e, part in enumerate(_parts(mask, G)):
            arrays = (tensor[part].data_ptr() for tensor in (scores_GxTxT, probs_GxTxT, dropped_GxTxT))
            scores, probs, dropped = arrays
            members_mask = _mask(mask, e, (part.stop - part.start) // n_rows * T * T)
            self._call["softmax"](part.stop - part.start, T, scores, scale, probs, dropped, *members_mask)
        return probs_GxTxT, dropped_GxTxT

    def softmax_backward(
        self, grad_GxTxT: Tensor, probs_GxTxT: Tensor, scale: float, mask: Mask | None, n_rows: int
    ) -> Tensor:
        G, T, _ = grad_GxTxT.shape
        for e, part in enumerate(_parts(mask, G)):
            grad, probs = grad_GxTxT[part].data_ptr(), probs_GxTxT[part].data_ptr()
            members_mask = _mask(mask, e, (part.stop - part.start) // n_rows * T * T)
            self._call["softmax_backward"](part.stop - part.start, T, grad, probs, scale, *members_mask)
        return grad_GxTxT

    def gelu(self, x_ExNxF: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
        out_ExNxF, address = torch.empty_like(x_ExNxF), x_ExNxF.data_ptr()
        self._call["gelu"](x_ExNxF.numel(), address, out_ExNxF.data_ptr(), address if keep else None)
        return out_ExNxF, x_ExNxF

    def gelu_backward(self, grad_ExNxF: Tensor, kept_ExNxF: Tensor) -> Tensor:
        self._call["multiply"](kept_ExNxF.numel(), kept_ExNxF.data_ptr(), grad_ExNxF.data_ptr())
        return grad_ExNxF

    def cross_entropy(
        self, logits_ExNxW: Tensor, targets_ExN: Tensor, vocab_size: int, scale_E: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        E, N, W = logits_ExNxW.shape
        targets_ExN = targets_ExN.contiguous()
        call = self._call["cross_entropy"]
        losses = [call(N, W, vocab_size, _at(logits_ExNxW, e), _at(targets_ExN, e), _at(scale_E, e)) for e in range(E)]
        return torch.tensor(losses), logits_ExNxW

    def adamw(self, update: Update) -> None:
        if update.skipped.item():
            return
        update.counts_2.add_(1)
        ends = [len(update.low_M), update.decay_end, len(update.flat_P)]
        tensors = (update.flat_P, update.exp_avg_P, update.exp_avg_sq_P, update.grad_P)
        numbers = update.divisor.item(), update.lr.item(), update.beta1, update.beta2, ADAM_EPS
        for first, last in zip([0, *ends[:-1]], ends, strict=True):
            arrays = [tensor[first:last].data_ptr() for tensor in tensors]
            shadow = update.low_M.data_ptr() if first < len(update.low_M) else None
            decay = update.weight_decay if first < update.decay_end else 0.0
            self._call["adamw"](last - first, *arrays, shadow, *numbers, decay, update.counts_2[0].item())


def _parts(mask: Mask | None, length: int) -> list[slice]:
    """A slice for each member of a mask, or one for all."""
    n = 1 if mask is None else len(mask.limit_E)
    return [slice(e * length // n, (e + 1) * length // n) for e in range(n)]
