"""Mixtures of corpora: every row of a batch is drawn from one of them, by stated shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum
from typing import Any, cast

from isoloss.errors import ConfigError, raise_all
from isoloss.files import sha256_bytes

Unmixed = str | tuple[str, ...]
TOLERANCE = 1e-9
"""By which shares may miss 1 in sum."""
EXPECTED = "expected {mix: {a.txt: 0.7, b.txt: 0.3}}, or {mix: [{corpus: [a.txt, b.txt], share: 0.7}, …]}"


@dataclass(frozen=True)
class Mixture:
    """Corpora, and the share of rows that begins in each. Example: Mixture(("a.txt", "b.txt"), (0.7, 0.3))"""

    corpora: tuple[Unmixed, ...]
    shares: tuple[float, ...]

    def named(self, name: Callable[[Unmixed], str]) -> str:
        """The mixture in words, its corpora called by `name`: '0.7 a.txt + 0.3 b.txt'."""
        return " + ".join(f"{share:g} {name(corpus)}" for corpus, share in zip(self.corpora, self.shares, strict=True))

    def identity(self, hashes: Sequence[str]) -> str:
        """The SHA-256 of contents and shares, from those of the corpora."""
        parts = (f"{share!r} {sha256}" for share, sha256 in zip(self.shares, hashes, strict=True))
        return sha256_bytes(f"mix {' '.join(parts)}".encode())


@dataclass(frozen=True)
class Parts:
    """Lengths in tokens of the texts of a split, one behind the other, and the share that is drawn from each."""

    lengths: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def usable(self) -> int:
        """Tokens that the parts have together where each counts by its share."""
        return int(min(length / share for length, share in zip(self.lengths, self.shares, strict=True)))


def kept_windows(there: list[int], parts: Parts | None, at_most: int | None = None) -> list[int]:
    """How many windows of each text an evaluation reads, of those that are there."""
    if parts is None:
        return there if at_most is None or there[0] <= at_most else [max(1, at_most)]
    total = min(int(windows / share + 1e-9) for windows, share in zip(there, parts.shares, strict=True))
    total = max(1, total if at_most is None else min(total, at_most))
    edges = [round(total * sum(parts.shares[:number])) for number in range(len(parts.shares))]
    return [min(b - a, n) for (a, b), n in zip(pairwise([*edges, total]), there, strict=True)]


def mixture_of(value: Any, corpus_of: Callable[[Any], Any]) -> Mixture:
    """The mixture that a study states under `mix`, its corpora read by `corpus_of`. Raises what is wrong."""
    if isinstance(value, dict):
        entries: list[tuple[Any, Any]] = [*cast("dict[str, Any]", value).items()]
    elif isinstance(value, list) and all(_is_entry(entry) for entry in cast("list[Any]", value)):
        entries = [(entry["corpus"], entry["share"]) for entry in cast("list[Mapping[str, Any]]", value)]
    else:
        raise ConfigError(EXPECTED)
    if len(entries) < 2:
        raise ConfigError("a mixture has two corpora or more")
    corpora = [corpus_of(corpus) for corpus, _ in entries]
    errors = [ConfigError(f"share {share!r} is no number from 0 to 1") for _, share in entries if not _is_share(share)]
    errors += [ConfigError("a mixture holds no other mixture") for each in corpora if isinstance(each, Mixture)][:1]
    raise_all(errors)
    shares = tuple(float(share) for _, share in entries)
    twice = [each for number, each in enumerate(corpora) if each in corpora[:number]]
    if twice:
        raise ConfigError(f"'{twice[0]}' stands twice in one mixture; state it once, with the sum of its shares")
    if abs(fsum(shares) - 1) > TOLERANCE:
        raise ConfigError(f"shares sum to {fsum(shares):g}, not to 1")
    return Mixture(tuple(corpora), shares)


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and cast("dict[str, Any]", entry).keys() == {"corpus", "share"}


def _is_share(share: object) -> bool:
    return isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < 1
