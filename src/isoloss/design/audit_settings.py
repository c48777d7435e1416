"""The audit of settings: schedules that defeat a run, evaluations that tell little or take most of the time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from isoloss.diagnostic import Diagnostic
from isoloss.study.config import SEED_SETTINGS, SETTINGS, RunConfig
from isoloss.study.datasets import compared_loss, dataset_of
from isoloss.study.mixtures import kept_windows
from isoloss.study.parametrization import scales
from isoloss.study.repeats import readable
from isoloss.study.schedules import decays, settings_read
from isoloss.study.texts import DataFacts
from isoloss.wording import between, counted, listed, of_runs, percent

FEWEST_BLOCKS = 50
"""Of validation, below which its loss is an accident of which blocks they are. A rule of thumb."""
MAX_EVALUATION_SHARE = 0.3
"""Of a study's time, from which on the audit says what evaluation costs."""
MAX_UNSEEN_SHARE = 0.001
"""Of validation's characters that never occur in training, from which on it is said."""
MAX_LOST_SHARE = 0.1
"""Of the training tokens, in documents that no block fits into."""
DIVERGING_RATE_TIMES_WIDTH = 4.0
"""Above learning_rate = 4 / n_embd AdamW is guessed to diverge: 0.03 for 128, 0.005 for 768."""


def settings_findings(
    configs: Sequence[RunConfig],
    data: DataFacts | None,
    evaluation_share: float | None,
    *,
    tuned: Collection[str] = (),
) -> Iterator[Diagnostic]:
    """What single settings defeat; what rests on the text or on measured times is left out where they are unknown."""
    warming = [config for config in configs if "warmup_iters" in settings_read(config)]
    late = [config for config in warming if config.warmup_iters >= config.max_iters]
    if late:
        yield Diagnostic(
            "warmup_beyond_horizon",
            "limits",
            f"{of_runs(len(late), len(configs))} end before their warmup does (warmup_iters "
            f"{_values(late, 'warmup_iters')}, max_iters {_values(late, 'max_iters')}): the learning rate rises all "
            "the way and never reaches learning_rate.",
            "Set warmup_iters to a few percent of max_iters, say with the formula '= 0.05 * max_iters'.",
        )
    rising = [config for config in configs if decays(config) and config.min_lr > config.learning_rate]
    if rising:
        yield Diagnostic(
            "min_lr_above_learning_rate",
            "limits",
            f"min_lr ({_values(rising, 'min_lr')}) is above learning_rate ({_values(rising, 'learning_rate')}) in "
            f"{of_runs(len(rising), len(configs))}: the rate rises where it should decay.",
            "Set min_lr to a tenth of learning_rate, with the formula '= learning_rate / 10'.",
        )
    unwatched = [config for config in configs if config.eval_interval >= config.max_iters]
    if unwatched:
        yield Diagnostic(
            "no_evaluation_inside",
            "limits" if len(unwatched) == len(configs) else "note",
            f"{of_runs(len(unwatched), len(configs))} are evaluated at their beginning and end alone (eval_interval "
            f"{_values(unwatched, 'eval_interval')}, max_iters {_values(unwatched, 'max_iters')}): nothing is seen of "
            "the way, of overfitting or of a plateau.",
            "Lower eval_interval to a tenth of max_iters.",
        )
    yield from _without_level(configs, tuned)
    yield from _fast(configs)
    yield from _vocabularies(configs)
    if data is not None:
        yield from _tokenizers(configs, data)
        yield from _block_sizes(configs, data)
    if data is not None and (oddities := dict.fromkeys(oddity for each in data.each for oddity in each.oddities)):
        text = f"The text: {' '.join(oddities)}"
        yield Diagnostic("text_oddities", "note", text, "Convert it if that is not meant: dos2unix -r removes both.")
    if data is not None and data.val_tokens is not None:
        yield from _validation(configs, data)
    if evaluation_share is not None and evaluation_share > MAX_EVALUATION_SHARE:
        yield _dominating(configs, evaluation_share)


