"""The training loop, and the run folder that it fills.

A run folder holds::

    run.json          what is trained, on what, and how: a run is continued with the same, or for more epochs
    checkpoint.npz    everything that the next step depends on
    best.weights.h5   the averaged weights with the best validation metric so far
    log.csv           a line an epoch          tensorboard/   the same for TensorBoard
    metrics.json      how the run ended        curves.png     its picture
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from mien_client import contract
from mien_client.reading import sha256
from mien_client.writing import write_json
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mien_training.augmentation import augment, degrade
from mien_training.configs import Config, from_run
from mien_training.errors import RunError
from mien_training.interruption import Interrupted, stop_signal
from mien_training.models import transfer
from mien_training.optimizer import build_optimizer
from mien_training.prediction import freeze, inference, predict
from mien_training.report import draw_curves, png, write_picture
from mien_training.run_folder import History, differences, read_checkpoint, write_checkpoint, write_log
from mien_training.runs import WEIGHTS, Run, finished, open_pretrained
from mien_training.splits import Split, batches
from mien_training.tasks import TASKS, class_weights

CHECKPOINT_SECONDS = 30.0
TRIAL_STEPS = 5


class Trainer:
    """One run: a network, its running average, its optimizer, and where it stands.

    Args:
        name: ``emotion`` or ``keypoints``.
        split: The faces.
        config: The recipe.
        out: The run folder; one that holds a run of the same things, or of fewer epochs of them, is continued.
        source: What the faces were read from, as it shall stand in ``run.json``.
        precision: Keras's policy, ``float32`` or ``mixed_bfloat16``.
        teachers: Finished runs of the same model whose answers, or their mean, are learned besides the labels.
        strategy: How the work is shared; by default it is not. Every replica takes its part of each batch, and with
            several workers only the first writes to `out`, which all must be able to read.

    Attributes:
        earlier_epochs: How many epochs the run in `out` was to have, if that were fewer; else `None`.

    Raises:
        RunError: `out` holds a run of something else, or something that is not a run.
    """

    def __init__(
        self,
        name: str,
        split: Split,
        config: Config,
        out: Path,
        source: dict[str, Any],
        precision: str,
        teachers: Sequence[Run] = (),
        strategy: Any = None,
    ) -> None:
        if teachers:
            weights = [teacher.folder / WEIGHTS for teacher in teachers]
            source = {**source, "teachers": [{"sha256": sha256(path, follow_links=True)} for path in weights]}
        self._teachers = [freeze(teacher.load(precision)) for teacher in teachers]
        trunk = open_pretrained(config.start_from).load() if config.start_from else None
        keras.utils.set_random_seed(config.seed)
        self.task, self.config, self.split, self.out = TASKS[name], config, split, out
        self.console = Console(stderr=True)
        self.steps_per_epoch = max(len(split.training) // config.batch_size, 1)
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.history: History = []
        self.earlier_epochs: int | None = None
        self.strategy = strategy or tf.distribute.get_strategy()
        with self.strategy.scope():
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
        self._training = replace(split.training, targets=targets)
        self._class_weights = tf.constant(
            class_weights(targets, config.balance) if name == contract.EMOTION_MODEL else [0.0]
        )
        self._train_step = tf.function(self._shared_step)
        self._infer = inference(self.averaged)
        self._open_run({"model": name, "source": source, "config": asdict(config), "precision": precision})

    @property
    def replicas(self) -> int:
        """Among how many devices each batch is shared."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes."""
        resolver = self.strategy.cluster_resolver
        return resolver is None or resolver.task_type in (None, "chief") or resolver.task_id == 0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.learning_rate)

    def estimate(self) -> float:
        """Seconds that the rest of the run will take about: a few steps are made, and undone."""
        before = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        faces = next(batches(self._training, self.config.batch_size, self.config.seed, 0))
        for number in range(-1, TRIAL_STEPS):
            if number == 0:
                begun = time.monotonic()  # the one before compiled
            float(self._train_step(faces.images, faces.targets, tf.constant(0)))
        seconds = (time.monotonic() - begun) / TRIAL_STEPS
        for variable, value in zip(self._variables(), before, strict=True):
            variable.assign(value)
        return seconds * (self.total_steps - self.step)

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
        writer = (
            tf.summary.create_file_writer(str(self.out / "tensorboard"))
            if self.is_chief
            else tf.summary.create_noop_writer()
        )
        with stop_signal() as stopped, _progress(self.console) as progress, writer.as_default():
            bar = progress.add_task("", total=self.total_steps, completed=self.step, speed="")
            while self.step < self.total_steps:
                row = self._train_epoch(progress, bar, stopped)
                for key, value in row.items():
                    tf.summary.scalar(key, value, step=int(row["epoch"]))
                self._keep(row)
                after_epoch()
        return self._finish()

    def _train_epoch(self, progress: Progress, bar: Any, stopped: list[int]) -> dict[str, float]:
        epoch, first = divmod(self.step, self.steps_per_epoch)
        begun = saved = time.monotonic()
        for faces in batches(self._training, self.config.batch_size, self.config.seed, epoch, first):
            loss = self._train_step(faces.images, faces.targets, tf.constant(self.step))
            self.losses.append(float(loss))
            self.step += 1
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
        measured = self.task.measure(self.split.validation, predict(self._infer, self.split.validation.images))
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

    def _shared_step(self, images: Any, targets: Any, step: Any) -> Any:
        losses = self.strategy.run(self._step, (images, targets, step))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _step(self, images: Any, targets: Any, step: Any) -> Any:
        seed = tf.stack([self.config.seed, tf.cast(step, tf.int32)])
        with tf.GradientTape() as tape:
            if self.task is TASKS["keypoints"]:
                offset = self.model.get_layer("keypoints").offset
                images, marked = augment(images, targets - offset, seed, self.config.augmentation)
                targets = marked + offset
            else:
                nowhere = tf.zeros([tf.shape(images)[0], len(contract.KEYPOINTS), 2])
                images, _ = augment(images, nowhere, seed, self.config.augmentation)
            degraded = degrade(images, seed, self.config.augmentation)
            # Every replica has changed the whole batch alike, and takes its part: their number changes nothing.
            first = tf.distribute.get_replica_context().replica_id_in_sync_group
            images, degraded, targets = (x[first :: self.replicas] for x in (images, degraded, targets))
            # Teachers look at the face as their pupil does (Beyer et al. 2022, "Knowledge Distillation: A Good Teacher
            # Is Patient and Consistent"), but see it better (Xie et al. 2020, "Self-Training with Noisy Student").
            answers = [self.task.answer(teacher(images)[0]) for teacher in self._teachers]
            taught = tf.add_n(answers) / len(answers) if answers else None
            outputs = self.model(degraded, training=True)
            loss = self.task.loss(targets, outputs, taught, self._class_weights, self.config) / self.replicas
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        # The average is short at first, or it would remember the untrained weights.
        done = tf.cast(step, tf.float32)
        momentum = tf.minimum(self.config.average, (1 + done) / (10 + done))
        for average, weight in zip(self.averaged.weights, self.model.weights, strict=True):
            average.assign(average * momentum + weight * (1 - momentum))
        return loss

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
            before = {**{key: before.get(key) for key in run}, "config": asdict(config)}
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
        versions = {name: version(name) for name in ("mien-training", "tensorflow", "keras")}
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
                logits = predict(self._infer, validation.images)
                result["calibration"] = self.task.calibrate(self.averaged, validation.truth, logits)
                result["validation"] = self.task.measure(validation, predict(self._infer, validation.images))
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
