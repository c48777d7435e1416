"""Which combinations of levels a study trains: its cells, from factors, paired settings, stated runs and a design."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast
from zlib import crc32

from isoloss.errors import ConfigError
from isoloss.study.config import is_whole
from isoloss.study.fractions import generators

Scalar = str | int | float | bool | None
Cell = dict[str, Scalar]
DIGITS = 4
"""Significant digits of a value that is drawn from a range, so that tables and labels can be read."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high` of which a sampled design draws; whole ones where the setting is a whole number."""

    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True)
class OneAtATime:
    """A centre, and cells that differ from it in one factor; a factor without an entry has its first level there."""

    centre: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])


@dataclass(frozen=True)
class Sampled:
    """`n` cells drawn from ranges and lists of levels: independently, or as a Sobol sequence, which spreads them."""

    method: Literal["random", "sobol"]
    n: int
    seed: int = 0


@dataclass(frozen=True)
class Fraction:
    """One in `denominator`, a power of two, of all combinations of two levels, balanced in every factor."""

    denominator: int


@dataclass(frozen=True)
class Tuned:
    """Values that a setting is tried at in every cell, the best of which is the cell's.

    By the level that the cell has of the factor `over`; without one they stand under None and are the same for all.
    """

    values: Mapping[Scalar, tuple[Scalar, ...]]
    over: str | None = None

    def of(self, cell: Cell) -> tuple[Scalar, ...]:
        """Those of a cell; none where its level has no list: the setting has its default there."""
        return self.values.get(cell.get(self.over) if self.over else None, ())

    def at(self, settings: Mapping[str, Scalar]) -> Tuned:
        """The same where some settings are constant; without values where none are tried there."""
        if self.over is None or self.over not in settings:
            return self
        values = self.values.get(settings[self.over])
        return Tuned({None: values} if values else {})


Design = OneAtATime | Sampled | Fraction
Axis = Sequence[Cell]
"""What varies together, level by level: one factor, or settings that are paired."""


