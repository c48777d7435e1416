"""Optimizers against other programs', and what every one must do: train, stack, and go on to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from isoloss.data.token_files import Tokens
from isoloss.errors import ConfigError
from isoloss.model.functions import Kernels
from isoloss.model.native import Native
from isoloss.model.parameters import Parameters, init_flat, layout_of
from isoloss.study.config import RunConfig, make_config
from isoloss.study.identity import run_id
from isoloss.study.parts import OPTIMIZERS, function_of
from isoloss.training import checkpoint
from isoloss.training.optimizers import muon
from isoloss.training.optimizers.muon import orthogonalised
from isoloss.training.optimizers.update import Update
from tests.recording import recorded

Make = Callable[..., RunConfig]
SHAPE: dict[str, Any] = {"n_embd": 32, "n_head": 4, "n_layer": 2}
N_STEPS = 5


def stepped(members: list[RunConfig], native: bool, skipped: bool = False) -> tuple[Tensor, Tensor]:
    """Weights of some members after steps on the same random gradients, and those gradients, [N, E, P]."""
    layout, E = layout_of(members[0]), len(members)
    flat_ExP = torch.stack([init_flat(config) for config in members])
    grads_NxExP = torch.randn(N_STEPS, E, layout.size, generator=torch.Generator().manual_seed(3)) * 0.1
    kernels = Kernels(torch.float32, Native(torch.float32) if native else None)
    parameters = Parameters(layout, flat_ExP, kernels)
    moments = {name: torch.zeros_like(flat_ExP) for name in OPTIMIZERS[members[0].optimizer].moments}
    counts_Ex2, lr_E = torch.zeros(E, 2), torch.tensor([config.learning_rate for config in members])
    for grad_ExP in grads_NxExP:
        decay_E = torch.tensor([config.weight_decay for config in members])
        factors = counts_Ex2, lr_E, torch.full((E,), 2.0), torch.full((E,), float(skipped)), decay_E
        function_of(OPTIMIZERS[members[0].optimizer].step)(Update(members, parameters, grad_ExP * 2, moments, *factors))
    return flat_ExP, grads_NxExP


def by_oracle(config: RunConfig, grads_NxP: Tensor, names: Mapping[str, list[str]]) -> dict[str, Tensor]:
    """The weights after the same steps by other programs' optimizers, each on the parameters of these names."""
    layout = layout_of(config)
    weights = {name: w.clone().requires_grad_() for name, w in layout.split(init_flat(config)).items()}
    optimizers = [_oracle(kind, config, [weights[name] for name in its]) for kind, its in names.items()]
    for grad_P in grads_NxP:
        for name, grad in layout.split(grad_P).items():
            weights[name].grad = grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def _oracle(kind: str, config: RunConfig, weights: list[Tensor]) -> torch.optim.Optimizer:
    from pytorch_optimizer import Lion  # slow to import, and needed here alone

    groups = [
        {"params": [w for w in weights if w.dim() == 2], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    betas = config.beta1, config.beta2
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas)
    if kind == "lion":
        return cast("torch.optim.Optimizer", Lion(groups, lr=config.learning_rate, betas=betas, weight_decouple=True))
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.beta1)
    assert kind == "muon" and config.muon_learning_rate is not None
    return torch.optim.Muon(weights, lr=config.muon_learning_rate, weight_decay=config.weight_decay)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "lion", "sgd"])
def test_steps_are_those_of_other_programs(make: Make, optimizer: str, native: bool) -> None:
    rates = ((1e-2, 0.3), (1e-3, 0.0))
    members = [
        make(**SHAPE, optimizer=optimizer, learning_rate=r, weight_decay=d, seed=i) for i, (r, d) in enumerate(rates)
    ]
    flat_ExP, grads_NxExP = stepped(members, native)
    for e, config in enumerate(members):
        expected = by_oracle(config, grads_NxExP[:, e], {optimizer: [slot.name for slot in layout_of(config).slots]})
        for name, weight in layout_of(config).split(flat_ExP[e]).items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_muon_is_torchs_for_matrices_and_adamw_for_the_rest(make: Make) -> None:
    members = [
        make(**SHAPE, optimizer="muon", muon_learning_rate=rate, weight_decay=0.3, seed=2) for rate in (0.02, 0.05)
    ]
    flat_ExP, grads_NxExP = stepped(members, native=False)
    for e, config in enumerate(members):
        layout = layout_of(config)
        matrices = [slot.name for slot in layout.slots if slot.stop <= layout.matrix_end]
        others = [slot.name for slot in layout.slots if slot.stop > layout.matrix_end]
        expected = by_oracle(config, grads_NxExP[:, e], {"muon": matrices, "adamw": others})
        for name, weight in layout.split(flat_ExP[e]).items():
            if not name.endswith("c_attn.weight"):  # which has its own three parts
                torch.testing.assert_close(weight, expected[name], rtol=1e-2, atol=2e-3, msg=name)


