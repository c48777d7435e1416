"""False values in a JSON document, chosen by the fuzzer's bytes."""

from __future__ import annotations

from copy import deepcopy
from math import inf, nan
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 8, 255, 65535, 65536, 2**31 - 1, 2**31, 10**9, 2**63, 2**64, 10**18, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 3.0, 1e-320, 1e308, nan, inf, -inf),
    *("", "x", "0", "1", "aa", "é", "a\x00b", "../x", "\udc80", "x" * 5000, "fp16", "char", "byte"),
    *("F64", "BF16", "BOOL", "I8", "F8_E4M3", "F4"),
    *([], {}, [[]], [1], [0, 0], [1, 2], [2, 1], {"x": 1}, [[[[[[[[[[]]]]]]]]]]),
)


def insert_false_values(document: dict[str, Any], choices: bytes) -> None:
    """Change a document in place: each three bytes choose a place in it, what to do there, and a value."""
    for start in range(0, len(choices) - 2, 3):
        place, action, value = choices[start : start + 3]
        places = _places(document)
        if not places:
            return
        holder, key = places[place % len(places)]
        if action < 32:
            holder.pop(key)
        elif action < 48 and isinstance(holder, dict):
            holder[f"{key}'"] = deepcopy(VALUES[value % len(VALUES)])
        elif action < 128 and type(holder[key]) in (int, float):
            holder[key] += value - 128
        elif action < 160 and isinstance(holder[key], str):
            holder[key] += chr(value)
        else:
            holder[key] = deepcopy(VALUES[value % len(VALUES)])


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a document: what holds it, and its key or index."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            found += _places(value[key])
    return found
