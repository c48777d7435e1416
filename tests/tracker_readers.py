"""What trackers show of mirrored runs, each read by its own library."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isoloss.trackers import TrackerName

Point = tuple[str, int, float]
"""Name, step and value."""


class Shown(NamedTuple):
    """What a tracker shows of one run: every point of it, in order of names and steps."""

    points: list[Point]
    settings: dict[str, Any]
    group: str
    about: dict[str, Any]


Reader = Callable[[Path], dict[str, Shown]]


def read_tensorboard(folder: Path) -> dict[str, Shown]:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin_data_pb2 = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    shown: dict[str, Shown] = {}
    for run in (folder / "tensorboard").iterdir():
        events = accumulators.EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        points = [(tag, each.step, each.value) for tag in events.Tags()["scalars"] for each in events.Scalars(tag)]
        info = plugin_data_pb2.HParamsPluginData.FromString(
            events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        ).session_start_info
        settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in info.hparams.items()}
        texts = [tag for tag in events.Tags()["tensors"] if tag == "outcome/status"]
        about = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in texts}
        shown[run.name.split(",")[-1].partition("-")[0]] = Shown(sorted(points), settings, info.group_name, about)
    return shown


def read_mlflow(folder: Path) -> dict[str, Shown]:
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tracked")
    shown: dict[str, Shown] = {}
    for run in client.search_runs([experiment.experiment_id]) if experiment else []:
        keys = run.data.metrics
        points = [
            (key, each.step, each.value) for key in keys for each in client.get_metric_history(run.info.run_id, key)
        ]
        about = run.data.tags | {"status": run.info.status, "name": run.info.run_name}
        shown[run.data.params["run_id"]] = Shown(sorted(points), run.data.params, run.data.tags["group"], about)
    return shown


def read_trackio(_folder: Path) -> dict[str, Shown]:
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    shown: dict[str, Shown] = {}
    for record in storage.get_run_records("tracked"):
        config = storage.get_run_config("tracked", run_id=record["id"])
        logs = storage.get_logs("tracked", run_id=record["id"])
        points = [
            (key, row["step"], value) for row in logs for key, value in row.items() if key not in ("step", "timestamp")
        ]
        assert all(len(row) > 2 for row in logs), "no row without a value"
        shown[config["run_id"]] = Shown(sorted(points), config, config["_Group"], config | {"name": record["name"]})
    return shown


def read_wandb(folder: Path) -> dict[str, Shown]:
    """All sessions of a run, as `wandb sync` sends them."""
    shown: dict[str, Shown] = {}
    for path in sorted(
        (folder.parent / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns
    ):
        settings: dict[str, Any] = {}
        points: list[Point] = []
        about: dict[str, Any] = {}
        for record in _wandb_records(path.read_bytes()):
            match record.WhichOneof("record_type"):
                case "run":
                    about |= {"name": record.run.display_name, "group": record.run.run_group}
                    about |= {"tags": sorted(record.run.tags)} if record.run.tags else {}
                    settings |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
                case "summary":
                    about |= {
                        (each.key or each.nested_key[0]): json.loads(each.value_json) for each in record.summary.update
                    }
                case "history":
                    row = {each.nested_key[0]: json.loads(each.value_json) for each in record.history.item}
                    points += [(key, row["step"], value) for key, value in row.items() if "/" in key]
                case "exit":
                    about["exit"] = record.exit.exit_code
                case _:
                    pass
        before = shown.get(settings["run_id"], Shown([], {}, "", {}))
        shown[settings["run_id"]] = Shown(
            sorted(before.points + points), settings, about["group"], before.about | about
        )
    return shown


def _wandb_records(content: bytes) -> Iterator[Any]:
    """The records of W&B's file: a log in blocks of 32 KiB, as LevelDB has it, behind a header of seven bytes."""
    record = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    at, data = 7, b""
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        data += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record.FromString(data)
            data = b""


READERS: dict[TrackerName, Reader] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
    "wandb": read_wandb,
}
