"""Every Triton kernel compiled ahead of time for A100, H100 and B200, without a GPU: registers, and nothing spilled."""

# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from math import log
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed; make triton-check runs this where it is")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("under the interpreter nothing is compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

import triton
from isoloss.model import triton_attention, triton_kernels
from isoloss.model.functions import MAX_TRITON_ROW
from isoloss.model.parts.norm import MAX_TRITON_WIDTH
from isoloss.model.triton_operations import ELEMENTS, row_of

ARCHITECTURES = (80, 90, 100)
MAX_REGISTERS = 255
WARPS = 4
FP32 = {
    "stream",
    "total",
    "mean",
    "rstd",
    "weight",
    "bias",
    "grad_stream",
    "weight_parts",
    "bias_parts",
    "scale",
    "losses",
}
FP32 |= {
    "logs",
    "scale_of_mask",
    "flat",
    "first_moment",
    "second_moment",
    "lr",
    "decay",
    "divisor",
    "skipped",
    "counts",
}
LOW = {"branch", "out", "grad", "dropped", "logits", "x", "qkv", "grad_qkv", "low"}
INTEGERS = {"key", "limit"}
NUMBERS = {"eps", "matrix_rate", "matrix_decay", "beta1", "beta2"}


def cases() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, kernel, and constants, with num_warps where it is not WARPS: the fullest variants, of the usual widths."""
    norm = {"ADDS": True, "DROPS": True, "BIASED": True}
    for width in (128, 256, 512, 1024, MAX_TRITON_WIDTH):
        for centred in (True, False):
            block = {**norm, "CENTRED": centred, **row_of(width)}
            kind = "layer norm" if centred else "RMSNorm"
            yield f"residual, dropout, {kind}, {width} wide", triton_kernels.add_norm, block
            yield f"its backward pass, {kind}, {width} wide", triton_kernels.norm_backward, block
    for block in (128, 1024, MAX_TRITON_ROW):
        yield f"cross-entropy, {block} tokens", triton_kernels.cross_entropy, {"GRADIENT": True, **row_of(block)}
    for kernel in ("gelu", "gelu_backward", "swiglu", "swiglu_backward"):
        yield kernel, getattr(triton_kernels, kernel), {"BLOCK": ELEMENTS}
    for optimizer in ("adamw", "lion", "sgd"):
        logs = {"LOG_BETA1": log(0.9), "LOG_BETA2": log(0.99)}
        yield optimizer, triton_kernels.update, {**logs, "OPTIMIZER": optimizer, "LOW": True, "BLOCK": ELEMENTS}
    for channels in (16, 32, 64, 128):
        shape = {"DROPS": True, **triton_attention.blocks_of(1024, channels)}
        yield f"attention, {channels} channels", triton_attention.forward, shape
        for queries in (True, False):
            of = "queries" if queries else "keys and values"
            yield f"gradient of {of}, {channels} channels", triton_attention.backward, {**shape, "OF_QUERIES": queries}


def type_of(argument: str, kernel: Any) -> str:
    if argument == "grad" and kernel is triton_kernels.update:
        return "*fp32"
    if argument == "scale" and kernel in (triton_attention.forward, triton_attention.backward):
        return "fp32"
    for names, kind in ((FP32, "*fp32"), (LOW, "*bf16"), (INTEGERS, "*i32"), ({"targets"}, "*i64"), (NUMBERS, "fp32")):
        if argument in names:
            return kind
    return "i32"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "kernel", "constants"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_nothing_is_spilled(
    name: str, kernel: Any, constants: dict[str, Any], architecture: int, tmp_path: Path
) -> None:
    constants = dict(constants)
    warps = constants.pop("num_warps", WARPS)
    types = {each: "constexpr" if each in constants else type_of(each, kernel) for each in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, each in enumerate(types.values()) if each.startswith("*")}
    source = ASTSource(kernel, types, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
    (tmp_path / "kernel.ptx").write_text(compiled.asm["ptx"])
    suffix = "a" if architecture >= 90 else ""
    command = [get_ptxas(architecture).path, "-v", f"--gpu-name=sm_{architecture}{suffix}", tmp_path / "kernel.ptx"]
    done = subprocess.run([*command, "-o", tmp_path / "cubin"], capture_output=True, text=True, check=True)
    registers = int(re.findall(r"Used (\d+) registers", done.stderr)[0])
    spills = sum(map(int, re.findall(r"(\d+) bytes spill", done.stderr)))
    print(f"| {name} | sm_{architecture} | {registers} | {spills} |")
    assert registers <= MAX_REGISTERS and spills == 0