@dataclass(frozen=True)
class Cells:
    """What a study varies; without a design every combination is a cell.

    `paired` has groups of settings whose levels go together, `runs` combinations that are stated one by one and crossed
    with the rest, `exclude` what is left out: cells that have all entries of one of its mappings. Each of these is a
    cell for each of the values that settings of `tuned` are tried at in it.
    """

    factors: Mapping[str, tuple[Scalar, ...] | Range] = field(default_factory=dict[str, "tuple[Scalar, ...] | Range"])
    paired: Sequence[Mapping[str, tuple[Scalar, ...]]] = ()
    runs: Sequence[Cell] = ()
    exclude: Sequence[Cell] = ()
    design: Design | None = None
    tuned: Mapping[str, Tuned] = field(default_factory=dict[str, Tuned])

    def expand(self) -> list[Cell]:
        """The cells, the last factor varying fastest. Raises ConfigError where the design does not suit the factors."""
        return self._expanded

    @cached_property
    def _expanded(self) -> list[Cell]:
        chosen = [tried for cell in self._chosen() for tried in self._tried(cell)]
        kept = [cell for cell in chosen if not any(_matches(cell, entry) for entry in self.exclude)]
        for number, entry in enumerate(self.exclude):
            if not any(_matches(cell, entry) for cell in chosen):
                raise ConfigError(f"exclude: no cell has {_in_words(entry)}", (f"exclude {number}", "exclude"))
        if not kept:
            raise ConfigError(f"exclude leaves none of {len(chosen):,} cells", ("exclude",))
        return kept

    @property
    def combinations(self) -> int:
        """Cells before any is left out, at most."""
        tried = math.prod(max(map(len, each.values.values()), default=1) for each in self.tuned.values())
        if isinstance(self.design, Sampled):
            return self.design.n * tried
        sizes = [len(axis) for axis in self.axes]
        if isinstance(self.design, OneAtATime):
            return (1 + sum(size - 1 for size in sizes)) * tried
        return math.prod(sizes) * tried // (self.design.denominator if isinstance(self.design, Fraction) else 1)

    def places(self, setting: str, value: Scalar) -> list[str]:
        """Where a value stands in a study file, as in `fields` of errors."""
        levels = self.factors.get(setting, ())
        found: list[str] = []
        if not isinstance(levels, Range):
            found = [f"factors {setting} {place}" for place, level in enumerate(levels) if level == value]
        for group in self.paired:
            found += [
                f"paired {setting} {place}" for place, level in enumerate(group.get(setting, ())) if level == value
            ]
        found += [f"runs {n} {setting}" for n, run in enumerate(self.runs) if run.get(setting, ...) == value]
        return [*found, *([f"tuned {setting}"] if setting in self.tuned else [])]

    def without(self, settings: Mapping[str, Scalar]) -> Cells:
        """What varies when some settings are constant: levels, entries and parts of the centre that name them go."""
        factors = {key: levels for key, levels in self.factors.items() if key not in settings}
        groups: list[Mapping[str, tuple[Scalar, ...]]] = []
        for group in self.paired:
            left = [key for key in group if key not in settings]
            rows = dict.fromkeys(zip(*(group[key] for key in left), strict=False))
            groups += [{key: tuple(row[i] for row in rows) for i, key in enumerate(left)}] if left else []
        exclude = [
            entry for entry in self.exclude if all(settings.get(key, value) == value for key, value in entry.items())
        ]
        design = self.design
        if isinstance(design, OneAtATime):
            design = OneAtATime({key: value for key, value in design.centre.items() if key not in settings})
        runs, exclude = (_distinct(entries, settings) for entries in (self.runs, exclude))
        tuned = {name: each.at(settings) for name, each in self.tuned.items() if name not in settings}
        tuned = {name: each for name, each in tuned.items() if each.values}
        return Cells(factors, groups, runs, exclude, design, tuned)

    @cached_property
    def stated(self) -> dict[str, tuple[Scalar, ...]]:
        """Every setting that has levels, with those that are stated; none of a range."""
        in_runs = {
            key: tuple(dict.fromkeys(run[key] for run in self.runs if key in run and _is_value(run[key])))
            for run in self.runs[:1]
            for key in run
        }
        paired = {key: levels for group in self.paired for key, levels in group.items()}
        levels = {key: () if isinstance(given, Range) else given for key, given in self.factors.items()}
        tuned = {key: tuple(dict.fromkeys(itertools.chain(*each.values.values()))) for key, each in self.tuned.items()}
        return {**in_runs, **paired, **levels, **tuned}

    @property
    def axes(self) -> list[Axis]:
        """What varies, level by level; ranges apart."""
        groups = [
            [dict(zip(group, levels, strict=True)) for levels in zip(*group.values(), strict=False)]
            for group in self.paired
        ]
        lists = [
            [{name: level} for level in levels]
            for name, levels in self.factors.items()
            if not isinstance(levels, Range)
        ]
        return [*([list(self.runs)] if self.runs else []), *groups, *lists]

    def _tried(self, cell: Cell) -> Iterator[Cell]:
        """A cell at each combination of the values that its tuned settings are tried at."""
        values = [[{name: value} for value in each.of(cell)] or [{}] for name, each in self.tuned.items()]
        return (_joined([cell, *parts]) for parts in itertools.product(*values))

    def _chosen(self) -> Iterator[Cell]:
        ranges = {name: levels for name, levels in self.factors.items() if isinstance(levels, Range)}
        match self.design:
            case Sampled():
                yield from _sampled(self.design, self.axes, ranges)
            case _ if ranges:
                (name, *_) = ranges
                text = f"factor '{name}' is a range; add design: {{random: 60}} or {{sobol: 64}}, or list its levels"
                raise ConfigError(text, (f"factors {name}",))
            case OneAtATime():
                yield from _one_at_a_time(self.design, self.axes)
            case Fraction():
                yield from _fraction(self.design, self.axes)
            case None:
                yield from map(_joined, itertools.product(*self.axes))


def _is_value(given: object) -> bool:
    """Of what a file may state in its place, as a list."""
    return isinstance(given, Scalar)


def _distinct(entries: Sequence[Cell], settings: Mapping[str, Scalar]) -> list[Cell]:
    """Parts of cells without some settings, each once; none that is empty."""
    found = dict.fromkeys(
        tuple((key, value) for key, value in entry.items() if key not in settings) for entry in entries
    )
    return [dict(items) for items in found if items]


