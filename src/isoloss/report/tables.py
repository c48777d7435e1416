"""Every table of the page by the name of its CSV, and what that holds."""

from __future__ import annotations

import polars as pl

from isoloss.diagnostic import Diagnostic
from isoloss.report import sections
from isoloss.report.claims import claim_table
from isoloss.report.convergence import run_table, share_table
from isoloss.report.effects import effect_table
from isoloss.report.findings import Findings
from isoloss.report.parts import Table
from isoloss.report.snapshot import Snapshot


def make_tables(snapshot: Snapshot, findings: Findings) -> dict[str, Table]:
    """Every table that has rows."""
    tables = {
        "claims": claim_table(findings),
        "settings": sections.settings(snapshot, stated=True),
        "defaults": sections.settings(snapshot, stated=False),
        "runs": sections.all_runs(snapshot),
        "levels": sections.levels(snapshot),
        "audit": audit_table(findings.audit),
        "unfinished": sections.unfinished(snapshot),
    }
    if not isinstance(findings.effects, Diagnostic):
        tables["effects"] = effect_table(findings.effects)
    if not isinstance(findings.convergence, str):
        tables["convergence"] = share_table(findings.convergence)
        tables["convergence_by_run"] = run_table(snapshot, findings.convergence)
    tables |= {name: table for name, _, table in scaling_tables(findings)}
    return {name: table for name, table in tables.items() if table.rows}


def scaling_tables(findings: Findings) -> list[tuple[str, str, Table]]:
    """Name, caption and table of what the scaling fit left."""
    return [(f"scaling_{i}", caption, table) for i, (caption, table) in enumerate(findings.scaling.tables, start=1)]


def audit_table(findings: list[Diagnostic]) -> Table:
    """Findings of the design audit, the gravest first."""
    rows = [(finding.code, finding.severity, finding.text, finding.remedy) for finding in findings]
    return Table(("code", "severity", "finding", "remedy"), rows, numbers_from=4)


def exact_values(table: Table) -> pl.DataFrame:
    """What a table's CSV holds: its exact values, else its words."""
    if table.exact is not None:
        return table.exact
    return pl.DataFrame(list(table.rows), schema=list(table.head), orient="row")
