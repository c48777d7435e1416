"""Characters a second from a trained-size model: our cached, batched sampling against nanoGPT's generate, in turns."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.timing import machine, samples, table
from isoloss.data.tokens import prepare
from isoloss.errors import ConfigError
from isoloss.model.functions import Kernels
from isoloss.model.generate import Sampling, generate
from isoloss.model.parameters import Parameters, init_flat, layout_of
from isoloss.study.studyfile import find_study

LENGTH = 500
NUMBER = 10
"""nanoGPT's sample.py draws as many, one after the other, of that length by default."""

PEER = """
import sys, time, torch
sys.path.insert(0, {checkout!r})
from model import GPT, GPTConfig
torch.manual_seed(1337)
shape = dict(n_layer=4, n_head={n_head}, n_embd={n_embd}, block_size=64, vocab_size=65)
model = GPT(GPTConfig(**shape, bias=False, dropout=0.0))
model.eval()
for batch in (1, {number}):
    prompt = torch.zeros(batch, 1, dtype=torch.long)
    with torch.no_grad():
        model.generate(prompt, 20, temperature=0.8)
        started = time.perf_counter()
        model.generate(prompt, {length}, temperature=0.8)
    print(batch * {length} / (time.perf_counter() - started))
"""


def run(nanogpt: Path, rounds: int = 5, out: Path = Path("results/benchmarks/sampling.json")) -> None:
    """Measure sampling from group1's larger model against nanoGPT.

    Args:
        nanogpt: A nanoGPT checkout.
        rounds: Turns each side takes.
        out: Where the JSON goes; the table goes to stdout.
    """
    if not (nanogpt / "model.py").exists():
        raise ConfigError(f"{nanogpt}: no nanoGPT checkout (model.py)")
    study = find_study("group1")
    config = max(study.expand(prepare(study.text, study.tokenizer).facts), key=lambda c: (c.n_embd, c.n_head))
    parameters = Parameters(layout_of(config), init_flat(config)[None], Kernels(torch.float32))
    prompt_N = prepare(study.text, study.tokenizer).tokenizer.encode("\n")
    program = PEER.format(
        checkout=str(nanogpt), n_head=config.n_head, n_embd=config.n_embd, number=NUMBER, length=LENGTH
    )
    kinds = {
        f"isoloss, {NUMBER} at once": Sampling(LENGTH, NUMBER),
        f"isoloss, {NUMBER} at once, sliding": Sampling(LENGTH, NUMBER, sliding=True),
        "isoloss, one": Sampling(LENGTH),
    }
    peer = ("nanoGPT generate, one", f"nanoGPT generate, {NUMBER} at once")
    rates: dict[str, list[float]] = {kind: [] for kind in (*kinds, *peer)}
    for _ in range(rounds):
        for kind, sampling in kinds.items():
            started = time.perf_counter()
            generate(parameters, config, prompt_N, sampling)
            rates[kind].append(sampling.number * LENGTH / (time.perf_counter() - started))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for kind, rate in zip(peer, done.stdout.splitlines()[-len(peer) :], strict=True):
            rates[kind].append(float(rate))
    theirs = samples(rates[peer[0]])
    rows = [[kind, str(samples(r)), f"{samples(r).median / theirs.median:.1f}"] for kind, r in rates.items()]
    print(table(["sampling", "characters a second", "ratio"], rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(torch.device("cpu")), **{kind: samples(r).as_dict() for kind, r in rates.items()}}
    out.write_text(json.dumps(result, indent=2))
