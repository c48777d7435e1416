"""A study directory on disk: where everything lies. Portable, and readable without isoloss."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from isoloss.files import unreadable


@dataclass(frozen=True)
class RunPaths:
    """The files of one run."""

    folder: Path

    @property
    def config(self) -> Path:
        """The RunConfig."""
        return self.folder / "config.json"

    @property
    def status(self) -> Path:
        """pending, running, done, failed or diverged; reason and provenance."""
        return self.folder / "status.json"

    @property
    def metrics(self) -> Path:
        """One row a step."""
        return self.folder / "metrics.jsonl"

    @property
    def evals(self) -> Path:
        """One row an evaluation."""
        return self.folder / "evals.jsonl"

    @property
    def curves(self) -> Path:
        """Thinned curves of a run that has ended."""
        return self.folder / "curves.json"

    def rows(self, name: str) -> Path:
        """A file of rows by its name: metrics or evals."""
        return self.folder / f"{name}.jsonl"

    def rows_bytes(self, name: str) -> int | None:
        """Bytes of a file of rows, None where there is none. Raises UnreadableError."""
        path = f"{self.folder}/{name}.jsonl"  # a Path takes longer to make than to look up
        try:
            return os.stat(path).st_size  # noqa: PTH116
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(Path(path), error.strerror) from error

    @property
    def samples(self) -> Path:
        """Text the run's best checkpoint wrote, for the report."""
        return self.folder / "samples.txt"

    @property
    def lock(self) -> Path:
        """Held by the one process that writes this run."""
        return self.folder / ".lock"


@dataclass(frozen=True)
class StudyPaths:
    """The files of one study."""

    folder: Path

    @property
    def study(self) -> Path:
        """The resolved study as it runs."""
        return self.folder / "study.yaml"

    def revision(self, number: int) -> Path:
        """The study as it was before its change of this number, from 1."""
        return self.folder / f"study.{number}.yaml"

    @property
    def revisions(self) -> Path:
        """When the study changed, and how."""
        return self.folder / "revisions.json"

    @property
    def set_aside(self) -> Path:
        """A summary of runs that the study no longer asks for."""
        return self.folder / "set_aside.csv"

    @property
    def provenance(self) -> Path:
        """Versions and machine of the last start."""
        return self.folder / "provenance.json"

    @property
    def step_times(self) -> Path:
        """Seconds a step took where the study began, of one whose budgets are seconds."""
        return self.folder / "step_times.json"

    @property
    def parts(self) -> Path:
        """What is known of parts of the study's own, without their code."""
        return self.folder / "parts.json"

    @property
    def true_losses(self) -> Path:
        """What the source of a synthetic text loses on the windows that runs are validated on."""
        return self.folder / "true_losses.json"

    @property
    def tokenizer(self) -> Path:
        """The vocabularies of all runs, and what they make of the text."""
        return self.folder / "tokenizer.json"

    def definition(self, sha256: str) -> Path:
        """What a tokenizer of this SHA-256 is, in the format of the `tokenizers` library."""
        return self.folder / "tokenizers" / f"{sha256[:16]}.json"

    @property
    def jobs(self) -> Path:
        """Which runs are in the jobs of a cluster's queue, and the events of these."""
        return self.folder / "jobs"

    @property
    def lock(self) -> Path:
        """Held by the one process that runs the study."""
        return self.folder / ".lock"

    @property
    def owner(self) -> Path:
        """Which process holds the lock, for those it turns away."""
        return self.folder / ".owner.json"

    @property
    def mirrored(self) -> Path:
        """By what trackers know this directory."""
        return self.folder / "mirrored.json"

    @property
    def report(self) -> Path:
        """The report's page; its figures lie beside it."""
        return self.folder / "report" / "index.html"

    def summary(self, suffix: str) -> Path:
        """The summary table as csv or parquet."""
        return self.folder / f"summary.{suffix}"

    @property
    def runs(self) -> Path:
        """One folder a run, called by its run_id."""
        return self.folder / "runs"

    def run(self, run_id: str) -> RunPaths:
        """The files of one run."""
        return RunPaths(self.folder / f"runs/{run_id}")
