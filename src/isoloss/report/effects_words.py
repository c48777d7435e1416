"""What effects say in plain words: which factor matters most, by how much, and what depends on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from isoloss.analysis.claim import ALPHA, AdjustedP
from isoloss.analysis.columns import usable_rows
from isoloss.analysis.effects import Effect, Effects
from isoloss.analysis.estimate import LEVEL, Estimate
from isoloss.analysis.factor import sorted_levels
from isoloss.analysis.factorial import t_quantile
from isoloss.analysis.roles import is_quantity
from isoloss.report.colours import factor_colours
from isoloss.report.response import Response, response_of, short, to_digits
from isoloss.wording import level, listed

MAX_LEVELS_IN_WORDS = 4
N, MEAN, LOW, HIGH = "\0n", "\0mean", "\0low", "\0high"
"""Columns of cells, by names that no factor has."""


@dataclass(frozen=True)
class EffectsView:
    """Effects with the runs they are of: `rows` are those that have the response and a level of every factor.

    `adjusted` has the one adjusted p of every term that has a p, `colours` that of every level of every factor.
    """

    effects: Effects
    rows: pl.DataFrame
    response: Response
    adjusted: Mapping[str, AdjustedP]
    colours: Mapping[str, Mapping[str, str]]

    @cached_property
    def factors(self) -> list[str]:
        """All factors, those whose level means lie furthest apart first; those without such a size last."""
        mains = [effect for effect in self.effects.effects if len(effect.factors) == 1]
        return [effect.term for effect in sorted(mains, key=lambda e: -(e.range.estimate.value if e.range else -1.0))]

    @cached_property
    def mains(self) -> list[Effect]:
        """The main effects that have a size, the largest first."""
        terms = {effect.term: effect for effect in self.effects.effects}
        return [terms[factor] for factor in self.factors if terms[factor].range is not None]

    @property
    def interactions(self) -> list[Effect]:
        """The interactions that chance does not explain, the smallest p first."""
        found = [effect for effect in self.effects.effects if len(effect.factors) == 2 and self.clear(effect)]
        return sorted(found, key=lambda effect: self.adjusted[effect.term].p)

    def clear(self, effect: Effect) -> bool:
        """Whether chance does not explain a term: its adjusted p is below 5%."""
        return effect.term in self.adjusted and self.adjusted[effect.term].p < ALPHA

    def matters(self, factor: str) -> bool:
        """Whether chance does not explain the effect of a factor, alone or with another one."""
        return any(self.clear(effect) for effect in self.effects.effects if factor in effect.factors)

    def counts(self, factor: str) -> bool:
        """Whether a factor matters, or nothing could be tested."""
        return self.matters(factor) or not self.adjusted

    def levels(self, factor: str) -> list[Any]:
        """The levels of a factor in ascending order."""
        return _levels(self.rows, factor)

    def numeric(self, factor: str) -> bool:
        """Whether the levels of a factor are numbers with an order."""
        return is_quantity(self.rows[factor])

    def cells(self, factors: Sequence[str]) -> pl.DataFrame:
        """N runs, their MEAN response and its interval where levels of some factors meet.

        Levels of one factor have its effect's own; else the error is that of the term of these factors, as for
        differences between the means, or that of single runs.
        """
        own = next((effect for effect in self.effects.effects if set(effect.factors) == set(factors)), None)
        error = own.error if own else self.effects.error
        reach = None if error is None else t_quantile((1 + LEVEL) / 2, error.df) * error.sd
        half = pl.lit(reach, pl.Float64()) / pl.col(N).sqrt()
        if own is not None and own.half_widths is not None:
            by_level = dict(zip(self.levels(factors[0]), own.half_widths, strict=True))
            half = pl.col(factors[0]).replace_strict(by_level, return_dtype=pl.Float64())
        cells = self.rows.group_by(factors, maintain_order=True).agg(
            pl.len().alias(N), pl.col(self.response.column).mean().alias(MEAN)
        )
        return cells.with_columns((pl.col(MEAN) - half).alias(LOW), (pl.col(MEAN) + half).alias(HIGH))

    def describe(self, row: Mapping[str, Any]) -> str:
        """What a run's mark is called: the key of its configuration where there is one, its levels, its seed."""
        if "key" in row and "label" in row:
            return f"{row['key']} · {row['label']}"
        mains = [effect.term for effect in self.effects.effects if len(effect.factors) == 1]
        return " · ".join(f"{factor} {level(row[factor])}" for factor in mains)

    def best(self, cells: pl.DataFrame) -> dict[str, Any] | None:
        """The best of some cells; None where neither way is better or there is no cell."""
        if self.response.better is None or cells.is_empty():
            return None
        return cells.sort(MEAN, descending=self.response.better == "higher", maintain_order=True).row(0, named=True)


def effects_view(
    effects: Effects,
    runs: pl.DataFrame,
    adjusted: Mapping[str, AdjustedP] | None,
    colours: Mapping[str, Mapping[str, str]] | None,
) -> EffectsView:
    """The view of the runs the effects were computed of.

    Without `adjusted`, p is as Holm's correction leaves it; without `colours`, they are those of the runs' levels.
    """
    factors = [effect.term for effect in effects.effects if len(effect.factors) == 1]
    keys = [*factors, *([effects.block] if effects.block is not None else [])]
    floats = [name for name in keys if runs.schema[name].is_float()]
    others = [name for name in keys if name not in floats]
    rows = usable_rows(runs, numeric=[effects.response, *floats], other=others).table if factors else runs.head(0)
    if effects.block is not None:
        rows = rows.unique([*factors, effects.block, effects.response], keep="first", maintain_order=True)
    if adjusted is None:
        adjusted = {e.term: AdjustedP(e.p_holm, stated=False) for e in effects.effects if e.p_holm is not None}
    colours = colours or factor_colours({factor: _levels(rows, factor) for factor in factors})
    return EffectsView(effects, rows, response_of(effects.response), adjusted, colours)


