"""Fuzz one reader: `python -m tests.faults.fuzz study|checkpoint|tokens --runs N --seed S`, or `--replay FILE`.

Ends with 0 when every input led to an IsolossError or to a value that holds together. Anything else (another
exception, a crash, more than TIMEOUT_S, more memory than MEMORY_BYTES beyond what the imports took) is a finding: it is
written to the folder of findings, and the exit code is not 0.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import sys
import tempfile
from pathlib import Path

import atheris
from atheris.import_hook import instrument_imports as instrumenting

TIMEOUT_S = 20
MEMORY_BYTES = 512 << 20
MAX_INPUT_BYTES = 2048
INSTRUMENTED = {"study": ["isoloss.study"], "checkpoint": ["isoloss"], "tokens": ["isoloss.data", "isoloss.files"]}
"""What guides the search, by target. Imported at the latest with the target, and not before."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz")
    parser.add_argument("target", choices=sorted(INSTRUMENTED))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "isoloss-findings")
    parser.add_argument("--replay", type=Path, help="one input, such as a finding")
    given = parser.parse_args()
    with instrumenting(include=INSTRUMENTED[given.target]):
        target = importlib.import_module(f"tests.faults.fuzz.{given.target}")
    given.findings.mkdir(parents=True, exist_ok=True)
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as name:
        folder = Path(name)
        for number, seed in enumerate(target.seeds()):
            write(folder / "inputs" / str(number), seed)
        write(folder / "words", "\n".join(f'"{escaped(word)}"' for word in target.WORDS).encode())
        options = [
            f"-runs={1 if given.replay else given.runs}",
            f"-seed={given.seed}",
            f"-timeout={TIMEOUT_S}",
            f"-max_len={MAX_INPUT_BYTES}",
        ]
        options += [f"-artifact_prefix={given.findings}/{given.target}-", f"-dict={folder / 'words'}"]
        options += ["-print_final_stats=1", "-rss_limit_mb=0"]  # memory is limited below, and exactly
        inputs = str(given.replay or folder / "inputs")
        (folder / "files").mkdir()
        atheris.Setup(["fuzz", *options, inputs], target.reader(folder / "files"))
        limit = address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if os.fork() == 0:
            atheris.Fuzz()  # does not return
        code = os.waitstatus_to_exitcode(os.wait()[1])
    sys.exit(code)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def escaped(word: bytes) -> str:
    """A word as libFuzzer's dictionaries spell it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def address_space() -> int:
    """Bytes of address space this process has taken, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
