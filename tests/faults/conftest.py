"""The study that is harmed: one run of a few steps, with as much to lose as any."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Trials, science, trials

STUDY = """\
name: harmed
corpus: {corpus}
base: {{n_layer: 1, n_embd: 8, n_head: 2, block_size: 8, batch_size: 2, dropout: 0.1, max_iters: 8, eval_interval: 3,
  warmup_iters: 2, eval_train_tokens: 64, precision: fp32}}
"""


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's file, with its text beside it."""
    folder = tmp_path_factory.mktemp("harmed")
    words = random.Random(0).choices(["to", "be", "or", "not", "that", "is"], k=400)
    (folder / "words.txt").write_text(" ".join(words))
    (folder / "study.yaml").write_text(STUDY.format(corpus=folder / "words.txt"))
    return folder / "study.yaml"


@pytest.fixture(scope="session")
def server(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Starts the study, harmed or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOLOSS_CACHE", str(tmp_path_factory.mktemp("cache")))
        with trials(study, tmp_path_factory.mktemp("shim")) as found:
            yield found


@pytest.fixture(scope="session")
def unharmed(server: Trials, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], int]:
    """What the study finds when nothing happens to it, and how many operations it takes."""
    out = tmp_path_factory.mktemp("unharmed") / "out"
    server.start(out.with_name("first"))  # fills the cache
    told = server.start(out)
    assert told.states == ("done",)
    return science(out), told.operations


@pytest.fixture
def few(request: pytest.FixtureRequest) -> int | None:
    """How many points to try of those there are: all under `make faults`, else a seeded few."""
    return None if request.config.getoption("--all-faults") else 12
