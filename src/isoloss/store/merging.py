"""Joining study directories: halves that two machines trained, or the runs of thirty students, become one study."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isoloss.errors import ConfigError, StoreError
from isoloss.files import make_folder, path_exists, write_checksummed
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.owner import owned
from isoloss.store.run import ROWS, create_run, read_rows
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.cells import Cell
from isoloss.study.config import SETTINGS, RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study

ENDED = ("done", "diverged", "failed")
"""States that stand for a run, the best first; of any other state a run is trained on."""


@dataclass(frozen=True)
class Merged:
    """A joined study: where each of its runs is from, and what was in doubt."""

    results: StudyResults
    taken: dict[str, Path]
    conflicts: tuple[str, ...]


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
        if (other.facts.sha256, other.study.tokenizer) != (first.facts.sha256, first.study.tokenizer):
            where = f"{first.paths.folder} and {other.paths.folder}"
            raise ConfigError(f"{where} are of different texts or tokenizers: their losses do not compare")
    study = joined([each.study for each in opened], [each.configs for each in opened])
    paths = StudyPaths(out)
    if path_exists(paths.study):
        raise StoreError(f"{out} holds a study already; choose a new folder")
    with owned(paths):
        results = StudyResults(paths, study, first.facts)
        taken, conflicts = dict[str, Path](), list[str]()
        for config in results.configs:
            run = run_id(config)
            found = _held(opened, run)
            if found:
                taken[run] = found[0].folder
                conflicts += _differing(run, found)
                make_folder(paths.runs)
                shutil.copytree(found[0].folder, paths.run(run).folder, ignore=shutil.ignore_patterns(".*"))
            create_run(paths.run(run), config)
        for number, each in enumerate(opened, 1):
            shutil.copyfile(each.paths.provenance, paths.folder / f"provenance.{number}.json")
        shutil.copyfile(first.paths.provenance, paths.provenance)
        shutil.copyfile(first.paths.tokenizer, paths.tokenizer)
        write_checksummed(paths.study, dump_study(study))  # last: without it the folder is no study
    return Merged(results, taken, tuple(conflicts))


def joined(studies: Sequence[Study], configs: Sequence[Sequence[RunConfig]]) -> Study:
    """The study of all cells and seeds: the first one with seeds added, or with its cells stated one by one."""
    first = studies[0]
    seeds = tuple(dict.fromkeys(seed for study in studies for seed in study.seeds))
    hypotheses = tuple(dict.fromkeys(stated for study in studies for stated in study.hypotheses))
    every = [config for of_one in configs for config in of_one]
    known = dict.fromkeys(run_id(config.model_copy(update={"seed": seeds[0]})) for config in configs[0])
    cells = {run_id(config.model_copy(update={"seed": seeds[0]})): config for config in every}
    if len(cells) == len(known):
        return replace(first, seeds=seeds, hypotheses=hypotheses)
    values = {name: [getattr(config, name) for config in cells.values()] for name in SETTINGS}
    varied = [name for name in SETTINGS if len(set(values[name])) > 1]
    runs: tuple[Cell, ...] = tuple({name: getattr(config, name) for name in varied} for config in cells.values())
    base = {name: given[0] for name, given in values.items() if name not in varied}
    return Study(first.name, first.corpus, first.tokenizer, first.description, base, {}, seeds, hypotheses, runs=runs)


def _held(opened: Sequence[StudyResults], run: str) -> list[RunPaths]:
    """Where a run has begun, those that ended best first."""
    begun = [each for each in opened if path_exists(each.paths.run(run).metrics)]
    states = [each.status(run).state for each in begun]
    order = sorted(range(len(begun)), key=lambda i: ENDED.index(states[i]) if states[i] in ENDED else len(ENDED))
    return [begun[i].paths.run(run) for i in order]


def _differing(run: str, found: Sequence[RunPaths]) -> list[str]:
    """What is in doubt of a run that was trained more than once."""
    return [
        f"run {run} has other losses in {paths.folder} than in {found[0].folder}, which is taken"
        for paths in found[1:]
        if _losses(paths) != _losses(found[0])
    ]


def _losses(paths: RunPaths) -> list[tuple[object, ...]]:
    """Every loss that a run recorded: those of equal runs are equal to the bit."""
    rows = (row for name in ROWS for row in read_rows(paths.rows(name)))
    return [tuple(row.get(key) for key in ("step", "loss", "train_loss", "val_loss")) for row in rows]
