"""Shared beginnings: runs that take the same first steps, which one of them trains for all.

Runs that differ in their horizon or schedule alone train the same weights as long as their learning rates agree: every
horizon of a warm-up-stable-decay ladder up to its decay, cosines of different horizons up to the end of their warm-up,
a constant rate up to the end of the shorter run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isoloss.design.prefixes import Key, family_key
from isoloss.study.compute import flops_per_token, tokens_per_step, train_flops
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.schedules import agreed_steps

MIN_SHARE = 0.05
"""Of a run's steps, below which it trains them itself: to wait for another's costs more."""


@dataclass(frozen=True)
class Fork:
    """Where a run leaves the one that trains its first steps: after `step` of them."""

    source: RunConfig
    step: int

    @property
    def at_end(self) -> bool:
        """Whether it goes on where the other ends."""
        return self.step == self.source.max_iters


def forks(configs: Sequence[RunConfig]) -> dict[str, Fork]:
    """By run id, where each run's own training begins; runs that train all of their steps are left out.

    Runs of which each is a beginning of the next are a chain: each goes on from the end of the one before. A chain as
    a whole leaves a longer one where their learning rates part.
    """
    families: dict[Key, list[RunConfig]] = defaultdict(list)
    for config in configs:
        families[family_key(config)].append(config)
    found: dict[str, Fork] = {}
    for family in families.values():
        if len(family) > 1:
            found |= _forks_of_chains(_chains(family))
    return found


def dependency_levels(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """The runs by how many others must have been trained one after the other before them; most studies have one."""
    leaves, depth = forks(configs), dict[str, int]()
    for config in configs:
        waiting = [config]
        while run_id(waiting[-1]) in leaves and run_id(waiting[-1]) not in depth:
            waiting.append(leaves[run_id(waiting[-1])].source)
        for run in map(run_id, reversed(waiting)):
            depth.setdefault(run, 1 + depth[run_id(leaves[run].source)] if run in leaves else 0)
    by_level: dict[int, list[RunConfig]] = defaultdict(list)
    for config in configs:
        by_level[depth[run_id(config)]].append(config)
    return [by_level[level] for level in sorted(by_level)]


def shared_flops(configs: Sequence[RunConfig]) -> tuple[int, int]:
    """Training FLOPs of all runs, each trained alone, and with beginnings that are trained once."""
    alone, leaves = sum(map(train_flops, configs)), forks(configs)
    saved = (
        leaves[run_id(config)].step * tokens_per_step(config) * flops_per_token(config)
        for config in configs
        if run_id(config) in leaves
    )
    return alone, alone - sum(saved)


def _chains(family: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Runs that are beginnings of one another, the longest last; the chain with the longest run first."""
    chains: list[list[RunConfig]] = []
    for config in sorted(family, key=lambda config: (-config.max_iters, run_id(config))):
        chain = next((each for each in chains if agreed_steps(config, each[0]) == config.max_iters), None)
        if chain is None:
            chains.append([config])
        else:
            chain.append(config)
    return [chain[::-1] for chain in chains]


def _forks_of_chains(chains: Sequence[Sequence[RunConfig]]) -> dict[str, Fork]:
    found: dict[str, Fork] = {}
    for number, chain in enumerate(chains):
        shared = [agreed_steps(chain[-1], other[-1]) for other in chains[:number]]
        step = max(shared, default=0)
        worth_it = step > MIN_SHARE * chain[0].max_iters
        source = next(_passing(chains[shared.index(step)], step)) if worth_it else None
        fork = Fork(source, step) if source else None
        for config in chain:
            if fork is not None:
                found[run_id(config)] = fork
            if _is_seamless(config) or config.max_iters == chain[-1].max_iters:
                fork = Fork(config, config.max_iters)
    return found


def _passing(chain: Sequence[RunConfig], step: int) -> Iterator[RunConfig]:
    """The runs of a chain that pass a step, or end there as a longer run would pass it."""
    return (c for c in chain if c.max_iters > step or (c.max_iters == step and _is_seamless(c)))


def _is_seamless(config: RunConfig) -> bool:
    """Whether a run's last evaluation is one that a longer run would have too."""
    return config.max_iters % config.eval_interval == 0
