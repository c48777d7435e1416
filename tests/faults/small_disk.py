"""A study on a disk of its own that fills up: run in a mount namespace, it prints the outcome as one JSON line.

python -m tests.faults.small_disk STUDY FOLDER LEFT: once the run has begun, something else takes all of the disk but
LEFT bytes; then that something goes, and the same study starts again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from isoloss.errors import IsolossError
from isoloss.execution.executor import Inline, NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.recorder import Event
from isoloss.execution.study import run_study
from isoloss.store.tables import load_study
from isoloss.study.studyfile import find_study
from tests.faults.harness import RecordingDisplay, acknowledged, results_of

SIZE = "2M"


class Filler(NullListener):
    """Fills the disk when it hears that a run is under way."""

    def __init__(self, disk: Path, left: int) -> None:
        self._file, self._left = disk / "filler", left

    def emit(self, event: Event) -> None:
        free = shutil.disk_usage(self._file.parent).free
        if event.kind == "running" and not self._file.exists():
            self._file.write_bytes(bytes(max(0, free - self._left)))

    def go(self) -> None:
        self._file.unlink()


def main(study: str, disk: Path, left: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
    out, filler, options = disk / "out", Filler(disk, left), RunOptions(device="cpu", stack=1)
    message = ""
    try:
        run_study(find_study(study), out, options, executor=Inline(), listener=filler)
    except IsolossError as error:
        message = str(error)
    states = load_study(out).summary()["status"].to_list()
    filler.go()
    kept, display = acknowledged(out), RecordingDisplay()
    run_study(find_study(study), out, options, executor=Inline(), listener=display)
    outcome = {"message": message, "states": states, "kept": kept, "began": display.began, "science": results_of(out)}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
