"""Parameters, FLOPs, tokens, disk and memory of a run, from its configuration alone."""

from __future__ import annotations

from isoloss.study.config import RunConfig
from isoloss.study.parts import optimizer_of
from isoloss.study.shapes import count, embeddings, head, matrices_of_a_block

ROW_BYTES = 250
"""About what one step's row takes as JSON."""
EVAL_ROW_BYTES = 150
RECORDS_BYTES = 20_000
"""About what the other files of a run take: configuration, status, curves, what stands beside its checkpoints."""


def params_non_embedding(config: RunConfig) -> int:
    """Non-embedding parameters: blocks and final norm, without token and position embeddings and without the head."""
    matrices = matrices_of_a_block(config)
    of_norm = config.n_embd * (2 if config.bias else 1)
    biases = sum(rows for rows, _ in matrices.values()) if config.bias else 0
    return config.n_layer * (count(matrices) + biases + 2 * of_norm) + of_norm


def params_without_position(config: RunConfig) -> int:
    """Parameters without position embeddings: the number nanoGPT prints."""
    return params_total(config) - count(embeddings(config)) + count({"wte": embeddings(config)["wte.weight"]})


def params_total(config: RunConfig) -> int:
    """All trained parameters; a tied head counts once, as the token embedding."""
    return params_non_embedding(config) + count(head(config)) + count(embeddings(config))


def params_approx(config: RunConfig) -> int:
    """The usual approximation 12·n_layer·n_embd² (Kaplan et al. 2020, section 2.1)."""
    return 12 * config.n_layer * config.n_embd**2


def tokens_per_step(config: RunConfig) -> int:
    """Tokens one optimizer step sees."""
    return config.gradient_accumulation_steps * config.batch_size * config.block_size


def train_tokens(config: RunConfig) -> int:
    """Tokens a whole run sees."""
    return config.max_iters * tokens_per_step(config)


def flops_per_token(config: RunConfig) -> int:
    """Training FLOPs a token, forward and backward: 6N + 12·L·C·T (PaLM, appendix B).

    N is what is multiplied by: blocks, norms and the head, which a tied embedding is. T is the window where one is set.
    """
    multiplied = params_non_embedding(config) + config.vocab_size * config.n_embd
    return 6 * multiplied + 12 * config.n_layer * config.n_embd * attended_length(config)


def attended_length(config: RunConfig) -> int:
    """Tokens that the last one of a block attends to."""
    return min(config.window or config.block_size, config.block_size)


def train_flops(config: RunConfig) -> int:
    """Training FLOPs of a whole run, evaluation apart."""
    return train_tokens(config) * flops_per_token(config)


def evaluation_steps(config: RunConfig) -> list[int]:
    """Steps at which a run is evaluated: 0, every eval_interval, and the end."""
    return [*range(0, config.max_iters, config.eval_interval), config.max_iters]


def evaluations(config: RunConfig) -> int:
    """How often a run is evaluated: the number of its evaluation_steps, without listing what may be billions."""
    return len(range(0, config.max_iters, config.eval_interval)) + 1


def checkpoint_bytes(config: RunConfig) -> int:
    """Size of one checkpoint: weights, what the optimizer keeps and, where a run has one, their average, in fp32."""
    return (1 + len(optimizer_of(config.optimizer).moments) + bool(config.ema)) * weights_bytes(config)


def weights_bytes(config: RunConfig) -> int:
    """Size of a checkpoint of weights alone, in fp32."""
    return 4 * params_total(config)


def disk_bytes(config: RunConfig) -> int:
    """Disk a finished run takes: its last and best checkpoints, its rows and records."""
    return 2 * checkpoint_bytes(config) + records_bytes(config)


def records_bytes(config: RunConfig) -> int:
    """Disk that a run takes beside its checkpoints."""
    return ROW_BYTES * config.max_iters + EVAL_ROW_BYTES * evaluations(config) + RECORDS_BYTES


def training_memory_bytes(config: RunConfig) -> int:
    """Rough memory one member takes in training: state, gradients, shadow weights, an average and saved activations.

    Activations: per token and layer about 34·C + 5·H·T values (Korthikanti et al. 2022), at 4 bytes.
    """
    tokens = config.batch_size * config.block_size
    per_token = config.n_layer * (34 * config.n_embd + 5 * config.n_head * config.block_size) + 4 * config.vocab_size
    return (6 + bool(config.ema)) * 4 * params_total(config) + 4 * tokens * per_token
