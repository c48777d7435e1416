"""The chapter on scaling as the old page shows it; it goes with that page."""

from __future__ import annotations

from dataclasses import dataclass

from isoloss.analysis.scaling_results import ScalingResults, study_law
from isoloss.diagnostic import Diagnostic
from isoloss.report.chapters.scaling import scaling_chapter
from isoloss.report.chart import WIDE
from isoloss.report.parts import Figure, Table
from isoloss.report.snapshot import Snapshot


@dataclass(frozen=True)
class ScalingView:
    """Sentences, tables with a caption each, and figures."""

    law: ScalingResults | Diagnostic
    sentences: list[str]
    tables: list[tuple[str, Table]]
    figures: list[Figure]


def scaling_view(snapshot: Snapshot) -> ScalingView:
    """The law that a study's runs follow, or why there is none."""
    law = study_law(snapshot.table, snapshot.done, snapshot.factors)
    chapter = scaling_chapter(law)
    tables = [(t.title, Table([c.head for c in t.columns], t.cells(), exact=t.frame)) for t in chapter.tables]
    figures = [Figure(f.name, f"{f.title} {f.subtitle}", f.spec(WIDE)) for f in chapter.figures]
    return ScalingView(law, [*chapter.answer, *chapter.details], tables, figures)
