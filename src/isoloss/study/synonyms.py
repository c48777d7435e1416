"""Names that other programs use for what has another name here; an unknown name is answered by the known one.

Nothing is renamed silently: a study file means the same to everybody who reads it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SYNONYMS = {
    # settings of a run
    "n_layer": "depth layer layers n_layers num_layers n_blocks num_blocks num_hidden_layers",
    "n_head": "head heads n_heads num_heads nhead attention_heads n_attention_heads num_attention_heads",
    "n_embd": "width d_model dim model_dim hidden hidden_dim hidden_size embed_dim embedding_dim emb_dim",
    "block_size": "context context_length context_len context_size context_window ctx ctx_len n_ctx seq seq_len seqlen "
    "seq_length sequence_length max_seq_len max_seq_length max_length n_positions max_position_embeddings",
    "dropout": "drop dropout_rate dropout_prob p_drop",
    "bias": "use_bias",
    "batch_size": "batch bs bsz mbs micro_batch micro_batch_size train_batch_size per_device_train_batch_size",
    "gradient_accumulation_steps": "accumulation accumulation_steps accumulate_grad_batches grad_accum "
    "grad_accum_steps grad_accumulation_steps gradient_accumulation",
    "max_iters": "steps step n_steps num_steps max_steps train_steps training_steps total_steps num_train_steps "
    "iters iterations n_iters num_iters num_iterations max_iterations",
    "learning_rate": "lr lrs max_lr peak_lr base_lr initial_lr learning_rates max_learning_rate",
    "decay_lr": "lr_decay use_lr_decay",
    "warmup_iters": "warmup warmup_steps n_warmup num_warmup_steps lr_warmup_steps warmup_iterations",
    "lr_decay_iters": "decay_iters decay_steps lr_decay_steps",
    "min_lr": "lr_min final_lr end_lr eta_min min_learning_rate",
    "weight_decay": "wd l2",
    "beta1": "b1 beta_1 adam_beta1",
    "beta2": "b2 beta_2 adam_beta2",
    "grad_clip": "clip clip_grad clip_norm clip_grad_norm grad_clip_norm gradient_clip gradient_clipping max_grad_norm",
    "ema": "ema_decay ema_rate ema_beta ema_momentum ema_weights moving_average polyak weight_averaging",
    "eval_interval": "eval_every eval_freq eval_steps val_interval val_every val_check_interval",
    "eval_iters": "eval_batches val_iters val_steps",
    "eval_stride": "stride sliding_stride sliding_window_stride",
    "precision": "dtype amp mixed_precision",
    # keys of a study file
    "corpus": "data dataset text texts train_corpus",
    "val_corpus": "val_data val_dataset val_text validation validation_corpus validation_data validation_text",
    "val_share": "test_size val_frac val_fraction val_ratio val_split validation_share validation_split",
    "document_separator": "separator eot eos delimiter doc_separator document_delimiter",
    "base": "constants defaults fixed settings config",
    "factors": "grid sweep parameters",
    "seeds": "n_seeds num_seeds replicates repeats",
    "hypotheses": "hypothesis claims expectations",
    # what is measured
    "best_val_loss": "loss val_loss validation_loss eval_loss",
    "best_ema_val_loss": "ema_loss ema_val_loss",
    "final_train_loss": "train_loss training_loss",
    "train_val_gap": "gap generalization_gap generalisation_gap",
    "median_step_time_s": "step_time step_time_s time_per_step",
    "tokens_per_s": "throughput tokens_per_sec tokens_per_second tok_s",
    "wall_time_s": "time runtime wall_time walltime duration",
    # what no one setting stands for
    "training is measured in optimizer steps: use max_iters": "epoch epochs n_epochs num_epochs max_epochs",
    "use beta1 and beta2": "betas adam_betas",
    "it follows from corpus and tokenizer; leave it out": "vocab_size n_vocab",
}
"""What people type, by the name it has here; a sentence stands where no one name does."""
_MEANT = {typed: name for name, synonyms in SYNONYMS.items() for typed in synonyms.split()}


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that means what `name` means elsewhere, as 'lr' means learning_rate; None where there is none."""
    written = _written(name)
    wanted = _MEANT.get(written, written)
    alike = (one for one in known if wanted in (_written(one), _MEANT.get(_written(one))))
    return None if " " in wanted else next(alike, None)


def explained(name: str) -> str | None:
    """What to do in place of setting `name`, where no one known name means the same; None where nothing is known."""
    sentence = _MEANT.get(_written(name), "")
    return sentence if " " in sentence else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to write in place of an unknown name.

    A synonym's known name ("use learning_rate"), else the nearest in spelling, else the list of all.
    """
    known = list(known)
    synonym = meant(name, known)
    if synonym is not None:
        return f"use {synonym}"
    sentence = explained(name)
    if sentence and {"max_iters", "factors"} & {*known}:  # not a column of anyone's table
        return sentence
    near = nearest(name, known)
    return f"did you mean '{near}'?" if near else f"known: {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown one most likely stands for, by meaning or spelling."""
    known = list(known)
    return meant(name, known) or next(iter(difflib.get_close_matches(name, known, n=1)), None)


def _written(name: str) -> str:
    """A name's spelling without the liberties people take: n-layer, N_Layer and 'n layer' are n_layer."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")
