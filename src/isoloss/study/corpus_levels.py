"""Corpora as levels of a factor: each is called by a short name, and what it stands for is kept under `corpora`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, cast

from isoloss.errors import ConfigError
from isoloss.study.config import TEXTS
from isoloss.study.corpora import Corpus, corpora_of, corpus_name, corpus_of
from isoloss.study.datasets import Dataset
from isoloss.study.file_patterns import is_pattern, pattern_and_field
from isoloss.study.hub_datasets import KNOWN, hub_dataset_named, hub_dataset_of, is_hub_dataset
from isoloss.study.mixtures import Mixture
from isoloss.study.synthetic import is_synthetic, synthetic_named
from isoloss.study.texts import Text

Called = Callable[[Any, str], Any]


def short_name(corpus: Corpus) -> str:
    """What a reader knows a corpus by: a file or pattern without its folders, a dataset of the Hub without its owner, a
    synthetic text by parameters not at defaults.
    """
    if isinstance(corpus, Mixture):
        return corpus.named(short_name)
    if isinstance(corpus, tuple):
        return " + ".join(map(short_name, corpus))
    if is_hub_dataset(corpus):
        dataset = hub_dataset_named(corpus)
        return next((name for name, known in KNOWN.items() if hub_dataset_of(known) == dataset), dataset.short_name)
    if not is_synthetic(corpus):
        path = pattern_and_field(corpus)[0] if is_pattern(corpus) else corpus
        return PurePath(path).name or corpus
    parameters = synthetic_named(corpus).model_dump(exclude_defaults=True)
    return " ".join([parameters.pop("synthetic"), *(f"{key} {value}" for key, value in parameters.items())])


def with_corpora_named(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[ConfigError]]:
    """A study file's values with short names in place of the corpora that vary, and what is wrong with these.

    What a name stands for, where that is not the name itself, stands under `corpora` then. Of two corpora with the same
    short name the second is called by all of its own.
    """
    values = _with_mixtures_spelled_out(values)
    stated = _stated_names(values.get("corpora"))
    known, errors = dict(stated), list[ConfigError]()

    def called(value: Any, place: str) -> Any:
        if isinstance(value, str) and value in (known if place.split()[0] in OF_LEVELS else stated):
            return value
        try:
            corpus = corpus_of(value)
        except ConfigError as error:
            key = place.split()[-2] if place.split()[-1].isdigit() else place.split()[-1]
            errors.extend(
                ConfigError(f"{key}: {each.args[0]}", (*(f"{place} {field}" for field in each.fields), place))
                for each in error.each
            )
            return repr(value)
        found = next((name for name, other in known.items() if other == corpus), None)
        if found is None:
            short = short_name(corpus)
            found = corpus_name(corpus) if short in known else short
            if found in known:
                text = f"corpus: '{found}' and '{corpus_name(known[found])}' are both called '{found}'"
                errors.append(ConfigError(f"{text}; name them under corpora", (place,)))
                return repr(value)
            known[found] = corpus
        return found

    named = {**values, **{key: _walked(values[key], key, called) for key in SECTIONS if key in values}}
    corpora = {name: corpus for name, corpus in known.items() if name != corpus}
    return named | ({"corpora": corpora} if corpora else {}), errors


def _with_mixtures_spelled_out(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values with what a name under `corpora` stands for in place of that name in each mixture."""
    named = values.get("corpora")
    if not isinstance(named, dict):
        return values
    stated = cast("dict[str, Any]", named)
    found = {key: spelled_out(values[key], stated) for key in (*TEXTS, *SECTIONS) if key in values}
    return {**values, **found, "corpora": {name: spelled_out(value, stated) for name, value in stated.items()}}


def spelled_out(value: Any, stated: Mapping[str, Any]) -> Any:
    """The value, each mixture in it with the corpora that its names stand for."""
    if isinstance(value, list):
        return [spelled_out(item, stated) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    entries = cast("dict[str, Any]", value)
    by_name = entries.get("mix")
    if list(entries) != ["mix"] or not isinstance(by_name, dict):
        named = entries.get("corpus") if entries.keys() == {"corpus", "share"} else None
        known = {"corpus": stated[named]} if isinstance(named, str) and named in stated else {}
        return {key: spelled_out(entry, stated) for key, entry in entries.items()} | known
    shares = cast("dict[str, Any]", by_name)
    return spelled_out({"mix": [{"corpus": name, "share": share} for name, share in shares.items()]}, stated)


def _stated_names(value: Any) -> dict[str, Corpus]:
    try:
        return dict(corpora_of(value or {}))
    except ConfigError:  # it is said where the key itself is read
        return {}


SECTIONS = ("factors", "paired", "runs", "exclude", "centre")
"""Keys of a study file under which corpora may be levels."""
OF_LEVELS = ("exclude", "centre")
"""Those of them in which a corpus is one that is a level elsewhere, and may be called as that is."""


def _walked(value: Any, place: str, called: Called) -> Any:
    """A section with every corpus in it called by its name."""
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_walked(item, f"{place} {number}", called) for number, item in enumerate(items)]
    if not isinstance(value, dict):
        return value
    entries = cast("dict[str, Any]", value)
    return {
        key: _level_or_levels(entry, f"{place} {key}", called, several=place.split()[0] in ("factors", "paired"))
        if key in TEXTS
        else entry
        for key, entry in entries.items()
    }


def _level_or_levels(value: Any, place: str, called: Called, *, several: bool) -> Any:
    if not several:
        return called(value, place)
    if not isinstance(value, list):
        return value
    return [called(level, f"{place} {number}") for number, level in enumerate(cast("list[Any]", value))]


@dataclass(frozen=True)
class StatedTexts:
    """The texts of a study: `text` where none varies; else corpora that levels name, and `text` of what is constant."""

    text: Text
    tokenizer: str
    corpora: Mapping[str, Corpus]
    varied: frozenset[str]
    """Which of TEXTS vary."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that say which text a run has: none where all have one."""
        if not self.varied:
            return ()
        return TEXTS if self.text.val_corpus is not None or "val_corpus" in self.varied else TEXTS[:1]

    def dataset(self, cell: Mapping[str, Any]) -> Dataset:
        """What a cell is trained on."""
        tokenizer = str(cell.get("tokenizer", self.tokenizer))
        if not self.varied:
            return Dataset(self.text.name, "", tokenizer)
        corpus, val_corpus = map(short_name, (self.text.corpus, self.text.val_corpus or ""))
        return Dataset(str(cell.get("corpus", corpus)), str(cell.get("val_corpus", val_corpus)), tokenizer)

    def of(self, dataset: Dataset) -> Text:
        """The text that is called so."""
        named = {key: self.corpora.get(name, name) for key, name in zip(TEXTS, dataset, strict=False)}
        return replace(self.text, **{key: corpus for key, corpus in named.items() if key in self.varied})
