"""The trackers by name, and where each keeps what it gets unless it is told."""

from __future__ import annotations

import os
from pathlib import Path

from isoloss.errors import ConfigError
from isoloss.files import user_path
from isoloss.store.opening import OpenStudy
from isoloss.trackers import TrackerName
from isoloss.trackers.tracker import Tracker


def open_tracker(name: TrackerName, into: str | None, opened: OpenStudy) -> Tracker:
    """The tracker of this name, for one study.

    `into` is a folder, of MLflow an address; without it the tracker's own environment variables decide, else it is the
    study's directory (tensorboard, mlflow), the folder around it (wandb) or Trackio's own. Raises ConfigError where
    the library is missing, and whatever that raises.
    """
    folder, study = opened.paths.folder.absolute(), opened.study.name
    place = user_path(into).absolute() if into else None
    match name:
        case "tensorboard":
            from isoloss.trackers.tensorboard import TensorBoard

            return TensorBoard(place or folder / "tensorboard")
        case "wandb":
            from isoloss.trackers.wandb import WeightsAndBiases

            place = place or Path(os.environ.get("WANDB_DIR", folder.parent)).absolute()
            if place.resolve().is_relative_to(folder.resolve()):
                raise ConfigError(
                    f"W&B makes links, which a study directory may not hold: choose a folder outside {folder}"
                )
            return WeightsAndBiases(place, study)
        case "mlflow":
            from isoloss.trackers.mlflow import MLflow

            uri = into or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
            return MLflow(uri, study)
        case "trackio":
            from isoloss.trackers.trackio import Trackio

            return Trackio(place, study)
