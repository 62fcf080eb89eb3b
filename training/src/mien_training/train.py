"""Training on TensorFlow: what `mien train` runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from mien_client import contract
from numpy.typing import NDArray

from mien_training.augmentation import augment, degrade
from mien_training.configs import Config
from mien_training.prediction import freeze, inference, predict
from mien_training.runs import Run
from mien_training.splits import Split, batches
from mien_training.tasks import TASKS
from mien_training.training_run import TrainingRun

TRIAL_STEPS = 5


class Trainer(TrainingRun):
    """A run whose steps TensorFlow computes.

    Args:
        name: As for `TrainingRun`, like all up to `start`.
        split: The faces.
        config: The recipe.
        out: The run folder.
        source: What the faces were read from.
        precision: Keras's policy.
        teachers: Finished runs of the same model.
        start: A finished run to start from.
        strategy: How the work is shared; by default it is not. Every replica takes its part of each batch, and with
            several workers only the first writes to `out`, which all must be able to read.

    Raises:
        RunError: As `TrainingRun`.
    """

    backend = "tensorflow"

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
        strategy: Any = None,
    ) -> None:
        self.strategy = strategy or tf.distribute.get_strategy()
        self._teachers = [freeze(teacher.load(precision)) for teacher in teachers]
        super().__init__(name, split, config, out, source, precision, teachers, start)
        self._class_weights = tf.constant(self.class_weights)
        self._train_step = tf.function(self._shared_step)
        self._infer = inference(self.averaged)

    @property
    def replicas(self) -> int:
        """Among how many devices each batch is shared."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes."""
        resolver = self.strategy.cluster_resolver
        return resolver is None or resolver.task_type in (None, "chief") or resolver.task_id == 0

    def estimate(self) -> float:
        """Seconds that the rest of the run will take about: a few steps are made, and undone."""
        before = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        faces = next(batches(self.training, self.config.batch_size, self.config.seed, 0))
        for number in range(-1, TRIAL_STEPS):
            if number == 0:
                begun = time.monotonic()  # the one before compiled
            float(self._train_step(faces.images, faces.targets, tf.constant(0)))
        seconds = (time.monotonic() - begun) / TRIAL_STEPS
        for variable, value in zip(self._variables(), before, strict=True):
            variable.assign(value)
        return seconds * (self.total_steps - self.step)

    def run(self, after_epoch: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Train as `TrainingRun.run`, and write each epoch's figures for TensorBoard as well."""
        writer = (
            tf.summary.create_file_writer(str(self.out / "tensorboard"))
            if self.is_chief
            else tf.summary.create_noop_writer()
        )
        with writer.as_default():
            return super().run(after_epoch)

    def _log(self, row: dict[str, float]) -> None:
        for key, value in row.items():
            tf.summary.scalar(key, value, step=int(row["epoch"]))

    def _scope(self) -> AbstractContextManager[Any]:
        scope: AbstractContextManager[Any] = self.strategy.scope()
        return scope

    def _steps(self, epoch: int, first: int) -> Iterator[list[float]]:
        for faces in batches(self.training, self.config.batch_size, self.config.seed, epoch, first):
            yield [float(self._train_step(faces.images, faces.targets, tf.constant(self.step)))]

    def _predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(self._infer, images)

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
