"""Joining study directories: halves that two machines trained, or the runs of thirty students, become one study."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from isoloss.errors import ConfigError, StoreError
from isoloss.files import make_folder, path_exists, write_checksummed
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.opening import facts_in, recorded_tokenizers, records_of, write_tokenizers
from isoloss.store.own_parts import keep_parts
from isoloss.store.owner import owned
from isoloss.store.revisions import revise, revisions, stated_beforehand
from isoloss.store.run import ROWS, create_run, read_rows, verified_status
from isoloss.store.tables import StudyResults, load_study
from isoloss.store.text_records import OneTokenizerRecord
from isoloss.store.true_losses import join_true_losses
from isoloss.study.cells import Cell
from isoloss.study.config import SETTINGS, TEXTS, RunConfig
from isoloss.study.datasets import Dataset, dataset_of
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study
from isoloss.study.texts import VAL_SHARE, joined_facts
from isoloss.study.tokenizer_names import FILE
from isoloss.wording import listed

ENDED = ("done", "diverged", "failed")
"""States of a run that has ended, the best first."""


@dataclass(frozen=True)
class Merged:
    """A joined study: where each of its runs is from, and what was in doubt."""

    results: StudyResults
    taken: dict[str, Path]
    conflicts: tuple[str, ...]


def check_same_text(first: StudyResults, second: StudyResults) -> None:
    """Raises ConfigError for studies of different texts, validation splits or tokenizers."""
    if _contents(first) != _contents(second):
        raise _different(first, second)


def _contents(results: StudyResults) -> set[tuple[str, str, str]]:
    """The texts and tokenizers of a study; those of files by what they are."""
    known = {each: results.facts.of(each) for each in results.study.datasets}
    return {(of.sha256, each.tokenizer.partition(FILE)[0], of.tokenizer_sha256) for each, of in known.items()}


def _check_joinable(first: StudyResults, second: StudyResults) -> None:
    """Raises ConfigError unless both are of one text, or of several by which their runs are told apart."""
    told_apart = first.study.varied_texts and second.study.varied_texts
    texts = {of.sha256 for each in (first, second) for of in map(each.facts.of, each.study.datasets)}
    shares = {each.study.val_share or VAL_SHARE for each in (first, second)}
    if len(shares if told_apart else texts) > 1:
        raise _different(first, second)


def _different(first: StudyResults, second: StudyResults) -> ConfigError:
    where = f"{first.paths.folder} and {second.paths.folder}"
    return ConfigError(f"{where} are of different texts, validation splits or tokenizers: their losses do not compare")


def merge_studies(folders: Sequence[Path], out: Path) -> Merged:
    """Join the runs of study directories, by what they compute, into a new one.

    Where several have trained the same run, the first that is done is taken; a conflict says where their losses
    differ. Raises ConfigError when they are of different texts that no factor tells
    apart, StoreError when one cannot be read or `out` is not new.
    """
    opened = [load_study(folder) for folder in folders]
    if len(opened) < 2:
        raise ConfigError("merge needs two study directories or more")
    first, *others = opened
    for other in others:
        _check_joinable(first, other)
    configs = _as_first_called([each.configs for each in opened])
    records = _records(opened, configs)
    study = joined([each.study for each in opened], configs)
    for folder in folders:
        if out.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{out} lies inside {folder}, which is joined; choose another --out")
    paths = StudyPaths(out)
    if path_exists(paths.study):
        raise StoreError(f"{out} holds a study already; choose a new folder")
    results = StudyResults(paths, study, joined_facts({each: facts_in(records[each]) for each in study.datasets}))
    with ExitStack() as stack:
        for each in (*opened, results):
            stack.enter_context(owned(each.paths))  # nobody trains what is copied
        return _copied(opened, results, records)


def _copied(
    opened: Sequence[StudyResults], results: StudyResults, records: Mapping[Dataset, OneTokenizerRecord]
) -> Merged:
    """Copy each run from where it is furthest, and the records that all studies have; the study's file comes last."""
    paths = results.paths
    taken, conflicts = dict[str, Path](), list[str]()
    make_folder(paths.runs)
    for config in results.configs:
        run = run_id(config)
        found, doubts = _held(opened, run)
        conflicts += doubts
        if found is not None:
            taken[run] = found.folder
            shutil.copytree(
                found.folder, paths.run(run).folder, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True
            )
        create_run(paths.run(run), config)
    started = [each.paths.provenance for each in opened if path_exists(each.paths.provenance)]
    for number, provenance in enumerate(started, 1):
        shutil.copyfile(provenance, paths.folder / f"provenance.{number}.json")
    for provenance in started[:1]:
        shutil.copyfile(provenance, paths.provenance)
    write_tokenizers(paths, records)
    keep_parts(paths.parts, results.configs)
    join_true_losses([each.paths for each in opened], paths)
    for each in opened:
        for sha256 in {of.tokenizer_sha256 for of in map(each.facts.of, each.study.datasets)} - {""}:
            make_folder(paths.definition(sha256).parent)
            shutil.copyfile(each.paths.definition(sha256), paths.definition(sha256))
    _record_changes(opened, results)
    return Merged(results, taken, tuple(conflicts))