def _without_level(configs: Sequence[RunConfig], tuned: Collection[str]) -> Iterator[Diagnostic]:
    """Settings with numbers as levels and none in some runs, which analyses have to leave out; no tuned ones."""
    filled_in = (*SEED_SETTINGS, "lr_decay_iters")  # null there is a value of another setting, which analyses fill in
    for name in (name for name in SETTINGS if name not in filled_in and name not in tuned):
        values = [getattr(config, name) for config in configs]
        if None in values and len({*values}) > 2:
            yield Diagnostic(
                "runs_without_level",
                "limits",
                f"{name} is null in {of_runs(values.count(None), len(values))}: effects are estimated from the others "
                "alone, whatever else differs.",
                f"State a number of {name} for every run; what a run does not read is no part of its name.",
            )


def _fast(configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    adam = [config for config in configs if config.optimizer in ("adamw", "muon")]
    rates = {id(config): config.learning_rate * scales(config).matrix_rate for config in adam}
    fast = [config for config in adam if rates[id(config)] >= DIVERGING_RATE_TIMES_WIDTH / config.n_embd]
    if fast:
        widest = max(config.n_embd for config in fast)
        yield Diagnostic(
            "high_learning_rate",
            "note",
            f"learning_rate {_values(fast, 'learning_rate')} may diverge at n_embd {_values(fast, 'n_embd')} "
            f"({of_runs(len(fast), len(configs))}): a guess, that AdamW bears rates up to about "
            f"{DIVERGING_RATE_TIMES_WIDTH:g} / n_embd, here {DIVERGING_RATE_TIMES_WIDTH / widest:.2g}.",
            "Keep it if the edge is what the study looks for; runs that diverge are counted and shown.",
        )


def _vocabularies(configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    """Corpora whose losses compare per token, and whose models differ by the characters that each has."""
    sizes = sorted({config.vocab_size for config in configs})
    if len(sizes) > 1 and compared_loss(map(dataset_of, configs)) == "val_loss":
        yield Diagnostic(
            "vocabularies_differ",
            "note",
            f"Corpora have {between(sizes)} characters, so models differ in embedding and output besides; a character "
            "is a token in each, and losses on the one validation text compare.",
            "Use byte, gpt2 or file:PATH for one vocabulary.",
        )


def _tokenizers(configs: Sequence[RunConfig], data: DataFacts) -> Iterator[Diagnostic]:
    """Tokenizers whose runs are evaluated on different stretches of a text."""
    apart = [config for config in configs if config.eval == "sampled" or _is_read_in_part(config, data)]
    if apart and len({config.tokenizer for config in configs}) > 1:
        yield Diagnostic(
            "tokenizers_on_other_text",
            "limits",
            "Runs of different tokenizers are scored on different stretches of the validation split, as these are "
            "chosen by tokens: their bits per byte differ by what the stretches hold, too.",
            "State eval_val_tokens: 0 and eval: exact, and no document_separator: then all of the split is read.",
        )


def _block_sizes(configs: Sequence[RunConfig], data: DataFacts) -> Iterator[Diagnostic]:
    """Blocks of several sizes that fit into documents at other places."""
    apart = [config for config in configs if data.of(dataset_of(config)).documents is not None]
    if len({config.block_size for config in apart if config.eval != "sliding"}) > 1:
        yield Diagnostic(
            "block_sizes_on_other_text",
            "limits",
            "Runs of different block_size are scored on different tokens of the validation split, as other windows fit "
            "into its documents: their losses differ by what these hold, too.",
            "State eval: sliding with an eval_stride, which scores the same tokens at every block_size.",
        )


def _is_read_in_part(config: RunConfig, data: DataFacts) -> bool:
    of = data.of(dataset_of(config))
    return of.documents is not None or 0 < config.eval_val_tokens < (of.val_tokens or 0)


def _validation(configs: Sequence[RunConfig], data: DataFacts) -> Iterator[Diagnostic]:
    fixed = [config for config in configs if config.eval != "sampled"]
    few = [config for config in fixed if evaluated_blocks(config, data) < FEWEST_BLOCKS]
    if few:
        fewest = min(few, key=lambda config: evaluated_blocks(config, data))
        val_tokens, size = data.of(dataset_of(fewest)).val_tokens or 0, fewest.eval_scored
        n = evaluated_blocks(fewest, data)
        yield Diagnostic(
            "small_validation",
            "limits",
            f"A validation loss is the mean over {counted(n, 'block')} of {counted(size, 'token')} (of "
            f"{val_tokens:,} validation tokens): it says as much about these blocks as about the model.",
            "Validate on a longer text (val_share, val_corpus), or raise eval_val_tokens."
            if any(config.eval_val_tokens for config in few)
            else "Validate on a longer text (val_share, val_corpus).",
        )
    yield from _short_documents(configs, data)
    unseen = max((each.unseen_share or 0.0 for each in data.each), default=0.0)
    if unseen > MAX_UNSEEN_SHARE:
        yield Diagnostic(
            "unseen_characters",
            "limits",
            f"{percent(unseen)} of the validation split's characters never occur in the training split: "
            "no model can learn them, and they dominate the loss.",
            "Add text that has them to corpus; where validation is the end of one text, shuffle its parts.",
        )


def _short_documents(configs: Sequence[RunConfig], data: DataFacts) -> Iterator[Diagnostic]:
    """Documents that no block fits into, where they hold more than MAX_LOST_SHARE of the tokens of training."""

    def lost(config: RunConfig) -> float:
        read, all_tokens = readable(config, data), data.of(dataset_of(config)).train_tokens
        return 1 - sum(read.lengths) / all_tokens if read and all_tokens else 0.0

    worst = max(configs, key=lost)
    if lost(worst) > MAX_LOST_SHARE:
        yield Diagnostic(
            "short_documents",
            "limits",
            f"With block_size {worst.block_size:,}, {percent(lost(worst))} of the training tokens are in documents no "
            "longer than a block, and are never trained on"
            + ("; windows that slide score such documents in validation." if worst.eval == "sliding" else "."),
            "Lower block_size, or leave document_separator out.",
        )


def _dominating(configs: Sequence[RunConfig], share: float) -> Diagnostic:
    often = min(configs, key=lambda config: config.eval_interval)
    sampled = all(config.eval == "sampled" for config in configs)
    smaller = "eval_iters" if sampled else "eval_val_tokens (0 reads the whole split)"
    if any(config.eval_scored < config.block_size for config in configs):
        smaller += ", or raise eval_stride"
    return Diagnostic(
        "evaluation_dominates",
        "limits",
        f"Evaluation takes about {percent(share)} of the study's time (eval_interval {often.eval_interval:,} of "
        f"{often.max_iters:,} steps).",
        f"Raise eval_interval, or lower {smaller}.",
    )


def evaluated_blocks(config: RunConfig, data: DataFacts, split: int = 1) -> int:
    """Blocks of the training split, 0, or of validation, 1, that an evaluation reads, unless it is sampled."""
    of, scored = data.of(dataset_of(config)), config.eval_scored
    longer = 0 if split else config.block_size
    at_most, parts = ((config.eval_train_tokens, of.train_parts), (config.eval_val_tokens, of.val_parts))[split]
    there = [
        sum(n * ((length - 1) // scored) for length, n in each.items() if length > longer)
        for each in of.documents_of(split)
    ]
    return sum(kept_windows(there, parts, at_most // scored if at_most else None))


def _values(configs: Sequence[RunConfig], setting: str) -> str:
    """The values of a setting, ascending."""
    return listed(sorted({getattr(config, setting) for config in configs}))
