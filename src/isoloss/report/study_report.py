"""The report of a study: its chapters, its page, the files beside it, and the page of `isoloss watch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from isoloss.analysis.claim import Claim
from isoloss.analysis.positions import PositionLosses
from isoloss.analysis.scaling_results import ScalingResults
from isoloss.files import write_text
from isoloss.report.chapter import Chapter
from isoloss.report.chapters.answer import answer_chapter
from isoloss.report.chapters.claims import claims_chapter
from isoloss.report.chapters.convergence import convergence_chapter
from isoloss.report.chapters.design import design_chapter
from isoloss.report.chapters.effects import effects_chapter
from isoloss.report.chapters.method import method_chapter, references_chapter
from isoloss.report.chapters.positions import positions_chapter
from isoloss.report.chapters.provenance import provenance_chapter, samples_chapter
from isoloss.report.chapters.runs import configurations_table, runs_chapter, runs_table
from isoloss.report.chapters.scaling import scaling_chapter
from isoloss.report.chapters.speed import speed_chapter
from isoloss.report.findings import Findings, find
from isoloss.report.live import LiveData
from isoloss.report.page import Section, render_page, render_section
from isoloss.report.paper import write_paper
from isoloss.report.payload import payload
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.store.tables import StudyResults, load_study, write_summary
from isoloss.wording import counted

PAPER = "paper"
"""The folder with the files of figures and tables, beside the page."""


@dataclass(frozen=True)
class Report:
    """A written report: its page, and the claims that it makes of the study's hypotheses."""

    page: Path
    claims: list[Claim]
    positions: PositionLosses | None


def write_report(results: StudyResults) -> Report:
    """Write summary.csv and .parquet, report/index.html and report/paper/ of a study, finished or not.

    Raises StoreError when the study cannot be read, a figure cannot be drawn, or the report cannot be written.
    """
    snapshot = take_snapshot(results)
    write_summary(results, snapshot.summary)
    findings = find(snapshot)
    chapters = study_chapters(snapshot, findings)
    page = results.paths.report
    write_paper(page.parent / PAPER, chapters)
    sections = [render_section(chapter, files=PAPER) for chapter in chapters]
    study = snapshot.study
    write_text(page, render_page(study.name, sections, question=study.description, data=explorer_data(snapshot)))
    return Report(page, findings.claims, findings.positions)


def study_chapters(snapshot: Snapshot, findings: Findings) -> list[Chapter]:
    """Every chapter of a study's report, in order."""
    compared = snapshot.done.filter(pl.col("run_id").is_in(findings.compared.run_ids))
    effects = effects_chapter(findings.effects, compared, adjusted=findings.adjusted, colours=snapshot.colours)
    scaling = scaling_chapter(findings.scaling)
    convergence = convergence_chapter(findings.convergence, snapshot.table)
    profiled = isinstance(findings.scaling, ScalingResults) and findings.scaling.isoflop_law is not None
    chapters = [
        answer_chapter(snapshot, [scaling, effects] if profiled else [effects, scaling]),
        claims_chapter(findings.claims, findings.exploratory, len(findings.adjusted), one_seed=snapshot.study.one_seed),
        runs_chapter(snapshot),
        effects,
        convergence,
        *([positions_chapter(findings.positions, snapshot)] if findings.positions else []),
        scaling,
        speed_chapter(snapshot),
        samples_chapter(snapshot),
        design_chapter(snapshot, findings.audit),
        method_chapter(snapshot),
        provenance_chapter(snapshot),
    ]
    return [*chapters, references_chapter(chapters)]


class StudyRendering:
    """What `isoloss watch` shows of the study in a folder, which may not be there for a moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def data(self) -> LiveData:
        """The explorer's data and how far the study is. Raises StoreError."""
        snapshot = take_snapshot(load_study(self._folder))
        return LiveData(explorer_data(snapshot), _progress(snapshot))

    def sections(self) -> Sequence[Section]:
        """The chapters. Raises StoreError."""
        snapshot = take_snapshot(load_study(self._folder))
        return [render_section(chapter) for chapter in study_chapters(snapshot, find(snapshot))]

    def page(self, data: LiveData, sections: Sequence[Section], version: str) -> str:
        """The page. Raises StoreError."""
        study = load_study(self._folder).study
        return render_page(study.name, sections, question=study.description, data=data.explorer, live=version)


def explorer_data(snapshot: Snapshot) -> str:
    """What the page's scripts draw every run from."""
    return payload(snapshot, configurations_table(snapshot), runs_table(snapshot))


def _progress(snapshot: Snapshot) -> str:
    counts = snapshot.counts
    return f"{counts['done']:,} of {counted(snapshot.study.size, 'run')} done"
