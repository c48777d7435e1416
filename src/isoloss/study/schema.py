"""A JSON Schema of study files, by which editors complete and check them as they are typed."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import TypeAdapter

from isoloss.study.budgets import KINDS
from isoloss.study.cell_faults import STUDY_KEYS
from isoloss.study.config import SETTINGS, RunConfig, TokenizerName
from isoloss.study.formula import NAMES
from isoloss.study.hypotheses import Hypothesis
from isoloss.study.numbers import BYTES_PATTERN
from isoloss.study.study import Order

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COUNT = {"type": "integer", "minimum": 1}
DESCRIPTIONS = {
    "name": "Of the study; its results are kept under it.",
    "description": "The question it asks; the report opens with it.",
    "corpus": "A known name (tinyshakespeare), a UTF-8 text file or a folder of them, beside this file; or a list.",
    "val_corpus": "What runs are validated on, likewise; without it, the last val_share of corpus.",
    "val_share": "Share of corpus that is kept for validation, its end; 0.1 where nothing is stated.",
    "tokenizer": "char: a token for each character of the text; byte: one for each of 256 bytes.",
    "base": "Settings of all runs; a text that begins with = is a formula.",
    "factors": "What is varied: lists of levels, or ranges for a sampled design.",
    "budgets": "What each cell is trained for (flops, tokens, tokens_per_parameter, seconds), and the sizes that are.",
    "paired": "Settings whose levels go together, or a list of such groups.",
    "runs": "Cells that are stated one by one, crossed with the rest.",
    "exclude": "Cells that are left out: those that have all entries of one of these.",
    "design": "How factors are combined; without one every combination is a cell.",
    "centre": "Of design: one_at_a_time; a factor that is not in it has its first level there.",
    "seeds": "How many seeds each cell has, or which.",
    "order": "In which runs are trained.",
    "disk": "What the study's directory may take: 500MB, 2GB, 1.5GiB or a number of bytes.",
    "hypotheses": "What is expected, stated before anything is trained.",
}


def study_schema() -> dict[str, Any]:
    """The schema as plain values, its settings and hypotheses with their descriptions and limits.

    Example: `json.dumps(study_schema())`, which `isoloss schema` prints.
    """
    run = RunConfig.model_json_schema(ref_template="#/$defs/{model}")
    levels = {name: run["properties"][name] for name in SETTINGS}
    hypotheses: dict[str, Any] = TypeAdapter(Hypothesis).json_schema(ref_template="#/$defs/{model}")
    definitions = {**run.get("$defs", {}), **hypotheses.pop("$defs", {})}
    formula = {"type": "string", "pattern": "^ *=", "description": "A formula, such as = n_embd / 32."}
    values = {name: {"anyOf": [level, formula]} if name in NAMES else level for name, level in levels.items()}
    ends = {"from": {"type": "number"}, "to": {"type": "number"}, "scale": {"enum": ["linear", "log"]}}
    span = {"type": "object", "properties": ends, "required": ["from", "to"], "additionalProperties": False}
    lists = {name: {"type": "array", "items": level, "minItems": 1} for name, level in levels.items()}
    cells = {"type": "array", "items": _object(levels), "minItems": 1}
    corpus = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    shapes: dict[str, Any] = {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
        "description": {"type": "string"},
        "corpus": corpus,
        "val_corpus": corpus,
        "val_share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "tokenizer": {"enum": list(get_args(TokenizerName))},
        "base": _object(values),
        "factors": _object({name: {"anyOf": [given, span]} for name, given in lists.items()}),
        "budgets": _object({**{kind: {"type": "array", "items": {"type": "number"}} for kind in KINDS}, **lists}),
        "paired": {"anyOf": [_object(lists), {"type": "array", "items": _object(lists)}]},
        "runs": cells,
        "exclude": cells,
        "design": _design(),
        "centre": _object(levels),
        "seeds": {"anyOf": [COUNT, {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}]},
        "order": {"enum": list(get_args(Order))},
        "disk": {"anyOf": [COUNT, {"type": "string", "pattern": BYTES_PATTERN}]},
        "hypotheses": {"type": "array", "items": hypotheses, "minItems": 1},
    }
    return {
        "$schema": DIALECT,
        "title": "isoloss study",
        **_object({key: {"description": DESCRIPTIONS[key], **shapes[key]} for key in STUDY_KEYS}),
        "required": ["name"],
        "not": {"required": ["val_corpus", "val_share"]},
        "$defs": definitions,
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _design() -> dict[str, Any]:
    sampled = [{**_object({name: COUNT, "seed": {"type": "integer", "minimum": 0}}), "required": [name]}
               for name in ("random", "sobol")]  # fmt: skip
    share = {"type": ["string", "number"], "description": "1/2, 1/4, 1/8, …"}
    return {"anyOf": [{"enum": ["one_at_a_time", "full"]}, *sampled, _object({"fraction": share})]}
