"""What the audit says of single settings, and of the text they are used on."""

from __future__ import annotations

from typing import Any

import pytest

from isoloss.design.audit import audit
from isoloss.diagnostic import Diagnostic
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study
from isoloss.study.studyfile import parse_study
from isoloss.study.texts import ANY_DATA, DataFacts

TEXT = DataFacts("86c4", 65, 111_540, 1_003_854)


def finding(code: str, *, data: DataFacts = TEXT, share: float | None = None, **settings: Any) -> Diagnostic | None:
    factors = {name: value for name, value in settings.items() if isinstance(value, tuple)}
    base = {name: value for name, value in settings.items() if name not in factors}
    study = Study("s", "x", base=base, factors=factors, seeds=(1, 2))
    found = audit(study, study.expand(data), data=data, evaluation_share=share)
    return next((one for one in found if one.code == code), None)


@pytest.mark.parametrize(
    ("code", "wrong", "right", "said"),
    [
        (
            "warmup_beyond_horizon",
            {"warmup_iters": 2000},
            {"warmup_iters": 1999},
            "4 runs end before",
        ),
        (
            "min_lr_above_learning_rate",
            {"min_lr": 0.1},
            {"min_lr": 1e-3},
            "min_lr (0.1) is above learning_rate",
        ),
        (
            "no_evaluation_inside",
            {"eval_interval": 2000},
            {"eval_interval": 1999},
            "(eval_interval 2,000",
        ),
        (
            "high_learning_rate",
            {"learning_rate": 0.04},
            {"learning_rate": 0.03},
            "0.04 may diverge",
        ),
    ],
)
def test_a_setting_that_defeats_a_run_is_named(code: str, wrong: Any, right: Any, said: str) -> None:
    told = finding(code, dropout=(0.0, 0.1), **wrong)
    assert told is not None and said in told.text
    assert finding(code, dropout=(0.0, 0.1), **right) is None
    if code != "no_evaluation_inside" and code != "high_learning_rate":
        assert finding(code, decay_lr=False, **wrong) is None  # without a schedule these are never read


def test_runs_without_a_number_are_left_out_of_effects_and_that_is_said() -> None:
    cells = "[{optimizer: adamw, muon_learning_rate: null}, {optimizer: muon, muon_learning_rate: 0.01}, "
    cells += "{optimizer: muon, muon_learning_rate: 0.02}]"
    study = parse_study(f"name: s\nruns: {cells}\nseeds: 2", "s.yaml")
    told = [one.text for one in audit(study, study.expand(ANY_DATA)) if one.code == "runs_without_level"]
    assert told == [
        "muon_learning_rate is null in 2 of 6 runs: effects are estimated from the others alone, whatever else differs."
    ]
    whole = parse_study(f"name: s\nruns: {cells.replace('null', '0.02')}\nseeds: 2", "s.yaml")
    assert not [one for one in audit(whole, whole.expand(ANY_DATA)) if one.code == "runs_without_level"]


def test_a_small_validation_split_is_named_with_its_size() -> None:
    tiny = DataFacts("ab", 3, val_tokens=6, train_tokens=54)
    told = finding("small_validation", data=tiny, block_size=5)
    assert told is not None and "the mean over 1 block of 5 tokens (of 6 validation tokens)" in told.text
    assert finding("small_validation", block_size=64) is None
    few = finding("small_validation", block_size=64, eval_val_tokens=640)
    assert few is not None and "10 blocks of 64 tokens" in few.text and "raise eval_val_tokens" in (few.remedy or "")


def test_characters_that_training_never_sees_are_named() -> None:
    assert finding("unseen_characters") is None
    told = finding("unseen_characters", data=DataFacts("ab", 80, 10_000, 90_000, unseen_share=0.25))
    assert told is not None and "25 % of the validation split's characters" in told.text


def test_evaluation_that_takes_most_of_the_time_is_named_with_the_setting_that_mends_it() -> None:
    assert finding("evaluation_dominates", share=0.29) is None
    told = finding("evaluation_dominates", share=0.96)
    assert told is not None and "96 %" in told.text and "lower eval_val_tokens" in (told.remedy or "")
    sampled = finding("evaluation_dominates", share=0.96, eval="sampled")
    assert sampled is not None and "lower eval_iters" in (sampled.remedy or "")


def test_hypotheses_of_which_the_same_is_said_are_named_in_one_finding() -> None:
    says = {"kind": "effect", "direction": "down"}
    stated = [make_hypothesis({**says, "says": f"On {f}", "factor": f}, 1) for f in ("n_embd", "dropout", "n_layer")]
    factors = {"n_embd": (64, 128), "dropout": (0.0, 0.1), "n_layer": (1, 2, 4)}
    study = Study("s", "x", factors=factors, seeds=(1, 2), hypotheses=tuple(stated))
    told = [one.text for one in audit(study, study.expand(TEXT)) if one.code == "detectable_effect"]
    assert len(told) == 2 and told[0].startswith("“On n_embd” and “On dropout” each compare 12 runs at one level")
    assert told[1].startswith("“On n_layer” compares 8 runs at n_layer 1 with as many at 4")


def test_no_one_is_told_to_train_hundreds_of_seeds() -> None:
    study = Study("s", "x", factors={"dropout": (0.0, 0.1)}, seeds=(1,))
    advice = [one.remedy or "" for one in audit(study, study.expand(TEXT), noise_sd=0.2)]
    assert any("--seeds 5" in remedy for remedy in advice)
    assert not any(int(word) > 30 for remedy in advice for word in remedy.split() if word.isdigit())
