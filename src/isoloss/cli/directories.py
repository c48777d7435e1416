"""The verbs that read study directories: where runs stand, reports, joining, comparing, samples, exports, disk."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import tyro

from isoloss.cli.analysis_output import spare_the_processor
from isoloss.cli.arguments import (
    Flag,
    Folder,
    OptionalInt,
    OptionalText,
    OutFolder,
    Plugins,
    RunName,
    named,
)
from isoloss.terminal import say, show
from isoloss.trackers import TrackerName


def status(directory: Folder, /, *, json: Flag = False) -> int:
    """Show where the runs of a study stand, the best loss so far and how long it will take.

    Example: isoloss status results/width

    Args:
        directory: The study's directory.
        json: Print one JSON object in place of text.
    """
    spare_the_processor()
    from isoloss.cli.status import status_as_json, status_as_text
    from isoloss.store.opening import open_study

    opened = open_study(directory)
    show(status_as_json(opened) if json else status_as_text(opened))
    return 0


def report(directory: Folder, /, *, pdf: Flag = False, json: Flag = False) -> int:
    """Write a study's summary and report anew from its runs, and print the page's path.

    Example: isoloss report results/width --pdf

    Args:
        directory: The study's directory.
        pdf: Print the page to report/report.pdf as well, by an installed Chromium or Chrome.
        json: Print one JSON object in place of paths.
    """
    spare_the_processor()
    from isoloss.report.pdf import print_page
    from isoloss.report.study_report import write_report
    from isoloss.store.tables import load_study

    results = load_study(directory)
    written = write_report(results)
    printed = print_page(written.page) if pdf else None
    if json:
        from isoloss.cli.outcome import outcome

        show(dumps(outcome(results, written) | ({"pdf": str(printed)} if printed else {}), indent=2))
    else:
        print(*filter(None, (written.page, printed)), sep="\n")
    return 0


def merge(
    directories: Annotated[tuple[Path, ...], tyro.conf.Positional, named("DIR")],
    /,
    *,
    out: Annotated[Path, named("DIR")],
) -> int:
    """Join study directories, such as halves from two machines, into a new one.

    Runs are the same where they compute the same; what only some have trained is taken from them.

    Example: isoloss merge results/here results/there --out results/width

    Args:
        directories: Study directories of the same text and tokenizer.
        out: A new folder for the joined study; `isoloss run` trains what it lacks, `isoloss report` writes its report.
    """
    from isoloss.store.merging import merge_studies

    merged = merge_studies(directories, out)
    for line in merged.conflicts:
        say(line)
    say(f"{len(merged.taken):,} of {len(merged.results.configs):,} runs are there, of {len(directories)} directories")
    print(merged.results.paths.folder)
    return 0


def compare(first: Folder, second: Folder, /, *, json: Flag = False, out: OutFolder = None) -> int:
    """Compare two studies: the settings in which they differ, and the loss over the cells and seeds they share.

    Example: isoloss compare results/adamw results/narrow

    Args:
        first: A study directory.
        second: Another one, whose losses are compared with the first one's.
        json: Print one JSON object at full precision in place of text.
        out: A new or empty folder for a page and the files of its tables.
    """
    spare_the_processor()
    from isoloss.report.chapter import chapter_as_text
    from isoloss.report.chapters.comparison import compare_studies, comparison_as_json, comparison_chapter
    from isoloss.report.standalone import check_output_folder, write_chapter
    from isoloss.store.tables import load_study

    if out is not None:
        check_output_folder(out)
    found = compare_studies(load_study(first), load_study(second))
    chapter = comparison_chapter(found)
    if out is not None:
        say(f"{write_chapter(out, chapter, f'{first.name} and {second.name}')}")
    show(comparison_as_json(found) if json else chapter_as_text(chapter))
    return 0


def sync(
    directory: Folder,
    /,
    *,
    to: TrackerName,
    into: Annotated[OptionalText, named("WHERE", "as the tracker's environment variables say, else at DIR")] = None,
    follow: Flag = False,
) -> int:
    """Mirror the runs of a study to TensorBoard, Weights & Biases, MLflow or Trackio; once more adds what is new.

    Example: isoloss sync results/width --to tensorboard --follow

    Args:
        directory: The study's directory, which another process may be training.
        to: Tracker, whose library pip install 'isoloss[NAME]' installs.
        into: Folder for event files (tensorboard), W&B's files (wandb) or Trackio's database (trackio); a tracking URI
            (mlflow).
        follow: Go on while the study trains, until every run has ended.
    """
    from isoloss.trackers.choice import open_tracker
    from isoloss.trackers.mirror import mirror
    from isoloss.wording import counted

    told: set[str] = set()
    with mirror(directory, to, lambda opened: open_tracker(to, into, opened)) as found:
        for update in found.updates(follow=follow):
            lines = [f"run {run} is left as it was: {reason}" for run, reason in update.problems.items()]
            lines += [f"run {run} no longer has all rows that were mirrored: mirrored anew" for run in update.anew]
            for line in lines:
                if line not in told:
                    say(line)
            if update.rows:
                say(f"{counted(sum(update.rows.values()), 'new row')} of {counted(len(update.rows), 'run')}")
            elif not follow:
                say("nothing is new")
            told.update(lines)
    say(f"shown by: {found.tracker.shown_by}")
    print(found.tracker.where)
    return 0


def sample(
    directory: Folder,
    /,
    *,
    run: RunName = None,
    prompt: Annotated[OptionalText, named("TEXT", "the end of a line, else the vocabulary's first character")] = None,
    length: int = 500,
    number: int = 1,
    temperature: float = 0.8,
    top_k: Annotated[OptionalInt, named("N", "all tokens")] = None,
    seed: int = 1337,
    sliding: Flag = False,
    plugin: Plugins = (),
) -> int:
    """Print text that a trained run generates.

    Example: isoloss sample results/width --prompt "ROMEO:" --length 200

    Args:
        directory: The study's directory.
        run: A run id or its beginning.
        prompt: Text to continue.
        length: Tokens to generate.
        number: Samples to draw.
        temperature: Divides the logits: below 1 the likely tokens get likelier, above 1 less so.
        top_k: Draw from this many most likely tokens only.
        seed: Seed of the random draws.
        sliding: Re-read the last block_size tokens for every token past the first block, as nanoGPT does; slower.
        plugin: A norm, MLP or positions of your own that the run was trained with; its file is run. May be repeated.
    """
    import torch

    from isoloss.execution.samples import first_prompt, sample_run, tokenizer_of
    from isoloss.model.generate import Sampling
    from isoloss.store.tables import find_run, load_study
    from isoloss.study.datasets import dataset_of
    from isoloss.study.plugins import use_plugin

    for each in plugin:
        use_plugin(each)
    sampling = Sampling(length, number, temperature, top_k, seed, sliding)
    results = load_study(directory)
    chosen = find_run(results, run)
    say(f"run {chosen.folder.name}")
    tokenizer = tokenizer_of(results, dataset_of(results.configs_by_id[chosen.folder.name]))
    prompt = first_prompt(tokenizer) if prompt is None else prompt
    texts = sample_run(chosen, tokenizer, prompt, sampling, torch.device("cpu"))
    text = "\n---\n".join(texts)
    if sys.stdout.isatty():
        show(text)
    else:
        print(text)  # to the letter
    return 0


def export(
    directory: Folder,
    /,
    *,
    run: RunName = None,
    to: Literal["nanogpt", "hf"],
    out: Path,
    checkpoint: Literal["best", "last"] = "best",
) -> int:
    """Write a run's weights for nanoGPT (a file ckpt.pt) or Hugging Face transformers (a folder).

    Example: isoloss export results/width --to hf --out width-hf

    Args:
        directory: The study's directory.
        run: A run id or its beginning.
        to: nanogpt: for its sample.py and train.py, with meta.pkl; hf: loads as GPT2LMHeadModel, with its tokenizer.
        out: File (nanogpt) or folder (hf) to write.
        checkpoint: Weights at the lowest validation loss (best) or at the end (last).
    """
    from isoloss.execution.export import export_run
    from isoloss.store.tables import find_run, load_study

    results = load_study(directory)
    export_run(results, find_run(results, run), to, out, checkpoint, say)
    print(out)
    return 0


def compact(
    directory: Folder, /, *, keep: Literal["weights", "best_weights"] = "weights", dry_run: Flag = False
) -> int:
    """Free disk: drop what the checkpoints of finished runs hold beside their weights.

    Example: isoloss compact results/width --dry_run

    Args:
        directory: The study's directory.
        keep: weights: of the best and the last checkpoint of each finished run, without the optimizer's moments;
            best_weights: of the best checkpoint alone.
        dry_run: Say what would be freed, and change nothing.
    """
    from isoloss.cli.compact import compacted_as_text
    from isoloss.execution.compacting import compact_study
    from isoloss.store.tables import load_study

    found = compact_study(load_study(directory), keep, dry_run=dry_run)
    for run, why in found.refused.items():
        say(f"run {run} is not compacted: {why}")
    show(compacted_as_text(found, keep, dry_run=dry_run))
    return 1 if found.refused else 0
