"""Text from trained runs: for the sample verb, and kept with the best runs for the report."""

from __future__ import annotations

import torch

from isoloss.data.tokenizer import Tokenizer, tokenizer_from_dict
from isoloss.errors import StoreError
from isoloss.files import write_checksummed
from isoloss.model.functions import Kernels
from isoloss.model.generate import Sampling, generate
from isoloss.model.parameters import Parameters, layout_of
from isoloss.store.layout import RunPaths
from isoloss.store.tables import StudyResults
from isoloss.study.datasets import Dataset, dataset_of
from isoloss.training.checkpoint import load_weights

REPORT_PROMPTS = ("ROMEO:", "JULIET:", "NURSE:")
REPORT_SAMPLING = Sampling(length=200)
REPORT_RUNS = 2


def sample_run(run: RunPaths, tokenizer: Tokenizer, prompt: str, sampling: Sampling, device: torch.device) -> list[str]:
    """Samples from a run's best checkpoint, each beginning with the prompt.

    Raises ConfigError for a prompt the vocabulary cannot spell, StoreError or NumericsError for its checkpoint.
    """
    prompt_N = tokenizer.encode(prompt)
    state = load_weights(run.folder, "best")
    parameters = Parameters(layout_of(state.config), state.flat_P[None].to(device), Kernels(torch.float32))
    return [prompt + tokenizer.decode(row) for row in generate(parameters, state.config, prompt_N, sampling)]


def first_prompt(tokenizer: Tokenizer) -> str:
    """What to begin with where nothing is given: the end of a line, else the first character there is."""
    return "\n" if tokenizer.spells("\n") else tokenizer.characters[0]


def tokenizer_of(results: StudyResults, dataset: Dataset) -> Tokenizer:
    """One of a study's tokenizers. Raises StoreError where it cannot be read."""
    record = results.tokenizer(dataset)
    path = results.paths.definition(record.get("tokenizer_sha256", ""))
    tokenizer = tokenizer_from_dict(record, path)
    if tokenizer.vocab_size != record["vocab_size"]:
        told = f"has {tokenizer.vocab_size} tokens, its study says {record['vocab_size']}"
        raise StoreError(f"tokenizer {dataset.tokenizer} of {results.paths.folder} {told}")
    if tokenizer.byte_level:  # a directory may be a stranger's
        try:
            tokenizer.byte_level.check()
        except ValueError as error:
            raise StoreError(f"cannot use {path}: {error}") from error
    return tokenizer


def write_report_samples(results: StudyResults, run: RunPaths, device: torch.device) -> None:
    """Keep samples for the report with a run, of those prompts that its vocabulary can spell."""
    tokenizer = tokenizer_of(results, dataset_of(results.configs_by_id[run.folder.name]))
    texts: list[str] = []
    for prompt in REPORT_PROMPTS:
        if tokenizer.spells(prompt):
            texts += sample_run(run, tokenizer, prompt, REPORT_SAMPLING, device)
    if texts:
        write_checksummed(run.samples, "\n\n---\n\n".join(texts) + "\n")
