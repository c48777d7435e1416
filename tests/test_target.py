"""A stated target: where a run's loss first gets to it, in the summary and in claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isoloss.errors import ConfigError
from isoloss.report.chapters.runs import runs_table
from isoloss.report.evidence import evidence, target_loss
from isoloss.report.findings import find
from isoloss.report.snapshot import take_snapshot
from isoloss.store.outcome import steps_to
from isoloss.study.studyfile import dump_study, parse_study
from tests.fake_studies import FACTS, fake_study


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ((4.0, 3.0, 2.0), 15),
        ((4.0, 2.5, 3.0, 1.0), 10),  # first, and exactly at it
        ((4.0, None, 2.0), 15),  # on the line over an evaluation that is not finite
        ((2.0, 3.0), 0),
        ((4.0, 3.0), None),
        ((), None),
    ],
)
def test_a_target_is_reached_between_evaluations(losses: tuple[float | None, ...], step: float | None) -> None:
    assert steps_to(2.5, ((10 * place, loss) for place, loss in enumerate(losses))) == step


STUDY = """
name: s
base: {n_head: 2, block_size: 8, max_iters: 40, eval_interval: 10, warmup_iters: 5, lr_decay_iters: 40}
factors: {n_embd: [16, 32]}
seeds: 3
target: 2.8
hypotheses:
- {says: Wider gets there in at most half the steps, kind: ratio, factor: n_embd, response: steps_to_target, high: 0.6}
"""


def test_steps_to_the_target_are_a_response(tmp_path: Path) -> None:
    """Losses fall by a 20th of a nat a step, by a 10th at 32, and a little faster in every second run."""
    study = parse_study(STUDY, "s.yaml")
    assert parse_study(dump_study(study), "again") == study

    def curve(config: Any, number: int, step: int) -> float:
        return 3 - step / (20 if config.n_embd == 16 else 10) * (1 + 0.01 * (number % 2))

    snapshot = take_snapshot(fake_study(tmp_path, study, {}, curve))
    steps = snapshot.summary["steps_to_target"].to_list()
    assert steps[:2] == pytest.approx([4, 4 / 1.01]) and steps[4] == pytest.approx(2)
    found = find(snapshot)
    (claim,) = found.claims
    assert claim.verdict == "supported" and claim.estimate is not None
    assert claim.estimate.value == pytest.approx(0.5, rel=0.01)
    assert target_loss(snapshot) == 2.8
    crossing = evidence(snapshot).convergence(0.02)
    assert crossing.crossing and not [c for c in crossing.cautions if c.code == "chosen_target"]
    assert [c.title for c in runs_table(snapshot).columns if c.name == "steps_to_target"] == ["steps to 2.8000"]


def test_a_long_curve_is_read_whole(tmp_path: Path) -> None:
    """Of 101 evaluations 64 points are kept for charts; the loss gets to 2.8 between two that are not both kept."""
    study = parse_study(STUDY.replace("max_iters: 40, eval_interval: 10", "max_iters: 100, eval_interval: 1"), "s.yaml")
    snapshot = take_snapshot(fake_study(tmp_path, study, {}, lambda _config, _number, step: 3.0 if step < 77 else 2.6))
    assert snapshot.summary["steps_to_target"].to_list() == pytest.approx([76.5] * 6)


def test_a_run_that_never_gets_there_has_no_steps(tmp_path: Path) -> None:
    study = parse_study(STUDY, "s.yaml")
    snapshot = take_snapshot(fake_study(tmp_path, study, {}, lambda config, number, step: 3 - number / 10))
    assert snapshot.summary["steps_to_target"].to_list() == [None, None, 0, 0, 0, 0]


def test_a_target_changes_no_run_and_is_asked_for() -> None:
    without = STUDY.replace("target: 2.8", "")
    with pytest.raises(ConfigError, match=r"s\.yaml:8: hypothesis 1: response=steps_to_target: state"):
        parse_study(without, "s.yaml")
    study = parse_study(STUDY, "s.yaml")
    plain = parse_study(without.partition("hypotheses")[0], "s.yaml")
    assert study.expand(FACTS) == plain.expand(FACTS)
    with pytest.raises(ConfigError, match=r"s\.yaml:6: target='low'"):
        parse_study(STUDY.replace("2.8", "low"), "s.yaml")
