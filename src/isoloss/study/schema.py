"""The schema of study files: every key, what it holds, and the JSON Schema by which editors check it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

from isoloss.errors import ConfigError
from isoloss.study.budgets import KINDS
from isoloss.study.cell_shapes import (
    DesignShape,
    RangeShape,
    budgets_of,
    design_of,
    entries_of,
    levels_or_range_of,
    paired_of,
    section_of,
    tuned_of,
)
from isoloss.study.cells import Design, Range, Scalar, Tuned
from isoloss.study.config import SETTINGS, TEXTS, VARIED, RunConfig, Seed, plain_message
from isoloss.study.corpora import Corpus, corpora_of, corpus_of
from isoloss.study.file_patterns import RowFilesShape, TokenFilesShape
from isoloss.study.formula import NAMES
from isoloss.study.hub_datasets import HubDataset
from isoloss.study.hypotheses import Hypothesis, SpikesStated
from isoloss.study.numbers import BYTES_PATTERN, byte_count
from isoloss.study.stated_hypotheses import hypotheses_of
from isoloss.study.synonyms import did_you_mean, meant
from isoloss.study.synthetic import SyntheticShape
from isoloss.study.texts import MAX_SEPARATOR
from isoloss.study.tokenizer_names import MEANING, TokenizerName

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
FIRST_SEED = 1337
"""nanoGPT's seed; a count of seeds K means FIRST_SEED, FIRST_SEED + 1, …"""
MAX_RUNS = 100_000
"""More runs than this in one study is taken for a mistake."""
MAX_DISK = 1 << 60
"""More bytes than any disk has."""

Order = Literal["longest_first", "seeds", "shuffled"]
"""longest_first keeps all workers busy to the end; seeds trains every cell once before any a second time; shuffled is
an order by a hash of the runs' ids. After a stop, the last two have seen the whole space."""

JsonSchema = dict[str, Any]
_FAULTY = SpikesStated(says="has errors", kind="spikes")
FORMULA: JsonSchema = {"type": "string", "pattern": "^ *=", "description": "A formula, such as = n_embd / 32."}


def _parsed(parse: Callable[[Any], Any], shape: Any = Any) -> PlainValidator:
    """Reads a value with `parse`, whose ConfigErrors are reported with all others; `shape` is for the JSON Schema."""

    def validated(value: Any) -> Any:
        try:
            return parse(value)
        except ConfigError as error:
            raise PydanticCustomError("parsed", "{error}", {"error": str(error), "each": error.each}) from error

    return PlainValidator(validated, json_schema_input_type=shape)


@dataclass(frozen=True)
class _BySetting:
    """Gives a mapping the JSON Schema of settings, each what `of` makes of its own, and of `more` keys."""

    of: Callable[[str, JsonSchema], JsonSchema] = lambda _name, level: level
    more: Mapping[str, JsonSchema] | None = None
    texts: bool = True
    """Whether they may be corpora as well, in any form."""

    def __get_pydantic_json_schema__(self, _core: Any, _handler: Any) -> JsonSchema:
        levels = RunConfig.model_json_schema()["properties"]
        properties = {**(self.more or {}), **{name: self.of(name, levels[name]) for name in SETTINGS}}
        properties |= {name: self.of(name, {}) for name in TEXTS if self.texts}
        return {"type": "object", "properties": properties, "additionalProperties": False}


def _list_of(_name: str, level: JsonSchema) -> JsonSchema:
    return {"type": "array", "items": level, "minItems": 1}


def _value(name: str, level: JsonSchema) -> JsonSchema:
    return {"anyOf": [level, FORMULA]} if name in NAMES else level


def _list_or_range(name: str, level: JsonSchema) -> JsonSchema:
    return {"anyOf": [_list_of(name, level), RangeShape.model_json_schema()]}


def _list_or_lists(name: str, level: JsonSchema) -> JsonSchema:
    values = _list_of(name, level)
    by_level = {"type": "object", "properties": {"over": {"enum": [*VARIED]}}, "required": ["over"]}
    return {"anyOf": [values, {**by_level, "additionalProperties": values}]}


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(NAME_PATTERN[1:-1], value.strip()):
        raise ConfigError("use up to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit")
    return value.strip()


def _bytes(value: Any) -> int | None:
    found = byte_count(value)
    if value is not None and (found is None or not 0 < found <= MAX_DISK):
        hint = "expected an amount such as 500MB, 2GB or 1.5GiB, or a whole number of bytes"
        raise ConfigError(f"{hint}, from 1 to {MAX_DISK:,}")
    return found


