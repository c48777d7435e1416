"""Parts of the model: against a plain model, fused and not, counted, stacked, sampled and resumed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch

from isoloss.data.token_files import Tokens
from isoloss.errors import ConfigError
from isoloss.model import gpt
from isoloss.model.functions import Kernels
from isoloss.model.generate import Sampling, generate
from isoloss.model.interop import is_llama, to_gpt2, to_llama
from isoloss.model.parameters import Parameters, init_flat, layout_of
from isoloss.model.parts import ForwardPass
from isoloss.model.parts.attention import _attend
from isoloss.study import compute
from isoloss.study.config import RunConfig, make_config
from isoloss.study.identity import run_id
from isoloss.study.schedules import agreed_steps
from tests.covering import covering_array
from tests.recording import recorded
from tests.reference import ReferenceGPT, reference_losses
from tests.test_parity import TOLERANCE, batches, losses

Make = Callable[..., RunConfig]
PARTS = {
    "norm": ["layernorm", "rmsnorm"],
    "position": ["learned", "rope", "none"],
    "mlp": ["gelu", "relu2", "swiglu"],
    "n_kv_head": [None, 1, 2],
    "qk_norm": [False, True],
    "tie_embeddings": [True, False],
    "window": [None, 5],
    "bias": [False, True],
}
ROWS = covering_array(PARTS)
SHAPE: dict[str, Any] = {"n_embd": 32, "n_head": 4, "block_size": 16}


@pytest.mark.parametrize(
    ("values", "at_most"),
    [(PARTS, 20), ({"a": [1, 2, 3], "b": [1], "c": "xyz"}, 9), ({"a": [1, 2, 3], "b": [1, 2], "c": "xyz"}, 11)],
)
def test_every_two_values_of_different_settings_meet(values: dict[str, Any], at_most: int) -> None:
    rows = covering_array(values)
    for (a, of_a), (b, of_b) in combinations(values.items(), 2):
        assert {(row[a], row[b]) for row in rows} == set(product(of_a, of_b))
    assert len(rows) <= at_most


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(str(value) for value in row.values()))
def test_every_combination_of_parts_is_the_plain_model(
    make: Make, tokens: Tokens, row: dict[str, Any], compiled: bool
) -> None:
    config = make(**SHAPE, **row, max_iters=12)
    [recording] = recorded([config], tokens, compiled=compiled)
    assert losses(recording) == pytest.approx(reference_losses(config, batches(config, tokens)), rel=TOLERANCE)
    assert sum(prod(slot.shape) for slot in layout_of(config).slots) == compute.params_total(config)


@pytest.mark.parametrize("row", ROWS[::3], ids=lambda row: " ".join(str(value) for value in row.values()))
def test_members_of_a_stack_are_as_alone_with_dropout_too(make: Make, tokens: Tokens, row: dict[str, Any]) -> None:
    members = [make(**SHAPE, **row, seed=seed, dropout=rate, max_iters=8) for seed, rate in ((1, 0.2), (2, 0.0))]
    for config, together in zip(members, recorded(members, tokens, compiled=True), strict=True):
        [alone] = recorded([config], tokens)
        assert losses(together) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(str(value) for value in row.values()))
def test_sampling_with_kept_keys_reads_as_without(make: Make, row: dict[str, Any]) -> None:
    """The most likely tokens, within the block and beyond it, are those of the whole text read anew."""
    config = make(**SHAPE, **row)
    flat_P = init_flat(config) * 5
    parameters = Parameters(layout_of(config), flat_P[None], Kernels(torch.float32))
    greedy = Sampling(length=10, temperature=1e-6)
    prompt_N = np.array([1, 4, 2], dtype=np.uint16)
    text = [*prompt_N.tolist(), *generate(parameters, config, prompt_N, greedy)[0].tolist()]
    with torch.no_grad():
        logits_ExBxTxV = gpt.logits(parameters, [config], torch.tensor(text[:-1])[None, None])
    assert logits_ExBxTxV[0, 0, 2:].argmax(dim=1).tolist() == text[3:]


EVERYTHING = {
    **PARTS,
    "optimizer": ["adamw", "muon", "lion", "sgd"],
    "schedule": ["cosine", "linear", "constant", "wsd", "inverse_sqrt"],
    "parametrization": ["standard", "mup", "completep"],
    "dropout": [0.0, 0.2],
}
NO_RATES = [{"optimizer": "sgd", "parametrization": name} for name in ("mup", "completep")]
COMBINED = covering_array(EVERYTHING, *NO_RATES)


def test_every_two_values_that_can_meet_do() -> None:
    for a, b in combinations(EVERYTHING, 2):
        met = {(row[a], row[b]) for row in COMBINED}
        pairs = product(EVERYTHING[a], EVERYTHING[b])
        assert met == {pair for pair in pairs if dict(zip((a, b), pair, strict=True)) not in NO_RATES}
    assert len(COMBINED) < 40


@pytest.mark.parametrize("row", COMBINED, ids=lambda row: " ".join(str(value) for value in row.values()))
def test_every_combination_resumes_stacks_shares_samples_and_is_exported_or_refused(
    make: Make, tokens: Tokens, row: dict[str, Any]
) -> None:
    shape = {**SHAPE, **row, "base_n_embd": 16, "base_n_layer": 1, "warmup_iters": 2, "eval_interval": 4}
    members = [make(**shape, seed=seed, max_iters=8) for seed in (1, 2)]
    whole = recorded(members, tokens, compiled=True)
    halves = recorded(members, tokens, stop_at=4, compiled=True)
    rest = recorded(members, tokens, [half.kept[-1] for half in halves], compiled=True)
    for both, first, second in zip(whole, halves, rest, strict=True):
        assert losses(both) == losses(first) + losses(second)
        assert torch.equal(both.kept[-1].flat_P, second.kept[-1].flat_P)
    [alone] = recorded(members[:1], tokens, compiled=True)
    assert losses(alone) == pytest.approx(losses(whole[0]), rel=1e-4)

    longer = make(**shape, seed=1, max_iters=16)
    shared = agreed_steps(members[0], longer)
    [beginning] = recorded([longer], tokens, stop_at=shared, compiled=True)
    assert losses(beginning)[:shared] == losses(alone)[:shared]
    assert shared >= (8 if row["schedule"] in ("constant", "inverse_sqrt") else 3)

    state = whole[0].kept[-1]
    parameters = Parameters(layout_of(state.config), state.flat_P[None], Kernels(torch.float32))
    assert generate(parameters, state.config, np.array([1], dtype=np.uint16), Sampling(length=20)).shape == (1, 20)
    foreign = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False}
    llama = all(row[name] == value for name, value in foreign.items())
    gpt2 = (row["norm"], row["position"], row["mlp"], row["n_kv_head"]) == ("layernorm", "learned", "gelu", None)
    exported = not row["qk_norm"] and row["window"] is None and row["parametrization"] == "standard" and (llama or gpt2)
    named = layout_of(state.config).split(state.flat_P)
    if exported:
        assert (to_llama if llama else to_gpt2)(state.config, named)
    else:
        with pytest.raises(ConfigError, match=r"GPT-2 has no model with .*="):
            assert not is_llama(state.config)
            to_gpt2(state.config, named)


def test_counts_of_parts_by_hand(make: Make) -> None:
    built = make(n_layer=2, n_embd=48, n_head=4, block_size=16)
    assert (
        compute.params_total(built) - compute.params_total(make(**{**shape_of(built), "position": "rope"})) == 16 * 48
    )
    untied = make(**shape_of(built), tie_embeddings=False)
    assert compute.params_total(untied) - compute.params_total(built) == built.vocab_size * 48
    assert compute.flops_per_token(untied) == compute.flops_per_token(built)
    grouped = make(**shape_of(built), n_kv_head=1)
    assert compute.params_total(built) - compute.params_total(grouped) == 2 * 2 * 3 * 12 * 48
    swiglu = make(**shape_of(built), mlp="swiglu")
    assert compute.params_total(swiglu) == compute.params_total(built)  # 3 * 128 = 8 * 48
    windowed = make(**shape_of(built), window=4)
    assert compute.flops_per_token(built) - compute.flops_per_token(windowed) == 12 * 2 * 48 * 12


def shape_of(config: RunConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("n_layer", "n_embd", "n_head", "block_size")}


def test_a_part_at_its_default_is_no_part_of_a_runs_name(make: Make) -> None:
    plain = make(**SHAPE)
    assert run_id(plain) == run_id(make(**SHAPE, window=16)) == run_id(make(**SHAPE, n_kv_head=4))
    changed = [make(**SHAPE, **{name: values[-1]}) for name, values in PARTS.items()]
    assert len({run_id(plain), *map(run_id, changed)}) == len(changed) + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_head": 4, "n_kv_head": 3}, "n_head=4 is not divisible by n_kv_head=3"),
        ({"n_embd": 12, "n_head": 4, "position": "rope"}, "position=rope rotates pairs of channels, and n_embd=12"),
        ({"norm": "batchnorm"}, "norm='batchnorm': known: layernorm, rmsnorm"),
        ({"window": 0}, "window=0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make: Make, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**settings)


def test_the_plain_model_has_the_parameters_counted(make: Make) -> None:
    for row in ROWS:
        config = make_config({**dict(make(**SHAPE)), **row})
        assert sum(each.numel() for each in ReferenceGPT(config).parameters()) == compute.params_total(config)


def test_scores_in_fp16_are_scaled_before_they_overflow(make: Make) -> None:
    config = make(n_layer=1, n_embd=64, n_head=1, block_size=8, precision="fp16")
    flat_1xP = init_flat(config)[None]
    queries_and_keys = layout_of(config).split(flat_1xP[0])["h.0.attn.c_attn.weight"][: 2 * config.n_embd]
    queries_and_keys.mul_(16 / queries_and_keys.std())  # products reach some 4e5, 65,504 is the largest of fp16
    tokens_1x1xT = torch.arange(8)[None, None]
    half, single = (
        gpt.logits(Parameters(layout_of(config), flat_1xP, Kernels(dtype)), [config], tokens_1x1xT)
        for dtype in (torch.float16, torch.float32)
    )
    assert half.isfinite().all() and torch.allclose(half, single, atol=0.05)


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaling_in_two_factors_changes_no_bit(make: Make, dtype: torch.dtype, size: int) -> None:
    """Of outputs and gradients, where the scale is a power of two and where it is not."""
    run = ForwardPass([make()], {}, Kernels(dtype), torch.zeros(1, 2, 16))
    torch.manual_seed(0)
    leaves = [torch.randn(4, 16, size).to(dtype).requires_grad_() for _ in range(3)]
    q_GxTxD, k_GxTxD, v_GxTxD = leaves
    ahead_TxT = torch.full((16, 16), float("-inf")).triu(1)
    scores_GxTxT = torch.bmm(q_GxTxD, k_GxTxD.transpose(1, 2)) * size**-0.5 + ahead_TxT
    plain_GxTxD = torch.bmm(torch.softmax(scores_GxTxT, dim=-1, dtype=torch.float32).to(dtype), v_GxTxD)
    found_GxTxD = _attend(run, q_GxTxD, k_GxTxD, v_GxTxD, None, 2, size**-0.5)
    assert torch.equal(found_GxTxD, plain_GxTxD)
    weight_GxTxD = torch.randn(4, 16, size)
    expected, found = (
        torch.autograd.grad((y_GxTxD * weight_GxTxD).sum(), leaves) for y_GxTxD in (plain_GxTxD, found_GxTxD)
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
