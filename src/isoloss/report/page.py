"""The report: one page that works offline, and its figures as PNG and SVG beside it."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from isoloss.errors import StoreError
from isoloss.files import write_bytes, write_text
from isoloss.report import sections, sentences
from isoloss.report.gallery import Figure, make_figures
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.store.tables import StudyResults

VEGA_LITE_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
PNG_SCALE = 2.0

DRAW = """
for (const chart of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(chart.dataset.spec).textContent);
  vegaEmbed(chart, spec, { renderer: "svg", actions: false }).catch((error) => { chart.textContent = String(error); });
}
"""
"""Bundled with the libraries it calls: draws every figure from the specification that stands beside it."""


def write_report(results: StudyResults) -> Path:
    """Write report/index.html and report/figures/ of a study, finished or not; returns the page's path.

    Raises StoreError when the study cannot be read, a figure cannot be drawn, or the report cannot be written.
    """
    snapshot = take_snapshot(results)
    figures = make_figures(snapshot)
    page = results.paths.report
    for figure in figures:
        _write_images(page.parent / "figures", figure)
    write_text(page, render(snapshot, figures))
    return page


def render(snapshot: Snapshot, figures: list[Figure]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("isoloss.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2").render(
        study=snapshot.study,
        summary=sentences.summary(snapshot),
        limitations=sentences.limitations(snapshot),
        sections=sections,
        snapshot=snapshot,
        figures={figure.name: figure for figure in figures},
        script=vl_convert.javascript_bundle(snippet=DRAW, vl_version=VEGA_LITE_VERSION),
    )


def _write_images(folder: Path, figure: Figure) -> None:
    try:
        png = vl_convert.vegalite_to_png(figure.spec, vl_version=VEGA_LITE_VERSION, scale=PNG_SCALE)
        svg = vl_convert.vegalite_to_svg(figure.spec, vl_version=VEGA_LITE_VERSION)
    except ValueError as error:
        raise StoreError(f"cannot draw {figure.name}: {str(error).splitlines()[0]}") from error
    write_bytes(folder / f"{figure.name}.png", png)
    write_text(folder / f"{figure.name}.svg", svg)