def _record_changes(opened: Sequence[StudyResults], results: StudyResults) -> None:
    """Write the study; what its parts changed or stated after training began stays known."""
    beforehand = [stated for each in opened for stated in stated_beforehand(each.paths, each.study)]
    late = [stated for each in opened for stated in each.study.hypotheses if stated not in beforehand]
    changes = [change for each in opened for revision in revisions(each.paths) for change in revision.changes]
    if not late and not changes:
        write_checksummed(results.paths.study, dump_study(results.study))
        return
    known = tuple(stated for stated in results.study.hypotheses if stated not in late)
    names = " and ".join(str(each.paths.folder) for each in opened)
    revise(
        results.paths,
        replace(results.study, hypotheses=known),
        results.study,
        runs_ended=len(results.configs),
        begun=True,
        more=(f"joined from {names}", *changes),
    )


def joined(studies: Sequence[Study], configs: Sequence[Sequence[RunConfig]]) -> Study:
    """The study of all cells and seeds: the first one with seeds added, or with its cells stated one by one."""
    first = studies[0]
    seeds = tuple(dict.fromkeys(seed for study in studies for seed in study.seeds))
    hypotheses = tuple(dict.fromkeys(stated for study in studies for stated in study.hypotheses))
    if any(study.target != first.target for study in studies):
        raise ConfigError(f"the studies' targets differ: {listed(study.target for study in studies)}; state one in all")
    every = [config for of_one in _as_first_called(configs) for config in of_one]
    known = dict.fromkeys(run_id(config.model_copy(update={"seed": seeds[0]})) for config in configs[0])
    cells = {run_id(config.model_copy(update={"seed": seeds[0]})): config for config in every}
    if len(cells) == len(known):
        return replace(first, seeds=seeds, hypotheses=hypotheses, disk=None)  # a cap was for one machine
    if any(study.tuned != first.tuned for study in studies):
        raise ConfigError(
            "the studies tune different settings or try other values of them; state the same under tuned in all"
        )
    names = [*dict.fromkeys(name for study in studies for name in study.varied_texts), *SETTINGS]
    values = {name: [getattr(config, name) for config in cells.values()] for name in names if name not in first.tuned}
    varied = [name for name in values if len(set(values[name])) > 1 or name in first.varied_texts]
    runs: list[Cell] = [{name: getattr(config, name) for name in varied} for config in cells.values()]
    runs = [dict(items) for items in dict.fromkeys(tuple(run.items()) for run in runs)]
    base = {name: given[0] for name, given in values.items() if name not in (*varied, "tokenizer")}
    corpora = {name: corpus for study in reversed(studies) for name, corpus in study.corpora.items()}
    merged = Study(
        name=first.name,
        corpus=first.corpus,
        val_corpus=None if "val_corpus" in varied else first.val_corpus,
        corpora=corpora,
        val_share=first.val_share,
        document_separator=first.document_separator,
        tokenizer=first.tokenizers[0],
        description=first.description,
        base=base,
        seeds=seeds,
        hypotheses=hypotheses,
        runs=tuple(runs),
        tuned=first.tuned,
        target=first.target,
    )
    if merged.size != len(cells) * len(seeds):
        raise ConfigError(
            "a study leaves out some values that it tunes; run it without those entries of exclude, then join"
        )
    return merged


