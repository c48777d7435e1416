"""Where the runs come from: machine, versions, runs that are not done, samples and the study file itself."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator

import polars as pl

from isoloss.files import read_checksummed
from isoloss.report.chapter import Chapter, Item
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Column, Table
from isoloss.store.records import EXECUTOR
from isoloss.store.revisions import revisions
from isoloss.wording import MISSING, counted, listed, loss, si

MAX_SAMPLED_RUNS = 3
"""Samples of so many runs stand on the page as text."""
RECORDED = ("device_name", "torch", "cpu_capability", "threads", "stack_width", "ranks", EXECUTOR)
PAIRS = (Column("what", "what"), Column("value", "value", width=80))
UNFINISHED = (
    Column("run_id", "run"), Column("label", "levels", width=50), Column("status", "status"),
    Column("reason", "reason", width=60),
)  # fmt: skip


def samples_chapter(snapshot: Snapshot) -> Chapter:
    """Text that the best runs wrote."""
    by = f"best_{snapshot.compared_loss}"
    rows = snapshot.table.drop_nulls(by).sort(by, "run_id")
    items: list[Item] = []
    for run, label, best in rows.select("run_id", "label", by).iter_rows():
        if not snapshot.results.paths.run(run).samples.is_file() or (text := snapshot.results.samples(run)) is None:
            continue
        items.append(Item(f"{label} (run {run}, best validation loss {loss(best)})", text=text, verbatim=True))
        if len(items) == MAX_SAMPLED_RUNS:
            break
    answer = ["What these models write, from the best checkpoint of each run, each text after a prompt."]
    return Chapter("samples", "Samples", answer if items else ["No run has kept samples."], items=items)


def provenance_chapter(snapshot: Snapshot) -> Chapter:
    """Machine, versions, runs that are not done, the study file, and how to write the report again."""
    unfinished = snapshot.table.filter(pl.col("status") != "done")
    rows = pl.DataFrame(list(machine(snapshot)), schema={"what": pl.String(), "value": pl.String()}, orient="row")
    changes = list(_changes(snapshot))
    tables = [Table("machine", "What the study was trained on and with.", rows, PAIRS)]
    if len(unfinished):
        title = f"Runs that are not done: {len(unfinished):,} of {len(snapshot.table):,}."
        tables.insert(0, Table("unfinished", title, unfinished.select([c.name for c in UNFINISHED]), UNFINISHED))
    command = f"isoloss report {shlex.quote(snapshot.results.paths.folder.resolve().name)}"
    return Chapter(
        "provenance",
        "Provenance",
        [
            "Every run is done; none failed or diverged." if unfinished.is_empty() else f"{states(snapshot)}.",
            f"`{command}`, given in the folder that the study lies in, writes this report again from its files.",
            *changes,
        ],
        tables=tables,
        items=[Item("The study file", text=read_checksummed(snapshot.results.paths.study), verbatim=True)],
    )


def _changes(snapshot: Snapshot) -> Iterator[str]:
    """When the study was changed, how, and that losses could be looked at by then."""
    for change in revisions(snapshot.results.paths):
        seen = f", when {counted(change.runs_ended, 'run')} had ended and could be looked at" if change.begun else ""
        yield f"On {change.at} the study was changed{seen}: {'; '.join(change.changes) or 'its wording'}."
    if aside := len(snapshot.results.set_aside):
        yield f"set_aside.csv has {counted(aside, 'run')} that the study no longer asks for."


def states(snapshot: Snapshot) -> str:
    """How many runs are in each state: 'Of 8 runs, 5 done, 1 failed and 2 pending'."""
    counts = snapshot.counts
    known = [s for s in ("done", "failed", "diverged", "running", "pending", "damaged") if counts[s]]
    return f"Of {counted(snapshot.study.size, 'run')}, {listed(f'{counts[s]:,} {s}' for s in known)}"


def machine(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Versions and machine of the last start, and what the runs themselves were trained on."""
    start = snapshot.provenance
    yield "last started", str(start.get("started_at", MISSING))
    yield "versions", ", ".join(f"{name} {version}" for name, version in start.get("versions", {}).items())
    yield "machine", ", ".join(f"{name} {value}" for name, value in start.get("machine", {}).items())
    for key in RECORDED:
        values = Counter(str(s.provenance[key]) for s in snapshot.statuses.values() if key in s.provenance)
        if values:
            yield f"runs by {key}", ", ".join(f"{value} ({counted(n, 'run')})" for value, n in values.most_common())
    peaks = [s.provenance["peak"] for s in snapshot.statuses.values() if "peak" in s.provenance]
    if peaks:
        flops = [peak["flops"] for peak in peaks]
        ends = " to ".join(dict.fromkeys([si(min(flops)), si(max(flops))]))
        yield "peak behind the MFU", f"{ends}FLOP/s ({listed(sorted({peak['source'] for peak in peaks}))})"
