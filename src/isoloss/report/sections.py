"""The tables of the page: what was done to what, what came of it, and on what machine, as words."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import polars as pl

from isoloss.analysis.levels import largest_difference
from isoloss.report import wording as say
from isoloss.report.gallery import effects_by_factor
from isoloss.report.parts import Table
from isoloss.report.snapshot import Snapshot
from isoloss.spec import compute
from isoloss.spec.config import SETTINGS, RunConfig

SAMPLED_RUNS = 3
"""Samples are shown of this many runs at most."""


def method(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Corpus, model, optimizer, schedule, evaluation and seeds."""
    known, study = snapshot.tokenizer, snapshot.study
    config = next(iter(snapshot.configs.values()))
    train, val = known.get("train_tokens"), known.get("val_tokens")
    split = f"{say.count(train)} training and {say.count(val)} validation tokens"
    if train and val:
        split += f": the first {say.percent(train / (train + val))} of the text, and the rest"

    def of(name: str) -> str:
        return f"{name} {_setting(snapshot, config, name)}"

    steps = {compute.tokens_per_step(c) for c in snapshot.configs.values()}
    return [
        ("Corpus", f"{study.corpus}, SHA-256 {known.get('corpus_sha256', say.MISSING)}"),
        ("Tokenizer", f"{study.tokenizer}, vocabulary of {say.count(known.get('vocab_size'))} tokens"),
        ("Split", split),
        (
            "Model",
            "decoder-only transformer in nanoGPT's layout, token embedding tied to the output: "
            + ", ".join(of(name) for name in ("n_layer", "n_head", "n_embd", "block_size", "dropout", "bias")),
        ),
        ("Parameters", _range([compute.params_total(c) for c in snapshot.configs.values()]) + " with embeddings, "
            + _range([compute.params_non_embedding(c) for c in snapshot.configs.values()]) + " without"),
        ("Optimizer", "AdamW: " + ", ".join(of(name) for name in ("beta1", "beta2", "weight_decay", "grad_clip"))),
        ("Schedule", _schedule(snapshot, config, of)),
        ("Batches", f"{_range(sorted(steps))} tokens a step: " + ", ".join(
            of(name) for name in ("batch_size", "gradient_accumulation_steps", "block_size"))),
        ("Evaluation", _evaluation(snapshot, config)),
        ("Loss", "mean cross-entropy in nats per token, dropout off"),
        ("Precision", _setting(snapshot, config, "precision")),
        ("Seeds", f"{say.listed([str(seed) for seed in study.seeds])}; runs of one seed see the same data order "
            "as far as their batches are alike"),
    ]  # fmt: skip


def settings(snapshot: Snapshot, *, stated: bool) -> Table:
    """Settings the study file states (factors and base), or those left at their defaults."""
    study, config = snapshot.study, next(iter(snapshot.configs.values()))
    names = [*study.factors, *study.base] if stated else [n for n in SETTINGS if n not in {*study.factors, *study.base}]
    rows = [(name, _setting(snapshot, config, name), _origin(snapshot, name)) for name in names]
    return Table(("setting", "value", "stated as"), rows, numbers_from=3)


def levels(snapshot: Snapshot) -> Table:
    """Mean and spread of the best validation loss at each level of each factor."""
    rows: list[list[str]] = []
    exact: list[dict[str, Any]] = []
    for factor, means in effects_by_factor(snapshot).items():
        difference = largest_difference(means)
        for i, m in enumerate(means):
            spread = (say.loss(value) for value in (m.mean, m.sd, m.minimum, m.maximum))
            leads = i == 0
            rows.append([factor if leads else "", say.level(m.level), say.count(m.n), *spread])
            rows[-1].append(say.loss(difference) if leads else "")
            exact.append(asdict(m) | {"level": say.level(m.level)})
    head = ("factor", "level", "n", "mean", "sd", "lowest", "highest", "largest difference")
    return Table(head, rows, exact=pl.DataFrame(exact, infer_schema_length=None))


