"""The verbs: each calls one function of the library. Data goes to stdout, progress to stderr."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import asdict
from json import dumps
from math import log
from pathlib import Path
from re import fullmatch
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from isoloss.cli.arguments import (
    RUN_OPTIONS,
    CorpusName,
    Flag,
    OptionalFloat,
    OptionalInt,
    OptionalPath,
    OptionalText,
    Options,
    Plugins,
    Repeated,
    StudyName,
    named,
)
from isoloss.design.power import SEED_BY_FACTOR
from isoloss.errors import ConfigError, StoreError, raise_all
from isoloss.terminal import say, show

if TYPE_CHECKING:
    from isoloss.execution.options import RunOptions
    from isoloss.study.study import Study

TokenizerChoice = Annotated[str, named("NAME")]
Overrides = Annotated[Repeated, named("SETTING=VALUE", "")]
Seeds = Annotated[OptionalInt, named("N", "as the study says")]


def prepare(
    corpus: Annotated[CorpusName, tyro.conf.Positional],
    /,
    *,
    tokenizer: TokenizerChoice = "char",
    val_corpus: Annotated[OptionalText, named("CORPUS", "the end of CORPUS")] = None,
    val_share: Annotated[OptionalFloat, named("X", "0.1")] = None,
    document_separator: Annotated[OptionalText, named("TEXT", "blocks cross")] = None,
    yardsticks: Flag = False,
    offline: Flag = False,
) -> int:
    """Fetch, verify and tokenize a corpus into the cache.

    Example: isoloss prepare tinyshakespeare

    Args:
        corpus: A known name (tinyshakespeare, shakespeare, brown, webster, text8, enwik8, tinystories), a UTF-8 text
            file or a folder of them; JSON lines or Parquet with the field that has the text
            (files:data/*.jsonl.zst,field=text); shards of GPT-2's tokens (tokens:data/fineweb_train_*.bin); a synthetic
            text (synthetic:markov,order=2,symbols=32,seed=1,tokens=5e7), of which the entropy is said; what a study
            file has in braces ('{mix: {a.txt: 0.7, b.txt: 0.3}}'); or a folder of nanoGPT's data (train.bin, val.bin,
            and input.txt or meta.json), for which the lines of a study file are printed.
        tokenizer: char: a token for each character of the text; byte: one for each of 256 bytes; bpe:N: a byte-level
            BPE of N tokens, trained on the training split; gpt2; file:PATH: a tokenizer.json.
        val_corpus: What is validated on, likewise; all of CORPUS is then for training.
        val_share: Share of CORPUS that is kept for validation, its end.
        document_separator: What each document ends in, where blocks do not cross from one into the next.
        yardsticks: Compute what compressors and n-grams reach on a text of more than 20 MB, too; it takes minutes.
        offline: Fetch nothing; use what is in the cache.
    """
    from isoloss.data.known import licence_of
    from isoloss.data.nanogpt import is_nanogpt_folder, text_of
    from isoloss.data.ngram import MAX_BYTES
    from isoloss.data.synthetic import source_named
    from isoloss.data.tokens import prepare as prepare_tokens
    from isoloss.data.yardsticks import yardsticks as reached
    from isoloss.files import user_path
    from isoloss.study.corpora import corpus_names
    from isoloss.study.file_patterns import is_pattern
    from isoloss.study.schema import stated_faults
    from isoloss.study.studyfile import corpus_in_words
    from isoloss.study.synthetic import is_synthetic
    from isoloss.study.texts import Text
    from isoloss.wording import listed

    options = {"val_share": val_share, "document_separator": document_separator}
    divided = {name: value for name, value in options.items() if value is not None}
    raise_all(stated_faults({"tokenizer": tokenizer, **divided}))
    if of_nanogpt := not corpus.startswith("{") and is_nanogpt_folder(user_path(corpus)):
        if divided or val_corpus:
            named = next(iter(divided), "val_corpus")
            raise ConfigError(f"{corpus} has a validation split of its own; leave out --{named}")
        text = text_of(user_path(corpus).resolve())
    else:
        validated = corpus_in_words([val_corpus], "--val_corpus") if val_corpus else None
        text = Text(corpus_in_words([corpus], "CORPUS"), validated, val_share, document_separator)
        raise_all([*text.faults()])
    tokens = prepare_tokens(text, tokenizer, offline=offline, say=say)
    if of_nanogpt:
        paths = (path if fullmatch(r"[\w./-]+", str(path)) else dumps(path) for path in text.corpora)
        lines = [f"{key}: {path}" for key, path in zip(("corpus", "val_corpus"), paths, strict=False)]
        show("\n".join([*lines, *(["tokenizer: gpt2"] if is_pattern(text.corpus) else [])]))
    else:
        show(f"{tokens.folder}")
    say(
        f"{text.name}: {len(tokens.train_N):,} train and {len(tokens.val_N):,} val tokens, "
        f"vocabulary {tokens.tokenizer.vocab_size}, SHA-256 {tokens.sha256}"
    )
    for name in (name for each in text.corpora for name in corpus_names(each)):
        if licence := licence_of(name):
            say(f"licence of {name}: {licence}")
    if is_synthetic(text.corpus):
        rate = source_named(text.corpus).entropy_rate()
        in_nats = f"{rate.value:.4f} nats a character ({rate.low:.4f} to {rate.high:.4f}, {rate.method})"
        say(f"entropy rate {in_nats}, {rate.value / log(2):.3f} bits")
    if bits := reached(tokens, of_long_texts=yardsticks, say=say):
        told = listed(f"{name} {value:.3f}" for name, value in bits.items())
        mib = MAX_BYTES >> 20
        limits = f"bz2 looks back 900 kB; n-grams are of at most {mib} MiB, and scored on at most {mib} MiB"
        say(f"bits per byte of validation after reading the training split: {told} ({limits})")
    elif not text.shares and not text.val_shares:
        say("--yardsticks computes what compressors and n-grams reach; for so long a text that takes minutes")
    return 0


def plan(
    study: StudyName,
    /,
    *,
    set: Overrides = (),
    seeds: Seeds = None,
    plugin: Plugins = (),
    execution: Options = RUN_OPTIONS,
    noise: Annotated[OptionalFloat, named("X", "0.007")] = None,
    seed_by_factor: Annotated[float, named("X")] = SEED_BY_FACTOR,
    json: Flag = False,
) -> int:
    """Show what a study would cost and what it could tell; trains nothing.

    Example: isoloss plan width.yaml --seeds 5

    Args:
        study: A study file (YAML), or a built-in study: quickstart, group1, ladder, isoflop, horizons, transfer,
            known-floor, context, depth.
        set: Change a setting of the study, such as n_embd=256; a factor that is set is no longer varied.
        seeds: Number of seeds for each cell.
        plugin: A norm, MLP, optimizer or positions of your own that the study names; its file is run. May be repeated.
        execution: Those of `isoloss run`.
        noise: Standard deviation of the best validation loss from seed to seed to reckon with, in nats.
        seed_by_factor: How much the difference between two levels varies from seed to seed, over that of a run.
        json: Print one JSON object in place of text.
    """
    from isoloss.cli.plan import plan_as_json, plan_as_text
    from isoloss.execution.estimate import plan_study
    from isoloss.training.backend import keep_freed_memory

    keep_freed_memory()
    planned = plan_study(study_of(study, seeds, set, plugin), execution, say)
    show((plan_as_json if json else plan_as_text)(planned, noise, seed_by_factor))
    return 0


def run(
    study: StudyName,
    /,
    *,
    set: Overrides = (),
    seeds: Seeds = None,
    plugin: Plugins = (),
    out: Annotated[OptionalPath, named("DIR", "results/ and the study's name")] = None,
    execution: Options = RUN_OPTIONS,
    json: Flag = False,
) -> int:
    """Train every run of a study that is not finished yet, then write its summary and report.

    Example: isoloss run width.yaml --seeds 5

    Args:
        study: A study file (YAML), or a built-in study: quickstart, group1, ladder, isoflop, horizons, transfer,
            known-floor, context, depth.
        set: Change a setting of the study, such as n_embd=256; a factor that is set is no longer varied.
        seeds: Number of seeds for each cell; finished runs are kept.
        plugin: A norm, MLP, optimizer or positions of your own that the study names; its file is run. May be repeated.
        out: The study's directory.
        execution: How the runs are trained; never what is computed, but for precision.
        json: Print one JSON object in place of text.
    """
    return start(study_of(study, seeds, set, plugin), out, execution, json=json)


def start(study: Study, out: Path | None, options: RunOptions, *, json: bool) -> int:
    """Lock a study's directory, and only then import what trains it: a second start is refused at once."""
    from isoloss.execution.interrupts import exit_on_signals
    from isoloss.store.owner import owned, study_paths

    first = os.environ.get("RANK", "0") == "0"
    with owned(study_paths(study, out)) if first else nullcontext():
        with exit_on_signals():
            from isoloss.cli.outcome import conclude
            from isoloss.cli.run import run_and_report

        found = run_and_report(study, out, options)
    return conclude(*found, json=json) if found else 0  # after the lock: a slow reader of stdout holds nobody up


def schema() -> int:
    """Print the JSON Schema of study files, by which editors complete and check them.

    Example: isoloss schema > study.schema.json
    """
    from isoloss.study.schema import study_schema

    show(dumps(study_schema(), indent=2, ensure_ascii=False))
    return 0


def doctor(
    folder: Annotated[OptionalPath, tyro.conf.Positional, named("DIR", "this machine")] = None, /, *, json: Flag = False
) -> int:
    """Show what this machine offers: devices, precisions, measured peaks, versions, caches; or what a folder does.

    Of a folder it tries what a study relies on, as on a network's file system: locks, renames, syncs, links, appends.

    Example: isoloss doctor /scratch/results

    Args:
        folder: Where results are to be kept; it must exist.
        json: Print one JSON object in place of text.
    """
    if folder is not None:
        from isoloss.store.folder_check import check_folder

        tried = check_folder(folder)
        holds = all(each.holds for each in tried)
        lines = [f"{folder}: results {'can' if holds else 'cannot'} be kept here safely"]
        lines += [f"  {each.tried}: {'' if each.holds else 'NO, '}{each.text}" for each in tried]
        show(dumps([asdict(each) for each in tried], indent=2) if json else "\n".join(lines))
        return 0 if holds else StoreError.exit_code
    from isoloss.cli.doctor import examine, findings_as_text

    findings = examine()
    show(dumps(findings, indent=2) if json else findings_as_text(findings))
    return 0


def study_of(reference: str, seeds: int | None, overrides: tuple[str, ...], plugins: tuple[str, ...] = ()) -> Study:
    """A study by name or file, with the command line's changes. Raises ConfigError."""
    from isoloss.study.config import TEXTS
    from isoloss.study.plugins import use_plugin, with_plugins
    from isoloss.study.studyfile import corpus_in_words, find_study, parse_scalar
    from isoloss.study.texts import ANY_DATA

    for plugin in plugins:
        use_plugin(plugin)
    study = find_study(reference)
    settings: dict[str, Any] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected SETTING=VALUE")
        if name in TEXTS and value.startswith("{"):
            settings[name] = corpus_in_words([value], f"--set {name}", study.corpora)
        else:
            settings[name] = with_plugins(parse_scalar(value, f"--set {override}"))
    study = study.with_settings(settings) if settings else study
    study = study.with_seeds(seeds) if seeds is not None else study
    study.expand(ANY_DATA)  # every cell is valid, before anything is written
    return study