def _as_first_called(configs: Sequence[Sequence[RunConfig]]) -> list[list[RunConfig]]:
    """The runs, with texts and files of tokenizers called as where they are first: elsewhere they have other names."""
    texts: dict[str, dict[str, str]] = {}
    files: dict[str, str] = {}

    def called(config: RunConfig) -> RunConfig:
        names = texts.setdefault(config.corpus_sha256, {name: getattr(config, name) for name in TEXTS})
        if config.tokenizer.startswith(FILE):
            names = names | {"tokenizer": files.setdefault(config.tokenizer_sha256, config.tokenizer)}
        same = all(getattr(config, key) == name for key, name in names.items())
        return config if same else config.model_copy(update=names)

    return [[called(config) for config in of_one] for of_one in configs]


def _records(
    opened: Sequence[StudyResults], configs: Sequence[Sequence[RunConfig]]
) -> dict[Dataset, OneTokenizerRecord]:
    """What is recorded of the text and the tokenizer of each run, by their names in the joined study.

    Raises ConfigError where a name stands for several.
    """
    found: dict[Dataset, OneTokenizerRecord] = {}
    for each, of_one in zip(opened, configs, strict=True):
        known = records_of(each.study, recorded_tokenizers(each.paths))
        for own, config in zip(each.configs, of_one, strict=True):
            name, record = dataset_of(config), known[dataset_of(own)]
            if name not in found:
                found[name] = {**record, "tokenizer": name.tokenizer, "corpus": name.corpus}
                if each.study.varied_texts:
                    found[name]["val_corpus"] = name.val_corpus
            if "yardsticks" in record:
                found[name]["yardsticks"] = record["yardsticks"]
            for key, called in (("corpus_sha256", name.corpus), ("tokenizer_sha256", name.tokenizer)):
                if found[name].get(key) != record.get(key):
                    text = f"'{called}' of {each.paths.folder} is another than that of {opened[0].paths.folder}"
                    raise ConfigError(f"{text}: what the two stand for differs, and so do their runs")
    return found


def _held(opened: Sequence[StudyResults], run: str) -> tuple[RunPaths | None, list[str]]:
    """Where a run is furthest: done, else diverged or failed, else begun; and what is in doubt of it."""
    begun = [each.paths.run(run) for each in opened if path_exists(each.paths.run(run).metrics)]
    states = {paths.folder: verified_status(paths).state for paths in begun}
    doubts = [f"run {run} is damaged in {paths.folder}" for paths in begun if states[paths.folder] == "damaged"]
    whole = [paths for paths in begun if states[paths.folder] != "damaged"]
    order = (*ENDED, "running", "pending")
    best = min(whole, key=lambda paths: order.index(states[paths.folder]), default=None)
    done = [paths for paths in whole if states[paths.folder] == "done"]
    doubts += [
        f"run {run} has other losses in {paths.folder} than in {done[0].folder}, which is taken"
        for paths in done[1:]
        if _losses(paths) != _losses(done[0])
    ]
    return best, doubts


def _losses(paths: RunPaths) -> list[tuple[object, ...]]:
    """Every loss that a run recorded: those of equal runs are equal to the bit."""
    rows = (row for name in ROWS for row in read_rows(paths.rows(name)))
    return [tuple(row.get(key) for key in ("step", "loss", "train_loss", "val_loss", "ema_val_loss")) for row in rows]
