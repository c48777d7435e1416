"""The study into which faults are injected, one run of a few steps; and the count of what was tried."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faults.harness import Points, Trials, results_of, serving
from tests.faults.tally import Row, Table, Tally

STUDY = """\
name: faulty
corpus: {corpus}
base: {{n_layer: 1, n_embd: 8, n_head: 2, block_size: 8, batch_size: 2, dropout: 0.1, max_iters: 8, eval_interval: 3,
  warmup_iters: 2, eval_train_tokens: 64, precision: fp32, ema: 0.5}}
"""
TALLY = pytest.StashKey[Tally]()
COUNTED = "counted"
"""Under this name a test's report carries a row of the table."""
_table = Table()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "promise(number, fault): the promise that a test checks, and the fault it injects"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count the trials of a test that ran, and tell how to repeat the one that failed."""
    report = yield
    marker = item.get_closest_marker("promise")
    if report.when != "call" or marker is None or report.skipped:
        return report
    tally = item.stash.get(TALLY, Tally())
    if not tally.trials:
        tally = Tally(1, int(report.passed))
    elif report.failed:
        again = f'python -m pytest "{item.nodeid}" --at "{tally.at}"'
        report.sections.append(("to repeat the trial that failed", again))
    report.user_properties.append((COUNTED, (*marker.args, item.path.name, tally.trials, tally.passed)))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a test, from whichever process ran it."""
    for name, value in report.user_properties if report.when == "call" else ():
        if name == COUNTED:
            _table.add(Row(*cast("tuple[int, str, str, int, int]", value), report.duration))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write down what was tried at every point."""
    config, option = session.config, session.config.option
    here = not hasattr(config, "workerinput")  # where tests run side by side, their reports come together here
    narrowed = option.at or option.keyword or any("::" in argument for argument in config.args)
    if here and _table.rows and option.all_faults and not narrowed:
        _table.write()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's file, with its text in the same folder."""
    folder = tmp_path_factory.mktemp("faulty")
    words = random.Random(0).choices(["to", "be", "or", "not", "that", "is"], k=400)
    (folder / "words.txt").write_text(" ".join(words))
    (folder / "study.yaml").write_text(STUDY.format(corpus=folder / "words.txt"))
    return folder / "study.yaml"


@pytest.fixture(scope="session")
def server(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Starts the study, with or without a fault."""
    with serving(study, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="session")
def two_runs(study: Path) -> Path:
    """The study's file with two runs, of which one ends before the other and that share no step."""
    two = study.with_name("two.yaml")
    runs = "runs: [{max_iters: 6, learning_rate: 1e-3}, {max_iters: 8, learning_rate: 2e-3}]\n"
    two.write_text(study.read_text().replace("max_iters: 8, ", "") + runs)
    return two


@pytest.fixture(scope="session")
def stacked(two_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Starts two runs of it in one stack, with or without a fault."""
    with serving(two_runs, tmp_path_factory, stack=2) as found:
        yield found


@pytest.fixture(scope="session")
def beside(two_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Starts the same two runs with checkpoints that a thread writes while training goes on, as on CUDA."""
    with serving(two_runs, tmp_path_factory, stack=2, beside=True) as found:
        yield found


@pytest.fixture(scope="session")
def prefixed(study: Path) -> Path:
    """The study's file with a run that continues from the end of another."""
    path = study.with_name("prefixed.yaml")
    base = study.read_text().replace("max_iters: 8, ", "lr_decay_iters: 8, ")
    path.write_text(base + "factors: {max_iters: [6, 8]}\n")
    return path


@pytest.fixture(scope="session")
def continuing(prefixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Starts these two runs, with or without a fault."""
    with serving(prefixed, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="session")
def forking(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Starts two runs of which the shorter leaves the longer one where its learning rate decays, likewise."""
    path = study.with_name("forking.yaml")
    base = study.read_text().replace("max_iters: 8, ", "schedule: wsd, ")
    path.write_text(base + "factors: {max_iters: [5, 8]}\n")
    with serving(path, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="session")
def alike(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Starts two runs of which one takes over the other's first evaluation, likewise."""
    path = study.with_name("alike.yaml")
    path.write_text(study.read_text() + "factors: {weight_decay: [0.1, 0.2]}\n")
    with serving(path, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="session")
def fault_free(server: Trials, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], int]:
    """The results of the study without a fault, and how many operations it takes."""
    out = tmp_path_factory.mktemp("fault_free") / "out"
    server.start(out.with_name("first"))  # fills the cache
    outcome = server.start(out)
    assert outcome.states == ("done",)
    return results_of(out), outcome.operations


@pytest.fixture
def few(request: pytest.FixtureRequest) -> int | None:
    """How many points to try of those there are: all under `make faults`, else a seeded few."""
    return None if request.config.getoption("--all-faults") else 12


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """The trials of this test, for one that counts by itself."""
    return request.node.stash.setdefault(TALLY, Tally())


@pytest.fixture
def points(request: pytest.FixtureRequest, few: int | None, tally: Tally) -> Points:
    """`points(everywhere, short)`: the points of a fault to try, each counted as a trial.

    All of them under `make faults`, else so many, seeded by the test's name; with --at the one asked for.
    """
    at = request.config.getoption("--at")

    def choose(everywhere: Sequence[Any], short: int) -> Iterator[Any]:
        if at is not None:
            return tally.of([point for point in everywhere if str(point) == at])
        if few is None or short >= len(everywhere):
            return tally.of(everywhere)
        places = random.Random(request.node.name).sample(range(len(everywhere)), short)
        return tally.of([everywhere[place] for place in sorted(places)])

    return choose
