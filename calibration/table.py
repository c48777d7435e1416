"""Rates as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calibration.measure import RANGES, Rate


def rates_as_markdown(title: str, rates: Sequence[Rate]) -> str:
    """A row a setting, a column a quantity: percent with its 95% Monte-Carlo interval; bold where outside its range."""
    quantities = list(dict.fromkeys(rate.quantity for rate in rates))
    rows = {rate.case: {each.quantity: each for each in rates if each.case == rate.case} for rate in rates}
    low, high = RANGES[rates[0].aim]
    aim = "" if high - low == 1 else f" (aim: {100 * low:g} to {100 * high:g})"
    lines = [
        f"**{title}**, percent{aim}",
        "",
        f"| | simulations | {' | '.join(quantities)} |",
        "|---" * (2 + len(quantities)) + "|",
    ]
    for case, found in rows.items():
        cells = [_cell(found[quantity]) if quantity in found else "" for quantity in quantities]
        repetitions = next(iter(found.values())).repetitions
        lines.append(f"| {case} | {repetitions:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def recovery_as_markdown(errors: Mapping[str, Sequence[float]]) -> str:
    """The largest relative error of any parameter of any law, and the median over laws, by objective."""
    lines = [
        "**Parameters recovered without noise**, largest relative error of the five",
        "",
        "| objective | laws | median | largest |",
        "|---|---|---|---|",
    ]
    for name, found in errors.items():
        lines.append(f"| {name} | {len(found)} | {sorted(found)[len(found) // 2]:.1e} | {max(found):.1e} |")
    return "\n".join(lines)


def _cell(rate: Rate) -> str:
    """`95.2 (93.1–96.8)`, and of how many outcomes where these are not one a simulation."""
    if not rate.n:
        return "none"
    value = f"{100 * rate.value:.1f}" if rate.inside else f"**{100 * rate.value:.1f}**"
    of = "" if rate.n == rate.repetitions else f" of {rate.n:,}"
    return f"{value} ({100 * rate.low:.1f}–{100 * rate.high:.1f}){of}"
