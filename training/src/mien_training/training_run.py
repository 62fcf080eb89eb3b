"""What every training run does, whatever computes its steps, and the run folder that it fills.

A run folder holds::

    run.json          what is trained, on what, and how: a run is continued with the same, or for more epochs
    checkpoint.npz    everything that the next step depends on
    best.weights.h5   the averaged weights with the best validation metric so far
    log.csv           a line an epoch          tensorboard/   the same for TensorBoard
    metrics.json      how the run ended        curves.png     its picture
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
from mien_client import contract
from mien_client.reading import sha256
from mien_client.writing import write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mien_training.configs import Config, from_run
from mien_training.errors import RunError
from mien_training.interruption import Interrupted, stop_signal
from mien_training.models import transfer
from mien_training.optimizer import build_optimizer
from mien_training.report import draw_curves, png, write_picture
from mien_training.run_folder import History, differences, read_checkpoint, write_checkpoint, write_log
from mien_training.runs import WEIGHTS, Run, finished
from mien_training.splits import Split
from mien_training.tasks import TASKS, class_weights

CHECKPOINT_SECONDS = 30.0


class TrainingRun(ABC):
    """One run: a network, its running average, its optimizer, and where it stands, whatever computes its steps.

    Args:
        name: ``emotion`` or ``keypoints``.
        split: The faces.
        config: The recipe.
        out: The run folder; one that holds a run of the same things, or of fewer epochs of them, is continued.
        source: What the faces were read from, as it shall stand in ``run.json``.
        precision: Keras's policy, ``float32`` or ``mixed_bfloat16``.
        teachers: Finished runs of the same model whose answers, or their mean, are learned besides the labels.
        start: A finished run that layers of the same name and shape start from, instead of at random.

    Attributes:
        backend: Keras's, which computes the steps.
        earlier_epochs: How many epochs the run in `out` was to have, if that were fewer; else `None`.

    Raises:
        RunError: `out` holds a run of something else, or something that is not a run.
    """

    backend: str

    def __init__(
        self,
        name: str,
        split: Split,
        config: Config,
        out: Path,
        source: dict[str, Any],
        precision: str,
        teachers: Sequence[Run] = (),
        start: Run | None = None,
    ) -> None:
        if teachers:
            weights = [teacher.folder / WEIGHTS for teacher in teachers]
            source = {**source, "teachers": [{"sha256": sha256(path, follow_links=True)} for path in weights]}
        if start:
            source = {**source, "start": {"sha256": sha256(start.folder / WEIGHTS, follow_links=True)}}
        trunk = start.load() if start else None
        keras.utils.set_random_seed(config.seed)
        self.task, self.config, self.split, self.out = TASKS[name], config, split, out
        self.console = Console(stderr=True)
        self.steps_per_epoch = max(len(split.training) // config.batch_size, 1)
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.history: History = []
        self.earlier_epochs: int | None = None
        with self._scope():
            # What is validated is what will be exported, so it computes as that does.
            keras.mixed_precision.set_global_policy("float32")
            self.averaged = self.task.network(config)
            keras.mixed_precision.set_global_policy(precision)
            self.model = self.task.network(config)
            self.optimizer = build_optimizer(config, self.steps_per_epoch, self.model.trainable_variables)
        if trunk:
            transfer(trunk, self.model)
        self.averaged.set_weights(self.model.get_weights())
        targets = self.task.prepare(split.training, config)
        self.training = replace(split.training, targets=targets)
        self.class_weights = (
            class_weights(targets, config.balance) if name == contract.EMOTION_MODEL else np.zeros(1, np.float32)
        )
        run = {"model": name, "source": source, "config": asdict(config), "precision": precision}
        self._open_run({**run, "backend": self.backend})

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes."""
        return True

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.learning_rate)

    def run(self, after_epoch: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Train from where the run stands to its end.

        Args:
            after_epoch: Called after each epoch, once the epoch is in the run folder.

        Returns:
            What ``metrics.json`` holds: the best epoch, the validation metrics of its weights (emotions: once they are
            calibrated), and the run's size and time.

        Raises:
            Interrupted: SIGINT or SIGTERM came; calling this again, also in a new process, goes on after the last step.
        """
        with stop_signal() as stopped, _progress(self.console) as progress:
            bar = progress.add_task("", total=self.total_steps, completed=self.step, speed="")
            while self.step < self.total_steps:
                row = self._train_epoch(progress, bar, stopped)
                self._log(row)
                self._keep(row)
                after_epoch()
                if stopped and self.step < self.total_steps:
                    raise Interrupted
        return self._finish()

    @abstractmethod
    def _steps(self, epoch: int, first: int) -> Iterator[list[float]]:
        """Make an epoch's steps from number `first` on; yield the losses of each few, with all variables up to date."""

    @abstractmethod
    def _predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the averaged network's outputs for any number of images, uint8 [N, 48, 48]."""

    def _scope(self) -> AbstractContextManager[Any]:
        """Return where variables are made."""
        return nullcontext()

    def _log(self, row: dict[str, float]) -> None:  # noqa: B027
        """Take note of an epoch elsewhere than in the run folder's own files."""

    def _train_epoch(self, progress: Progress, bar: Any, stopped: list[int]) -> dict[str, float]:
        epoch, first = divmod(self.step, self.steps_per_epoch)
        begun = saved = time.monotonic()
        for losses in self._steps(epoch, first):
            self.losses += losses
            self.step += len(losses)
            now = time.monotonic()
            rate = (self.step - epoch * self.steps_per_epoch - first) * self.config.batch_size / (now - begun)
            progress.update(
                bar,
                completed=self.step,
                description=f"epoch {epoch + 1}/{self.config.epochs}",
                speed=f"loss {self.losses[-1]:.3f}, {rate:,.0f} faces/s",
            )
            if self.step % self.steps_per_epoch == 0:
                break  # what is measured below belongs to this epoch, so nothing may come between
            if stopped or now - saved > CHECKPOINT_SECONDS:
                self._save(self.seconds + now - begun)
                saved = now
            if stopped:
                raise Interrupted
        measured = self.task.measure(self.split.validation, self._predict(self.split.validation.images))
        elapsed = time.monotonic() - begun
        self.seconds += elapsed
        row = {
            "epoch": epoch + 1,
            "loss": float(np.mean(self.losses)),
            "learning_rate": self.learning_rate,
            **{f"val_{key}": value for key, value in measured.items()},
            "seconds": elapsed,
        }
        shown = ", ".join(
            f"{key} {value:{'.2e' if key == 'learning_rate' else '.4f'}}"
            for key, value in row.items()
            if key not in ("epoch", "seconds")
        )
        progress.console.print(
            f"epoch {epoch + 1}/{self.config.epochs}: {shown}, {elapsed:.0f} s", highlight=False, soft_wrap=True
        )
        return row

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.averaged.weights, *self.optimizer.variables]

    def _save(self, seconds: float) -> None:
        if not self.is_chief:
            return
        state = {"step": self.step, "seconds": seconds, "losses": self.losses, "history": self.history}
        write_checkpoint(self.out / "checkpoint.npz", self._variables(), state)

    def _open_run(self, run: dict[str, Any]) -> None:
        path, checkpoint = self.out / "run.json", self.out / "checkpoint.npz"
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
                config = from_run(before["config"])
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{path} is damaged, or from another version of Mien ({error}); name another folder with --out."
                ) from None
            if config.epochs < self.config.epochs:
                self.earlier_epochs = config.epochs
                config = replace(config, epochs=self.config.epochs)
            # Runs of versions that had one backend do not name it.
            before = {
                **{key: before.get(key) for key in run},
                "backend": before.get("backend", "tensorflow"),
                "config": asdict(config),
            }
            changed = differences(before, run)
            if changed:
                raise RunError(
                    f"{self.out} holds a run with other settings: {'; '.join(changed)}. "
                    "Repeat its arguments to continue it, or name another folder with --out."
                )
        elif self.is_chief and self.out.exists() and any(self.out.iterdir()):  # others may see it being filled
            raise RunError(f"{self.out} is not empty and holds no run; name another folder with --out.")
        if checkpoint.exists():
            state = read_checkpoint(checkpoint, self._variables())
            self.step, self.seconds = state["step"], state["seconds"]
            self.losses, self.history = state["losses"], state["history"]
        elif (self.out / "metrics.json").exists():
            raise RunError(
                f"{self.out} holds a finished run without its checkpoint.npz, from which it would continue; "
                "name another folder with --out."
            )
        if not self.is_chief:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        versions = {name: version(name) for name in ("mien-training", self.backend, "keras")}
        write_json(path, {**run, "split": self.split.how, "versions": versions})

    def _keep(self, row: dict[str, float]) -> None:
        self.history.append(row)
        self.losses = []
        if not self.is_chief:
            return
        if self._best_row() is row:
            self._write_weights()
        self._save(self.seconds)
        write_log(self.out / "log.csv", self.history)

    def _best_row(self) -> dict[str, float]:
        sign = 1 if self.task.higher_is_better else -1
        return max(self.history, key=lambda row: sign * row[f"val_{self._best_metric}"])

    @property
    def _best_metric(self) -> str:
        return next(name for name in self.task.best if f"val_{name}" in self.history[0])

    def _finish(self) -> dict[str, Any]:
        if (result := finished(self.out, self.config)) is not None:
            return result
        path = self.out / "metrics.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        best = self._best_row()
        result = {
            "best_epoch": int(best["epoch"]),
            "validation": {key.removeprefix("val_"): value for key, value in best.items() if key.startswith("val_")},
            "faces": {"training": len(self.split.training), "validation": len(self.split.validation)},
            "weights": int(self.averaged.count_params()),
            "epochs": self.config.epochs,
            "seconds": round(self.seconds, 1),
        }
        if self.is_chief:
            if self.task.calibrate and earlier.get("best_epoch") == result["best_epoch"]:
                # These weights are calibrated already.
                result |= {key: earlier[key] for key in ("validation", "calibration")}
            elif self.task.calibrate:
                self.averaged.load_weights(self.out / WEIGHTS)
                validation = self.split.validation
                logits = self._predict(validation.images)
                result["calibration"] = self.task.calibrate(self.averaged, validation.truth, logits)
                result["validation"] = self.task.measure(validation, self._predict(validation.images))
                self._write_weights()
            write_json(path, result)
            curves = draw_curves(self.history, self._best_metric, result["best_epoch"], f"Training of {self.out}")
            write_picture(self.out / "curves.png", png(curves))
        return result

    def _write_weights(self) -> None:
        aside = self.out / f".{WEIGHTS}"
        self.averaged.save_weights(aside)
        aside.replace(self.out / WEIGHTS)


def _progress(console: Console) -> Progress:
    return Progress(
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")),
        *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False)),
        console=console,
        speed_estimate_period=120,
    )
