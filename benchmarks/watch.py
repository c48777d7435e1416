"""What the readers of `isoloss watch` cost training: one study trained alone and with 50 of them, in turns.

Every reader fetches the page, listens to the events and fetches what they announce; one reads a kilobyte a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.timing import machine

STUDY = """
name: watched
corpus: tinyshakespeare
base: {n_layer: 2, n_head: 4, block_size: 64, batch_size: 8, max_iters: 300, eval_interval: 50, eval_train_tokens: 4096}
factors: {n_embd: [64, 128], dropout: [0.0, 0.1]}
seeds: 2
"""
READERS = 50


def run(rounds: int = 3, out: Path = Path("results/benchmarks/watch.json")) -> None:
    """Train a study alone and watched, in turns, and compare how long it takes.

    Args:
        rounds: Pairs of trainings.
        out: Where the JSON goes.
    """
    times: dict[str, list[float]] = {"alone": [], "watched": []}
    received = 0
    for _ in range(rounds):
        for name, taken in times.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds, size = _trained(Path(folder), watched=name == "watched")
            taken.append(seconds)
            received += size
    ratios = [watched / alone for alone, watched in zip(times["alone"], times["watched"], strict=True)]
    result = {
        "machine": machine(torch.device("cpu")),
        "readers": READERS,
        "seconds": times,
        "bytes_received_a_round": received / rounds,
        "median_ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    print(json.dumps(result, indent=2))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2), encoding="utf-8")


def _trained(folder: Path, *, watched: bool) -> tuple[float, int]:
    """Seconds from the first row to the end of training, and the bytes that readers received."""
    (folder / "study.yaml").write_text(STUDY)
    training = subprocess.Popen(
        [sys.executable, "-m", "isoloss", "run", "study.yaml", "--out", "out"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(folder.glob("out/runs/*/metrics.jsonl")):
        time.sleep(0.1)
    began = time.monotonic()
    size = asyncio.run(_readers(folder / "out", training)) if watched else 0
    while not _ended(folder / "out") and training.poll() is None:
        time.sleep(0.05)
    taken = time.monotonic() - began
    training.wait()
    return taken, size


def _ended(out: Path) -> bool:
    return all('"state": "done"' in path.read_text() for path in out.glob("runs/*/status.json")) and len(
        list(out.glob("runs/*/status.json"))
    ) == len(list(out.glob("runs/*")))


async def _readers(out: Path, training: subprocess.Popen[bytes]) -> int:
    """Let READERS read until training has ended."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "isoloss", "watch", str(out), "--port", "0", stderr=asyncio.subprocess.PIPE
    )
    assert server.stderr
    port = re.search(rb":(\d+)/", await server.stderr.readline())
    assert port, "isoloss watch did not say where it is"
    counts = [0] * READERS
    os.nice(10)  # browsers of other people's machines: what they do themselves is not to count
    tasks = [asyncio.create_task(_read(int(port[1]), counts, i)) for i in range(READERS)]
    while not _ended(out) and training.poll() is None:
        await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    server.terminate()
    await server.wait()
    return sum(counts)


async def _read(port: int, counts: list[int], number: int) -> None:
    """One reader; number 0 is the slow one."""
    for path in ("/", "/data"):
        counts[number] += await _get(port, path)
    reader, writer = await _open(port, "/events")
    try:
        while line := await reader.readline():
            counts[number] += len(line)
            if number == 0:
                await asyncio.sleep(1)
            elif line.startswith(b"data:"):
                counts[number] += await _get(port, "/data")
    finally:
        writer.close()


async def _get(port: int, path: str) -> int:
    reader, writer = await _open(port, path)
    with suppress(ConnectionError):
        size = len(await reader.read())
        writer.close()
        return size
    return 0


async def _open(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    return reader, writer
