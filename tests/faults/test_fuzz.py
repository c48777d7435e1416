"""Fuzzed study files, checkpoints and tokens: a typed error or a value that holds together, never anything else."""

from __future__ import annotations

import io
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from isoloss.errors import ConfigError
from isoloss.study.config import SETTINGS
from isoloss.study.hypotheses import RESPONSES
from isoloss.study.studyfile import dump_study, parse_study
from isoloss.study.texts import DataFacts
from tests.faults.tally import Tally

INPUTS = (("tokens", 4_600_000), ("tokens", 4_600_000), ("checkpoint", 400_000), ("study", 400_000))
"""Ten million in all, most of them where an input costs least, each group from a seed of its own."""
SHORT = (("tokens", 5_000), ("checkpoint", 1_000), ("study", 1_000))
SEED = 20261123


@pytest.mark.promise(12, "a fuzzer guided by coverage at files of tokens, checkpoints and study files")
def test_no_input_is_a_finding(few: int | None, tally: Tally, tmp_path: Path) -> None:
    """Every target in a process of its own; what one finds is output with the command that replays it."""
    pytest.importorskip("atheris", reason="the fuzzer is built for Linux alone")
    assert sum(inputs for _, inputs in INPUTS) == 10_000_000
    started: dict[Path, subprocess.Popen[bytes]] = {}
    for number, (target, inputs) in enumerate(INPUTS if few is None else SHORT):
        command = ["-m", "tests.faults.fuzz", target, "--runs", str(inputs), "--seed", str(SEED + number)]
        log = tmp_path / f"{number}.log"
        with log.open("wb") as stream:
            started[log] = subprocess.Popen([sys.executable, *command], stdout=stream, stderr=subprocess.STDOUT)
    tally.trials = sum(inputs for _, inputs in (INPUTS if few is None else SHORT))
    findings: list[str] = []
    for log, process in started.items():
        code, output = process.wait(), log.read_text(errors="replace")
        if code != 0 or "Done " not in output:
            findings.append(f"{shlex.join(map(str, process.args))}\n{output[-3000:]}")  # pyright: ignore
    assert not findings, "\n".join(findings)
    tally.passed = tally.trials


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(st.integers(-3, 40), st.integers(), st.floats(), st.floats(0, 1))
scalars = st.one_of(numbers, texts, st.booleans(), st.none(), st.sampled_from(["fp16", "exact", "sampled", "1e-3"]))
TAKES: dict[str, st.SearchStrategy[Any]] = {
    "n_layer": st.integers(1, 4),
    "n_head": st.sampled_from([1, 2]),
    "n_embd": st.sampled_from([8, 16, 64]),
    "max_iters": st.integers(1, 1000),
    "learning_rate": st.floats(1e-6, 1, exclude_min=True),
    "dropout": st.floats(0, 0.9),
    "decay_lr": st.booleans(),
    "lr_decay_iters": st.none() | st.integers(1, 1000),
    "precision": st.sampled_from(["fp32", "bf16", "fp16"]),
}
"""Settings with values that can be run."""
hypotheses = st.one_of(
    st.fixed_dictionaries(
        {"says": texts, "kind": st.just("effect"), "factor": st.sampled_from(SETTINGS), "direction": st.just("up")},
        optional={"response": st.sampled_from(RESPONSES), "levels": st.lists(scalars, max_size=3)},
    ),
    st.fixed_dictionaries(
        {"says": texts, "kind": st.sampled_from(["range", "ratio", "exponent"]), "low": numbers, "high": numbers},
        optional={"response": st.sampled_from(RESPONSES), "parameter": st.sampled_from(["alpha", "beta"])},
    ),
    st.fixed_dictionaries({"says": texts, "kind": texts}, optional={"by_step": scalars, "times": numbers}),
)


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """What a study file may hold: valid, or with up to two things in it that are not."""
    chosen = draw(st.lists(st.sampled_from(sorted(TAKES)), unique=True, max_size=5))
    cut = draw(st.integers(0, len(chosen)))
    document: dict[str, Any] = {
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
        "description": draw(texts),
        "corpus": draw(texts.filter(str.strip)),  # an empty name is refused
        "base": {key: draw(TAKES[key]) for key in chosen[:cut]},
        "factors": {key: draw(st.lists(TAKES[key], min_size=1, max_size=3, unique_by=repr)) for key in chosen[cut:]},
        "seeds": draw(st.integers(1, 5) | st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True)),
    }
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        match draw(st.integers(0, 4)):
            case 0:
                document[draw(st.sampled_from([*document, "tokenizer", "hypotheses"]) | texts)] = draw(scalars)
            case 1:
                document["base"] = {**TAKEN_AS_IT_IS, draw(st.sampled_from(SETTINGS) | texts): draw(scalars)}
            case 2:
                document["factors"] = {draw(st.sampled_from(SETTINGS)): draw(st.lists(scalars, max_size=3))}
            case 3:
                document.pop(draw(st.sampled_from(sorted(document))))
            case _:
                document["hypotheses"] = draw(st.lists(hypotheses, max_size=2))
    return document


TAKEN_AS_IT_IS = {"n_layer": 1}


def as_yaml(document: dict[str, Any]) -> str:
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(document, stream)
    return stream.getvalue()


def faulty(text: str, generator: random.Random) -> str:
    """The text with a few characters replaced, taken out or put in."""
    for _ in range(generator.randrange(3)):
        place = generator.randrange(len(text) + 1)
        text = (
            text[:place] + generator.choice(["", *" \n:-[]{}&*!#'\"|>%\t\0é"]) + text[place + generator.randrange(2) :]
        )
    return text


@pytest.mark.promise(12, "study files, valid and nearly so: a study, or a typed error with its line")
def test_a_study_file_is_a_study_or_a_typed_error(few: int | None, tally: Tally) -> None:
    outcomes = {"studies": 0, "errors": 0}

    @seed(SEED)
    @settings(
        max_examples=10_000 if few is None else 200,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(studies(), st.integers(0, 2**32))
    def every_text(document: dict[str, Any], number: int) -> None:
        text = faulty(as_yaml(document), random.Random(number))
        try:
            study = parse_study(text, "s.yaml")
        except ConfigError as error:
            assert str(error).startswith("s.yaml:")
            assert all(map(str.isprintable, str(error).split("\n")))
            outcomes["errors"] += 1
            return
        assert study.expand(DataFacts("ab", 65))
        assert parse_study(dump_study(study), "dumped") == study
        outcomes["studies"] += 1

    every_text()
    tally.trials = tally.passed = sum(outcomes.values())
    assert min(outcomes.values()) > sum(outcomes.values()) / 10, outcomes
