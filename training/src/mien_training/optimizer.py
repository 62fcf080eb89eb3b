"""How the weights are changed: AdamW, with a learning rate that rises linearly and falls along a cosine."""

from collections.abc import Sequence
from typing import Any

import keras

from mien_training.configs import Config


def build_optimizer(config: Config, steps_per_epoch: int, variables: Sequence[Any]) -> keras.optimizers.Optimizer:
    """Build the optimizer of a recipe for the trainable variables of a network."""
    warmup = int(config.warmup_epochs * steps_per_epoch)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else config.learning_rate,
        max(config.epochs * steps_per_epoch - warmup, 1),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "offset"])
    optimizer.build(variables)
    return optimizer
