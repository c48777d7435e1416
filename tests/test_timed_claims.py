"""Claims about times: runs that were trained together are one observation, and the order of programs matters."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.claim import Claim, Evidence
from isoloss.analysis.claims import judge
from isoloss.analysis.programs import one_row_a_program
from isoloss.execution.plan import plan_stacks
from isoloss.report.evidence import evidence
from isoloss.report.snapshot import take_snapshot
from isoloss.store.tables import StudyResults
from isoloss.study.hypotheses import TIMED
from isoloss.study.identity import run_id
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study
from tests.fake_studies import fake_study

FACTORS = {"n_head": (2, 4), "batch_size": (8, 16), "dropout": (0.0, 0.2)}
SLOWER = {"says": "Slower", "kind": "ratio", "factor": "n_head", "response": "median_step_time_s", "low": 1.0}
MORE = {"says": "More time", "kind": "effect", "factor": "n_head", "direction": "up", "response": "tokens_per_s"}


def timed(rng: np.random.Generator, *, ratio: float = 1.0, shuffled: bool = True, programs: int = 3) -> Evidence:
    """Programs of 8 runs (two dropouts, four seeds), `programs` a shape, whose times differ by 5% from each other."""
    rows: list[dict[str, Any]] = []
    for head, batch, program in itertools.product((2, 4), (8, 16), range(programs)):
        time = 0.1 * np.exp(rng.normal(0, 0.05)) * (ratio if head == 4 else 1.0) * batch / 8
        for dropout, seed in itertools.product((0.0, 0.2), range(4)):
            own = time * np.exp(rng.normal(0, 1e-4))
            rows.append(
                {"run_id": f"{len(rows):03}", "program": f"{head}-{batch}-{program}", "shuffled": shuffled,
                 "seed": 10 * program + seed, "device": "cpu", "n_head": head, "batch_size": batch,
                 "dropout": dropout, "median_step_time_s": own, "tokens_per_s": 512 / own}
            )  # fmt: skip
    return Evidence(pl.DataFrame(rows), FACTORS, lambda tolerance: pytest.fail(), lambda times: pytest.fail())


def claim(found: Evidence, stated: dict[str, Any]) -> Claim:
    (only,) = judge([make_hypothesis(stated, 1)], found)
    return only


def test_times_without_a_difference_are_seldom_claimed_to_have_one() -> None:
    rng = np.random.default_rng(0)
    false = sum(claim(timed(rng), stated).verdict != "not resolved" for _ in range(60) for stated in (SLOWER, MORE))
    assert false <= 12  # 4% are meant, the 99.9th percentile of 120 at 4% is 12


def test_a_difference_of_times_rests_on_programs() -> None:
    found = claim(timed(np.random.default_rng(1), ratio=1.5), {**SLOWER, "low": 1.1})
    assert found.verdict == "supported" and found.estimate and found.estimate.n == 12
    assert found.estimate.value == pytest.approx(1.5, rel=0.1)


def test_what_was_trained_together_cannot_differ_in_time() -> None:
    found = claim(timed(np.random.default_rng(1)), {**SLOWER, "factor": "dropout"})
    assert found.verdict == "not resolved" and "trained together" in found.sentence


def test_without_shuffling_a_time_has_a_value_and_no_interval() -> None:
    found = claim(timed(np.random.default_rng(1), ratio=2.0, shuffled=False), SLOWER)
    assert found.verdict == "not resolved" and "shuffled order" in found.sentence
    assert found.estimate and (found.estimate.low, found.estimate.high) == (None, None)
    assert found.estimate.value == pytest.approx(2.0, rel=0.1)


def test_programs_are_means_of_their_runs() -> None:
    table = timed(np.random.default_rng(2), programs=1).table
    rows, between = one_row_a_program(table, list(FACTORS))
    assert between == ["n_head", "batch_size"] and len(rows) == 4 and set(rows["seed"]) == {0}
    assert rows["median_step_time_s"][0] == pytest.approx(table["median_step_time_s"][:8].mean())
    alone = table.with_columns(program=pl.col("run_id"))
    assert one_row_a_program(alone, list(FACTORS))[1] == list(FACTORS)


def results_of(folder: Path, *hypotheses: dict[str, Any]) -> StudyResults:
    base = {"n_layer": 1, "block_size": 16, "max_iters": 20, "eval_interval": 5}
    stated = tuple(make_hypothesis(each, i) for i, each in enumerate(hypotheses, 1))
    factors = {"n_embd": (32, 64, 128), "n_head": (2, 4)}
    study = Study("times", "a.txt", base=base, factors=factors, seeds=(1, 2), hypotheses=stated)
    return fake_study(folder, study, dict.fromkeys(range(12), ("pending", "")))


def test_a_study_that_claims_a_time_is_trained_in_shuffled_order(tmp_path: Path) -> None:
    def widths(results: StudyResults) -> list[int]:
        return [config.n_embd for (config,) in plan_stacks(results, 1)]

    longest_first = widths(results_of(tmp_path / "loss", {**MORE, "response": "best_val_loss"}))
    shuffled = results_of(tmp_path / "time", MORE)
    assert longest_first == [128] * 4 + [64] * 4 + [32] * 4
    assert sorted(widths(shuffled)) == sorted(longest_first) and widths(shuffled) != longest_first
    assert widths(shuffled) == widths(shuffled) and widths(shuffled) not in (longest_first, longest_first[::-1])
    part = shuffled.configs[4:]  # what is left keeps its order after a stop
    order = [run_id(config) for (config,) in plan_stacks(shuffled, 1)]
    left = [run_id(config) for (config,) in plan_stacks(shuffled, 1, part)]
    assert left == [run for run in order if run in set(left)]


def test_times_are_those_that_end_in_seconds_or_rates() -> None:
    assert set(TIMED) == {
        "median_step_time_s", "tokens_per_s", "mfu", "mfu_a100", "train_time_s", "eval_time_s", "checkpoint_time_s",
        "wall_time_s",
    }  # fmt: skip


def test_runs_of_earlier_versions_stand_for_themselves(tmp_path: Path) -> None:
    study = Study("times", "a.txt", base={"max_iters": 20, "eval_interval": 5}, factors={"n_embd": (32, 64)})
    found = evidence(take_snapshot(fake_study(tmp_path, study, {})))
    assert found.table["program"].to_list() == list(found.run_ids) and not found.table["shuffled"].any()