def _seeds(value: Any) -> tuple[int, ...]:
    """A list is taken as it is, a count K means FIRST_SEED … FIRST_SEED + K - 1."""
    if type(value) is int and 1 <= value <= MAX_RUNS:
        return tuple(range(FIRST_SEED, FIRST_SEED + value))
    if isinstance(value, bool) or not isinstance(value, list | tuple):
        raise ConfigError(f"expected a list of whole numbers or a count from 1 to {MAX_RUNS:,}")
    seeds = cast("Sequence[Any]", value)
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"{seed!r} is no whole number from 0 to 2^63-1")
    if not seeds:
        raise ConfigError("none; give a list of numbers or a count")
    if len(set(seeds)) < len(seeds):
        raise ConfigError("some repeat; list each once")
    return tuple(map(int, seeds))


Levels = tuple[Scalar, ...]
Count = Annotated[int, Field(ge=1)]
CellShape = Annotated[dict[str, Any], _BySetting()]
GroupShape = Annotated[dict[str, Any], _BySetting(_list_of)]
UnmixedShape = (
    str | RowFilesShape | TokenFilesShape | HubDataset | SyntheticShape | Annotated[list[str], Field(min_length=1)]
)
Share = Annotated[float, Field(gt=0, lt=1)]


class MixedShape(TypedDict):
    """A corpus of a mixture, and its share of rows."""

    corpus: UnmixedShape
    share: Share


class MixtureShape(TypedDict):
    """Corpora that each row of a batch is drawn from."""

    mix: Annotated[dict[str, Share], Field(min_length=2)] | Annotated[list[MixedShape], Field(min_length=2)]


CorpusShape = UnmixedShape | MixtureShape
Cells = Annotated[tuple[dict[str, Scalar], ...], _parsed(entries_of, Annotated[list[CellShape], Field(min_length=1)])]
SECTIONS = ("base", "factors", "budgets", "centre", "paired", "runs", "exclude", "tuned", "hypotheses")
"""Keys that may stand empty: they state nothing."""
LISTS = ("corpus", "val_corpus", "runs", "exclude")
"""Keys of lists, whose errors say which."""
AMOUNTS = {kind: {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}} for kind in KINDS}


