"""Sampling: draws decided by the seed, context cropped to the block, top-k kept to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from isoloss.data.tokenizer import Tokenizer
from isoloss.errors import ConfigError
from isoloss.execution.samples import first_prompt
from isoloss.model import gpt
from isoloss.model.functions import Kernels
from isoloss.model.generate import Sampling, generate
from isoloss.model.parameters import Parameters, init_flat, layout_of
from isoloss.study.config import RunConfig

PROMPT = np.array([1, 2, 3], dtype=np.uint16)


def untrained(config: RunConfig) -> Parameters:
    """Initial weights, enlarged so that the distribution is not flat."""
    return Parameters(layout_of(config), 8 * init_flat(config)[None], Kernels(torch.float32))


def test_samples_depend_on_their_seed_and_number_alone(make: Callable[..., RunConfig]) -> None:
    config = make()
    two = generate(untrained(config), config, PROMPT, Sampling(length=30, number=2))
    assert two.shape == (2, 30)
    assert (generate(untrained(config), config, PROMPT, Sampling(length=30))[0] == two[0]).all()
    assert (two[0] != two[1]).any()
    assert (generate(untrained(config), config, PROMPT, Sampling(length=30, seed=1))[0] != two[0]).any()


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("prompt_length", [1, 3, 16, 21])
def test_nearly_zero_temperature_and_top_1_are_the_likeliest_tokens(
    make: Callable[..., RunConfig], sliding: bool, prompt_length: int
) -> None:
    config = make(bias=True)
    parameters, block, length = untrained(config), config.block_size, 2 * config.block_size + 5
    prompt_N = np.resize(PROMPT, prompt_length)
    context = prompt_N.astype(np.int64).tolist()
    start = max(0, prompt_length - block)
    for _ in range(length):
        if len(context) - start > block:  # only the last block_size tokens count, or the last half block
            start = len(context) - (block if sliding else block // 2)
        window = torch.tensor([[context[start:]]])
        context.append(int(gpt.logits(parameters, [config], window)[0, 0, -1].argmax()))
    for temperature, top_k in ((1e-4, None), (5.0, 1)):
        sampling = Sampling(length, 2, temperature, top_k, sliding=sliding)
        first, second = generate(parameters, config, prompt_N, sampling)
        assert first.tolist() == second.tolist() == context[prompt_length:]


def test_top_k_bounds_what_is_drawn_and_frequencies_follow_the_model(make: Callable[..., RunConfig]) -> None:
    config = make()
    parameters = untrained(config)
    with torch.no_grad():
        logits = gpt.logits(parameters, [config], torch.from_numpy(PROMPT.astype(np.int64))[None, None])[0, 0, -1]
    drawn = generate(parameters, config, PROMPT, Sampling(length=1, number=4000, temperature=1.0))[:, 0]
    expected = torch.softmax(logits, 0).numpy()
    assert np.bincount(drawn, minlength=len(expected)) / 4000 == pytest.approx(expected, abs=0.03)
    kept = set(logits.topk(3).indices.tolist())
    assert set(generate(parameters, config, PROMPT, Sampling(1, 500, 1.0, top_k=3))[:, 0].tolist()) <= kept


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"temperature": 0.0}, "temperature=0.0"), ({"top_k": 0}, "top_k=0"), ({"number": 0}, "number=0")],
)
def test_bad_sampling_is_refused(settings: dict[str, float], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Sampling(**settings)  # pyright: ignore[reportArgumentType]


def test_an_empty_prompt_is_refused(make: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="prompt is empty"):
        generate(untrained(make()), make(), PROMPT[:0], Sampling())


@pytest.mark.parametrize(
    ("tokenizer", "prompt"),
    [(Tokenizer("byte"), "\n"), (Tokenizer("char", "\nab"), "\n"), (Tokenizer("char", "ab"), "a")],
)
def test_text_begins_with_what_the_vocabulary_has(tokenizer: Tokenizer, prompt: str) -> None:
    assert first_prompt(tokenizer) == prompt
