"""Loss by position in the context: measured at a run's end, kept with its rows, and shown by the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats

from isoloss.analysis.positions import position_losses
from isoloss.cli.outcome import outcome
from isoloss.data.batches import exact_eval_starts, sliding_starts
from isoloss.data.token_files import Tokens
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.model import gpt
from isoloss.report.chapters.positions import positions_chapter
from isoloss.report.findings import find
from isoloss.report.snapshot import take_snapshot
from isoloss.report.study_report import Report, study_chapters
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.config import RunConfig
from isoloss.study.study import Study
from isoloss.trackers.runs import RecordedRun
from isoloss.training.backend import kernels_for
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, evaluate
from isoloss.training.state import initial_state, stack
from tests.recording import recorded

Make = Callable[..., RunConfig]
CPU = torch.device("cpu")
TINY: dict[str, Any] = {"n_layer": 1, "n_embd": 8, "n_head": 1, "batch_size": 2, "max_iters": 4, "eval_interval": 2}
TINY |= {"eval_train_tokens": 64, "eval_val_tokens": 512, "warmup_iters": 1, "precision": "fp32"}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("evaluated", [{}, {"eval": "sliding", "eval_stride": 4}])
def test_losses_by_position_are_means_over_the_windows(
    make: Make, tokens: Tokens, evaluated: dict[str, object], compiled: bool
) -> None:
    """Of two runs in a stack, against each target by itself; block_size 12 has a last bin of four positions."""
    configs = [make(block_size=12, eval_val_tokens=480, seed=seed, **evaluated) for seed in (1, 2)]
    noise = torch.Generator().manual_seed(0)
    states = [initial_state(config) for config in configs]
    states = [replace(s, flat_P=s.flat_P + 0.3 * torch.randn(len(s.flat_P), generator=noise)) for s in states]
    stacked = stack(states, CPU, kernels_for(torch.float32, CPU, compiled=compiled))
    texts = DeviceTokens(tokens, CPU)
    found, plain = evaluate(stacked, texts, Ranks(), by_position=True), evaluate(stacked, texts, Ranks())
    assert found is not None and plain is not None
    assert [replace(each, val_loss_by_position=None) for each in found] == plain, "the other losses are the same bits"
    scored = exact_eval_starts(tokens.layouts[1], configs[0].eval_scored, 480)
    for state, each in zip(states, found, strict=True):
        alone, at_positions = stack([state], CPU), np.zeros(12)
        for start in sliding_starts(scored, configs[0].eval_scored, 12, tokens.layouts[1]):
            block = torch.from_numpy(tokens.val_N[start : start + 13].astype(np.int64))
            logits = gpt.logits(alone.parameters, alone.members, block[None, None, :-1])[0, 0].detach()
            log_probs = torch.log_softmax(logits, 1)
            at_positions -= log_probs[torch.arange(12), block[1:]].numpy() / len(scored)
        bins = {"1": [0], "2": [1], "4": [2, 3], "8": [4, 5, 6, 7], "12": [8, 9, 10, 11]}
        by_hand = {last: at_positions[places].mean() for last, places in bins.items()}
        assert each.val_loss_by_position == pytest.approx(by_hand, rel=1e-5)
        if not evaluated:
            assert np.mean(at_positions) == pytest.approx(each.val_loss, rel=1e-5)


def test_only_the_last_evaluation_of_a_run_has_them(make: Make, tokens: Tokens) -> None:
    short, long = recorded([make(max_iters=10), make(max_iters=20)], tokens)
    assert [row.val_loss_by_position is None for row in short.evals] == [True, False]
    assert [row.val_loss_by_position is None for row in long.evals] == [True, True, False]


@pytest.fixture(scope="module")
def trained(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    base = {**TINY, "eval": "sliding", "eval_stride": 4}
    study = Study("contexts", str(text_file), base=base, factors={"block_size": (4, 8)}, seeds=(1, 2))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ISOLOSS_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("contexts") / "out"
        return run_study(study, folder, RunOptions("cpu", compile="off"), executor=Inline())


def test_the_report_reads_what_the_last_row_of_each_run_has(trained: StudyResults) -> None:
    positions = trained.thinned_curves().positions
    for run, config in trained.configs_by_id.items():
        rows = [json.loads(line) for line in trained.paths.run(run).evals.read_text().splitlines()]
        assert ["val_loss_by_position" in row for row in rows] == [False, False, True]
        of_run = positions.filter(run_id=run)
        by_last = of_run.select(pl.col("last").cast(pl.String), "loss")
        assert dict(by_last.iter_rows()) == rows[-1]["val_loss_by_position"]
        firsts = {4: [1, 2, 3], 8: [1, 2, 3, 5]}[config.block_size]
        assert of_run["first"].to_list() == firsts and of_run["last"][-1] == config.block_size
    first, *_ = trained.configs_by_id
    for run in trained.configs_by_id:
        trained.paths.run(run).curves.unlink()  # a reader then takes the rows
    assert load_study(trained.paths.folder).thinned_curves().positions.equals(positions)
    assert trained.evals(first).columns[-1] == "ema_val_bpb"


def test_a_tracker_is_given_what_has_one_value_at_its_step(trained: StudyResults) -> None:
    run, config = next(iter(trained.configs_by_id.items()))
    status = trained.status(run)
    read = RecordedRun(trained.study, "abcdef", config, trained.paths.run(run), status, status.rows).read()
    names = {name for row in read[1] for name in row.values}
    assert "eval/val_loss" in names and "eval/val_loss_by_position" not in names


def test_the_report_has_a_chapter_with_a_line_for_each_block_size(trained: StudyResults) -> None:
    snapshot = take_snapshot(trained)
    found = find(snapshot)
    assert found.positions is not None
    [chapter] = [each for each in study_chapters(snapshot, found) if each.id == "positions"]
    told = "With block_size 8, the loss after 5 to 8 tokens of context minus that after 3 to 4, as many as the shortest"
    assert (
        chapter.answer[1].startswith(f"{told} block shows, is ")
        and "] nats (2 runs); both are means" in chapter.answer[1]
    )
    equal = replace(found.positions, factor=None)
    assert len(positions_chapter(equal, snapshot).answer) == 1  # a difference between bins alone says nothing
    [figure] = chapter.figures
    for width in (648, 317):
        spec = figure.spec(width)
        rules, lines, points = spec["layer"]
        assert [layer["mark"]["type"] for layer in (rules, lines, points)] == ["rule", "line", "point"]
        for layer in (lines, points):
            assert layer["encoding"]["x"]["field"] == "position" and layer["encoding"]["y"]["field"] == "loss"
            assert layer["encoding"]["color"]["field"] == "level"
        assert (rules["encoding"]["y"]["field"], rules["encoding"]["y2"]["field"]) == ("low", "high")
        assert lines["encoding"]["x"]["axis"]["values"] == [1, 2, 4, 8]
    assert figure.frame["level"].unique(maintain_order=True).to_list() == ["4", "8"]
    assert figure.frame["position"].to_list() == pytest.approx([1, 2, 12**0.5, 1, 2, 12**0.5, 40**0.5])
    assert "95% t intervals over runs" in figure.subtitle and "n = 4 runs" in figure.subtitle
    assert "each block_size, by how many" in figure.subtitle and "no losses by position" not in chapter.details[0]
    [longest] = {run for run, config in trained.configs_by_id.items() if config.block_size == 8 and config.seed == 2}
    told_by = snapshot.curves.positions.filter(pl.col("run_id") != longest)
    partly = take_snapshot(trained)
    vars(partly)["curves"] = replace(snapshot.curves, positions=told_by)
    some = positions_chapter(found.positions, partly)
    assert some.details[0].startswith("1 of 4 runs have no losses by position: ")
    assert "each block_size of the runs that record it" in some.figures[0].subtitle
    told = outcome(trained, Report(trained.paths.report, [], found.positions))["loss_by_position"]
    assert json.loads(json.dumps(told))["lines"][1]["bins"][-1]["last"] == 8


def runs_and_positions() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Widths by blocks by three seeds; width 32 is the better one, and block 8 has a bin more."""
    runs = [
        {"run_id": f"{width}-{block}-{seed}", "configuration": f"n_embd {width} · block_size {block}", "n_embd": width,
         "block_size": block, "final_val_loss": 2 - width / 100 - block / 1000 + seed / 1e4}
        for width in (16, 32) for block in (4, 8) for seed in (1, 2, 3)
    ]  # fmt: skip
    ends = {4: [(1, 1), (2, 2), (3, 4)], 8: [(1, 1), (2, 2), (3, 4), (5, 8)]}
    positions = [
        {"run_id": run["run_id"], "first": first, "last": last,
         "loss": float(run["final_val_loss"]) + 1 / last + int(str(run["run_id"])[-1]) ** 2 / 1000 * (last == 8)}
        for run in runs for first, last in ends[int(str(run["block_size"]))]
    ]  # fmt: skip
    return pl.DataFrame(runs), pl.DataFrame(positions)