def _levels(rows: pl.DataFrame, factor: str) -> list[Any]:
    return sorted_levels(rows[factor].unique(maintain_order=True)).to_list()


def moved(view: EffectsView, effect: Effect) -> str:
    """What a factor does: '256 instead of 128 lowers the best validation loss by 0.211 nats (95% interval …)'."""
    assert effect.range is not None
    response, size = view.response, effect.range.estimate
    by = _sized(response, size)
    best, other = better_and_worse(view, effect)
    if response.better is None:
        return f"{response.name} is highest at {best} and lowest at {other}, {by} apart"
    verb = f"{'lowers' if response.better == 'lower' else 'raises'} {response.name} by {by}"
    if effect.df > 1:
        return f"{best}, the best of {effect.df + 1} levels, {verb} against the worst, {other}"
    return f"{best} instead of {other} {verb}"


def error_in_words(view: EffectsView) -> str:
    """What the intervals rest on."""
    error = view.effects.error
    own = [e.error.df for e in view.effects.effects if e.error is not None and e.error != error]
    if own:
        df = " to ".join(dict.fromkeys((f"{min(own):.4g}", f"{max(own):.4g}")))
        block = view.effects.block
        source = f"how each effect differs between {block}s" if block else "the spread within each combination"
        return f"95% intervals from {source}, on {df} df"
    if error is None:
        return "no intervals, there is no noise to judge by"
    return f"95% intervals on {error.df:.4g} df of {error.source}{' (screening only)' if error.screening else ''}"


def leading(view: EffectsView) -> str:
    """The factor that matters most and what it does, or that none is shown to matter."""
    first = next((effect for effect in view.mains if view.clear(effect)), None)
    if first is not None and first is not view.mains[0]:
        larger = f"{view.mains[0].term} has a larger difference, which chance may explain"
        return f"{first.term} is shown to matter: {moved(view, first)}; {larger}"
    if first is not None:
        return f"{first.term} matters most: {moved(view, first)}"
    if not view.mains:
        tested = [effect.term for effect in view.effects.effects if view.clear(effect)]
        found = f"; tests show that {listed(tested)} matter{'s' if len(tested) == 1 else ''}" if tested else ""
        return f"No difference between levels is determined: combinations without runs hide it, or other factors{found}"
    first = view.mains[0]
    if first.range is not None and first.range.estimate.value == 0:
        return f"{view.response.name[:1].upper()}{view.response.name[1:]} is the same at all levels"
    if view.effects.error is None:
        return f"By size alone {first.term} comes first: {moved(view, first)}"
    return f"No factor is shown to matter; {first.term} has the largest difference: {moved(view, first)}"


def _sized(response: Response, size: Estimate) -> str:
    """'0.211 nats (95% interval 0.197 to 0.224)': as many decimals as give the largest of these three digits."""
    ends = [end for end in (size.low, size.high) if end is not None]
    spec = to_digits((size.value, *ends))
    words = [short(end, spec) for end in ends]
    interval = f" ({size.level:.0%} interval {' to '.join(words)})" if words else ""
    return response.amount(size.value, spec) + interval + response.ratio(size.value, *ends)


def better_and_worse(view: EffectsView, effect: Effect) -> tuple[str, str]:
    """The two levels that differ most, the better one first, the higher one where neither is better."""
    assert effect.range is not None
    lowest, highest = level(effect.range.lowest), level(effect.range.highest)
    return (lowest, highest) if view.response.better == "lower" else (highest, lowest)


def edge(view: EffectsView, factor: str) -> str | None:
    """The level beyond which a factor of three numbers or more should be tried, if the best one is the outermost."""
    levels, best = view.levels(factor), view.best(view.cells([factor]))
    if best is None or len(levels) < 3 or not view.numeric(factor) or best[factor] not in (levels[0], levels[-1]):
        return None
    return None if best[factor] == 0 else level(best[factor])


def dependence(view: EffectsView, pair: Sequence[str]) -> str:
    """How the effect of the stronger of two factors differs from level to level of the other."""
    strong, weak = sorted(pair, key=view.factors.index)
    cells = view.cells([strong, weak])
    at = {level(each): cells.filter(pl.col(weak) == each) for each in view.levels(weak)}
    best = {each: level(found[strong]) for each, part in at.items() if (found := view.best(part)) is not None}
    if len(view.levels(strong)) > 2 and len(set(best.values())) > 1:
        return f"the best {strong} is {_listed_at(weak, best)}"
    effect = next((effect for effect in view.mains if effect.term == strong), None)
    if effect is None:
        return f"no level of {strong} is compared at every level of {weak}"
    better, worse = better_and_worse(view, effect)
    means = {each: {level(a): mean for a, mean in part.select(strong, MEAN).iter_rows()} for each, part in at.items()}
    changes = {
        each: view.response.amount(found[better] - found[worse], "+.3g")
        for each, found in means.items()
        if better in found and worse in found
    }
    return f"{better} instead of {worse} changes {view.response.name} by {_listed_at(weak, changes)}"


def _listed_at(factor: str, words: Mapping[str, str]) -> str:
    """'0.003 at n_embd 32 and 0.001 at n_embd 64'; of many levels the first and the last."""
    shown = [f"{word} at {factor} {each}" for each, word in words.items()]
    return listed(shown if len(shown) <= MAX_LEVELS_IN_WORDS else [shown[0], shown[-1]])
