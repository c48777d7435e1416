"""What `isoloss convergence` prints."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import Any

from rich.console import Console
from rich.table import Table

from isoloss.analysis.convergence import Convergence, RunConvergence
from isoloss.analysis.estimate import Estimate

SHOWN = 40


def convergence_as_json(convergence: Convergence) -> str:
    """One object at full precision: shares, cautions and `runs`, one entry a run."""
    entries = {field.name: getattr(convergence, field.name) for field in dataclasses.fields(convergence)}
    runs = [_entry(run) for run in entries.pop("runs")]
    plain = {name: _plain(value) for name, value in entries.items()}
    return json.dumps({**plain, "runs": runs}, indent=2, allow_nan=False, ensure_ascii=False)


def convergence_as_text(convergence: Convergence) -> str:
    """A table with a line a run, 40 at most, then the shares and what a reader has to know."""
    console = Console(width=110 + max((len(run.run) for run in convergence.runs), default=0))
    with console.capture() as captured:
        console.print(_table(convergence))
    lines: list[str] = []
    hidden = len(convergence.runs) - SHOWN
    if hidden > 0:
        lines.append(f"… and {hidden:,} more runs (--json has all)")
    lines += [f"{state}: {_share(share)}" for state, share in convergence.shares.items()]
    if convergence.reached is not None:
        lines.append(f"reached {convergence.target:g}: {_share(convergence.reached)}")
    if convergence.gap is not None:
        gap = convergence.gap
        lines.append(f"final val − train loss: {gap.value:.4f}{_interval(gap, 4)}, n = {gap.n}, {gap.method}")
    lines += [f"note ({caution.code}): {caution.text}" for caution in convergence.cautions]
    lines.append(
        "nats/doubling: improvement per doubling of steps over the last window [95%]; within "
        f"±{convergence.tolerance:g} the run has plateaued, from the step named. rise: of the end above the lowest "
        "stretch before it."
    )
    return "\n".join([captured.get(), *(textwrap.fill(line, 110) for line in lines)])


def _table(convergence: Convergence) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True)
    for heading in ("evals", "steps", "best", "at", "final", "nats/doubling", "rise", "state", "plateau"):
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    if convergence.target is not None:
        table.add_column(f"→ {convergence.target:g}", justify="right", no_wrap=True)
    for run in convergence.runs[:SHOWN]:
        table.add_row(*_cells(run))
    return table


def _cells(run: RunConvergence) -> list[str]:
    cells = [
        run.run,
        f"{run.n:,}",
        f"{run.last_step:,g}",
        f"{run.best_loss:.4f}",
        f"{run.best_step:,g}",
        f"{run.final_loss:.4f}",
        "–" if run.improvement is None else f"{run.improvement.value:.3f}{_interval(run.improvement, 3)}",
        "–" if run.rise is None else f"{run.rise.value:.3f}",
        run.state,
        "–" if run.plateau_step is None else f"{run.plateau_step:,g}",
    ]
    if run.to_target is not None:
        cells.append(f"{'' if run.to_target.reached else '>'}{run.to_target.step:,g}")
    return cells


def _share(share: Estimate) -> str:
    count = round(share.value * share.n)
    interval = "" if share.low is None or share.high is None else f" [{share.low:.0%}, {share.high:.0%}]"
    return f"{count:,} of {share.n:,} runs, {share.value:.0%}{interval}"


def _interval(estimate: Estimate, digits: int) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _entry(run: RunConvergence) -> dict[str, Any]:
    """A run without its earlier windows, but with the steps of the last one."""
    entry = {
        field.name: _plain(getattr(run, field.name)) for field in dataclasses.fields(run) if field.name != "windows"
    }
    last = run.windows[-1] if run.windows else None
    return {**entry, "last_window": None if last is None else [last.first_step, last.last_step]}


def _plain(value: Any) -> Any:
    """Results as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value