def _joined(parts: Sequence[Cell]) -> Cell:
    return {name: value for part in parts for name, value in part.items()}


def _matches(cell: Cell, entry: Cell) -> bool:
    return all(name in cell and cell[name] == value for name, value in entry.items())


def _in_words(entry: Cell) -> str:
    return " and ".join(f"{name} {value}" for name, value in entry.items())


def _one_at_a_time(design: OneAtATime, axes: Sequence[Axis]) -> Iterator[Cell]:
    unknown = [name for name in design.centre if not any(name in axis[0] for axis in axes)]
    if unknown:
        raise ConfigError(f"centre: {unknown[0]} is no factor", (f"centre {unknown[0]}", "centre"))
    centre: list[Cell] = []
    for axis in axes:
        wanted = {name: value for name, value in design.centre.items() if name in axis[0]}
        found = next((level for level in axis if _matches(level, wanted)), None)
        if found is None:
            name = next(iter(wanted))
            raise ConfigError(f"centre: {_in_words(wanted)} is no level of its factor", (f"centre {name}", "centre"))
        centre.append(found)
    yield _joined(centre)
    for place, axis in enumerate(axes):
        yield from (_joined([*centre[:place], level, *centre[place + 1 :]]) for level in axis if level != centre[place])


def _sampled(design: Sampled, axes: Sequence[Axis], ranges: Mapping[str, Range]) -> Iterator[Cell]:
    """Cells without repeats, which lists of few levels may give."""
    seen: set[tuple[tuple[str, Scalar], ...]] = set()
    names = [*(" ".join(axis[0]) for axis in axes), *ranges]
    for row in _uniform(design, names):
        listed = [axis[int(u * len(axis))] for u, axis in zip(row[: len(axes)], axes, strict=True)]
        drawn: Cell = {
            name: _drawn(name, span, u) for u, (name, span) in zip(row[len(axes) :], ranges.items(), strict=True)
        }
        cell = _joined([*listed, drawn])
        if (items := tuple(cell.items())) not in seen:
            seen.add(items)
            yield cell


def _uniform(design: Sampled, names: Sequence[str]) -> list[list[float]]:
    """`n` rows from 0 to below 1; the points of a Sobol sequence are shifted by the seed, around the unit cube."""
    columns = len(names)
    if not columns:
        return [[]]
    import numpy as np  # a tenth of a second, which studies that draw nothing need not wait for

    from isoloss.randomness import Purpose, generator

    if design.method == "random":  # a stream for each, so that a factor that goes leaves the others as they are
        streams = [generator(design.seed, Purpose.DESIGN, crc32(name.encode())) for name in names]
        return np.stack([stream.random(design.n) for stream in streams], axis=1).tolist()
    draws = generator(design.seed, Purpose.DESIGN)
    from scipy.stats import qmc  # a second, likewise

    points = cast("Any", qmc.Sobol(columns, scramble=False).random_base2(math.ceil(math.log2(design.n))))
    return ((points[: design.n] + draws.random(columns)) % 1.0).tolist()


def _drawn(name: str, span: Range, u: float) -> int | float:
    low, high = span.low, span.high
    if is_whole(name):  # whole numbers, each by its share of the range
        low, high = low - 0.5, high + 0.5
        value = low * (high / low) ** u if span.scale == "log" else low + u * (high - low)
        return min(max(round(value), round(span.low)), round(span.high))
    value = low * (high / low) ** u if span.scale == "log" else low + u * (high - low)
    return float(f"{value:.{DIGITS}g}")


def _fraction(design: Fraction, axes: Sequence[Axis]) -> Iterator[Cell]:
    for axis in axes:
        if len(axis) != 2:
            name = next(iter(axis[0]))
            text = f"a fraction needs factors of two levels; {name} has {len(axis)}"
            raise ConfigError(f"design: {text}", (f"factors {name}", "design"))
    words = generators(len(axes), design.denominator.bit_length() - 1)
    base = len(axes) - len(words)
    for levels in itertools.product((0, 1), repeat=base):
        # A generated factor has its high level where an even number of its word's factors are low, as in the full grid.
        made = [(1 + sum(1 - levels[i] for i in range(base) if word >> i & 1)) % 2 for word in words]
        yield _joined([axis[level] for axis, level in zip(axes, [*levels, *made], strict=True)])