def efficiency(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Speed of the best run, and where the study's wall time went."""
    best = snapshot.best
    if best is None:
        return []
    times = snapshot.results.metrics(best["run_id"])["step_time_s"]
    slowest = max(times.drop_nulls(), default=None)
    peak = snapshot.statuses[best["run_id"]].provenance.get("peak", {})
    parts = ("train_time_s", "eval_time_s", "checkpoint_time_s")
    return [
        ("Step time of the best run", f"median {say.milliseconds(best['median_step_time_s'])}, 95th percentile "
            f"{say.milliseconds(times.quantile(0.95))}, slowest {say.milliseconds(slowest)}"),
        ("Throughput of the best run", f"{say.si(best['tokens_per_s'])} tokens/s (median over steps)"),
        ("MFU of the best run", f"{say.percent(best['mfu'])} of {say.si(peak.get('flops'))}FLOP/s "
            f"({peak.get('source', say.MISSING)}), median over steps"),
        ("In nanoGPT's convention", f"{say.percent(best['mfu_a100'])} of an A100's nominal 312 TFLOP/s, whatever the "
            "device (column mfu_a100)"),
        ("Wall time of the best run", _split([best[part] for part in parts])),
        ("Wall time of all runs", _split([_total(snapshot, part) for part in parts])
            + "; runs may have been trained side by side"),
    ]  # fmt: skip


def samples(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Title and text of the best runs that have samples."""
    ranked = snapshot.table.drop_nulls("best_val_loss").sort("best_val_loss", "run_id").to_dicts()
    texts = ((_titled(row), snapshot.results.samples(row["run_id"])) for row in ranked)
    return list(islice(((title, text) for title, text in texts if text is not None), SAMPLED_RUNS))


def machine(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Versions and machine of the last start, and what the runs themselves were trained on."""
    start = snapshot.provenance
    rows = [("Last started", str(start.get("started_at", say.MISSING)))]
    rows += [("Versions", ", ".join(f"{name} {version}" for name, version in start.get("versions", {}).items()))]
    rows += [("Machine", ", ".join(f"{name} {value}" for name, value in start.get("machine", {}).items()))]
    for key in ("device_name", "torch", "cpu_capability", "threads", "stack_width", "ranks"):
        values = Counter(str(s.provenance[key]) for s in snapshot.statuses.values() if key in s.provenance)
        if values:
            rows.append((f"Runs by {key}", ", ".join(f"{v} ({say.plural(n, 'run')})" for v, n in values.most_common())))
    peaks = [s.provenance["peak"] for s in snapshot.statuses.values() if "peak" in s.provenance]
    if peaks:
        sources = say.listed(sorted({peak["source"] for peak in peaks}))
        rows.append(("Peak behind the MFU", f"{sources}: {_si_range([peak['flops'] for peak in peaks])}FLOP/s"))
    return rows


def unfinished(snapshot: Snapshot) -> Table:
    """Every run that is not done, with its reason."""
    rows = [
        [row["run_id"], row["label"], row["status"], row["reason"] or say.MISSING]
        for row in snapshot.table.to_dicts()
        if row["status"] != "done"
    ]
    return Table(("run", "levels", "status", "reason"), rows, numbers_from=4)


def all_runs(snapshot: Snapshot) -> Table:
    """The whole table, one row a run, in the study's order."""
    factors = snapshot.factors
    head = ("run", *factors, "seed", "status", "parameters", "best val loss", "at step", "final val loss",
            "final train loss", "step time", "tokens/s", "MFU", "wall time")  # fmt: skip
    rows = [
        [
            row["run_id"],
            *(say.level(row[factor]) for factor in factors),
            str(row["seed"]),
            row["status"],
            say.count(row["params_total"]),
            say.loss(row["best_val_loss"]),
            say.count(row["best_step"]),
            say.loss(row["final_val_loss"]),
            say.loss(row["final_train_loss"]),
            say.milliseconds(row["median_step_time_s"]),
            say.si(row["tokens_per_s"]),
            say.percent(row["mfu"]),
            say.duration(row["wall_time_s"]),
        ]
        for row in snapshot.table.to_dicts()
    ]
    return Table(head, rows, numbers_from=len(factors) + 3, exact=snapshot.table.drop("key", "configuration", "label"))


def study_file(snapshot: Snapshot) -> str:
    """The study as it runs, word for word."""
    return snapshot.results.paths.study.read_text(encoding="utf-8")


def rebuild_command(snapshot: Snapshot) -> str:
    """The command that writes this report again, from the folder the study lies in."""
    return f"isoloss report {shlex.quote(snapshot.results.paths.folder.resolve().name)}"


def _setting(snapshot: Snapshot, config: RunConfig, name: str) -> str:
    levels = snapshot.study.factors.get(name, ())
    if len(levels) > 1:
        return " | ".join(say.level(value) for value in levels)
    value = getattr(config, name)
    return "max_iters" if name == "lr_decay_iters" and value is None else say.level(value)


def _origin(snapshot: Snapshot, name: str) -> str:
    return "factor" if name in snapshot.study.factors else "base" if name in snapshot.study.base else "default"


def _schedule(snapshot: Snapshot, config: RunConfig, of: Any) -> str:
    if not config.decay_lr and "decay_lr" not in snapshot.factors:
        return f"constant {of('learning_rate')} for {of('max_iters')} steps"
    return (
        f"{of('max_iters')} steps; linear warm-up over {of('warmup_iters')} to {of('learning_rate')}, then a cosine to "
        f"{of('min_lr')} at step {_setting(snapshot, config, 'lr_decay_iters')}"
    )


def _evaluation(snapshot: Snapshot, config: RunConfig) -> str:
    every = f"every {_setting(snapshot, config, 'eval_interval')} steps, at step 0 and at the end"
    if "eval" in snapshot.factors:
        return f"{_setting(snapshot, config, 'eval')} (a factor), {every}"
    if config.eval == "exact":
        part = _setting(snapshot, config, "eval_train_tokens")
        return (
            f"exact, {every}: the whole validation split in non-overlapping blocks, and a fixed part of the training "
            f"split of at most {part} tokens"
        )
    return f"sampled, {every}: {_setting(snapshot, config, 'eval_iters')} random batches of each split"


def _titled(row: dict[str, Any]) -> str:
    return f"{row['label']} (run {row['run_id']}, best validation loss {say.loss(row['best_val_loss'])})"


def _total(snapshot: Snapshot, column: str) -> float | None:
    values = [value for value in snapshot.table[column] if value is not None]
    return sum(values) if values else None


def _split(seconds: Sequence[float | None]) -> str:
    """Training, evaluation and checkpoints, with their shares of the whole."""
    total = sum(value for value in seconds if value is not None)
    parts = [
        f"{name} {say.duration(value)}" + (f" ({say.percent(value / total)})" if value is not None and total else "")
        for name, value in zip(("training", "evaluation", "checkpoints"), seconds, strict=True)
    ]
    whole = say.MISSING if all(value is None for value in seconds) else say.duration(total)
    return f"{whole}: {', '.join(parts)}"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return say.count(low) if low == high else f"{say.count(low)} to {say.count(high)}"


def _si_range(values: Sequence[float]) -> str:
    low, high = say.si(min(values)), say.si(max(values))
    return low if low == high else f"{low} to {high}"
