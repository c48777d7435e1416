"""Rows in which every two values of different settings meet, far fewer than all combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

Row = dict[str, Any]


def covering_array(values: Mapping[str, Sequence[Any]], *impossible: Row) -> list[Row]:
    """Greedy: each row takes, setting by setting, the value that meets most pairs which have not met.

    No row has all values of one that is `impossible`.
    """

    def possible(row: Mapping[str, int]) -> bool:
        found = {name: values[name][value] for name, value in row.items()}
        return not any(each.items() <= found.items() for each in impossible)

    pairs = {
        ((a, x), (b, y))
        for a, b in combinations(values, 2)
        for x, y in product(range(len(values[a])), range(len(values[b])))
        if possible({a: x, b: y})
    }
    rows: list[Row] = []
    while pairs:
        (a, x), (b, y) = min(pairs)
        row = {a: x, b: y}
        for name in (name for name in values if name not in row):
            row[name] = max(
                (value for value in range(len(values[name])) if possible({**row, name: value})),
                key=lambda value: len(pairs & _pairs_of({**row, name: value}, values)),
            )
        pairs -= _pairs_of(row, values)
        rows.append({name: values[name][row[name]] for name in values})
    return rows


def _pairs_of(
    row: Mapping[str, int], values: Mapping[str, Sequence[Any]]
) -> set[tuple[tuple[str, int], tuple[str, int]]]:
    chosen = [(name, row[name]) for name in values if name in row]
    return set(combinations(chosen, 2))
