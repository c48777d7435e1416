"""A study's directory: opened for training, made if need be, and grown where the study has changed since."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from isoloss.data.token_files import Tokens
from isoloss.errors import ConfigError
from isoloss.execution.options import RunOptions
from isoloss.execution.placement import training_precision
from isoloss.execution.reuse import predecessors
from isoloss.files import make_folder, path_exists, sha256_file, write_checksummed, write_record, write_text
from isoloss.store.layout import StudyPaths
from isoloss.store.opening import (
    facts_in,
    read_study,
    recorded_facts,
    recorded_tokenizers,
    records_of,
    write_tokenizers,
)
from isoloss.store.own_parts import keep_parts
from isoloss.store.revisions import changes_between, revise
from isoloss.store.run import create_run, read_status
from isoloss.store.tables import StudyResults
from isoloss.store.text_records import lengths_as_words
from isoloss.store.true_losses import keep_true_losses
from isoloss.study.config import TEXTS, RunConfig
from isoloss.study.datasets import Dataset
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study
from isoloss.study.tokenizer_names import FILE
from isoloss.training.device import available_cores, describe
from isoloss.wording import counted

MAX_NAMED = 3


def recorded_study(results: StudyResults) -> Study | None:
    """The study as its directory has it; None of one that is not begun. Raises ConfigError where it is another one.

    A study may gain and lose levels, factors, seeds and cells, and other hypotheses. Names of texts and tokenizers stay
    those of the same, and once training has begun some run has to stay, at least as the beginning of a longer one.
    """
    paths, study = results.paths, results.study
    if not path_exists(paths.study):
        return None
    recorded = read_study(paths.study)
    facts = recorded_facts(paths, recorded)
    one_text = not (study.varied_texts or recorded.varied_texts)
    known = {each: facts_in(record) for each, record in records_of(study, recorded_tokenizers(paths)).items()}
    for dataset, text in study.datasets.items():
        now, then = results.facts.of(dataset), known.get(dataset)
        if now.sha256 != (facts if one_text else then or now).sha256:
            what = f"the text '{text.name}', or what of it is validation,"
            raise ConfigError(f"{what} changed since {paths.folder} was started; choose another --out")
        if then is not None and then.tokenizer_sha256 != now.tokenizer_sha256:
            name = dataset.tokenizer
            told = f"tokenizer {name} is another than when {paths.folder} was started; choose another --out"
            raise ConfigError(f"{told}, or another name for its file" if name.startswith(FILE) else told)
    before = recorded.expand(facts)
    if has_begun(results, before) and not _goes_on(before, results.configs):
        changes = "; ".join([*changes_between(recorded, study)][:MAX_NAMED])
        raise ConfigError(
            f"{paths.folder} was started with another study, of which no run is one of this study's: {changes}; "
            "choose another --out"
        )
    return recorded


def _goes_on(before: Sequence[RunConfig], after: Sequence[RunConfig]) -> bool:
    """Whether a run of a study is one of another, or the first steps of one."""
    known, longer = {*map(run_id, before)}, predecessors([*before, *after])
    return any(run_id(config) in known or run_id(longer.get(run_id(config), config)) in known for config in after)


def as_begun(paths: StudyPaths, study: Study, options: RunOptions) -> Study:
    """The study with what its directory's first start settled of what it leaves open: precision, and what is evaluated.

    Raises ConfigError where this machine does not have the precision.
    """
    if not path_exists(paths.study):
        return study
    recorded = read_study(paths.study).base
    names = ("precision", "eval_val_tokens") if options.precision == "auto" else ("eval_val_tokens",)
    settled = {name: recorded[name] for name in names if name in recorded and not study.states(name)}
    try:
        if "precision" in settled:
            training_precision(str(settled["precision"]), options)
    except ConfigError as error:
        text = f"{paths.folder} was started in {settled['precision']}, which this machine does not have: choose another"
        raise ConfigError(f"{text} --out, or train it anew with --precision fp32 ({error})", ("precision",)) from error
    return study.with_settings(settled) if settled else study


def has_begun(results: StudyResults, configs: Sequence[RunConfig]) -> bool:
    """Whether any of these runs has trained a step."""
    return any(path_exists(results.paths.run(run_id(config)).metrics) for config in configs)


def open_directory(
    results: StudyResults, tokens: Mapping[Dataset, Tokens], device: torch.device, say: Callable[[str], None]
) -> None:
    """Write the files that describe the study, or bring them up to date where it has changed. Raises ConfigError."""
    paths, recorded = results.paths, recorded_study(results)
    _record_tokenizers(results, tokens, {} if recorded is None else recorded_tokenizers(paths))
    keep_parts(paths.parts, results.configs)
    if recorded is None or dump_study(recorded) != dump_study(results.study):
        for config in results.configs:
            create_run(paths.run(run_id(config)), config)
        if recorded is not None and [*changes_between(recorded, results.study)]:
            _grow(results, recorded, say)
        else:
            write_checksummed(paths.study, dump_study(results.study))
    for line in _set_aside_in_words(results):
        say(line)
    keep_true_losses(paths, results.study, results.configs, tokens)
    write_record(paths.provenance, _provenance(device))


def _record_tokenizers(results: StudyResults, tokens: Mapping[Dataset, Tokens], known: Mapping[Dataset, Any]) -> None:
    """Write what is not known yet of the study's texts and tokenizers; what is stays, as runs set aside have it."""
    for byte_level in filter(None, (each.tokenizer.byte_level for each in tokens.values())):
        path = results.paths.definition(byte_level.sha256)
        if not path_exists(path) or sha256_file(path) != byte_level.sha256:
            make_folder(path.parent)
            write_text(path, byte_level.definition)
    if not tokens.keys() - records_of(results.study, known).keys():
        return
    write_tokenizers(
        results.paths, {**{name: _as_record(results, name, each) for name, each in tokens.items()}, **known}
    )


