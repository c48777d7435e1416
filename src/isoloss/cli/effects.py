"""What `isoloss effects` prints."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from isoloss.analysis.effects import Effect, Effects
from isoloss.analysis.estimate import Estimate
from isoloss.analysis.pairs import PairedFactor
from isoloss.analysis.screening import Screening

WIDTH = 110


Pairs = Sequence[PairedFactor]


def effects_as_json(effects: Effects, pairs: Pairs = ()) -> str:
    """One object, at full precision; what could not be computed is null."""
    document = dataclasses.asdict(effects)
    document["pairs"] = [dataclasses.asdict(pair) for pair in pairs]
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def effects_as_text(effects: Effects, pairs: Pairs = ()) -> str:
    """What the effects rest on, a line a term, Lenth's margins, pairs where runs are paired, and the cautions."""
    lines = [_heading(effects), ""]
    if effects.effects:
        lines += [_table(effects), ""]
    if any(effect.others for effect in effects.effects if len(effect.factors) > 1):
        lines += ["Further contrasts of interactions are in the JSON.", ""]
    if effects.screening is not None:
        lines += [*_margins(effects.screening), ""]
    if any(effect.detectable is not None for effect in effects.effects):
        lines += ["80% power: the effect that replicates like these find four times in five, in one test alone.", ""]
    if effects.block is not None:
        lines += [*_pairs(pairs), ""]
    lines += [f"{caution.code}: {caution.text}" for caution in effects.cautions]
    return "\n".join(wrapped for line in lines for wrapped in _wrapped(line)).rstrip()


def _pairs(pairs: Pairs) -> list[str]:
    """Pair by pair: what is shared drops out, and no p is adjusted for the number of factors."""
    lines: list[str] = []
    for pair in pairs:
        found = pair.difference
        size, interval = _size(found.estimate)
        lines.append(
            f"{pair.factor} {pair.contrast} over {found.n} pairs that share all else: {size} [{interval}], paired t p "
            f"{_probability(found.p)}, sign flips p {_probability(found.p_sign_flip)} (smallest possible "
            f"{found.smallest_p:.2g}); not adjusted"
        )
    return lines


def _heading(effects: Effects) -> str:
    runs = f"{effects.n:,} run{'' if effects.n == 1 else 's'} in {effects.n_cells:,} cell"
    cells = runs if effects.n_cells == 1 else runs + "s"
    error = effects.error
    rests = f"error sd {error.sd:.4g} on {error.df:.4g} df, {error.source}" if error else "no error to judge effects by"
    return f"{effects.response}: {cells}; {rests}"


def _table(effects: Effects) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("term")
    table.add_column("contrast")
    for heading in ("effect", "95% interval", "F", "p", "p Holm", "η²p", "80% power"):
        table.add_column(heading, justify="right", no_wrap=True)
    for effect in effects.effects:
        table.add_row(effect.term, effect.contrast, *_size(effect.estimate), *_test(effect))
        if len(effect.factors) == 1:
            for other in effect.others:
                table.add_row("", other.contrast, *_size(other.estimate))
    console = Console(width=WIDTH)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _size(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None:
        return "–", "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.4g}", "–"
    return f"{estimate.value:+.4g}", f"{estimate.low:+.4g} to {estimate.high:+.4g}"


def _test(effect: Effect) -> tuple[str, str, str, str, str]:
    f = "–" if effect.F is None else f"{effect.F:.4g}"
    share = "–" if effect.partial_eta_squared is None else f"{effect.partial_eta_squared:.2f}"
    detectable = "–" if effect.detectable is None else f"{effect.detectable:.2g}"
    return f, _probability(effect.p), _probability(effect.p_holm), share, detectable


def _probability(p: float | None) -> str:
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _margins(screening: Screening) -> list[str]:
    beyond = [f"{effect.term} ({effect.value:+.4g})" for effect in screening.effects if effect.active]
    return [
        f"Screening (Lenth 1989): pseudo standard error {screening.pse:.4g}, margin of error {screening.margin:.4g}, "
        f"simultaneous margin {screening.simultaneous_margin:.4g}.",
        f"Beyond the simultaneous margin, of {len(screening.effects)} effects: {', '.join(beyond) or 'none'}.",
    ]


def _wrapped(line: str) -> list[str]:
    """A sentence in lines of the page's width; a table, which has its own lines, as it is."""
    return [line] if "\n" in line else textwrap.wrap(line, WIDTH, subsequent_indent="  ") or [""]
