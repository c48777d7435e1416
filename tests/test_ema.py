"""Moving averages of the weights: against one computed outside, resumed, stacked, shared and reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from isoloss.data.token_files import Tokens
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.model.functions import Kernels
from isoloss.report.chapters.runs import runs_chapter
from isoloss.report.payload import payload
from isoloss.report.snapshot import take_snapshot
from isoloss.store.run import read_rows
from isoloss.study.compute import checkpoint_bytes, training_memory_bytes, weights_bytes
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.training import checkpoint
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, evaluate
from isoloss.training.state import MemberState, initial_state, stack
from isoloss.training.step import Stepper
from tests.recording import recorded
from tests.test_explore import unpacked
from tests.test_trunks import TINY

Make = Callable[..., RunConfig]
OPTIONS = RunOptions(device="cpu", precision="fp32", compile="off")


def averaged_outside(weights: Sequence[Tensor], decay: float) -> Tensor:
    """The average of weights before and after each update, in doubles."""
    average_P = weights[0].double()
    for t, flat_P in enumerate(weights[1:], start=1):
        kept = min(decay, (1 + t) / (10 + t))
        average_P = kept * average_P + (1 - kept) * flat_P.double()
    return average_P


def average_of(state: MemberState) -> Tensor:
    assert state.average_P is not None
    return state.average_P


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_averages_are_those_computed_outside(make: Make, tokens: Tokens, optimizer: str) -> None:
    decays = (0.5, 0.0, 0.9999)
    members = [make(ema=decay, seed=i, max_iters=30, optimizer=optimizer) for i, decay in enumerate(decays)]
    stacked = stack([initial_state(config) for config in members], torch.device("cpu"))
    stepper = Stepper(stacked, DeviceTokens(tokens, stacked.device).train_N, Ranks())
    weights = [stacked.parameters.flat_ExP.clone()]
    for _ in range(30):
        stepper.take(1)
        weights.append(stacked.parameters.flat_ExP.clone())
    assert stacked.averages_AxP.shape[0] == 2 and stacked.member(1).average_P is None
    for e in (0, 2):
        expected_P = averaged_outside([flat_ExP[e] for flat_ExP in weights], decays[e])
        torch.testing.assert_close(average_of(stacked.member(e)).double(), expected_P, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(average_of(stacked.member(e)), weights[-1][e], rtol=1e-3)


def test_an_update_that_is_skipped_is_not_averaged(make: Make, tokens: Tokens) -> None:
    stacked = stack([initial_state(make(ema=0.9))], torch.device("cpu"))
    stepper = Stepper(stacked, DeviceTokens(tokens, stacked.device).train_N, Ranks())
    stepper.take(2)
    before_P = average_of(stacked.member(0)).clone()
    stacked.loss_scale_E.fill_(float("inf"))  # as where fp16 overflows
    stepper.take(1)
    assert torch.equal(average_of(stacked.member(0)), before_P)


@pytest.mark.parametrize("compiled", [False, True])
def test_averages_resume_stack_and_leave_to_the_bit(make: Make, tokens: Tokens, tmp_path: Path, compiled: bool) -> None:
    settings: list[dict[str, Any]] = [{"ema": 0.9}, {"ema": 0.0}, {"ema": 0.99, "max_iters": 40, "n_head": 4}]
    members = [make(precision="bf16", dropout=0.1, seed=i, **each) for i, each in enumerate(settings)]
    whole = recorded(members, tokens, compiled=compiled)
    halves = recorded(members, tokens, stop_at=13, compiled=compiled)
    for recording in halves:
        checkpoint.save(tmp_path, run_id(recording.kept[-1].config), recording.kept[-1])
    states = [checkpoint.load(tmp_path, run_id(config)) for config in members]
    rest = recorded(members, tokens, states, compiled=compiled)
    for config, first, second, both in zip(members, halves, rest, whole, strict=True):
        assert [*map(of_averages, (*first.evals, *second.evals))] == [*map(of_averages, both.evals)]
        [alone] = recorded([config], tokens, compiled=compiled)
        if config.ema:
            assert torch.equal(average_of(second.kept[-1]), average_of(both.kept[-1]))
            assert torch.equal(average_of(alone.kept[-1]), average_of(both.kept[-1]))
            assert [*map(of_averages, alone.evals)] == [*map(of_averages, both.evals)]
        else:
            assert both.kept[-1].average_P is None and of_averages(both.evals[-1]) == (20, None, None)


def of_averages(row: Any) -> tuple[Any, ...]:
    return row.step, row.ema_train_loss, row.ema_val_loss


def test_weights_are_trained_as_without_and_averages_evaluated_as_weights(make: Make, tokens: Tokens) -> None:
    [plain], [averaged] = recorded([make()], tokens), recorded([make(ema=0.9)], tokens)
    assert [row.loss for row in plain.steps] == [row.loss for row in averaged.steps]
    assert [row.val_loss for row in plain.evals] == [row.val_loss for row in averaged.evals]
    first, last = averaged.evals[0], averaged.evals[-1]
    assert (first.ema_train_loss, first.ema_val_loss, first.ema_val_bpb) == (
        first.train_loss,
        first.val_loss,
        first.val_bpb,
    )
    state = averaged.kept[-1]
    as_weights = MemberState(state.config, state.progress, average_of(state), state.moments, state.average_P)
    stacked = stack([as_weights], torch.device("cpu"), Kernels(torch.float32))
    [losses] = evaluate(stacked, DeviceTokens(tokens, stacked.device), Ranks()) or []
    assert (losses.train_loss, losses.val_loss, losses.val_bpb) == (
        last.ema_train_loss,
        last.ema_val_loss,
        last.ema_val_bpb,
    )
    assert last.ema_val_loss != last.val_loss


def test_averages_are_columns_of_the_summary_that_runs_without_leave_empty(text_file: Path, tmp_path: Path) -> None:
    study = Study(
        "averages",
        str(text_file),
        base={**TINY, "eval_interval": 5, "max_iters": 10},
        factors={"ema": (0, 0.9)},
        seeds=(1,),
    )
    results = run_study(study, tmp_path, OPTIONS, executor=Inline())
    for config, row in zip(results.configs, results.summary().iter_rows(named=True), strict=True):
        rows = [*read_rows(results.paths.run(run_id(config)).evals)]
        assert all(("ema_val_loss" in each, "ema_train_loss" in each) == (config.ema > 0,) * 2 for each in rows)
        losses = [each.get("ema_val_loss") for each in rows]
        assert row["final_ema_val_loss"] == losses[-1]
        bits = [each.get("ema_val_bpb") for each in rows]
        assert row["final_ema_val_bpb"] == bits[-1] and (row["best_ema_val_bpb"] is not None) == (config.ema > 0)
        assert row["best_ema_val_loss"] == min((loss for loss in losses if loss is not None), default=None)
    assert ",best_ema_val_loss,final_ema_val_loss," in results.paths.summary("csv").read_text()
    snapshot = take_snapshot(results)
    [_, table] = tables = runs_chapter(snapshot).tables
    assert "best_ema_val_loss" in [column.name for column in table.columns]
    drawn = unpacked(payload(snapshot, *tables))["curves"]["evals"]
    for run, curve in zip(table.frame["run_id"], drawn["ema_val_loss"], strict=True):
        losses = results.evals(run)["ema_val_loss"].fill_null(np.nan).to_list()
        assert curve == pytest.approx(losses, rel=2e-5, nan_ok=True)


def test_names_memory_and_disk_count_an_average_where_there_is_one(make: Make) -> None:
    plain, averaged = make(), make(ema=0.9)
    assert run_id(plain) == run_id(make(ema=0)) != run_id(averaged) != run_id(make(ema=0.99))
    assert checkpoint_bytes(averaged) - checkpoint_bytes(plain) == weights_bytes(plain)
    assert training_memory_bytes(averaged) - training_memory_bytes(plain) == weights_bytes(plain)
    state = initial_state(plain)
    assert state.average_P is None and stack([state], torch.device("cpu")).averages_AxP.numel() == 0
