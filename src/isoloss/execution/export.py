"""A run's checkpoint for other programs: nanoGPT's ckpt.pt, or a folder that transformers reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from isoloss.errors import ConfigError, StoreError
from isoloss.execution.foreign_tokenizers import (
    nanogpt_meta,
    nanogpt_meta_path,
    transformers_tokenizer,
    transformers_tokenizer_config,
)
from isoloss.execution.samples import tokenizer_of
from isoloss.files import make_folder, write_bytes, write_json
from isoloss.model.interop import is_llama, nanogpt_order, to_gpt2, to_llama, to_nanogpt
from isoloss.model.parameters import layout_of
from isoloss.model.parts import norm
from isoloss.model.parts.rotation import ROPE_BASE
from isoloss.store.layout import RunPaths
from isoloss.store.run import FINISHED, read_status
from isoloss.store.tables import StudyResults
from isoloss.study.config import RunConfig
from isoloss.study.datasets import dataset_of
from isoloss.study.parametrization import INIT_STD
from isoloss.study.schedules import learning_rate
from isoloss.study.shapes import hidden_width
from isoloss.study.tokenizer_names import FILE
from isoloss.training.checkpoint import load_weights
from isoloss.training.optimizers import adamw
from isoloss.training.state import COMPUTE_DTYPES, MemberState, Weights

NANOGPT_DATASETS = {("tinyshakespeare", "char"): "shakespeare_char"}
"""Texts for which nanoGPT has a folder under data/ with the very same vocabulary."""


def export_run(
    results: StudyResults,
    run: RunPaths,
    to: Literal["nanogpt", "hf"],
    out: Path,
    checkpoint: Literal["best", "last"] = "best",
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Write a run's checkpoint to the file `out` (nanogpt) or into the folder `out` (hf), replacing what was there.

    The vocabulary goes with it: as tokenizer.json, or as the meta.pkl that nanoGPT's sample.py looks for.

    Raises ConfigError when `out` is of the wrong kind, StoreError when it cannot be written or the run has no such
    checkpoint, NumericsError when the checkpoint is damaged.
    """
    if to == "nanogpt" and out.is_dir():
        raise ConfigError(f"{out} is a folder; nanoGPT reads one file, such as {out / 'ckpt.pt'}", ("out",))
    if to == "hf" and out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; transformers reads a folder: choose another name", ("out",))
    if not (run.folder / f"{checkpoint}.json").exists():
        why = "export one that has been trained"
        if checkpoint == "last" and read_status(run).state in FINISHED:
            why = "it was compacted: export its best one"
        raise StoreError(f"run {run.folder.name} has no {checkpoint} checkpoint; {why}")
    state = load_weights(run.folder, checkpoint)
    tokenizer = tokenizer_of(results, dataset_of(results.configs_by_id[run.folder.name]))
    if to == "nanogpt":
        if why := _why_no_training(state):
            say(f"run {run.folder.name} {why}: nanoGPT can sample from {out}, and not go on training from it")
        stream = io.BytesIO()  # to memory first: torch's own writing hides the error of the file system
        torch.save(nanogpt_checkpoint(state), stream)
        write_bytes(out, stream.getvalue())
        meta = nanogpt_meta_path(out, nanogpt_dataset(state.config))
        if not meta.exists():  # nanoGPT's own, or one that was exported before
            make_folder(meta.parent)
            write_bytes(meta, nanogpt_meta(tokenizer))
    else:
        named, made = (to_llama, llama_config) if is_llama(state.config) else (to_gpt2, gpt2_config)
        weights = named(state.config, layout_of(state.config).split(state.flat_P))
        write_json(out / "tokenizer.json", transformers_tokenizer(tokenizer))
        write_json(out / "tokenizer_config.json", transformers_tokenizer_config(state.config.block_size))
        write_bytes(out / "model.safetensors", safetensors.torch.save(weights, metadata={"format": "pt"}))
        write_json(out / "config.json", made(state.config))


