"""A whole study from start to end, on the clock: ours in one command, the peer's run by run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peer import Peer
from isoloss.files import write_bytes
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id


def startup_s(device: str) -> float:
    """Wall time of a study in which there is nothing to train: start, workers, summary, report, samples."""
    settings = ("max_iters=1", "n_embd=16", "eval_train_tokens=64", "n_layer=1", "batch_size=1")
    overrides = [part for setting in settings for part in ("--set", setting)]
    return _isoloss_run("quickstart", device, overrides)


def outright(
    study: str,
    configs: Sequence[RunConfig],
    modes: Sequence[Peer],
    faster: Mapping[tuple[int, int], str],
    device: str,
    record: Path,
) -> dict[str, Any]:
    """Both sides' seconds for the whole study, the peer in the mode that is faster at a width and batch size.

    What is measured is written to `record` at once, and read from there by a later try: the study as a whole, and each
    of the peer's runs.
    """
    found: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {"ours_s": None, "peer_s": {}}
    if found["ours_s"] is None:
        found["ours_s"] = _isoloss_run(study, device)
        _write(record, found)
    for number, config in enumerate(configs, start=1):
        if run_id(config) in found["peer_s"]:
            continue
        mode = next(mode for mode in modes if mode.name == faster[config.n_embd, config.batch_size])
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            mode.train(config, Path(folder))
            found["peer_s"][run_id(config)] = time.perf_counter() - started
        _write(record, found)
        print(f"{mode.name}: run {number} of {len(configs)} done", file=sys.stderr)
    theirs_s = sum(found["peer_s"].values())
    against = {"its faster mode": {"peer_s": theirs_s, "ratio": theirs_s / found["ours_s"]}}
    return {"ours_s": found["ours_s"], "against": against}


def _write(record: Path, found: dict[str, Any]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(record, json.dumps(found, indent=2).encode())


def _isoloss_run(study: str, device: str, overrides: Sequence[str] = ()) -> float:
    command = [sys.executable, "-m", "isoloss", "run", study, "--device", device, "--compile", "on", *overrides]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([*command, "--out", folder], check=True, capture_output=True)
        return time.perf_counter() - started
