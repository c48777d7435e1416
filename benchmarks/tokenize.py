"""How long a long text takes to tokenize, its memory, and what a kill costs, against the `tokenizers` library alone.

The library's side reads the text at once, tokenizes it line by line in batches of its own, and writes nothing.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import machine, samples
from isoloss.data.tokens import prepare
from isoloss.data.vocabularies import gpt2
from isoloss.files import sha256_file
from isoloss.study.tokenizer_names import bpe_size

ALONE = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

text, vocabulary, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
if size:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train([text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
else:
    tokenizer = Tokenizer.from_file(vocabulary)
with open(text, encoding="utf-8") as stream:
    lines = stream.read().splitlines(keepends=True)
print(sum(len(found.ids) for start in range(0, len(lines), 65536)
          for found in tokenizer.encode_batch_fast(lines[start : start + 65536])))
"""

OURS = "import sys; from isoloss.data.tokens import prepare; prepare(sys.argv[1], sys.argv[2])"
WATCHED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command and prints the most memory it took, in KiB: a small process, as what starts one counts too."""


def run(
    megabytes: int = 100,
    tokenizer: tuple[str, ...] = ("bpe:4096", "gpt2"),
    rounds: int = 1,
    out: Path = Path("results/benchmarks/tokenize.json"),
) -> None:
    """Tokenize a text of lines of tiny Shakespeare in random order, both sides in turns; then kill ours half-way.

    Args:
        megabytes: Length of the text.
        tokenizer: Tokenizers to compare.
        rounds: Pairs of measurements.
        out: Where the JSON goes.
    """
    result: dict[str, Any] = {"machine": machine(torch.device("cpu")), "megabytes": megabytes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, vocabulary = folder / "text.txt", folder / "gpt2.json"
        _write_text(text, megabytes * 1_000_000)
        vocabulary.write_text(gpt2().definition)
        for each in tokenizer:
            ours, alone = list[tuple[float, float]](), list[tuple[float, float]]()
            for number in range(rounds):
                ours.append(_measured(_prepare(text, each), _cache(folder / f"{each}-{number}")))
                alone.append(
                    _measured([sys.executable, "-c", ALONE, str(text), str(vocabulary), f"{bpe_size(each) or 0}"], {})
                )
            result[each] = {
                "seconds": samples([seconds for seconds, _ in ours]).as_dict(),
                "seconds_alone": samples([seconds for seconds, _ in alone]).as_dict(),
                "ratio": samples([a / b for (a, _), (b, _) in zip(ours, alone, strict=True)]).as_dict(),
                "mib": max(mib for _, mib in ours),
                "mib_alone": max(mib for _, mib in alone),
                "killed": _killed(folder, text, each, ours[0][0] / 2),
            }
    print(json.dumps(result, indent=2))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2), encoding="utf-8")


def _write_text(path: Path, size: int) -> None:
    tokens = prepare("tinyshakespeare", "byte")
    lines = tokens.tokenizer.decode(tokens.train_N).splitlines(keepends=True)
    drawn, written = random.Random(1), 0
    with path.open("w", encoding="utf-8") as stream:
        while written < size:
            piece = "".join(drawn.choices(lines, k=10_000))
            written += stream.write(piece)


def _prepare(text: Path, tokenizer: str) -> list[str]:
    return [sys.executable, "-c", OURS, str(text), tokenizer]


def _cache(folder: Path) -> dict[str, str]:
    """An empty cache, but for the merges of GPT-2."""
    prepared = Path(os.environ.get("ISOLOSS_CACHE", Path.home() / ".cache" / "isoloss")) / "tokenizers"
    folder.mkdir(exist_ok=True)
    if prepared.is_dir() and not (folder / "tokenizers").exists():
        (folder / "tokenizers").symlink_to(prepared)
    return {"ISOLOSS_CACHE": str(folder)}


def _measured(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that a command takes, and the most memory of its process in MiB."""
    started = time.perf_counter()
    watched = [sys.executable, "-c", WATCHED, *command]
    printed = subprocess.run(watched, env={**os.environ, **environment}, check=True, capture_output=True).stdout
    return time.perf_counter() - started, int(printed) / 1024


def _killed(folder: Path, text: Path, tokenizer: str, after_s: float) -> dict[str, Any]:
    """What comes of a kill: what it leaves, seconds of the next start, and whether that has the tokens of no kill."""
    environment = _cache(folder / f"{tokenizer}-killed")
    process = subprocess.Popen(_prepare(text, tokenizer), env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    time.sleep(after_s)
    process.kill()
    process.wait()
    left_mb = sum(path.stat().st_size for path in Path(environment["ISOLOSS_CACHE"]).glob("tokens/*/*.bin")) / 1e6
    seconds, _ = _measured(_prepare(text, tokenizer), environment)
    digests = [
        [sha256_file(path) for path in sorted((folder / name).glob("tokens/*/*.bin"))]
        for name in (f"{tokenizer}-0", f"{tokenizer}-killed")
    ]
    return {"after_s": after_s, "left_mb": left_mb, "seconds_again": seconds, "same_tokens": digests[0] == digests[1]}
