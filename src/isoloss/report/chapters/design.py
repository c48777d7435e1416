"""What the design can tell and cannot, and what its numbers must not be taken for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from isoloss.diagnostic import Diagnostic
from isoloss.report.chapter import Chapter
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Column, Table
from isoloss.store.records import NUMERICS
from isoloss.study import compute
from isoloss.wording import counted, number, of_runs, si

MAX_SENTENCES = 2
"""Of the audit, before the table."""
COLUMNS = (
    Column("severity", "severity"),
    Column("finding", "finding", width=60),
    Column("remedy", "what would help", width=40),
)


def design_chapter(snapshot: Snapshot, audit: Sequence[Diagnostic]) -> Chapter:
    """The audit of the design, and the limits of what these runs show."""
    grave = [one for one in audit if one.severity != "note"]
    answer = [one.text for one in grave[:MAX_SENTENCES]] or ["The audit of the design finds nothing that limits it."]
    if len(grave) > MAX_SENTENCES:
        answer.append(f"The table has {counted(len(grave) - MAX_SENTENCES, 'more limit')}.")
    answer += _unfinished(snapshot)
    return Chapter("design", "Limits of this study", answer, tables=[audit_table(audit)] if audit else [],
                   details=[*_design(snapshot), *_measurement(snapshot)])  # fmt: skip


def audit_table(audit: Sequence[Diagnostic]) -> Table:
    """The findings of a design audit, the gravest first."""
    rows = [{"code": d.code, "severity": d.severity, "finding": d.text, "remedy": d.remedy} for d in audit]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return Table("audit", "What the design can and cannot tell.", frame, COLUMNS)


def _unfinished(snapshot: Snapshot) -> Iterator[str]:
    lost = snapshot.table.height - snapshot.counts["done"]
    if lost:
        yield (
            f"Of {counted(snapshot.study.size, 'run')}, {lost:,} {'is' if lost == 1 else 'are'} not done and left out "
            "of every mean. Where runs diverge, the levels they belong to look better than they are."
        )


def _design(snapshot: Snapshot) -> Iterator[str]:
    if len(snapshot.study.seeds) > 1:
        yield f"Each cell has {len(snapshot.study.seeds)} seeds, which show how much of a difference is chance."
    elif snapshot.study.one_seed:
        yield (
            "Every cell has one seed: the noise between seeds cannot be estimated from these runs, so a small "
            "difference between two of them may be chance."
        )
    configs = list(snapshot.configs.values())
    tokens = [compute.train_tokens(config) for config in configs]
    if min(tokens) < max(tokens):
        yield (
            f"Runs see between {si(min(tokens))} and {si(max(tokens))} training tokens: where a factor changes that "
            "number, its effect and the effect of more data are one."
        )
    repeated = snapshot.table.filter(pl.col("epochs") > 1)
    if len(repeated):
        most = repeated.sort("epochs").row(-1, named=True)
        yield (
            f"{of_runs(len(repeated), len(configs))} read their training text more than once, up to "
            f"{number(most['epochs'], '.3g')} times: {si(most['train_tokens'])} tokens of which "
            f"{si(most['unique_tokens'])} are unique. A repeated token teaches less than a new one."
        )
    rates = {config.learning_rate for config in configs}
    if len(rates) == 1 and len(configs) > 1:
        yield f"One learning rate ({rates.pop():g}) for all runs: none has it tuned to its own size or batch."


def _measurement(snapshot: Snapshot) -> Iterator[str]:
    yield (
        "The best validation loss is the lowest of several evaluations on the same split it is reported on: selected, "
        "therefore optimistic. There is no test split."
    )
    done = snapshot.done.drop_nulls("best_step")
    if len(done):
        at_end = sum(
            step == snapshot.configs[run].max_iters for run, step in done.select("run_id", "best_step").iter_rows()
        )
        yield (
            f"{at_end:,} of {counted(len(done), 'run')} had the lowest loss at the last step; a longer horizon may "
            "order such runs differently."
        )
    if any(config.eval == "sampled" for config in snapshot.configs.values()):
        yield "Sampled evaluations carry sampling noise, and the lowest of several noisy ones is lower than the truth."
    if len({*snapshot.study.datasets.values()}) == 1:
        yield "One corpus and one split: nothing here says how far results carry to other text."
    yield from _numerics(snapshot)
    yield "Step times, throughput and MFU are those of a machine that other runs may have shared: no benchmark."


def _numerics(snapshot: Snapshot) -> Iterator[str]:
    """Runs whose bits come of more than one place, and runs that differ in where they come from."""
    records = [status.provenance.get(NUMERICS, []) for status in snapshot.statuses.values()]
    changed = sum(len(record) > 1 for record in records)
    if changed:
        yield (
            f"{counted(changed, 'run')} {'was' if changed == 1 else 'were'} continued under other numerics than "
            f"{'it' if changed == 1 else 'they'} began with (threads, kernels, stack width, torch or processor); "
            "another start would not give the same bits."
        )
    places = {tuple(value for name, value in entry.items() if name != "step") for record in records for entry in record}
    if len(places) > 1:
        yield (
            f"The runs were trained under {len(places)} different numerics; differences of rounding between them are "
            "part of what distinguishes runs."
        )
