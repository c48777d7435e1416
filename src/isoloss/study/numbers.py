"""Numbers as people write them, where they cannot be read: what to write in their place."""

from __future__ import annotations

import re
from math import isfinite

_COMMA = re.compile(r"([-+]?\d+),(\d+)([eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+")
_SUFFIX = re.compile(r"([-+]?\d+(?:\.\d+)?) ?([kKM])")
_TIMES = {"k": 1_000, "K": 1_000, "M": 1_000_000}
_MAX_DIGITS = 30
BYTES_PATTERN = "^([0-9]+(?:[.][0-9]+)?) ?((?:[kKMGT]i?)?)B$"
"""An amount of bytes with its unit."""
_UNITS = {
    f"{prefix}{binary}": (1024 if binary else 1000) ** power
    for power, prefix in enumerate(("", *"KMGT"))
    for binary in ("", "I")
}


def number_hint(given: object, wanted: type[int] | type[float]) -> str | None:
    """How to write the number that `given`, which is not of the type wanted, was meant for; None where none is seen.

    '0,003' has a decimal comma, '10k' a letter, and 1e3 an exponent that a whole number cannot have.
    """
    text = str(given).strip() if isinstance(given, str | float) else ""
    if len(text) > _MAX_DIGITS:
        return None
    if wanted is int and _THOUSANDS.fullmatch(text):
        return f"{text} is written with a comma: write {text.replace(',', '')}"
    if wanted is float and (comma := _COMMA.fullmatch(text)):
        point = f"{comma[1]}.{comma[2]}{comma[3] or ''}"
        thousands = _THOUSANDS.fullmatch(text) and not comma[1].lstrip("+-").startswith("0")
        return f"{text} is written with a comma: write {point}" + (f" or {comma[1]}{comma[2]}" if thousands else "")
    if suffix := _SUFFIX.fullmatch(text):
        return f"{text} is written with a letter: write {float(suffix[1]) * _TIMES[suffix[2]]:.15g}"
    try:
        value = float(text)
    except ValueError:
        return None
    if wanted is int and value.is_integer() and abs(value) < 2**63:
        how = "in quotes" if isinstance(given, str) and text.isdigit() else "with a point or an exponent"
        return f"{text} is written {how}: write {value:.0f}"
    return None


def byte_count(given: object) -> int | None:
    """Bytes from a number of them or a text such as '2GB' or '1.5 GiB'; None where it is neither."""
    if isinstance(given, str) and (found := re.fullmatch(BYTES_PATTERN, given)):
        amount = float(found[1]) * _UNITS[found[2].upper()]
        return round(amount) if isfinite(amount) else None
    if isinstance(given, int | float) and not isinstance(given, bool) and isfinite(given) and given == given // 1:
        return int(given)
    return None
