"""Data and method: what was trained on what, how, and how it was evaluated, in the words of a paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from isoloss.report.chapter import Chapter
from isoloss.report.chapters.data import corpus_in_words, data_in_words
from isoloss.report.chapters.provenance import machine, states
from isoloss.report.references import cited, references_in
from isoloss.report.snapshot import Snapshot
from isoloss.report.table import Column, Table
from isoloss.store.records import CONTINUES_FROM, FIRST_EVALUATION
from isoloss.study import compute
from isoloss.study.config import SETTINGS, RunConfig
from isoloss.study.schedules import decays
from isoloss.wording import between, count, counted, duration, level, listed, of_runs, si

SETTING_COLUMNS = (Column("setting", "setting"), Column("value", "value", width=50), Column("from", "stated as"))
MAX_LEVELS = 12
"""A factor with more levels is named by its ends."""
SOURCE_COLUMNS = (Column("cited", "cited as", width=30), Column("source", "source", width=90))


def method_chapter(snapshot: Snapshot) -> Chapter:
    """Data, model, training, evaluation, runs and machine of a study, and all its settings."""
    stated = [*snapshot.study.varied, *snapshot.study.base]
    default = [name for name in SETTINGS if name not in stated]
    parts = (data_in_words, _model, _training, _evaluation, _runs, _machine)
    return Chapter(
        "method",
        "Data and method",
        [_in_short(snapshot)],
        tables=[
            _settings(snapshot, "settings", "Settings that the study states.", stated),
            _settings(snapshot, "defaults", "Settings left at their defaults.", default),
        ],
        details=[" ".join(part(snapshot)) for part in parts],
    )


def references_chapter(chapters: Sequence[Chapter]) -> Chapter:
    """The sources that some chapters cite."""
    sources = references_in(text for chapter in chapters for text in chapter.texts)
    rows = [{"cited": source.short, "source": source.full} for source in sources]
    answer = f"The chapters of this page cite {counted(len(rows), 'source')}."
    table = Table("references", "Sources of methods and data.", pl.DataFrame(rows), SOURCE_COLUMNS)
    return Chapter("references", "References", [answer], tables=[table] if rows else [])


def _in_short(snapshot: Snapshot) -> str:
    sizes, tokens = _range(snapshot, compute.params_total, si), _range(snapshot, compute.train_tokens, si)
    runs = counted(snapshot.study.size, "run")
    texts = dict.fromkeys(
        dataset.corpus if snapshot.study.varied_texts else corpus_in_words(text.corpus)
        for dataset, text in snapshot.study.datasets.items()
    )
    return f"{runs} of a GPT with {sizes} parameters, each on {tokens} tokens of {' or '.join(texts)}."


OPTIMIZERS = {
    "adamw": f"AdamW {cited('loshchilov2019')}",
    "muon": f"Muon {cited('jordan2024')} for the matrices of blocks and AdamW {cited('loshchilov2019')} for all else",
    "lion": f"Lion {cited('chen2023')}",
    "sgd": "SGD with momentum beta1",
}
PARAMETRIZATIONS = {
    "mup": ("the width by the maximal update parametrization", ("yang2022", "dey2024"), ("base_n_embd",)),
    "completep": ("width and depth by CompleteP", ("dey2025",), ("base_n_embd", "base_n_layer")),
}
"""What follows from a model's size other than by GPT-2's rules, with its sources and the settings it starts from."""
SCHEDULES = {
    "cosine": f"falls by a cosine {cited('loshchilov2017')}",
    "linear": "falls linearly",
    "constant": "stays there",
    "wsd": f"stays there, then falls {cited('hu2024')} over its end ({{decay}})",
    "inverse_sqrt": f"falls as the inverse square root of the step {cited('vaswani2017')}",
}
"""What the learning rate does after its warmup."""
PARTS: dict[str, dict[Any, tuple[str, str]]] = {
    "norm": {"layernorm": ("layer norms", "ba2016"), "rmsnorm": ("RMSNorms", "zhang2019")},
    "position": {
        "learned": ("learned positions", ""),
        "rope": ("rotated queries and keys", "su2021"),
        "none": ("no positions but causality", ""),
    },
    "mlp": {
        "gelu": ("exact GELU", "hendrycks2016"),
        "relu2": ("squared ReLU", "so2021"),
        "swiglu": ("SwiGLU", "shazeer2020"),
    },
    "tie_embeddings": {
        True: ("the token embedding tied to the output", "press2017"),
        False: ("an output matrix of its own", ""),
    },
}
"""Parts of the model in words, by setting and value, with what describes each."""


def _model(snapshot: Snapshot) -> Iterator[str]:
    shape = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
    configs = list(snapshot.configs.values())
    dropout = f" {cited('srivastava2014')}" if any(config.dropout for config in configs) else ""
    yield (
        f"The model is a decoder-only transformer {cited('vaswani2017')} as in GPT-2 {cited('radford2019')} and "
        f"nanoGPT {cited('karpathy2022')}: norms before attention and MLP, GPT-2's initialisation, "
        f"{listed(_part(configs, name) for name in PARTS)}, with {_said(snapshot, *shape)}{dropout}."
    )
    for parametrization, (words, sources, bases) in PARAMETRIZATIONS.items():
        runs = [config for config in configs if config.parametrization == parametrization]
        if runs:
            which = (
                "Initialisation"
                if len(runs) == len(configs)
                else f"With parametrization {parametrization} initialisation"
            )
            follows = f"follow {words} {cited(*sources)}, from {_said(snapshot, *bases)}"
            yield f"{which}, multipliers and learning rates {follows}."
    attention = [name for name in ("n_kv_head", "qk_norm", "window") if any(getattr(c, name) for c in configs)]
    if attention:
        yield f"Of its attention, {_said(snapshot, *attention)}."
    yield (
        f"It has {_range(snapshot, compute.params_total, count)} parameters, "
        f"{_range(snapshot, compute.params_non_embedding, count)} without embeddings."
    )


def _part(configs: Sequence[RunConfig], name: str) -> str:
    """What the model has of a part, in words: 'exact GELU or SwiGLU', in the order of its levels."""
    return " or ".join(
        f"{words} {cited(source)}" if source else words
        for value, (words, source) in {**PARTS[name], **_own_parts(configs, name, PARTS[name])}.items()
        if any(getattr(config, name) == value for config in configs)
    )


def _own_parts(configs: Sequence[RunConfig], name: str, known: Mapping[Any, Any]) -> dict[Any, tuple[str, str]]:
    """Words for parts of the author's own, which have a name and the digest of their source."""
    values = sorted({getattr(config, name) for config in configs} - known.keys())
    return {value: (f"{value} (a part of the study's own)", "") for value in values}


