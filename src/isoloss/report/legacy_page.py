"""The report: one page that works offline, with its figures as PNG and SVG and its tables as CSV beside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from isoloss.analysis.claims import Claim
from isoloss.errors import StoreError
from isoloss.files import write_bytes, write_text, writing
from isoloss.report import sections, sentences
from isoloss.report.claims import claim_sentences, exploratory_sentence
from isoloss.report.convergence import convergence_figures, convergence_sentences
from isoloss.report.effects import effect_figures, effect_sentences
from isoloss.report.findings import Findings, find
from isoloss.report.gallery import make_figures
from isoloss.report.parts import Figure, Table
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.report.tables import exact_values, make_tables, scaling_tables
from isoloss.store.spreadsheet import csv_text
from isoloss.store.tables import StudyResults

VEGA_LITE_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
PNG_SCALE = 2.0

DRAW = """
const options = {
  renderer: "svg",
  actions: false,
  ast: true, // expressions are interpreted: the page's policy lets nothing be compiled
  defaultStyle: false, // styles stand in style.css: the policy knows that one
  tooltip: { disableDefaultStyle: true },
};
for (const chart of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(chart.dataset.spec).textContent);
  vegaEmbed(chart, spec, options).catch((error) => { chart.textContent = String(error); });
}
"""
"""Bundled with the libraries it calls: draws every figure from the specification that stands beside it."""


@dataclass(frozen=True)
class Report:
    """A written report: its page, and the claims that it makes of the study's hypotheses."""

    page: Path
    claims: list[Claim]


def write_report(results: StudyResults) -> Report:
    """Write report/index.html, report/figures/ and report/tables/ of a study, finished or not.

    Raises StoreError when the study cannot be read, a figure cannot be drawn, or the report cannot be written.
    """
    snapshot = take_snapshot(results)
    findings = find(snapshot)
    figures = [
        *make_figures(snapshot),
        *effect_figures(snapshot, findings.effects),
        *convergence_figures(snapshot, findings.convergence),
        *findings.scaling.figures,
    ]
    tables = make_tables(snapshot, findings)
    page = results.paths.report
    for figure in figures:
        _write_images(page.parent / "figures", figure)
    for name, table in tables.items():
        write_text(page.parent / "tables" / f"{name}.csv", csv_text(exact_values(table)))
    write_text(page, render(snapshot, findings, figures, tables))
    _remove_others(page.parent / "figures", {f"{f.name}.{kind}" for f in figures for kind in ("png", "svg")})
    _remove_others(page.parent / "tables", {f"{name}.csv" for name in tables})
    return Report(page, findings.claims)


def render(snapshot: Snapshot, findings: Findings, figures: Sequence[Figure], tables: Mapping[str, Table]) -> str:
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
        claim_sentences=claim_sentences(snapshot, findings),
        exploratory_sentence=exploratory_sentence(findings),
        effect_sentences=effect_sentences(findings.effects),
        convergence_sentences=convergence_sentences(findings.convergence),
        limitations=sentences.limitations(snapshot),
        sections=sections,
        snapshot=snapshot,
        findings=findings,
        scaling_tables=scaling_tables(findings),
        figures={figure.name: figure for figure in figures},
        tables=tables,
        script=_script(),
        style=_style(),
        policy=_policy(),
    )


def _remove_others(folder: Path, written: set[str]) -> None:
    """What an earlier report wrote and this one did not, like a figure that the study has outgrown."""
    for path in folder.glob("*.*"):
        if path.name not in written:
            with writing(path):
                path.unlink(missing_ok=True)


@cache
def _script() -> str:
    """Vega and what draws the figures with it; the same for every page."""
    return vl_convert.javascript_bundle(snippet=DRAW, vl_version=VEGA_LITE_VERSION)


@cache
def _style() -> str:
    return (resources.files("isoloss.report") / "templates" / "style.css").read_text(encoding="utf-8")


@cache
def _policy() -> str:
    """The page's Content-Security-Policy: its one script, its one style and the images beside it, and nothing else.

    Text of a study that found its way into the markup all the same could neither run nor send anything anywhere.
    """
    sources = {
        "default-src": "'none'",
        "script-src": _by_hash(_script()),
        "style-src": _by_hash(_style()),
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{kind} {allowed}" for kind, allowed in sources.items())


def _by_hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _write_images(folder: Path, figure: Figure) -> None:
    try:
        svg = vl_convert.vegalite_to_svg(figure.spec, vl_version=VEGA_LITE_VERSION)
        png = vl_convert.svg_to_png(svg, scale=PNG_SCALE)
    except ValueError as error:
        raise StoreError(f"cannot draw {figure.name}: {str(error).splitlines()[0]}") from error
    write_bytes(folder / f"{figure.name}.png", png)
    write_text(folder / f"{figure.name}.svg", svg)
