"""The disk that a study may keep: what it takes at least, and what finished runs give up as room is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from isoloss.errors import ConfigError, IsolossError
from isoloss.execution.compacting import Keep, compact_run
from isoloss.execution.executor import Listener
from isoloss.execution.recorder import ENDED, Event
from isoloss.execution.reuse import kept_steps, predecessors
from isoloss.files import bytes_in, path_exists, reading
from isoloss.store.run import FINISHED, read_status
from isoloss.store.tables import StudyResults
from isoloss.study.compute import checkpoint_bytes, disk_bytes, records_bytes, weights_bytes
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.wording import counted, size

REPORT_BYTES, REPORT_RUN_BYTES = 6_000_000, 10_000
"""About what report, paper and summary take, and what a run adds to them."""
KEEPS: tuple[Keep, ...] = ("weights", "best_weights")
DROPPED: dict[Keep, str] = {"weights": "optimizer moments", "best_weights": "last checkpoints"}
"""What finished runs give up, in this order."""


def all_kept_bytes(configs: Sequence[RunConfig]) -> int:
    """About what a study takes that drops nothing."""
    return sum(map(disk_bytes, configs)) + _report_bytes(configs)


def check_cap(study: Study, configs: Sequence[RunConfig], missing: Sequence[RunConfig], at_once: int) -> None:
    """Raises ConfigError where a study cannot be trained within its `disk`, with the amount that would do.

    At least it takes the weights of every run's best checkpoint, all rows, the two checkpoints with which missing runs
    go on from others, the states that these are to leave from, and of as many as are trained `at_once` what they hold
    meanwhile.
    """
    if study.disk is None:
        return
    continuing = predecessors(configs).keys() & {*map(run_id, missing)}
    kept = {
        run_id(config): disk_bytes(config)
        if run_id(config) in continuing
        else weights_bytes(config) + records_bytes(config)
        for config in configs
    }
    growing = sorted((_in_training_bytes(config) - kept[run_id(config)] for config in missing), reverse=True)
    least = sum(kept.values()) + _report_bytes(configs) + sum(_kept_states_bytes(missing).values())
    needed = least + sum(growing[:at_once])
    if needed > study.disk:
        raise ConfigError(
            f"disk: {size(study.disk)} is too little: {counted(len(configs), 'run')} keep about {size(least)} at "
            f"least, weights of their best checkpoints and report included, and {len(growing[:at_once])} at once hold "
            f"{size(needed - least)} more while they train; write disk: {ceil(needed / 1e6)}MB or more, or train fewer "
            "at once (--workers)",
            ("disk",),
        )


class DiskCap:
    """Keeps a study that is being trained within its `disk`: a listener between what trains and who is told."""

    def __init__(self, results: StudyResults, missing: Sequence[RunConfig], at_once: int, listener: Listener) -> None:
        """Raises ConfigError where it cannot be."""
        self._results, self._at_once, self._listener = results, at_once, listener
        configs = [*results.configs, *results.set_aside] if results.study.disk else []
        check_cap(results.study, configs, missing, at_once)
        self._earlier = predecessors(configs)
        ended = {*map(run_id, configs)} - {*map(run_id, missing)}
        statuses = {run: read_status(results.paths.run(run)) for run in ended}
        finished = [(status.updated_at, run) for run, status in statuses.items() if status.state in FINISHED]
        self._finished = [run for _, run in sorted(finished)]
        self._running: set[str] = set()
        self._tried: set[tuple[Keep, str]] = set()
        self._said: set[str] = set()

    def emit(self, event: Event) -> None:
        """Pass on an event; when a run has ended, make room."""
        self._listener.emit(event)
        if event.kind == "running":
            self._running.add(event.run_id)
        else:
            self._running.discard(event.run_id)
        if event.kind in FINISHED:
            self._finished.append(event.run_id)
        if event.kind in ENDED:
            try:
                self.make_room()
            except IsolossError as error:  # no reason for the run that trains on to fail
                self._say(f"disk: what the study holds is not known just now: {error}")

    def make_room(self) -> None:
        """Drop what finished runs can do without, oldest first, until those still to be trained have room.

        Raises UnreadableError.
        """
        cap, paths = self._results.study.disk, self._results.paths
        if cap is None:
            return
        excess = self._held_and_to_come() - cap
        for keep, run in self._droppable():
            if excess <= 0:
                return
            self._say(f"disk: {size(cap)}: finished runs' {DROPPED[keep]} are dropped as room is needed, oldest first")
            self._tried.add((keep, run))
            try:
                excess -= compact_run(paths.run(run), keep)
            except IsolossError as error:
                self._listener.say(f"run {run} keeps what it has: {error}")
        if excess > 0:
            self._say(f"{paths.folder} may come to hold more than disk: {size(cap)}: nothing is left to drop")

    def _held_and_to_come(self) -> int:
        """Bytes of all runs, of what those that are trained now, or next, may still add, and of the report."""
        paths, configs = self._results.paths, self._results.configs_by_id
        with reading(paths.runs):
            held = {folder.name: bytes_in(folder) for folder in paths.runs.iterdir()}  # once: others are writing
        unfinished = configs.keys() - {*self._finished}
        for run in unfinished & self._earlier.keys():  # copied from the run that it goes on from
            held[run] = max(held.get(run, 0), disk_bytes(configs[run]))
        kept = _kept_states_bytes(self._results.configs)
        growth = {run: _in_training_bytes(configs[run]) + kept[run] - held.get(run, 0) for run in unfinished}
        now = [growth.pop(run) for run in self._running & unfinished]
        following = sorted(growth.values(), reverse=True)[: max(0, self._at_once - len(now))]
        report = max(_report_bytes(self._results.configs), bytes_in(paths.report.parent))
        return sum(held.values()) + sum(now) + sum(following) + report

    def _droppable(self) -> Iterator[tuple[Keep, str]]:
        """What may be dropped of which run, the first to go first: last what another run is still to go on from."""
        unfinished = self._results.configs_by_id.keys() - {*self._finished}
        begun = {run for run in unfinished if path_exists(self._results.paths.run(run).folder / "last.json")}
        awaited = {run_id(self._earlier[run]) for run in self._earlier.keys() & unfinished - begun}
        for last in (False, True):
            for keep in KEEPS:
                for run in self._finished:
                    if (run in awaited) is last and (keep, run) not in self._tried:
                        yield keep, run

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._listener.say(line)


def _in_training_bytes(config: RunConfig) -> int:
    """What a run holds at most while it is trained: its best, last and previous checkpoints, one of them being written.

    The last is also the previous one until it has been replaced.
    """
    return 3 * checkpoint_bytes(config) + records_bytes(config)


def _kept_states_bytes(configs: Sequence[RunConfig]) -> dict[str, int]:
    """By run id, what the states take that are kept for runs which leave it on its way, until these have begun."""
    steps = kept_steps(configs)
    return {run_id(each): 2 * checkpoint_bytes(each) * len(steps.get(run_id(each), ())) for each in configs}


def _report_bytes(configs: Sequence[RunConfig]) -> int:
    return REPORT_BYTES + REPORT_RUN_BYTES * len(configs)