class StudyFile(BaseModel):
    """A study as its file states it; keys that are left out have their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    name: Annotated[str, _parsed(_name, Annotated[str, Field(pattern=NAME_PATTERN)])] = Field(
        description="Of the study; its results are kept under it."
    )
    description: str = Field("", description="The question it asks; the report opens with it.")
    corpus: Annotated[Corpus, _parsed(corpus_of, CorpusShape)] = Field(
        "tinyshakespeare",
        description="A known name (tinyshakespeare), a UTF-8 text file or a folder of them, beside this file; a list; "
        "files of JSON lines or Parquet with the field that has the text; the parameters of a synthetic text; or a "
        "mixture of such, {mix: {a.txt: 0.7, b.txt: 0.3}}.",
    )
    val_corpus: Annotated[Corpus | None, _parsed(corpus_of, CorpusShape)] = Field(
        None, description="What runs are validated on, likewise; without it, the last val_share of corpus."
    )
    corpora: Annotated[dict[str, Corpus], _parsed(corpora_of, dict[str, CorpusShape])] = Field(
        {}, description="Names for corpora, by which they may be stated as corpus and as levels of corpus."
    )
    val_share: float | None = Field(
        None, gt=0, lt=1, description="Share of corpus that is kept for validation, its end; None: 0.1."
    )
    document_separator: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_SEPARATOR,
        description="What each document ends in, where blocks do not cross from one into the next; None: they do.",
    )
    tokenizer: TokenizerName = Field("char", description=MEANING)
    base: Annotated[dict[str, Scalar], _parsed(section_of), _BySetting(_value, texts=False)] = Field(
        {}, description="Settings of all runs; a text that begins with = is a formula."
    )
    factors: Annotated[dict[str, Levels | Range], _parsed(levels_or_range_of), _BySetting(_list_or_range)] = Field(
        {}, description="What is varied: lists of levels, or ranges for a sampled design."
    )
    budgets: Annotated[dict[str, Levels], _parsed(budgets_of), _BySetting(_list_of, AMOUNTS, texts=False)] = Field(
        {},
        description="What each cell is trained for (flops, tokens, tokens_per_parameter, seconds), and the sizes that "
        "are.",
    )
    paired: Annotated[tuple[dict[str, Levels], ...], _parsed(paired_of, GroupShape | list[GroupShape])] = Field(
        (), description="Settings whose levels go together, or a list of such groups."
    )
    runs: Cells = Field((), description="Cells that are stated one by one, crossed with the rest.")
    exclude: Cells = Field((), description="Cells that are left out: those that have all entries of one of these.")
    tuned: Annotated[dict[str, Tuned], _parsed(tuned_of), _BySetting(_list_or_lists, texts=False)] = Field(
        {},
        description="Settings that every cell is tried at several values of, the same for all or by levels of the "
        "factor `over`: levels are compared each at its best.",
    )
    design: Annotated[Design | None, _parsed(design_of, DesignShape)] = Field(
        None, description="How factors are combined; without one every combination is a cell."
    )
    centre: Annotated[dict[str, Scalar], _parsed(section_of), _BySetting()] = Field(
        {}, description="Of design: one_at_a_time; a factor that is not in it has its first level there."
    )
    target: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Validation loss in nats per token; steps_to_target is where a run's loss first gets there.",
    )
    seeds: Annotated[tuple[int, ...], _parsed(_seeds, Count | Annotated[list[Seed], Field(min_length=1)])] = Field(
        (FIRST_SEED,), description="How many seeds each cell has, or which."
    )
    order: Order = Field("longest_first", description="In which runs are trained.")
    disk: Annotated[int | None, _parsed(_bytes, Count | Annotated[str, Field(pattern=BYTES_PATTERN)])] = Field(
        None, description="What the study's directory may take: 500MB, 2GB, 1.5GiB or a number of bytes."
    )
    hypotheses: Annotated[
        tuple[Hypothesis, ...], _parsed(hypotheses_of, Annotated[list[Hypothesis], Field(min_length=1)])
    ] = Field((), description="What is expected, stated before anything is trained.")


def study_schema() -> JsonSchema:
    """The JSON Schema of study files, its settings and hypotheses with their descriptions and limits.

    Example: `json.dumps(study_schema())`, which `isoloss schema` prints.
    """
    schema = StudyFile.model_json_schema()
    exclusive = {"not": {"required": ["val_corpus", "val_share"]}}
    return {"$schema": DIALECT, **schema, "title": "isoloss study", **exclusive}


def read_study_file(values: Mapping[str, Any]) -> tuple[StudyFile, list[ConfigError]]:
    """A study file from plain values, without what is wrong in it, and the errors; their fields are places in it.

    What is left lets the rest be checked: a wrong key or setting is left out, a wrong hypothesis replaced.
    """
    errors: list[ConfigError] = []
    stated = {
        key: dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None or key not in SECTIONS
    }
    while True:
        try:
            return StudyFile.model_validate(stated), errors
        except ValidationError as error:
            found = [each for one in error.errors() for each in _config_errors(one)]
        faulty = {each.fields[-1] for each in errors}  # what is said of such a key as a whole may follow from the rest
        errors += [each for each in found if len(each.fields) != 1 or each.fields[-1] not in faulty]
        for each in found:
            _leave_out(stated, each.fields[-1], each.fields[0])


def stated_faults(stated: Mapping[str, Any]) -> list[ConfigError]:
    """What is wrong with some keys of a study, each alone."""
    return read_study_file({"name": "study", **stated})[1]


def _config_errors(found: ErrorDetails) -> list[ConfigError]:
    """An error of pydantic as those it stands for: complete sentences where they have fields, else about the value."""
    key, value = str(found["loc"][0]), found["input"]
    if found["type"] == "missing":
        return [ConfigError(f"the key '{key}' is missing; the study's results are kept under it", (key,))]
    if found["type"] == "extra_forbidden":
        return [_unknown_key(key)]
    context: Mapping[str, Any] = found.get("ctx", {})
    subject = key if isinstance(value, dict | list | tuple) else f"{key}={value!r}"
    each: tuple[ConfigError, ...] = context.get("each", (ConfigError(plain_message(found)),))
    return [
        ConfigError(
            f"{key}: {error.args[0]}" if key in LISTS else error.args[0],
            (*(field if field.partition(" ")[0] == key else f"{key} {field}" for field in error.fields), key),
        )
        if error.fields
        else ConfigError(f"{subject}: {error.args[0]}", (key,))
        for error in each
    ]


def _unknown_key(key: str) -> ConfigError:
    setting = meant(key, SETTINGS)
    if setting is None:
        hint = did_you_mean(key, StudyFile.model_fields)
    else:
        hint = f"settings stand under base, or with a list of levels under factors: use {setting} there"
    return ConfigError(f"unknown key '{key}': {hint}", (key,))


def _leave_out(stated: dict[str, Any], key: str, place: str) -> None:
    """Take what stands at a place under a key out; of hypotheses the others keep their numbers."""
    within, value = place.removeprefix(f"{key} ").partition(" ")[0], stated.get(key)
    if key == "name":
        stated[key] = "study"
    elif key == "hypotheses" and within.isdigit():
        stated[key] = [_FAULTY if number == int(within) else each for number, each in enumerate(value or ())]
    elif isinstance(value, dict) and within in value and key in SECTIONS and len(cast("dict[str, Any]", value)) > 1:
        del value[within]
    else:
        stated.pop(key, None)
