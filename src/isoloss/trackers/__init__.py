"""A study's runs mirrored to an experiment tracker."""

from typing import Literal

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
"""Also the name of the extra that installs the tracker's library."""
