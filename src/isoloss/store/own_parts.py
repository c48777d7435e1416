"""What a study's directory tells of parts of its own, so that it can be read where their code is not at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from isoloss.errors import ConfigError
from isoloss.files import path_exists, write_record
from isoloss.store.records import PARTS, PartRecord, read_checked
from isoloss.study.config import RunConfig
from isoloss.study.parts import SETTINGS, Mlp, Norm, Optimizer, Part, Position, know, known


def keep_parts(path: Path, configs: Sequence[RunConfig]) -> None:
    """Record what is known of the parts of their own that runs have, beside what was. Raises StoreError."""
    values = sorted({getattr(config, setting) for config in configs for setting in SETTINGS})
    own = {value: _described(part) for value in values if (part := known(value)) is not None}
    before = read_checked(PARTS, path)["parts"] if path_exists(path) else {}
    if own.keys() - before.keys():
        write_record(path, {"parts": {**before, **own}})


def know_parts(path: Path) -> None:
    """Let configurations name the parts that are recorded; those whose code is at hand stay. Raises StoreError."""
    for value, record in (read_checked(PARTS, path)["parts"] if path_exists(path) else {}).items():
        if known(value) is None:
            know(value, _part(record, _not_at_hand(value)))


def _described(part: Part) -> PartRecord:
    match part:
        case Norm():
            return {"setting": "norm"}
        case Mlp():
            return {"setting": "mlp", "gated": part.gated}
        case Position():
            return {"setting": "position", "learned": part.learned, "rotated": part.rotation is not None}
        case Optimizer():
            return {"setting": "optimizer", "moments": [*part.moments], "defaults": {**part.defaults}}


def _not_at_hand(value: str) -> Callable[..., NoReturn]:
    """Stands for the code of a part of which a directory alone tells."""

    def code(*_: object) -> NoReturn:
        option = f"--plugin FILE.py:{value.partition('@')[0]}"
        raise ConfigError(f"{value} is not at hand: give the file that the run was trained with, {option}")

    return code


def _part(record: PartRecord, code: Callable[..., NoReturn]) -> Part:
    match record["setting"]:
        case "norm":
            return Norm(code)
        case "mlp":
            return Mlp(code, record.get("gated", False))
        case "position":
            return Position(record.get("learned", False), code, code if record.get("rotated") else None)
        case "optimizer":
            return Optimizer(code, tuple(record.get("moments", ())), record.get("defaults", {}))
