"""The verbs: each calls one function of the library. Data goes to stdout, progress to stderr."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from isoloss.cli.terminal import say, show
from isoloss.errors import ConfigError

if TYPE_CHECKING:
    from isoloss.execution.options import RunOptions
    from isoloss.spec.study import Study

Device = Literal["auto", "cpu", "cuda", "mps"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
Compile = Literal["auto", "on", "off"]
Overrides = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def prepare(
    corpus: tyro.conf.Positional[str],
    /,
    *,
    tokenizer: Literal["char", "byte"] = "char",
    offline: bool = False,
) -> int:
    """Fetch, verify and tokenize a corpus into the cache.

    Args:
        corpus: A known name (tinyshakespeare) or the path of a UTF-8 text file.
        tokenizer: char (the text's sorted characters) or byte.
        offline: Use the cache alone.
    """
    from isoloss.data.tokens import prepare as prepare_tokens

    tokens = prepare_tokens(corpus, tokenizer, offline=offline, say=say)
    print(f"{tokens.folder}")
    say(
        f"{corpus}: {len(tokens.train_N):,} train and {len(tokens.val_N):,} val tokens, "
        f"vocabulary {tokens.tokenizer.vocab_size}, SHA-256 {tokens.sha256}"
    )
    return 0


def plan(
    study: tyro.conf.Positional[str],
    /,
    *,
    json: bool = False,
    seeds: int | None = None,
    set: Overrides = (),
    workers: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    noise: float | None = None,
) -> int:
    """Show what a study would cost and what it can resolve; writes nothing but compiled kernels into the cache.

    Args:
        study: A study file or a built-in name.
        json: Print one JSON object instead of a table.
        seeds: Replicate every cell with this many seeds.
        set: Override a setting, as field=value.
        workers: Worker processes to reckon with; default one a core.
        device: Where the study would run.
        precision: Arithmetic of training; auto is bf16 where the hardware multiplies it.
        noise: Seed-to-seed standard deviation of the best validation loss, in nats, for the audit; default 0.007.
    """
    from isoloss.cli.plan import plan_as_json, plan_as_text
    from isoloss.execution.estimate import plan_study
    from isoloss.execution.study import RunOptions
    from isoloss.training.backend import keep_freed_memory

    keep_freed_memory()
    planned = plan_study(_study(study, seeds, set), RunOptions(device, precision, workers))
    show(plan_as_json(planned, noise) if json else plan_as_text(planned, noise))
    return 0


def run(
    study: tyro.conf.Positional[str],
    /,
    *,
    out: Path | None = None,
    workers: int | None = None,
    stack: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    compile: Compile = "auto",
    seeds: int | None = None,
    set: Overrides = (),
    offline: bool = False,
    accept_other_numerics: bool = False,
) -> int:
    """Train every run of a study that is not finished yet, and write its summary and report.

    Args:
        study: A study file or a built-in name.
        out: The study's directory; default results/<study>.
        workers: Worker processes; default one a core.
        stack: Runs of equal shape trained together in one program; default 1 on a CPU, what fits on a GPU.
        device: Where to train.
        precision: Arithmetic of training; auto is bf16 where the hardware multiplies it.
        compile: Fast kernels from this machine's C++ compiler, on a CPU; auto leaves them out of short studies.
        seeds: Replicate every cell with this many seeds.
        set: Override a setting, as field=value.
        offline: Use cached corpora alone.
        accept_other_numerics: Continue runs that began with other threads, kernels or stacks, or elsewhere; marks them.
    """
    from isoloss.execution.options import RunOptions

    options = RunOptions(device, precision, workers, stack, offline, compile, accept_other_numerics)
    return start(_study(study, seeds, set), out, options)


def start(study: Study, out: Path | None, options: RunOptions) -> int:
    """Own a study's directory, and only then import what trains it: a second start knows at once."""
    from isoloss.execution.interrupts import exit_on_signals
    from isoloss.store.owner import owned, study_paths

    first = os.environ.get("RANK", "0") == "0"
    with owned(study_paths(study, out)) if first else nullcontext():
        with exit_on_signals():
            from isoloss.cli.run import conclude, run_and_report

        found = run_and_report(study, out, options)
    return conclude(*found) if found else 0  # whoever reads this may take their time: the study is free


def status(directory: tyro.conf.Positional[Path], /, *, json: bool = False) -> int:
    """Tell where the runs of a study stand.

    Args:
        directory: The study's directory.
        json: Print one JSON object instead of text.
    """
    from isoloss.cli.status import status_as_json, status_as_text
    from isoloss.store.tables import load_study

    results = load_study(directory)
    show(status_as_json(results) if json else status_as_text(results))
    return 0


def report(directory: tyro.conf.Positional[Path], /, *, pdf: bool = False) -> int:
    """Write a study's summary and report anew from its runs.

    Args:
        directory: The study's directory.
        pdf: Print the page to report/report.pdf as well, by an installed Chromium or Chrome.
    """
    from isoloss.report.pdf import print_page
    from isoloss.report.study_report import write_report
    from isoloss.store.tables import load_study, write_summary

    results = load_study(directory)
    write_summary(results)
    page = write_report(results).page
    print(page)
    if pdf:
        print(print_page(page))
    return 0


def sample(
    directory: tyro.conf.Positional[Path],
    /,
    *,
    run: str | None = None,
    prompt: str = "\n",
    length: int = 500,
    number: int = 1,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 1337,
    sliding: bool = False,
) -> int:
    """Print text from a trained run.

    Args:
        directory: The study's directory.
        run: A run id or its beginning; default the run with the lowest validation loss.
        prompt: Text to continue.
        length: Tokens to add.
        number: Samples to draw.
        temperature: Below 1 is safer, above 1 is wilder.
        top_k: Draw from the k likeliest tokens only.
        seed: Decides every draw.
        sliding: Re-read the last block_size tokens for every token past the first block, as nanoGPT does; slower.
    """
    import torch

    from isoloss.data.tokenizer import tokenizer_from_dict
    from isoloss.execution.samples import sample_run
    from isoloss.model.generate import Sampling
    from isoloss.store.tables import find_run, load_study

    sampling = Sampling(length, number, temperature, top_k, seed, sliding)
    results = load_study(directory)
    chosen = find_run(results, run)
    say(f"run {chosen.folder.name}")
    texts = sample_run(chosen, tokenizer_from_dict(results.tokenizer()), prompt, sampling, torch.device("cpu"))
    text = "\n---\n".join(texts)
    if sys.stdout.isatty():
        show(text)
    else:
        print(text)  # to the letter
    return 0


def export(
    directory: tyro.conf.Positional[Path],
    /,
    *,
    run: str | None = None,
    to: Literal["nanogpt", "hf"],
    out: Path,
    checkpoint: Literal["best", "last"] = "best",
) -> int:
    """Write a run's weights for nanoGPT (ckpt.pt) or Hugging Face transformers (a folder).

    Args:
        directory: The study's directory.
        run: A run id or its beginning; default the run with the lowest validation loss.
        to: nanogpt opens in its sample.py and resumes in its train.py; hf loads as GPT2LMHeadModel.
        out: File (nanogpt) or folder (hf) to write.
        checkpoint: Which of the run's checkpoints.
    """
    from isoloss.execution.export import export_run
    from isoloss.store.tables import find_run, load_study

    results = load_study(directory)
    export_run(results, find_run(results, run), to, out, checkpoint)
    print(out)
    return 0


def doctor() -> int:
    """Tell what this machine offers: devices, precisions, measured peaks, versions, caches."""
    from isoloss.cli.doctor import examination

    show(examination())
    return 0


def _study(reference: str, seeds: int | None, overrides: tuple[str, ...]) -> Study:
    """A study by name or file, with the command line's changes. Raises ConfigError."""
    from isoloss.spec.study import ANY_DATA
    from isoloss.spec.studyfile import find_study, parse_scalar

    study = find_study(reference)
    settings = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected field=value")
        settings[name] = parse_scalar(value, f"--set {override}")
    study = study.with_settings(settings) if settings else study
    study = study.with_seeds(seeds) if seeds is not None else study
    study.expand(ANY_DATA)  # every cell is valid, before anything is written
    return study
