"""The JSON Schema of study files accepts what is read and refuses what is not."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from isoloss.cli import run_command_line
from isoloss.study.config import SETTINGS
from isoloss.study.plainyaml import read_yaml
from isoloss.study.schema import study_schema
from isoloss.study.studyfile import builtin_studies, parse_study

DOCS = Path(__file__).parents[1] / "docs"
PAGES = "".join((DOCS / name).read_text() for name in ("designs.md", "factors.md"))
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGES, re.DOTALL)
BUILT_IN = [(resources.files("isoloss.study") / f"studies/{name}.yaml").read_text() for name in builtin_studies()]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(study_schema())
    return Draft202012Validator(study_schema())


@pytest.mark.parametrize("text", [*EXAMPLES, *BUILT_IN])
def test_studies_that_are_read_are_valid(validator: Draft202012Validator, text: str) -> None:
    assert [error.message for error in validator.iter_errors(read_yaml(text, "s.yaml")[0])] == []


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_have_runs(text: str) -> None:
    assert parse_study(text, "s.yaml").size > 1


@pytest.mark.parametrize(
    "study",
    [
        {},
        {"name": "s", "bases": {}},
        {"name": "s", "base": {"lr": 1e-3}},
        {"name": "s", "base": {"dropout": 1.5}},
        {"name": "s", "base": {"bias": "= n_embd"}},
        {"name": "s", "factors": {"n_embd": 64}},
        {"name": "s", "factors": {"n_head": ["= n_embd / 32"]}},
        {"name": "s", "factors": {"dropout": {"from": 0}}},
        {"name": "s", "design": {"random": 0}},
        {"name": "s", "order": "fastest"},
        {"name": "s", "hypotheses": [{"says": "It is so", "kind": "effect", "factor": "n_embd"}]},
    ],
)
def test_what_is_not_read_is_not_valid(validator: Draft202012Validator, study: dict[str, Any]) -> None:
    assert not validator.is_valid(study)


def test_every_setting_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["schema"]) == 0
    base = json.loads(capsys.readouterr().out)["properties"]["base"]["properties"]
    assert list(base) == list(SETTINGS)
    assert all("description" in json.dumps(base[name]) for name in SETTINGS)
