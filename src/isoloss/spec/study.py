"""Study: factors × seeds over a base configuration, expanded to RunConfigs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast, get_args

from isoloss.errors import ConfigError
from isoloss.spec.compute import training_memory_bytes
from isoloss.spec.config import SETTINGS, RunConfig, TokenizerName, did_you_mean, make_config
from isoloss.spec.hypotheses import Hypothesis, check_against_factors
from isoloss.spec.identity import run_id

FIRST_SEED = 1337
"""nanoGPT's seed; a count of seeds K means FIRST_SEED, FIRST_SEED + 1, …"""

MAX_RUNS = 100_000
"""More runs than this in one study is taken for a mistake."""

MAX_RUN_BYTES = 1 << 40
"""A run that needs more memory than this is no small GPT, and is taken for a mistake."""

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class DataFacts:
    """What a run must know of its text: content hash and vocabulary size under the study's tokenizer."""

    sha256: str
    vocab_size: int


ANY_DATA = DataFacts(sha256="", vocab_size=1)
"""Stands in for a text that is not at hand: every cell can be validated before anything is fetched."""


@dataclass(frozen=True)
class Study:
    """A controlled study: every combination of factor levels, once for each seed, and what is expected of it.

    Hypotheses are no part of any run's identity; one about a factor that becomes constant stays, and can't be judged.
    """

    name: str
    corpus: str
    tokenizer: TokenizerName = "char"
    description: str = ""
    base: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    factors: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict[str, tuple[Scalar, ...]])
    seeds: tuple[int, ...] = (FIRST_SEED,)
    hypotheses: tuple[Hypothesis, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.tokenizer not in get_args(TokenizerName):
            raise ConfigError(
                f"unknown tokenizer '{self.tokenizer}': {did_you_mean(str(self.tokenizer), get_args(TokenizerName))}",
                ("tokenizer",),
            )
        for section in ("base", "factors"):
            for key in getattr(self, section):
                if key not in SETTINGS:
                    raise ConfigError(f"unknown setting '{key}' in {section}: {did_you_mean(key, SETTINGS)}", (key,))
        for key, levels in self.factors.items():
            _check_levels(key, levels)
            if key in self.base:
                raise ConfigError(f"'{key}' is both in base and a factor; keep one", (key,))
        if not self.seeds:
            raise ConfigError("seeds is empty; give a list of numbers or a count", ("seeds",))
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds repeat: {list(self.seeds)}; list each once", ("seeds",))
        if self.size > MAX_RUNS:
            raise ConfigError(
                f"the study has {self.size:,} runs, the limit is {MAX_RUNS:,}; take levels out", ("factors",)
            )
        for number, hypothesis in enumerate(self.hypotheses, 1):
            check_against_factors(hypothesis, number, self.factors)

    @property
    def size(self) -> int:
        """Number of runs: the product of all factors' levels and the seeds."""
        product = len(self.seeds)
        for levels in self.factors.values():
            product *= len(levels)
        return product

    def cells(self) -> list[dict[str, Scalar]]:
        """Every combination of factor levels, the last factor varying fastest."""
        return [dict(zip(self.factors, levels, strict=True)) for levels in itertools.product(*self.factors.values())]

    def expand(self, data: DataFacts) -> list[RunConfig]:
        """All runs, cell by cell, seeds innermost. Raises ConfigError when a cell is not a valid configuration."""
        resolved = {
            "corpus": self.corpus,
            "corpus_sha256": data.sha256,
            "tokenizer": self.tokenizer,
            "vocab_size": data.vocab_size,
        }
        configs = [
            make_config({**resolved, **self.base, **cell, "seed": seed}) for cell in self.cells() for seed in self.seeds
        ]
        if max(map(training_memory_bytes, configs)) > MAX_RUN_BYTES:
            raise too_large(max(configs, key=training_memory_bytes), f"needs more than {MAX_RUN_BYTES >> 30:,} GiB")
        if len({run_id(config) for config in configs}) < len(configs):
            raise ConfigError("two cells of the study define the same run; take the repeated level out", ("factors",))
        return configs

    def with_settings(self, settings: Mapping[str, Scalar]) -> Study:
        """The study with settings overridden; a factor that is set becomes constant. Raises ConfigError."""
        factors = {key: levels for key, levels in self.factors.items() if key not in settings}
        return replace(self, base={**self.base, **settings}, factors=factors)

    def with_seeds(self, count: int) -> Study:
        """The study with `count` seeds: its own first, then the numbers that follow the last. Raises ConfigError."""
        if not 1 <= count <= MAX_RUNS:
            raise ConfigError(f"--seeds {count}: a count must lie between 1 and {MAX_RUNS:,}", ("seeds",))
        following = itertools.count(max(self.seeds) + 1)
        extra = [next(following) for _ in range(count - len(self.seeds))]
        return replace(self, seeds=(*self.seeds, *extra)[:count])


def seeds_from(value: Any) -> tuple[int, ...]:
    """Seeds from a study file: a list is taken as it is, a count K means 1337 … 1337+K-1. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | list):
        raise ConfigError(f"seeds={value!r}: expected a list of whole numbers or a count", ("seeds",))
    if isinstance(value, int):
        if not 1 <= value <= MAX_RUNS:
            raise ConfigError(f"seeds={value}: a count must lie between 1 and {MAX_RUNS:,}", ("seeds",))
        return tuple(range(FIRST_SEED, FIRST_SEED + value))
    seeds = [
        int(seed) if type(seed) is not bool and isinstance(seed, int) else seed for seed in cast("list[Any]", value)
    ]
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"seeds: {seed!r} is no whole number from 0 to 2^63-1", ("seeds",))
    return tuple(seeds)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(
            f"name={name!r}: use up to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit",
            ("name",),
        )


def _check_levels(key: str, levels: tuple[Any, ...]) -> None:
    if not levels:
        raise ConfigError(f"factor '{key}' has no levels; list at least one value", (key,))
    if len(set(map(repr, levels))) < len(levels):
        raise ConfigError(f"factor '{key}' repeats a level: {list(levels)}; list each once", (key,))


def too_large(config: RunConfig, why: str) -> ConfigError:
    """The error of a run whose size is why it cannot be trained."""
    sizes = ("n_layer", "n_embd", "block_size", "batch_size")
    stated = ", ".join(f"{name}={getattr(config, name)}" for name in sizes)
    return ConfigError(f"a run of {stated} {why}; take a smaller one", sizes)