def _as_record(results: StudyResults, dataset: Dataset, tokens: Tokens) -> dict[str, Any]:
    return {
        **tokens.tokenizer.as_dict(),
        "corpus": dataset.corpus,
        **({"val_corpus": dataset.val_corpus} if results.study.varied_texts else {}),
        "corpus_sha256": tokens.sha256,
        "text_sha256": list(tokens.hashes),
        "vocab_size": tokens.tokenizer.vocab_size,
        "train_tokens": len(tokens.train_N),
        "val_tokens": tokens.facts.val_tokens,
        **_divisions(tokens),
    }


def _divisions(tokens: Tokens) -> dict[str, Any]:
    """The texts and documents that the splits consist of, where they are not one."""
    parts = {"train_parts": tokens.train_parts, "val_parts": tokens.val_parts}
    found: dict[str, Any] = {name: asdict(of) for name, of in parts.items() if of is not None}
    if (documents := tokens.facts.documents) is not None:
        found["documents"] = [[lengths_as_words(of_text) for of_text in texts] for texts in documents]
    return found


def _grow(results: StudyResults, recorded: Study, say: Callable[[str], None]) -> None:
    before = recorded.expand(recorded_facts(results.paths, recorded))
    states = [read_status(results.paths.run(run_id(config))).state for config in before]
    ended, begun = sum(state in ("done", "failed", "diverged") for state in states), has_begun(results, before)
    if begun:
        say(f"the study has changed: {'; '.join(changes_between(recorded, results.study))}")
    revise(results.paths, recorded, results.study, runs_ended=ended, begun=begun)


def _set_aside_in_words(results: StudyResults) -> list[str]:
    """Which runs on disk belong to no cell, and in which setting each differs from those that do."""
    aside = results.set_aside
    if not aside:
        return []
    named = [f"{run_id(config)} ({_difference(config, results.configs)})" for config in aside[:MAX_NAMED]]
    more = f" and {len(aside) - MAX_NAMED:,} more" if len(aside) > MAX_NAMED else ""
    return [f"{counted(len(aside), 'run')} of no cell of this study set aside: {', '.join(named)}{more}"]


def _difference(config: RunConfig, configs: Sequence[RunConfig]) -> str:
    """The settings in which a run differs from the nearest of the study, with its values."""
    fields = [name for name in RunConfig.model_fields if name not in TEXTS]  # which count by content
    differing = ([name for name in fields if getattr(config, name) != getattr(other, name)] for other in configs)
    return ", ".join(f"{name} {getattr(config, name)}" for name in min(differing, key=len))


def _provenance(device: torch.device) -> dict[str, Any]:
    packages = ("isoloss", "torch", "numpy", "polars", "safetensors")
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": {**describe(device).as_dict(), "cores": available_cores()},
    }