def test_lines_are_the_best_configuration_at_each_block_size() -> None:
    runs, positions = runs_and_positions()
    found = position_losses(positions, runs, ["n_embd", "block_size"])
    assert found is not None and found.factor == "block_size" and [line.level for line in found.lines] == ["4", "8"]
    assert [line.configuration for line in found.lines] == ["n_embd 32 · block_size 4", "n_embd 32 · block_size 8"]
    losses = [1.6 - 0.008 + 0.0080 + seed / 1e4 + 1 / 2 + 0.072 for seed in (1, 2, 3)]
    second = found.lines[1].bins[1]
    expected = stats.ttest_1samp(losses, 0).confidence_interval()
    assert (second.loss.low, second.loss.value, second.loss.high) == pytest.approx(
        (expected.low, np.mean(losses), expected.high)
    )
    difference = found.difference
    assert difference is not None and (difference.earlier.last, difference.later.last) == (4, 8)
    paired = [1 / 8 - 1 / 4 + seed**2 / 1000 for seed in (1, 2, 3)]
    assert difference.difference.value == pytest.approx(np.mean(paired))
    assert difference.difference.low == pytest.approx(stats.ttest_1samp(paired, 0).confidence_interval().low)


def test_without_block_sizes_the_first_factor_has_the_lines() -> None:
    runs, positions = runs_and_positions()
    found = position_losses(positions, runs.filter(block_size=8), ["n_embd"])
    assert found is not None and found.factor == "n_embd" and [line.level for line in found.lines] == ["16", "32"]
    alone = position_losses(positions, runs.filter(block_size=8, n_embd=16), [])
    assert alone is not None and alone.factor is None and [len(line.bins) for line in alone.lines] == [4]
    assert alone.difference is not None and alone.difference.earlier.last == 4


def test_runs_of_earlier_versions_have_no_chapter(trained: StudyResults) -> None:
    runs, positions = runs_and_positions()
    assert position_losses(positions.clear(), runs, ["block_size"]) is None
    snapshot = take_snapshot(trained)
    none = replace(find(snapshot), positions=None)
    assert "positions" not in [chapter.id for chapter in study_chapters(snapshot, none)]
    single = position_losses(positions, runs.filter(pl.col("run_id").str.ends_with("1")), ["block_size"])
    assert single is not None
    assert "no intervals, of single runs" in positions_chapter(single, snapshot).figures[0].subtitle
