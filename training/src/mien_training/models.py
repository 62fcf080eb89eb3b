"""The two residual networks. They share one residual block and one backbone, and differ in their heads.

Both take raw uint8 images: scaling grey levels is the networks' first layer, so training and serving cannot differ.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers
from mien_client.contract import EMOTIONS, IMAGE_SIZE, KEYPOINTS


def residual_block(x: Any, filters: int, stride: int, name: str) -> Any:
    """Two 3×3 convolutions beside a shortcut (He et al. 2016, "Deep Residual Learning for Image Recognition").

    Args:
        x: float [N, h, w, c].
        filters: Channels of the result.
        stride: 2 halves height and width. The shortcut is a 1×1 convolution where the shape changes, else the identity.
        name: Prefix of the layers' names.

    Returns:
        float [N, h / stride, w / stride, filters].
    """
    y = _convolution(x, filters, 3, stride, f"{name}_a")
    y = layers.ReLU(name=f"{name}_a_relu")(y)
    y = _convolution(y, filters, 3, 1, f"{name}_b")
    if stride > 1 or x.shape[-1] != filters:
        x = _convolution(x, filters, 1, stride, f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def emotion_network(widths: Sequence[int], dropout: float) -> keras.Model:
    """Faces to emotions: uint8 [N, 48, 48] to logits float32 [N, 5], in the order of `contract.EMOTIONS`."""
    images, features = _backbone(widths)
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    x = layers.Dropout(dropout, name="dropout")(x)
    logits = layers.Dense(len(EMOTIONS), dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="emotion")


def keypoint_network(widths: Sequence[int], dropout: float) -> keras.Model:
    """Faces to key points: uint8 [N, 48, 48] to (x, y) pixels, float32 [N, 15, 2], ordered as `contract.KEYPOINTS`."""
    images, features = _backbone(widths)
    # Where a feature is matters here, so the map is flattened, not pooled; the 1×1 convolution keeps that small.
    x = layers.ReLU(name="squeeze_relu")(_convolution(features, widths[-1] // 2, 1, 1, "squeeze"))
    x = layers.Dropout(dropout, name="dropout")(layers.Flatten(name="flatten")(x))
    x = layers.Dense(2 * len(KEYPOINTS), dtype="float32", name="offsets")(x)
    # Offsets from the image's centre, in half images, so that they start near zero and stay near one.
    centre = (IMAGE_SIZE - 1) / 2
    x = layers.Rescaling(IMAGE_SIZE / 2, offset=centre, dtype="float32", name="pixels")(x)
    return keras.Model(
        images, layers.Reshape((len(KEYPOINTS), 2), dtype="float32", name="keypoints")(x), name="keypoints"
    )


def _backbone(widths: Sequence[int]) -> tuple[Any, Any]:
    images = keras.Input((IMAGE_SIZE, IMAGE_SIZE), dtype="uint8", name="images")
    x = layers.Reshape((IMAGE_SIZE, IMAGE_SIZE, 1), dtype="uint8", name="channel")(images)
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(x)
    # Most of a plain network's time goes into its first, largest maps: halve them at once.
    x = layers.Conv2D(widths[0], 3, padding="same", kernel_initializer="he_normal", name="stem_conv")(x)
    x = layers.MaxPooling2D(name="stem_pool")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    for stage, filters in enumerate(widths, start=1):
        x = residual_block(x, filters, 1 if stage == 1 else 2, f"stage{stage}")
    return images, x


def _convolution(x: Any, filters: int, size: int, stride: int, name: str) -> Any:
    x = layers.Conv2D(
        filters, size, stride, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(name=f"{name}_norm")(x)
