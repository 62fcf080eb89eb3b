"""A training run whose steps JAX computes, many at a time, with all faces in the device's memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mien_client.contract import KEYPOINT_MODEL, KEYPOINTS
from numpy.typing import NDArray

from mien_training.configs import Config
from mien_training.jax_backend.augmentation import augment, degrade
from mien_training.runs import Run
from mien_training.splits import Split, order_of
from mien_training.training_run import TrainingRun

STEPS_A_CALL = 64
PREDICTION_BATCH = 512


class JaxTrainer(TrainingRun):
    """A run on Keras's JAX backend; everything else is as `TrainingRun` says."""

    backend = "jax"

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
        self._teachers = [teacher.load(precision) for teacher in teachers]
        super().__init__(name, split, config, out, source, precision, teachers, start)
        self._images, self._targets = jnp.asarray(split.training.images), jnp.asarray(self.training.targets)
        self._advance = jax.jit(self._several_steps)
        self._infer = jax.jit(self._outputs)
        # A weight of the model and its average stand at the same place of these lists.
        seeds = {id(variable) for variable in self.model.non_trainable_variables} - {
            id(variable) for variable in self.model.non_trainable_weights
        }
        self._kept = [id(variable) not in seeds for variable in self.model.non_trainable_variables]
        self._averages = [
            *self.averaged.trainable_weights,
            *self.averaged.non_trainable_weights,
        ]
        self._has_points = name == KEYPOINT_MODEL
        if self._has_points:
            offset = self.model.get_layer("keypoints").offset
            self._offset = [id(variable) for variable in self.model.trainable_variables].index(id(offset))

    def _steps(self, epoch: int, first: int) -> Iterator[list[float]]:
        size = min(self.config.batch_size, len(self._images))
        faces = order_of(len(self._images), self.config.seed, epoch)
        order = jnp.asarray(faces[: self.steps_per_epoch * size].reshape(self.steps_per_epoch, size))
        groups = [
            self.model.trainable_variables,
            self.model.non_trainable_variables,
            self.optimizer.variables,
            self._averages,
        ]
        teachers = [(t.trainable_variables, t.non_trainable_variables) for t in self._teachers]
        taught_by = jax.tree.map(lambda variable: variable.value, teachers)
        data = (self._images, self._targets, taught_by, order, jax.random.key(self.config.seed))
        while first < self.steps_per_epoch:
            last = min(first + STEPS_A_CALL, self.steps_per_epoch)
            state = tuple([variable.value for variable in group] for group in groups)
            step = epoch * self.steps_per_epoch + first
            state, losses = self._advance(state, data, first, last, step)
            for group, values in zip(groups, state, strict=True):
                for variable, value in zip(group, values, strict=True):
                    variable.assign(value)
            yield [float(loss) for loss in np.asarray(losses)[: last - first]]
            first = last

    def _predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        weights = [
            [variable.value for variable in group]
            for group in (self.averaged.trainable_variables, self.averaged.non_trainable_variables)
        ]
        # Every batch has one size, or each would be compiled for.
        padded = np.concatenate([images, np.zeros((-len(images) % PREDICTION_BATCH, *images.shape[1:]), np.uint8)])
        parts = np.split(padded, len(padded) // PREDICTION_BATCH)
        return np.concatenate([np.asarray(self._infer(weights, part)) for part in parts])[: len(images)]

    def _outputs(self, weights: Any, images: Any) -> Any:
        return self.averaged.stateless_call(*weights, images, training=False)[0]

    def _several_steps(self, state: Any, data: Any, first: Any, last: Any, step: Any) -> Any:
        """Make steps `first` to `last` of an epoch, of which the whole run has made `step` before."""
        images, targets, taught_by, order, seed = data

        def one(number: Any, carried: Any) -> Any:
            state, losses = carried
            picked = order[first + number]
            state, loss = self._step(
                state,
                images[picked],
                targets[picked],
                taught_by,
                step + number,
                jax.random.fold_in(seed, step + number),
            )
            return state, losses.at[number].set(loss)

        return jax.lax.fori_loop(0, last - first, one, (state, jnp.zeros(STEPS_A_CALL)))

    def _step(self, state: Any, images: Any, targets: Any, taught_by: Any, step: Any, key: Any) -> Any:
        weights, others, optimizer, averages = state
        augment_key, degrade_key = jax.random.split(key)
        limits = self.config.augmentation

        def loss_of(weights: Any) -> Any:
            if self._has_points:
                offset = weights[self._offset]
                faces, marked = augment(images, targets - offset, augment_key, limits)
                wanted = marked + offset
            else:
                faces, _ = augment(images, jnp.zeros((len(images), len(KEYPOINTS), 2)), augment_key, limits)
                wanted = targets
            # As on TensorFlow: teachers look at the face as their pupil does, but see it better.
            answers = [
                self.task.answer(teacher.stateless_call(*variables, faces, training=False)[0])
                for teacher, variables in zip(self._teachers, taught_by, strict=True)
            ]
            taught = jax.lax.stop_gradient(sum(answers) / len(answers)) if answers else None
            degraded = degrade(faces, degrade_key, limits)
            outputs, changed = self.model.stateless_call(weights, others, degraded, training=True)
            return self.task.loss(wanted, outputs, taught, self.class_weights, self.config), changed

        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights)
        weights, optimizer = self.optimizer.stateless_apply(optimizer, gradients, weights)
        # The average is short at first, or it would remember the untrained weights.
        momentum = jnp.minimum(self.config.average, (1 + step) / (10 + step))
        now = [*weights, *(value for value, kept in zip(others, self._kept, strict=True) if kept)]
        averages = [average * momentum + weight * (1 - momentum) for average, weight in zip(averages, now, strict=True)]
        return (weights, others, optimizer, averages), loss
