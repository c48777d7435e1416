"""run_id: a hash of what defines a run's result, and of nothing else.

Device, worker count and stack packing are provenance; they are recorded with a run and never part of its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from isoloss.files import sha256_bytes
from isoloss.study.compute import attended_length
from isoloss.study.config import SEED_SETTINGS, RunConfig
from isoloss.study.parts import OPTIMIZERS
from isoloss.study.schedules import as_read
from isoloss.study.tokenizer_names import FILE

IDENTITY_VERSION = 2
"""Raised when the meaning of a configuration changes, so that old and new runs never share a name."""

ADDED_SETTINGS = (
    "norm", "position", "mlp", "n_kv_head", "qk_norm", "tie_embeddings", "window", "schedule", "decay_share",
    "decay_shape", "optimizer", "muon_learning_rate", "parametrization", "base_n_embd", "base_n_layer",
    "ema",
    "tokenizer_sha256",
    "eval_stride",
)  # fmt: skip
"""Settings that runs had not when they were first named: at their defaults they are no part of a run's name."""

_DEFAULTS = {name: RunConfig.model_fields[name].default for name in ADDED_SETTINGS}
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def unread(config: RunConfig) -> dict[str, None]:
    """Settings of the model and the optimizer that this run does not read, or that say what is so without them.

    An optimizer of one's own may read any, as a variant of Muon its rate.
    """
    names = [
        *(["window"] if attended_length(config) == config.block_size else []),
        *(["n_kv_head"] if config.n_kv_head == config.n_head else []),
        *(["muon_learning_rate"] if config.optimizer in OPTIMIZERS and config.optimizer != "muon" else []),
        *(["beta2"] if config.optimizer == "sgd" else []),
        *(["base_n_layer"] if config.parametrization != "completep" else []),
        *(["base_n_embd"] if config.parametrization == "standard" else []),
    ]
    return dict.fromkeys(names)


def spelled_seeds(config: RunConfig) -> dict[str, int]:
    """The seeds a run reads, spelled equally for equal runs: `seed` is the data's, `init_seed` one that differs."""
    same = config.seed_of_weights == config.seed_of_data
    return {"seed": config.seed_of_data} | ({} if same else {"init_seed": config.seed_of_weights})


def canonical(config: RunConfig) -> str:
    """The canonical form of a configuration: sorted JSON in which equal science is spelled equally.

    The corpus and a tokenizer's file count by content, not by name, lr_decay_iters by the horizon it stands for, and
    seeds by what they decide. What a run does not read does not count: settings of another evaluation mode or schedule,
    a window as long as the block, that all of the validation split is read, that blocks slide which do not overlap. Nor
    do settings added since, at their defaults.
    """
    values = {name: value for name, value in vars(config).items() if name not in SEED_SETTINGS} | spelled_seeds(config)
    del values["corpus"], values["val_corpus"]
    if config.tokenizer.startswith(FILE):
        values["tokenizer"] = FILE
    horizon = config.decay_horizon if config.decay_lr else None
    cosine = {"lr_decay_iters": horizon, "decay_share": None, "decay_shape": None}
    values |= as_read(config) if config.schedule != "cosine" else cosine
    values |= unread(config)
    if config.eval == "sliding" and config.eval_scored == config.block_size:
        values |= {"eval": "exact", "eval_stride": None}
    for name, default in _DEFAULTS.items():
        if values[name] in (None, default):
            del values[name]
    del values["eval_train_tokens" if config.eval == "sampled" else "eval_iters"]
    if config.eval == "sampled" or not config.eval_val_tokens:
        del values["eval_val_tokens"]
    return _CANONICAL.encode({"isoloss": IDENTITY_VERSION, **values})


def run_id(config: RunConfig) -> str:
    """Twelve hexadecimal digits naming a run by what it computes."""
    return _name(canonical(config))


def by_run_id(runs: Iterable[RunConfig]) -> dict[str, RunConfig]:
    """Runs by their names, in their order.

    Of neighbours that differ in `seed` alone, as a study lists them, the canonical form is made once: most of a name's
    time. None has a seed below 0, and no text within the form can hold plain quotation marks.
    """
    named: dict[str, RunConfig] = {}
    settings, form, seed = dict[str, Any](), "", '"seed":-1'
    for run in runs:
        if (own := {**vars(run), "seed": -1}) != settings:
            settings, form = own, canonical(run.model_copy(update={"seed": -1}))
        follows = run.init_seed is None and run.data_seed is None
        spelled = form.replace(seed, f'"seed":{run.seed}') if follows else canonical(run)
        named[_name(spelled)] = run
    return named


def _name(form: str) -> str:
    return sha256_bytes(form.encode())[:12]