def _training(snapshot: Snapshot) -> Iterator[str]:
    configs = list(snapshot.configs.values())
    named = {**OPTIMIZERS, **{kind: words for kind, (words, _) in _own_parts(configs, "optimizer", OPTIMIZERS).items()}}
    kinds = [kind for kind in named if any(config.optimizer == kind for config in configs)]
    rates = ["muon_learning_rate"] if "muon" in kinds else []
    yield (
        f"The optimizer is {' or '.join(named[kind] for kind in kinds)} with "
        f"{_said(snapshot, 'beta1', 'beta2', 'weight_decay', *rates)}; matrices and embeddings decay."
    )
    if any(config.grad_clip for config in configs):
        yield f"The norm of the gradient is clipped at {_said(snapshot, 'grad_clip')} {cited('pascanu2013')}."
    yield (
        f"Training takes {_said(snapshot, 'max_iters')} steps of {_range(snapshot, compute.tokens_per_step, count)} "
        "tokens from random places of the training split "
        f"({_said(snapshot, 'batch_size', 'gradient_accumulation_steps', 'block_size')})."
    )
    yield from _schedule(snapshot, configs)
    low = sorted({config.precision for config in configs} - {"fp32"})
    yield f"Matrix products run in {listed(low)}, all else in fp32." if low else "All arithmetic is fp32."


def _schedule(snapshot: Snapshot, configs: Sequence[RunConfig]) -> Iterator[str]:
    """What the learning rate does; a sentence for each schedule."""
    peak = _said(snapshot, "learning_rate")
    for schedule, falls in SCHEDULES.items():
        runs = [config for config in configs if config.decay_lr and config.schedule == schedule]
        if not runs:
            continue
        if "{decay}" in falls:
            falls = falls.format(decay=_said(snapshot, "decay_share", "decay_shape"))
        if decays(runs[0]):
            at_end = all(config.decay_horizon == config.max_iters for config in runs)
            end = "the last step" if at_end else _said(snapshot, "lr_decay_iters")
            falls = f"{falls} to {_said(snapshot, 'min_lr')} at {end}"
        which = "" if len(runs) == len(configs) else f"With schedule {schedule} the"
        rises = f"learning rate rises linearly over {_said(snapshot, 'warmup_iters')} steps to {peak} and {falls}."
        yield f"{which or 'The'} {rises}"
    if not all(config.decay_lr for config in configs):
        which = "Where decay_lr is false the" if any(config.decay_lr for config in configs) else "The"
        yield f"{which} learning rate is constant, {peak}."