def test_queries_keys_and_values_are_orthogonalised_each_by_itself(make: Make) -> None:
    config = make(**SHAPE, optimizer="muon", n_kv_head=2)
    flat_ExP, grads_NxExP = stepped([config], native=False)
    layout, name = layout_of(config), "h.0.attn.c_attn.weight"
    parts = [w.clone().requires_grad_() for w in layout.split(init_flat(config))[name].split((32, 16, 16))]
    optimizer = _oracle("muon", config, parts)
    for grad_P in grads_NxExP[:, 0]:
        for part, grad in zip(parts, layout.split(grad_P)[name].split((32, 16, 16)), strict=True):
            part.grad = grad.clone()
        optimizer.step()
    torch.testing.assert_close(layout.split(flat_ExP[0])[name], torch.cat(parts).detach(), rtol=1e-2, atol=2e-3)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    draw = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 64), (2, 64, 16), (4, 32, 32)):
        singular = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=draw)).float())
        assert 0.6 < singular.median() < 1.3 and singular.max() < 1.4


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("native", [False, True])
def test_a_member_whose_gradient_is_not_finite_stays(make: Make, optimizer: str, native: bool) -> None:
    config = make(**SHAPE, optimizer=optimizer)
    assert torch.equal(stepped([config], native, skipped=True)[0][0], init_flat(config))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_training_learns_stacks_and_resumes_to_the_bit(
    make: Make, tokens: Tokens, tmp_path: Any, optimizer: str, compiled: bool
) -> None:
    rate = {"sgd": 0.5, "lion": 1e-3}.get(optimizer, 1e-3)
    shape = {"max_iters": 40, "optimizer": optimizer, "learning_rate": rate, "precision": "bf16", "eval_interval": 20}
    members = [make(**shape, seed=seed, n_head=heads, dropout=0.1) for seed, heads in ((1, 2), (2, 4))]
    whole = recorded(members, tokens, compiled=compiled)
    for config, recording in zip(members, whole, strict=True):
        assert recording.evals[-1].val_loss is not None and recording.evals[0].val_loss is not None
        assert recording.evals[-1].val_loss < recording.evals[0].val_loss - 0.1
        [alone] = recorded([config], tokens, compiled=compiled)
        losses = [[row.loss for row in each.steps] for each in (alone, recording)]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    halves = recorded(members, tokens, stop_at=20, compiled=compiled)
    for recording in halves:
        checkpoint.save(tmp_path, run_id(recording.kept[-1].config), recording.kept[-1])
    states = [checkpoint.load(tmp_path, run_id(config)) for config in members]
    rest = recorded(members, tokens, states, compiled=compiled)
    for first, second, both in zip(halves, rest, whole, strict=True):
        joined = [(row.loss, row.grad_norm) for row in (*first.steps, *second.steps)]
        assert joined == [(row.loss, row.grad_norm) for row in both.steps]
        assert torch.equal(second.kept[-1].flat_P, both.kept[-1].flat_P)


def test_muons_matrices_decay_alike_in_every_parametrization(make: Make) -> None:
    scaled = {"base_n_embd": 4, "base_n_layer": 1, "optimizer": "muon", "weight_decay": 0.5, "muon_learning_rate": 0.1}
    for parametrization in ("standard", "mup", "completep"):
        config = make(**SHAPE, **scaled, parametrization=parametrization)
        flat_ExP = torch.ones(1, layout_of(config).size)
        moments = {name: torch.zeros_like(flat_ExP) for name in OPTIMIZERS["muon"].moments}
        parameters = Parameters(layout_of(config), flat_ExP, Kernels(torch.float32))
        rates = torch.tensor([config.learning_rate]), torch.tensor([config.weight_decay])
        factors = torch.zeros(1, 2), rates[0], torch.ones(1), torch.zeros(1), rates[1]
        muon.step(Update([config], parameters, torch.zeros_like(flat_ExP), moments, *factors))
        assert flat_ExP[0, 0].item() == pytest.approx(1 - 0.1 * 0.5), parametrization


def test_settings_that_are_not_stated_are_the_optimizers_own(make: Make) -> None:
    facts = {"corpus": "x", "corpus_sha256": "y", "vocab_size": 65}
    assert make_config({**facts, "optimizer": "lion"}).learning_rate == 1e-4
    assert make_config({**facts, "optimizer": "lion", "learning_rate": 3e-4}).learning_rate == 3e-4
    muon = make_config({**facts, "optimizer": "muon"})
    assert (muon.muon_learning_rate, muon.learning_rate) == (0.02, 1e-3)
    assert run_id(muon) == run_id(make_config({**facts, "optimizer": "muon", "muon_learning_rate": 0.02}))
    assert run_id(make(muon_learning_rate=0.05)) == run_id(make()), "nothing reads it"
    assert run_id(make(optimizer="sgd", beta2=0.5)) == run_id(make(optimizer="sgd"))
    with pytest.raises(ConfigError, match="optimizer='adam': did you mean 'adamw'"):
        make(optimizer="adam")
