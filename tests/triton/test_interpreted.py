"""The Triton kernels under its interpreter, on a CPU, against torch's operations: losses, gradients and updates.

The interpreter multiplies bit patterns of bfloat16 in products of matrices, so that fp32 and fp16 stand for it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed; make triton-check runs this where it is")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is chosen before Triton is imported: TRITON_INTERPRET=1", allow_module_level=True)

from isoloss.model import gpt, triton_attention
from isoloss.model.dropout import Dropout, Mask
from isoloss.model.functions import Kernels
from isoloss.model.parameters import Gradients, Parameters, init_flat, layout_of
from isoloss.model.triton_operations import AddNorm
from isoloss.study.config import RunConfig, make_config
from isoloss.study.parts import OPTIMIZERS, function_of
from isoloss.training.optimizers.update import Update

SHAPE: dict[str, Any] = {"corpus": "", "corpus_sha256": "", "vocab_size": 65, "n_layer": 1, "n_embd": 24}
SHAPE |= {"block_size": 20, "batch_size": 2}
SCALED = {"parametrization": "completep", "base_n_embd": 8, "base_n_layer": 1}
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


def members(settings: dict[str, Any]) -> list[RunConfig]:
    """Two that differ in heads, dropout, rate and decay."""
    own = ({"n_head": 2, "dropout": 0.2, "weight_decay": 0.3}, {"n_head": 4, "learning_rate": 2e-3})
    return [make_config({**SHAPE, **settings, "seed": seed, **each}) for seed, each in enumerate(own)]


def weights(configs: list[RunConfig]) -> Tensor:
    flat_ExP = torch.stack([init_flat(config) for config in configs])
    return flat_ExP + 0.05 * torch.randn(flat_ExP.shape, generator=torch.Generator().manual_seed(5))


def passed(settings: dict[str, Any], kernels: Kernels) -> tuple[Tensor, Tensor, Tensor]:
    """Losses under dropout, gradients, and losses of an evaluation."""
    configs = members(settings)
    parameters = Parameters(layout_of(configs[0]), weights(configs), kernels)
    gradients, dropout = Gradients(parameters), Dropout(configs, CPU)
    masks = dropout.masks(dropout.keys(torch.arange(3))[2], first_row=4)
    blocks_ExBxT1 = torch.randint(0, 65, (2, 2, 21), generator=torch.Generator().manual_seed(3))
    loss_E = gpt.loss_and_gradients(parameters, configs, blocks_ExBxT1, masks, torch.tensor([1.0, 2.0]), gradients)
    gradients.collect(first=True)
    return loss_E, gradients.total_ExP, gpt.loss(parameters, configs, blocks_ExBxT1)


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.float32, {}),
        (torch.float32, {"bias": True, "window": 7}),
        (torch.float32, {"norm": "rmsnorm", "mlp": "swiglu", "position": "rope"}),
        (torch.float16, {}),
    ],
)
def test_losses_and_gradients_are_torchs(
    dtype: torch.dtype, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_attention, "MAX_BLOCK_T", 16)  # more than one block of queries
    tolerance = 2e-6 if dtype == torch.float32 else 2e-3
    both = passed(settings, Kernels(dtype)), passed(settings, Kernels(dtype, triton=True))
    for by_torch, fused in zip(*both, strict=True):
        assert (fused - by_torch).abs().max() <= tolerance * by_torch.abs().max()


def test_a_dropped_sum_has_torchs_bits() -> None:
    draw = torch.Generator().manual_seed(0)
    stream_ExNxC, branch_ExNxC = (torch.randn(2, 6, 24, generator=draw) for _ in range(2))
    configs = members({})
    mask = (Dropout(configs, CPU).masks(Dropout(configs, CPU).keys(torch.arange(1))[0], first_row=7) or [])[1]
    assert isinstance(mask, Mask)
    weight_ExC = torch.ones(2, 24)
    fused = AddNorm(torch.float32, weight_ExC, None, mask, 3, 1e-5, adds=True, centred=True)
    sum_ExNxC, _ = fused.forward(stream_ExNxC, branch_ExNxC)
    dropped_ExNxC = branch_ExNxC * mask.multipliers((3, 2, 24)).view(2, 6, 24)
    assert torch.equal(sum_ExNxC, stream_ExNxC + dropped_ExNxC) and (dropped_ExNxC[0] == 0).any()


@pytest.mark.parametrize(
    ("optimizer", "scaled"),
    [*((name, {}) for name in OPTIMIZERS), *((name, SCALED) for name in OPTIMIZERS if name != "sgd")],
)
def test_updates_are_torchs(optimizer: str, scaled: dict[str, Any]) -> None:
    configs = members({"optimizer": optimizer, "bias": True, **scaled})
    found: list[tuple[Tensor, ...]] = []
    for triton in (False, True):
        parameters = Parameters(layout_of(configs[0]), weights(configs), Kernels(torch.float16, triton=triton))
        moments = {name: torch.zeros_like(parameters.flat_ExP) for name in OPTIMIZERS[optimizer].moments}
        counts_Ex2, draw = torch.zeros(2, 2), torch.Generator().manual_seed(1)
        rates = (torch.tensor([getattr(c, name) for c in configs]) for name in ("learning_rate", "weight_decay"))
        lr_E, decay_E = rates
        for step in range(3):
            grad_ExP = torch.randn(parameters.flat_ExP.shape, generator=draw)
            skipped_E = torch.tensor([0.0, float(step == 1)])
            factors = counts_Ex2, lr_E, torch.tensor([2.0, 3.0]), skipped_E, decay_E
            function_of(OPTIMIZERS[optimizer].step)(Update(configs, parameters, grad_ExP, moments, *factors))
        assert torch.equal(parameters.low_ExM, parameters.flat_ExP[:, : parameters.low_ExM.shape[1]].half())
        found.append((parameters.flat_ExP, counts_Ex2, *moments.values()))
    assert found[0][1].tolist() == [[3.0, 3.0], [2.0, 2.0]]
    for by_torch, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, by_torch, rtol=3e-6, atol=3e-7)
