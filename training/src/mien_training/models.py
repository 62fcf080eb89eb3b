"""The two residual networks. They share their residual blocks and one backbone, and differ in their heads.

Both take raw uint8 images: scaling grey levels is the networks' first layer, so training and serving cannot differ.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from mien_client.contract import EMOTIONS, IMAGE_SIZE, KEYPOINTS

from mien_training.configs import Block, Network

HEAT_CELLS = 12

_SWAP = {"left": "right", "right": "left"}

# In a mirrored face the subject's left eye is where the right one was: point i of the mirrored face is point
# MIRRORED[i] of the face as it was.
MIRRORED = tuple(KEYPOINTS.index("_".join(_SWAP.get(word, word) for word in name.split("_"))) for name in KEYPOINTS)


def basic_block(x: Any, filters: int, stride: int, name: str) -> Any:
    """Apply two 3×3 convolutions beside a shortcut (He et al. 2016, "Deep Residual Learning for Image Recognition").

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
    return _join(x, y, filters, stride, name)


def bottleneck_block(x: Any, filters: int, stride: int, name: str) -> Any:
    """Halve the channels, convolve 3×3, and restore the channels, by 1×1 convolutions; else as `basic_block`."""
    y = layers.ReLU(name=f"{name}_a_relu")(_convolution(x, filters // 2, 1, 1, f"{name}_a"))
    y = layers.ReLU(name=f"{name}_b_relu")(_convolution(y, filters // 2, 3, stride, f"{name}_b"))
    y = _convolution(y, filters, 1, 1, f"{name}_c")
    return _join(x, y, filters, stride, name)


def separable_block(x: Any, filters: int, stride: int, name: str) -> Any:
    """Convolve each channel 3×3 by itself and then 1×1 across channels, twice; else as `basic_block`."""
    y = _depthwise(x, stride, f"{name}_a_depth")
    y = layers.ReLU(name=f"{name}_a_relu")(_convolution(y, filters, 1, 1, f"{name}_a"))
    y = _depthwise(y, 1, f"{name}_b_depth")
    y = _convolution(y, filters, 1, 1, f"{name}_b")
    return _join(x, y, filters, stride, name)


BLOCKS: dict[Block, Callable[[Any, int, int, str], Any]] = {
    "basic": basic_block,
    "bottleneck": bottleneck_block,
    "separable": separable_block,
}


def emotion_network(shape: Network, others: int = 0) -> keras.Model:
    """Build the emotion network: uint8 [N, 48, 48] to logits float32 [N, 5 + others], `contract.EMOTIONS` first.

    Args:
        shape: See `Network`.
        others: Number of further classes, which together are "none of the five".
    """
    images, maps = _backbone(shape)
    x = layers.GlobalAveragePooling2D(name="pool")(maps[-1])
    x = layers.Dropout(shape.dropout, name="dropout")(x)
    logits = layers.Dense(len(EMOTIONS), dtype="float32", name="logits")(x)
    if others:
        more = layers.Dense(others, dtype="float32", name="others")(x)
        logits = layers.Concatenate(dtype="float32", name="all_logits")([logits, more])
    return keras.Model(images, logits, name="emotion")


def keypoint_network(shape: Network) -> keras.Model:
    """Build the key-point network: uint8 [N, 48, 48] to (x, y) pixels, float32 [N, 15, 2], as `contract.KEYPOINTS`."""
    images, maps = _backbone(shape)
    maps = [x for x in maps if x.shape[1] <= HEAT_CELLS]
    # What the deepest maps know of the whole face is brought back to the finer ones, where one cell is four pixels
    # wide (Lin et al. 2017, "Feature Pyramid Networks").
    filters = maps[0].shape[-1]
    x = _convolution(maps[-1], filters, 1, 1, "top")
    for level in range(len(maps) - 1, 0, -1):
        x = layers.UpSampling2D(interpolation="bilinear", name=f"up{level}")(x)
        x = layers.Add(name=f"merge{level}")([x, _convolution(maps[level - 1], filters, 1, 1, f"lateral{level}")])
    x = BLOCKS[shape.blocks](x, filters, 1, "head")
    x = layers.SpatialDropout2D(shape.dropout, name="dropout")(x)
    x = layers.ZeroPadding2D(1, name="border")(x)  # a point may lie a little outside the picture
    heat = layers.Conv2D(len(KEYPOINTS), 3, padding="same", dtype="float32", name="heat")(x)
    kind = MirrorMean if shape.mirror else keras.Model
    return kind(images, SoftArgmax(name="keypoints")(heat), name="keypoints")


class MirrorMean(keras.Model):  # type: ignore[misc]  # Keras has no types
    """A key-point network that, except in training, looks at every face and its mirror image and takes the mean."""

    def call(self, images: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Find the points: uint8 [N, 48, 48] to float32 [N, 15, 2]."""
        points = super().call(images, training=training, mask=mask)
        if training:
            return points
        offset = self.get_layer("keypoints").offset
        mirrored = super().call(images[:, :, ::-1], training=training, mask=mask) - offset
        x, y = keras.ops.unstack(keras.ops.take(mirrored, MIRRORED, axis=1), axis=-1)
        back = keras.ops.stack([IMAGE_SIZE - 1 - x, y], axis=-1)
        return (points + back + offset) / 2


def transfer(source: keras.Model, target: keras.Model) -> int:
    """Copy the weights of every layer that both networks have under the same name and in the same shapes.

    Returns:
        How many layers were copied.
    """
    known = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    copied = 0
    for layer in target.layers:
        weights = known.get(layer.name, [])
        if weights and [weight.shape for weight in weights] == [tuple(weight.shape) for weight in layer.weights]:
            layer.set_weights(weights)
            copied += 1
    return copied


class SoftArgmax(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Where each map is warm: the mean place of its softmax (Nibali et al. 2018, "Numerical Coordinate Regression").

    Float [N, n, n, K] to (x, y) pixels, float32 [N, K, 2]. The maps cover the image and one cell more on every side.

    Attributes:
        offset: float32 [2], pixels by which labels lie beside what they mark, all points and faces alike. A network
            that sees every face mirrored as well cannot learn such a thing by itself, since the two sides cancel; so it
            is a weight of its own, and `Trainer` mirrors what is marked, not the labels.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(dtype="float32", **options)

    def build(self, shape: Any) -> None:  # noqa: ARG002
        """Make the offset, of nothing at first."""
        self.offset = self.add_weight((2,), initializer="zeros", name="offset")

    def call(self, heat: Any) -> Any:
        """Compute the places."""
        cells = heat.shape[1]
        pixels = IMAGE_SIZE / (cells - 2)
        centres = (np.arange(cells) - 0.5) * pixels - 0.5
        places = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2).astype(np.float32)
        share = keras.ops.softmax(keras.ops.reshape(heat, (-1, cells * cells, heat.shape[-1])), axis=1)
        return keras.ops.einsum("npk,pc->nkc", share, places) + self.offset


def _backbone(shape: Network) -> tuple[Any, list[Any]]:
    """Build the shared trunk; returns its input and the maps that each stage ends with."""
    images = keras.Input((IMAGE_SIZE, IMAGE_SIZE), dtype="uint8", name="images")
    x = layers.Reshape((IMAGE_SIZE, IMAGE_SIZE, 1), dtype="uint8", name="channel")(images)
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(x)
    # Most of a network's time goes into its first, largest maps: halve them at once.
    size, stride = (5, 2) if shape.early else (3, 1)
    x = layers.Conv2D(
        shape.stem, size, stride, "same", use_bias=False, kernel_initializer="he_normal", name="stem_conv"
    )(x)
    if not shape.early:
        x = layers.MaxPooling2D(name="stem_pool")(x)
    x = layers.ReLU(name="stem_relu")(_normalization("stem_norm")(x))
    maps = []
    for stage, (filters, depth) in enumerate(zip(shape.widths, shape.depths, strict=True), start=1):
        for block in range(depth):
            halve = block == 0 and (stage > 1 or shape.early)
            name = f"stage{stage}_{block + 1}" if block else f"stage{stage}"
            x = BLOCKS[shape.blocks](x, filters, 2 if halve else 1, name)
        maps.append(x)
    return images, maps


def _join(x: Any, y: Any, filters: int, stride: int, name: str) -> Any:
    if stride > 1 or x.shape[-1] != filters:
        x = _convolution(x, filters, 1, stride, f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def _convolution(x: Any, filters: int, size: int, stride: int, name: str) -> Any:
    x = layers.Conv2D(
        filters, size, stride, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    return _normalization(f"{name}_norm")(x)


def _depthwise(x: Any, stride: int, name: str) -> Any:
    x = layers.DepthwiseConv2D(3, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    return _normalization(f"{name}_norm")(x)


def _normalization(name: str) -> Any:
    if keras.backend.backend() != "tensorflow":
        return layers.BatchNormalization(name=name)
    from mien_training.fused_normalization import normalization

    return normalization(name)
