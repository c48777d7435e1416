"""Joining study directories: halves that two machines trained, or the runs of thirty students, become one study."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from isoloss.errors import ConfigError, StoreError
from isoloss.files import make_folder, path_exists, write_checksummed
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.opening import recorded_tokenizers
from isoloss.store.own_parts import keep_parts
from isoloss.store.owner import owned
from isoloss.store.revisions import revise, revisions, stated_beforehand
from isoloss.store.run import ROWS, create_run, read_rows, verified_status
from isoloss.store.tables import StudyResults, load_study
from isoloss.store.true_losses import join_true_losses
from isoloss.study.cells import Cell
from isoloss.study.config import SETTINGS, RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study
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
    known = [(each.facts.sha256, _vocabularies(each)) for each in (first, second)]
    if known[0] != known[1]:
        where = f"{first.paths.folder} and {second.paths.folder}"
        raise ConfigError(
            f"{where} are of different texts, validation splits or tokenizers: their losses do not compare"
        )


def _vocabularies(results: StudyResults) -> set[tuple[str, str]]:
    """The tokenizers of a study; those of files by what they are."""
    facts = results.facts
    return {(name.partition(FILE)[0], facts.of(name).tokenizer_sha256) for name in results.study.tokenizers}


def merge_studies(folders: Sequence[Path], out: Path) -> Merged:
    """Join the runs of study directories, by what they compute, into a new one.

    Where several have trained the same run, the first that is done is taken; a conflict says where their losses
    differ. Raises ConfigError when they are of different texts or tokenizers, StoreError when one cannot be read or
    `out` is not new.
    """
    opened = [load_study(folder) for folder in folders]
    if len(opened) < 2:
        raise ConfigError("merge needs two study directories or more")
    first, *others = opened
    for other in others:
        check_same_text(first, other)
    study = joined([each.study for each in opened], [each.configs for each in opened])
    for folder in folders:
        if out.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{out} lies inside {folder}, which is joined; choose another --out")
    paths = StudyPaths(out)
    if path_exists(paths.study):
        raise StoreError(f"{out} holds a study already; choose a new folder")
    results = StudyResults(paths, study, first.facts)
    with ExitStack() as stack:
        for each in (*opened, results):
            stack.enter_context(owned(each.paths))  # nobody trains what is copied
        return _copied(opened, results)


def _copied(opened: Sequence[StudyResults], results: StudyResults) -> Merged:
    """Copy each run from where it is furthest, and the records that all studies have; the study's file comes last."""
    paths, first = results.paths, opened[0]
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
    shutil.copyfile(first.paths.tokenizer, paths.tokenizer)
    keep_parts(paths.parts, results.configs)
    join_true_losses([each.paths for each in opened], paths)
    for known in recorded_tokenizers(first.paths).values():
        if sha256 := known.get("tokenizer_sha256"):
            make_folder(paths.definition(sha256).parent)
            shutil.copyfile(first.paths.definition(sha256), paths.definition(sha256))
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
    every = _as_first_called(configs)
    known = dict.fromkeys(run_id(config.model_copy(update={"seed": seeds[0]})) for config in configs[0])
    cells = {run_id(config.model_copy(update={"seed": seeds[0]})): config for config in every}
    if len(cells) == len(known):
        return replace(first, seeds=seeds, hypotheses=hypotheses, disk=None)  # a cap was for one machine
    if any(study.tuned != first.tuned for study in studies):
        raise ConfigError(
            "the studies tune different settings or try other values of them; state the same under tuned in all"
        )
    values = {
        name: [getattr(config, name) for config in cells.values()] for name in SETTINGS if name not in first.tuned
    }
    varied = [name for name in values if len(set(values[name])) > 1]
    runs: list[Cell] = [{name: getattr(config, name) for name in varied} for config in cells.values()]
    runs = [dict(items) for items in dict.fromkeys(tuple(run.items()) for run in runs)]
    base = {name: given[0] for name, given in values.items() if name not in (*varied, "tokenizer")}
    merged = Study(
        name=first.name,
        corpus=first.corpus,
        val_corpus=first.val_corpus,
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


def _as_first_called(configs: Sequence[Sequence[RunConfig]]) -> list[RunConfig]:
    """All runs, with tokenizers of files called as in the first study: on another machine they lie elsewhere."""
    names = {c.tokenizer_sha256: c.tokenizer for c in configs[0] if c.tokenizer.startswith(FILE)}
    return [
        config.model_copy(update={"tokenizer": names.get(config.tokenizer_sha256, config.tokenizer)})
        if config.tokenizer.startswith(FILE)
        else config
        for of_one in configs
        for config in of_one
    ]


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
