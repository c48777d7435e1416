"""What a coordinate check measures: by how much a few steps change a model's activations, width by width."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import torch

from isoloss.data.batches import exact_eval_starts
from isoloss.data.token_files import Tokens
from isoloss.errors import ConfigError
from isoloss.model import gpt
from isoloss.model.functions import Kernels
from isoloss.model.parameters import Parameters
from isoloss.study.config import RunConfig, make_config
from isoloss.study.study import Study
from isoloss.training.distributed import Ranks
from isoloss.training.state import initial_state, stack
from isoloss.training.step import Stepper, gather_windows, on_device

BLOCKS = 8
"""Of the training split, on which activations are compared."""


def activation_changes(study: Study, tokens: Tokens, steps: int, say: Callable[[str], None]) -> pl.DataFrame:
    """A row for each run and activation: parametrization, n_embd, seed, activation, change.

    The first cell of each parametrization and width takes `steps` steps at its constant learning rate, in fp32, once
    for each seed. `change` is the root mean square of the difference to the untrained model. Raises ConfigError where a
    study has one width.
    """
    if len(study.datasets) > 1:
        raise ConfigError("a coordinate check takes one text and tokenizer; choose with --set corpus=... tokenizer=...")
    first: dict[tuple[str, int], RunConfig] = {}
    for config in study.expand(tokens.facts):
        first.setdefault((config.parametrization, config.n_embd), config)
    if len({width for _, width in first}) < 2:
        raise ConfigError("a coordinate check compares widths; list two or more of n_embd under factors")
    rows: list[dict[str, object]] = []
    for (parametrization, width), config in sorted(first.items()):
        say(f"{parametrization}, n_embd {width}: {steps} steps for each of {len(study.seeds)} seeds")
        for seed in study.seeds:
            changes = _changes(_at_constant_rate(config, seed), tokens, steps)
            of = {"parametrization": parametrization, "n_embd": width, "seed": seed}
            rows += [{**of, "activation": name, "change": change} for name, change in changes.items()]
    return pl.DataFrame(rows)


def _at_constant_rate(config: RunConfig, seed: int) -> RunConfig:
    """A run without warm-up, so that a few steps are of full size."""
    kept = {
        name: value for name, value in config if name not in ("decay_lr", "lr_decay_iters", "init_seed", "data_seed")
    }
    own = {"schedule": "constant", "warmup_iters": 0, "seed": seed, "precision": "fp32", "dropout": 0.0}
    return make_config(kept | own)


def _changes(config: RunConfig, tokens: Tokens, steps: int) -> dict[str, float]:
    state, text_N = initial_state(config), on_device(tokens.train_N, torch.device("cpu"))
    stacked = stack([state], torch.device("cpu"), Kernels(torch.float32))
    starts = exact_eval_starts(tokens.layouts[0], config.block_size, BLOCKS * config.block_size)
    tokens_1xBxT = gather_windows(text_N, torch.from_numpy(np.asarray(starts)), config.block_size)[None, :, :-1]
    before = gpt.activations(_parameters(stacked.parameters), config, tokens_1xBxT)
    stepper = Stepper(stacked, text_N, Ranks(), tokens.layouts[0])
    for _ in range(steps):
        stepper.take(1)
    after = gpt.activations(_parameters(stacked.parameters), config, tokens_1xBxT)
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in before}


def _parameters(parameters: Parameters) -> Parameters:
    """A copy that later steps do not change."""
    return Parameters(parameters.layout, parameters.flat_ExP.clone(), parameters.kernels)
