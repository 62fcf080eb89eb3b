"""A finished run as the other verbs see it: a folder with weights, what they were trained on, and how well that went.

The shipped weights are two such folders inside this package.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from mien_training.configs import Config, from_run
from mien_training.errors import RunError
from mien_training.tasks import TASKS

PRETRAINED = Path(__file__).parent / "pretrained"
WEIGHTS = "best.weights.h5"


@dataclass(frozen=True)
class Run:
    """One trained network.

    Attributes:
        folder: Where it is.
        model: ``emotion`` or ``keypoints``.
        config: The recipe it was trained by.
        facts: All of ``run.json``.
        metrics: ``metrics.json``, what its validation found.
    """

    folder: Path
    model: str
    config: Config
    facts: dict[str, Any]
    metrics: dict[str, Any]

    def load(self, precision: str = "float32") -> keras.Model:
        """Build the network in a precision, whatever it was trained in, and give it the run's weights."""
        keras.mixed_precision.set_global_policy(precision)
        network = TASKS[self.model].network(self.config)
        try:
            network.load_weights(self.folder / WEIGHTS)
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / WEIGHTS} does not fit the {self.model} network: {error}") from None
        return network


def open_run(folder: Path) -> Run:
    """Read a run folder's description.

    Raises:
        RunError: The folder does not hold a run, or its training has not ended.
    """
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        recipe = from_run(facts["config"])
    except FileNotFoundError:
        raise RunError(f"Expected the --out folder of `mien train`, but {folder} has no run.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'run.json'} is damaged, or from another version of Mien: {error}") from None
    metrics = finished(folder, recipe)
    if metrics is None:
        raise RunError(f"The training of {folder} has not ended; repeat its `mien train` to finish it.")
    return Run(folder, facts["model"], recipe, facts, metrics)


def finished(folder: Path, config: Config) -> dict[str, Any] | None:
    """Return what ``metrics.json`` holds if the training has ended, else `None`.

    A run that is being continued for more epochs has not ended, although the metrics of its first end are there.

    Raises:
        RunError: ``metrics.json`` is damaged.
    """
    path = folder / "metrics.json"
    if not path.exists() or not (folder / WEIGHTS).exists():
        return None
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return metrics if metrics["epochs"] == config.epochs else None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged, or from another version of Mien: {error}") from None


def open_pretrained(model: str) -> Run:
    """Open the weights that ship with Mien, ``emotion`` or ``keypoints``."""
    return open_run(PRETRAINED / model)
