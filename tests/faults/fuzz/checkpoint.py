"""Checkpoints: false values in the sidecar and in the tensors' header, with valid digests; arbitrary bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from isoloss.errors import IsolossError, printable
from isoloss.files import read_record, sha256_bytes
from isoloss.model.parameters import layout_of
from isoloss.study.config import make_config
from isoloss.study.identity import run_id
from isoloss.training import checkpoint
from isoloss.training.state import MemberState, Progress
from tests.faults.fuzz.false_values import insert_false_values
from tests.faults.fuzz.record_bytes import Slot, record_bytes

WORDS = [
    b"\x00\x01",
    b"\x01\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x80\x01\x03",
    b"\xa0\x02\x09",
    b"\x10\x01\x01",
]
CONFIG = {
    "corpus": "x",
    "corpus_sha256": "ab",
    "vocab_size": 2,
    "n_layer": 1,
    "n_head": 1,
    "n_embd": 1,
    "block_size": 1,
}


def seeds() -> list[bytes]:
    return [b"", b"\x00\x03\x00\x40\x50\x03", b"\x00\x00\x03\x20\x50\x01", b"\x01\x00\x00\x08\x00\x01\x02\x03"]


def reader(folder: Path) -> Callable[[bytes], None]:
    """Loads a checkpoint; one that is loaded must be whole, and of the run it says it is of."""
    config = make_config(CONFIG)
    numbers_P = torch.arange(layout_of(config).size, dtype=torch.float32)
    progress = Progress(step=3, updates=3, evaluated_step=3, best_val_loss=1.5, best_step=2, train_time_s=0.5)
    checkpoint.save(
        folder, "c", MemberState(config, progress, numbers_P, {"exp_avg": -numbers_P, "exp_avg_sq": numbers_P / 8})
    )
    sidecar_path, tensors_path = folder / "c.json", folder / "c.safetensors"
    in_sidecar, in_tensors = Slot(sidecar_path), Slot(tensors_path)
    whole_sidecar, tensors = json.dumps(read_record(sidecar_path)), tensors_path.read_bytes()
    header_size = int.from_bytes(tensors[:8], "little")
    whole_header, data = tensors[8 : 8 + header_size], tensors[8 + header_size :]

    def read(content: bytes) -> None:
        how, n_sidecar, n_header = content[:3].ljust(3, b"\0")
        body = content[3:]
        choices, more = body[: n_sidecar % 32], body[n_sidecar % 32 :]
        header_choices, more = more[: n_header % 32], more[n_header % 32 :]
        written = tensors
        if header_choices:
            header = json.loads(whole_header)
            insert_false_values(header, header_choices)
            text = json.dumps(header).encode()
            written = len(text).to_bytes(8, "little") + text + data
        if how & 1:  # a false length of the header
            written = more[:8].ljust(8, b"\0") + written[8:]
        if how & 2 and more:  # an end cut off or added
            written = written[: -more[0]] if more[0] & 1 else written + more
        if how & 4:
            written = more
        sidecar = json.loads(whole_sidecar)
        sidecar["sha256"] = sha256_bytes(written)
        insert_false_values(sidecar, choices)
        if how & 8:  # as one who makes a configuration up would name its run
            sidecar["run_id"] = _named(sidecar)
        in_tensors.put(written)
        in_sidecar.put(more if how & 192 == 192 else record_bytes(sidecar, broken=how & 48 == 48))
        try:
            state = checkpoint.load(folder, "c")
        except IsolossError as error:
            assert str(error) == printable(str(error)), repr(error)
            return
        assert {moment_P.shape for moment_P in (state.flat_P, *state.moments.values())} == {
            (layout_of(state.config).size,)
        }
        assert 0 <= state.progress.updates <= state.progress.step <= state.config.max_iters
        assert asdict(state.progress) == sidecar["progress"] and run_id(state.config) == sidecar["run_id"]

    return read


def _named(sidecar: dict[str, Any]) -> str:
    try:
        return run_id(make_config(sidecar["config"]))
    except (IsolossError, KeyError, TypeError):
        return "none"