def _why_no_training(state: Weights) -> str:
    """Why nanoGPT cannot train on; empty where it can."""
    if not isinstance(state, MemberState):
        return "was compacted"
    return "" if state.config.optimizer == "adamw" else f"was trained by {state.config.optimizer}"


def nanogpt_checkpoint(state: Weights) -> dict[str, Any]:
    """What nanoGPT's sample.py and `train.py --init_from=resume` read, in plain types and tensors.

    train.py takes the model's shape, weights, AdamW state, step and best loss from it, but the schedule, batch size
    and block size from its own command line; `config` holds those of the run under nanoGPT's names. Weights without
    moments have no optimizer, which sample.py does not read and train.py asks for.
    """
    config, progress = state.config, state.progress
    shape = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
    return {
        "model": to_nanogpt(config, _split(config, state.flat_P)),
        **(
            {"optimizer": _adamw_state(state)} if isinstance(state, MemberState) and config.optimizer == "adamw" else {}
        ),
        "model_args": {name: getattr(config, name) for name in shape},
        "iter_num": progress.step,
        "best_val_loss": inf if progress.best_val_loss is None else progress.best_val_loss,
        "config": {
            **config.model_dump(),
            "lr_decay_iters": config.decay_horizon,
            "dtype": str(COMPUTE_DTYPES[config.precision]).removeprefix("torch."),
            "dataset": nanogpt_dataset(config),
        },
    }


def nanogpt_dataset(config: RunConfig) -> str:
    """The folder under nanoGPT's data/ for the run's text, where sample.py looks for meta.pkl."""
    kind = "file" if config.tokenizer.startswith(FILE) else config.tokenizer.replace(":", "_")
    fallback = f"{Path(config.corpus.partition(', ')[0]).stem}_{kind}"
    return NANOGPT_DATASETS.get((config.corpus, config.tokenizer), fallback)


def gpt2_config(config: RunConfig) -> dict[str, Any]:
    """The config.json of transformers' GPT2LMHeadModel; our vocabularies have no special tokens."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "activation_function": "gelu",  # exact; GPT-2's own is the tanh approximation
        "layer_norm_epsilon": norm.EPS,
        "initializer_range": INIT_STD,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def llama_config(config: RunConfig) -> dict[str, Any]:
    """The config.json of transformers' LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.block_size,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head or config.n_head,
        "hidden_size": config.n_embd,
        "intermediate_size": hidden_width(config),
        "hidden_act": "silu",
        "rms_norm_eps": norm.EPS,
        "rope_theta": ROPE_BASE,
        "initializer_range": INIT_STD,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _adamw_state(state: MemberState) -> dict[str, Any]:
    """The state_dict of torch's AdamW over nanoGPT's two groups, as it stands before the run's next step.

    A real AdamW writes it, so that it has every entry this torch expects.
    """
    config, progress = state.config, state.progress
    weights, exp_avg, exp_avg_sq = (_split(config, flat_P) for flat_P in (state.flat_P, *state.moments.values()))
    names = nanogpt_order(config)
    optimizer = torch.optim.AdamW(
        [
            {"params": [weights[n] for n in names if weights[n].dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [weights[n] for n in names if weights[n].dim() < 2], "weight_decay": 0.0},
        ],
        lr=learning_rate(config, progress.step),
        betas=(config.beta1, config.beta2),
        eps=adamw.EPS,
    )
    for name in names:
        optimizer.state[weights[name]] = {
            "step": torch.tensor(float(progress.updates)),
            "exp_avg": exp_avg[name],
            "exp_avg_sq": exp_avg_sq[name],
        }
    return optimizer.state_dict()


def _split(config: RunConfig, flat_P: Tensor) -> dict[str, Tensor]:
    """Named tensors that own their memory: a view would be saved with all of the flat tensor."""
    return {name: tensor.clone() for name, tensor in layout_of(config).split(flat_P).items()}
