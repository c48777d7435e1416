"""Runs that are the same for a while: prefixes, settings that training never reads, equal first evaluations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from isoloss.study.compute import train_flops
from isoloss.study.config import SEED_SETTINGS, TEXTS, RunConfig
from isoloss.study.identity import spelled_seeds, unread
from isoloss.study.schedules import SCHEDULE_FIELDS, as_read

EVALUATION_FIELDS = ("eval", "eval_interval", "eval_iters", "eval_train_tokens", "eval_val_tokens", "eval_stride")
"""Settings that decide when and on what the loss is measured; training does not read them."""

TRAINING_FIELDS = (
    "dropout", "gradient_accumulation_steps", "max_iters", "learning_rate", "schedule", "decay_lr", *SCHEDULE_FIELDS,
    "optimizer", "muon_learning_rate", "weight_decay", "beta1", "beta2", "grad_clip", "ema",
)  # fmt: skip
"""Settings that an evaluation before the first step does not depend on; nor on batch_size, unless it is sampled."""

Key = tuple[tuple[str, Any], ...]


def training_key(config: RunConfig) -> Key:
    """What decides a run's weights at every step: runs of equal keys train the same, however they are evaluated."""
    return _key(config, without=(*EVALUATION_FIELDS, "ema"))


def family_key(config: RunConfig) -> Key:
    """What runs share that train the same weights for as long as their learning rates agree."""
    return _key(config, without=("max_iters", "schedule", "decay_lr", *SCHEDULE_FIELDS))


def first_evaluation_key(config: RunConfig) -> Key:
    """What decides a run's evaluation before its first step: its initial weights, and what they are evaluated on."""
    left_out = ("seed", *SEED_SETTINGS, *TRAINING_FIELDS, "eval_interval")
    values = {**dict(_key(config, without=left_out)), "seed_of_weights": config.seed_of_weights}
    if config.eval == "sampled":
        values["seed_of_data"] = config.seed_of_data
    else:
        del values["batch_size"]
    return tuple(values.items())


def alike_at_first(configs: Sequence[RunConfig]) -> list[tuple[RunConfig, ...]]:
    """Groups of runs whose evaluations before their first step are equal, those with most FLOPs first."""
    groups: dict[Key, list[RunConfig]] = defaultdict(list)
    for config in configs:
        groups[first_evaluation_key(config)].append(config)
    return [tuple(sorted(g, key=train_flops, reverse=True)) for g in groups.values() if len(g) > 1]


def prefix_groups(configs: Sequence[RunConfig]) -> list[tuple[RunConfig, ...]]:
    """Groups of runs of which each is, up to its end, what the longest of its group trains; the longest last.

    They differ in max_iters alone where the learning rate does not follow it: one that does not decay, or one
    lr_decay_iters for all. Runs of a group that are equally long differ in settings that training does not read. Runs
    without such a partner are in no group. All are evaluated alike, but for a shorter run's last evaluation, at its
    end.
    """
    groups: dict[Key, list[RunConfig]] = defaultdict(list)
    for config in configs:
        groups[_key(config, without=("max_iters",))].append(config)
    return [tuple(sorted(group, key=lambda config: config.max_iters)) for group in groups.values() if len(group) > 1]


def changes_nothing(factor: str, configs: Sequence[RunConfig]) -> list[RunConfig]:
    """The runs that train the same weights at every level of a factor."""
    if factor not in (*EVALUATION_FIELDS, *SCHEDULE_FIELDS, "ema"):  # what training reads always changes something
        return []
    groups: dict[Key, list[RunConfig]] = defaultdict(list)
    for config in configs:
        groups[tuple((name, value) for name, value in config if name != factor)].append(config)
    equal = [group for group in groups.values() if len(group) > 1 and len({training_key(c) for c in group}) == 1]
    return [config for group in equal for config in group]


def _key(config: RunConfig, without: Iterable[str]) -> Key:
    """The settings that count, by name: as in a run's identity, but for what a schedule does not read."""
    values = config.model_dump(exclude={*TEXTS, *SEED_SETTINGS, *without}) | spelled_seeds(config)
    values |= as_read(config) | unread(config)
    return tuple(sorted((name, value) for name, value in values.items() if name not in without))
