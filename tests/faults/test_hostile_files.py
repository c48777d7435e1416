"""False values with valid digests in records, checkpoints and tokens: each a typed one-line error within limits."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isoloss.data.token_files import Tokens, open_tokens
from isoloss.errors import ConfigError, NumericsError, StoreError
from isoloss.files import DIGEST, MAX_TEXT_BYTES, read_record, sha256_bytes, sha256_file, write_record
from isoloss.model.parameters import layout_of
from isoloss.store.layout import RunPaths
from isoloss.store.run import Extent, RunStatus, check_rows, read_rows, read_status, write_status
from isoloss.study.config import RunConfig
from isoloss.training import checkpoint
from isoloss.training.state import MemberState, Progress
from tests.faults.limits import outcome_of, refused

Made = Callable[..., RunConfig]

pytestmark = pytest.mark.promise(12, "false sidecars, safetensors headers and tokens, with valid digests")

RECORDS = {
    "deep lists": '{"a": ' + "[" * 100_000,
    "many small lists": '{"a": [' + "[],"[:MAX_TEXT_BYTES] * (MAX_TEXT_BYTES // 4) + "[]]}",
    "a number of many digits": '{"a": ' + "9" * 100_000 + "}",
    "no number": '{"a": NaN}',
    "no end": '{"a": 1e999}',
    "a digest that is a list": f'{{"{DIGEST}": ' + "[" * 500 + "]" * 500 + "}",
    "a list": "[1, 2]",
    "nothing": "",
}


OBJECTS = ("many small lists", "a digest that is a list")
"""With a right digest at their end, these are JSON objects like any other."""


def with_digest(text: str) -> str:
    """The text with a right digest in its last place, as anyone can write one."""
    whole = f'{text.removesuffix("}")}, "{DIGEST}": "{"0" * 64}"}}'
    return whole.replace("0" * 64, sha256_bytes(whole.encode()))


def test_a_record_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_record(path, {"a": "x" * (MAX_TEXT_BYTES - 200)})
    refused(lambda: write_record(path, {"a": "x" * MAX_TEXT_BYTES}), StoreError, "cannot write")
    assert len(read_record(path)["a"]) == MAX_TEXT_BYTES - 200


@pytest.mark.parametrize("name", RECORDS)
def test_hostile_records(name: str, tmp_path: Path) -> None:
    reason = "is not a finite number" if name in ("no number", "no end") else "cannot read"
    (tmp_path / "r.json").write_text(RECORDS[name])
    refused(lambda: read_record(tmp_path / "r.json"), StoreError, "cannot read")
    (tmp_path / "r.json").write_text(with_digest(RECORDS[name]))
    if name in OBJECTS:
        assert outcome_of(lambda: read_record(tmp_path / "r.json")) == "", "within the caps"
    else:
        refused(lambda: read_record(tmp_path / "r.json"), StoreError, reason)


@pytest.mark.parametrize("value", ["NaN", "1e999", "[1e999]", '{"deep": -1e999}'])
def test_a_status_of_numbers_that_cannot_be_written_again(value: str, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    write_status(paths, RunStatus("done"))
    assert read_status(paths).state == "done"
    text = paths.status.read_text()
    for key in ('"provenance": {', '"times_s": {'):
        paths.status.write_text(
            with_digest(text.partition(f',\n  "{DIGEST}"')[0].replace(key, f'{key}"more": {value}') + "}")
        )
        assert read_status(paths).state == "damaged"


def test_a_value_that_looks_like_the_place_of_a_digest(tmp_path: Path) -> None:
    value = {"a": "0" * 64, "b": 10**300}
    write_record(tmp_path / "r.json", value)
    assert read_record(tmp_path / "r.json") == value


@pytest.fixture
def saved(make: Made, tmp_path: Path) -> Path:
    """A folder with the checkpoint `c` of a tiny run at its third step."""
    config = make(n_layer=1, n_embd=2, block_size=2)
    numbers_P = torch.arange(layout_of(config).size, dtype=torch.float32)
    progress = Progress(step=3, updates=3, evaluated_step=3, best_val_loss=1.5, best_step=2)
    checkpoint.save(
        tmp_path, "c", MemberState(config, progress, numbers_P, {"exp_avg": -numbers_P, "exp_avg_sq": numbers_P / 8})
    )
    return tmp_path


PROGRESS: dict[str, Any] = {
    "step": [-1, True, 1.0, "3", None, [], 2**31, 10**300, 21],
    "updates": [4, -1, None, {}],
    "evaluated_step": [4, -2, False],
    "best_val_loss": ["low", -1.0, [1.5], 10**400],
    "best_step": [4, -1, 2.5],
    "loss_scale": [0, -1.0, None, "1"],
    "train_time_s": [-1e-9, None, "0"],
    "more": [0],
}


@pytest.mark.parametrize("key", PROGRESS)
def test_progress_that_lies(saved: Path, key: str) -> None:
    assert outcome_of(lambda: checkpoint.load(saved, "c")) == ""
    sidecar = read_record(saved / "c.json")
    for value in PROGRESS[key]:
        write_record(saved / "c.json", {**sidecar, "progress": {**sidecar["progress"], key: value}})
        refused(lambda: checkpoint.load(saved, "c"), NumericsError, "not a checkpoint of this format")
    if key in sidecar["progress"]:
        progress = {k: v for k, v in sidecar["progress"].items() if k != key}
        write_record(saved / "c.json", {**sidecar, "progress": progress})
        refused(lambda: checkpoint.load(saved, "c"), NumericsError, "its progress is not what a checkpoint states")


SIDECARS: dict[str, dict[str, Any]] = {
    "another run": {"run_id": "0" * 12},
    "no run": {"run_id": None},
    "no configuration": {"config": None},
    "a configuration that is a list": {"config": [["n_layer"]]},
    "a configuration that is empty": {"config": {}},
    "progress that is a list": {"progress": []},
    "progress that is empty": {"progress": {}},
    "another format": {"format_version": [[1]]},
    "no digest": {"sha256": None},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "a billion layers": {"n_layer": 10**9},
    "many layers": {"n_layer": 10_000},
    "a billion wide": {"n_embd": 10**9},
    "two thousand wide": {"n_embd": 2_000},
    "a long block": {"block_size": 10**8},
    "a large vocabulary": {"vocab_size": 65536},
    "biases": {"bias": True},
}


@pytest.mark.parametrize("name", [*SIDECARS, *CONFIGS])
def test_side_cars_that_lie(saved: Path, make: Made, name: str) -> None:
    sidecar = read_record(saved / "c.json")
    if name in CONFIGS:
        config = {**sidecar["config"], **CONFIGS[name]}
        try:
            sidecar |= {"config": config, "run_id": checkpoint.run_id(make(**config))}
        except ConfigError:
            sidecar |= {"config": config}
    write_record(saved / "c.json", {**sidecar, **SIDECARS.get(name, {})})
    refused(lambda: checkpoint.load(saved, "c"), NumericsError, f"{saved / 'c.safetensors'}: ")


def with_header(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    changed = change(header)
    text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def lie(**about: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["model.wte.weight"].update(about)


def swapped(header: dict[str, Any]) -> None:
    """Two tensors of one another's place, of equal size: no lie that can be told by shapes."""
    header["model.unknown"] = header.pop("model.wte.weight")


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "a length beyond the file": lambda content: struct.pack("<Q", len(content) + 1) + content[8:],
    "a length of all ones": lambda content: b"\xff" * 8 + content[8:],
    "a length of nothing": lambda content: bytes(8) + content[8:],
    "an offset beyond the file": lambda content: with_header(content, lie(data_offsets=[0, 10**9])),
    "an offset before it": lambda content: with_header(content, lie(data_offsets=[-8, 0])),
    "offsets that overlap": lambda content: with_header(content, lie(data_offsets=[0, 8])),
    "offsets the wrong way round": lambda content: with_header(content, lie(data_offsets=[8, 0])),
    "a shape of 10^18 elements": lambda content: with_header(content, lie(shape=[10**9, 10**9])),
    "a shape that overflows": lambda content: with_header(content, lie(shape=[2**33, 2**33])),
    "a shape of its own": lambda content: with_header(
        content, lambda h: lie(shape=h["model.wte.weight"]["shape"][::-1])(h)
    ),
    "a type of its own": lambda content: with_header(content, lie(dtype="I32")),
    "an unknown type": lambda content: with_header(content, lie(dtype="F33")),
    "a missing tensor": lambda content: with_header(content, swapped),
    "a name twice": lambda content: with_header(
        content, lambda h: json.dumps(h).encode()[:-1] + b', "model.wte.weight": 1}'
    ),
    "no UTF-8": lambda content: with_header(content, lambda h: b'{"\xff\xfe": 1}'),
    "deep lists": lambda content: with_header(content, lambda h: b"[" * 10_000),
    "a list": lambda content: with_header(content, lambda h: b"[]"),
    "nothing": lambda content: b"",
    "a pickle": lambda content: b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
    "an end cut off": lambda content: content[:-4],
    "an end added": lambda content: content + bytes(4),
}


