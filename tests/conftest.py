"""What the tests share: a small text, its tokens, and configurations that train in a blink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoloss.data.token_files import Tokens
from isoloss.data.tokens import prepare
from isoloss.study.config import RunConfig, make_config
from tests.chromium import start_chromium


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Bit-identity is promised for one thread count; the tests use what a worker uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty kilobytes of words with some structure to learn."""
    words = ["to", "be", "or", "not", "that", "is", "the", "question", "ROMEO:", "JULIET:", "NURSE:"]
    chosen = np.random.default_rng(0).choice(words, size=9000, p=np.arange(1, 12) / 66)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(chosen), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLOSS_CACHE", str(cache))


@pytest.fixture
def tokens(text_file: Path) -> Tokens:
    return prepare(str(text_file))


@pytest.fixture
def make(tokens: Tokens) -> Callable[..., RunConfig]:
    """Builds a tiny valid configuration on the small text, with any setting replaced."""
    tiny = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4, "max_iters": 20}
    tiny |= {"eval_interval": 10, "warmup_iters": 3, "eval_train_tokens": 256}

    def build(**settings: Any) -> RunConfig:
        facts = {"corpus": "words", "corpus_sha256": tokens.sha256, "vocab_size": tokens.tokenizer.vocab_size}
        return make_config({**facts, **tiny, **settings})

    return build


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-faults", action="store_true", help="every point of the fault tests, not a seeded few")
    parser.addoption("--at", help="the one point of a fault to try, as a failure names it")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where it, its driver or selenium is not installed."""
    chromium = start_chromium()
    if chromium is None:
        pytest.skip("Chromium, its driver or selenium is not installed")
    yield chromium
    chromium.quit()