def _evaluation(snapshot: Snapshot) -> Iterator[str]:
    modes = {config.eval for config in snapshot.configs.values()}
    tokens = sorted({config.eval_val_tokens for config in snapshot.configs.values()})
    val = "the whole validation split"
    if tokens != [0]:
        val = f"{_said(snapshot, 'eval_val_tokens')} tokens of the validation split, evenly spaced,"
    train = f"and on at most {_said(snapshot, 'eval_train_tokens')} of the training split"
    on = {
        "exact": f"on {val} in blocks that do not overlap, {train}",
        "sliding": f"on {val} {train}, in blocks of which the last tokens alone count, "
        f"{_said(snapshot, 'eval_stride')}: whatever the block_size, the same tokens of validation count, each with "
        "more than block_size − eval_stride tokens before it where its document has them",
        "sampled": f"on random batches of each split, {_said(snapshot, 'eval_iters')} of them",
    }
    yield (
        "The loss is the mean cross-entropy in nats per token, without dropout, "
        f"{' or '.join(on[mode] for mode in sorted(modes))}, at step 0, every {_said(snapshot, 'eval_interval')} steps "
        "and at the end."
    )


def _runs(snapshot: Snapshot) -> Iterator[str]:
    study = snapshot.study
    varied = f" of {listed(f'{factor} {_levels(snapshot, factor)}' for factor in snapshot.factors)}"
    yield (
        f"The study has {counted(len(snapshot.configurations), 'combination')}{varied if snapshot.factors else ''}, "
        f"each with {counted(len(study.seeds), 'seed')} ({_values(study.seeds).strip('{}')})."
    )
    yield "A seed decides initialisation, batches and dropout; runs of one seed and batch shape share batches."
    if study.stated_seeds:
        stated = _said(snapshot, *study.stated_seeds)
        yield f"Where stated, init_seed decides initialisation, data_seed batches and dropout: here {stated}."
    taken = [status.provenance for status in snapshot.statuses.values() if CONTINUES_FROM in status.provenance]
    if taken:
        steps = between(sorted({record[CONTINUES_FROM] for record in taken}))
        yield (
            f"{of_runs(len(taken), len(snapshot.statuses))} took over their first {steps} steps from another run, "
            "which trained them once for both: what the two curves have there is one observation."
        )
    if any(FIRST_EVALUATION in status.provenance for status in snapshot.statuses.values()):
        first = [s for s in snapshot.statuses.values() if s.provenance.keys() & {FIRST_EVALUATION, CONTINUES_FROM}]
        yield (
            f"{of_runs(len(first), len(snapshot.statuses))} took over the evaluation before the first step from "
            "another run, whose initial weights are equal."
        )
    yield f"{states(snapshot)}; results are drawn from those that are done."


def _machine(snapshot: Snapshot) -> Iterator[str]:
    yield from (f"{what[0].upper()}{what[1:]}: {value}." for what, value in machine(snapshot) if value)
    times = snapshot.table["wall_time_s"].drop_nulls()
    yield f"All runs together took {duration(float(times.sum()))}."


def _settings(snapshot: Snapshot, name: str, title: str, settings: Sequence[str]) -> Table:
    study = snapshot.study
    origins = [next((o for o in ("factors", "base") if s in getattr(study, o)), "default") for s in settings]
    values = [_levels(snapshot, setting) for setting in settings]
    return Table(name, title, pl.DataFrame({"setting": settings, "value": values, "from": origins}), SETTING_COLUMNS)


def _said(snapshot: Snapshot, *settings: str) -> str:
    """Settings with their values: 'n_layer 4 and n_embd {64, 128}'."""
    return listed(f"{setting} {_levels(snapshot, setting)}" for setting in settings)


def _levels(snapshot: Snapshot, setting: str) -> str:
    """The value of a setting, or all that the study gives it: '{64, 128}', '40 values from 0.001 to 0.04'."""
    config = next(iter(snapshot.configs.values()))
    return _values(snapshot.study.varied.get(setting, (getattr(config, setting),)))


def _values(values: Sequence[Any]) -> str:
    words = list(map(level, values))
    if len(words) > MAX_LEVELS:
        return f"{len(words)} values from {words[0]} to {words[-1]}"
    return f"{{{', '.join(words)}}}" if len(words) > 1 else words[0]


def _range(snapshot: Snapshot, measure: Callable[[RunConfig], int], spelled: Callable[[float], str]) -> str:
    """The smallest and largest of what runs have: '3,200 to 12,544'."""
    values = [measure(config) for config in snapshot.configs.values()]
    return " to ".join(dict.fromkeys([spelled(min(values)), spelled(max(values))]))