@pytest.mark.parametrize("name", HEADERS)
def test_tensors_that_lie(saved: Path, name: str) -> None:
    path, sidecar = saved / "c.safetensors", read_record(saved / "c.json")
    path.write_bytes(HEADERS[name](path.read_bytes()))
    write_record(saved / "c.json", {**sidecar, "sha256": sha256_file(path)})
    refused(lambda: checkpoint.load(saved, "c"), NumericsError, f"{path}: not a checkpoint of this format: ")


def test_tensors_without_end(saved: Path) -> None:
    os.truncate(saved / "c.safetensors", 1 << 40)  # a file with a hole takes no room
    refused(lambda: checkpoint.load(saved, "c"), StoreError, "larger than")


def test_rows_without_end(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    os.truncate(tmp_path / "metrics.jsonl", 1 << 40)
    refused(lambda: list(read_rows(tmp_path / "metrics.jsonl")), StoreError, "larger than")
    refused(lambda: check_rows(tmp_path / "metrics.jsonl", Extent(1 << 40, "0" * 64)), StoreError, "larger than")


METAS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a vocabulary larger than it is": lambda meta: {"vocab_size": 65536},
    "a vocabulary of a billion": lambda meta: {"vocab_size": 10**9},
    "fewer characters than tokens": lambda meta: {"characters": "ab", "vocab_size": 2},
    "characters that repeat": lambda meta: {"characters": "a" * meta["vocab_size"]},
    "too many characters": lambda meta: {
        "characters": "".join(map(chr, range(0x10000, 0x21000))),
        "vocab_size": 0x11000,
    },
    "half a surrogate": lambda meta: {"characters": meta["characters"][:-1] + "\ud800"},
    "characters in a list": lambda meta: {"characters": list(meta["characters"])},
    "more tokens than there are": lambda meta: {"train_tokens": 10**12},
    "no text": lambda meta: {"corpus_sha256": None},
    "a digest of nothing": lambda meta: {"corpus_sha256": ""},
    "an unknown tokenizer": lambda meta: {"tokenizer": "bpe"},
    "another format": lambda meta: {"format_version": 2},
}
BINARIES = {"nothing": b"", "an odd byte": b"\0\0\0", "tokens beyond the vocabulary": b"\xff\xff"}


@pytest.mark.parametrize("name", [*METAS, *BINARIES])
def test_tokens_that_lie(tokens: Tokens, tmp_path: Path, name: str) -> None:
    meta = read_record(tokens.folder / "meta.json")
    for split in ("train", "val"):
        content = BINARIES.get(name, (tokens.folder / f"{split}.bin").read_bytes())
        (tmp_path / f"{split}.bin").write_bytes(content)
        meta |= {f"{split}_sha256": sha256_bytes(content), f"{split}_tokens": len(content) // 2}
    meta |= METAS[name](meta) if name in METAS else {}
    # As a stranger would write it: half a surrogate pair is an escape there.
    text = json.dumps({**meta, DIGEST: "0" * 64})
    (tmp_path / "meta.json").write_text(text.replace("0" * 64, sha256_bytes(text.encode())))
    refused(lambda: open_tokens(tmp_path), StoreError, "")
