"""Training faces made different each time they are seen, and their key points moved along with them.

`augment` leaves a face as good a picture as it was; `degrade` takes from it, so that networks learn to do without.
"""

import math
from typing import Any

import tensorflow as tf
from mien_client.contract import IMAGE_SIZE

from mien_training.configs import COVERED_SHARE, JPEG_QUALITIES, SHARP, Augmentation
from mien_training.models import MIRRORED


def augment(images: Any, keypoints: Any, seed: Any, limits: Augmentation) -> tuple[Any, Any]:
    """Mirror, shift, turn, zoom and light faces at random.

    Args:
        images: uint8 [N, 48, 48].
        keypoints: float32 [N, 15, 2] in pixels, NaN where missing.
        seed: int32 [2]; the same seed gives the same result.
        limits: How far each change may go.

    Returns:
        The changed images, uint8 [N, 48, 48], and where the points are in them, float32 [N, 15, 2].
    """
    seeds = tf.random.split(seed, 2)
    count = tf.shape(images)[0]
    images, keypoints = _warp(images, keypoints, seeds[0], count, limits)
    return _grey_levels(_light(images, seeds[1], count, limits)), keypoints


def degrade(images: Any, seed: Any, limits: Augmentation) -> Any:
    """Blur, compress and partly cover half of the faces each, at random.

    Args:
        images: uint8 [N, 48, 48].
        seed: int32 [2]; the same seed gives the same result.
        limits: How far each change may go.

    Returns:
        uint8 [N, 48, 48].
    """
    seeds = tf.random.split(tf.random.fold_in(seed, 1), 4)
    count = tf.shape(images)[0]
    images = tf.cast(images, tf.float32)
    if limits.blur:
        images = _blur(images, seeds[0], count, limits.blur)
    if limits.cutout:
        images = _cover(images, seeds[1], seeds[2], count, limits.cutout)
    images = _grey_levels(images)
    if limits.jpeg:
        images = _compress(images, seeds[3], count, limits.jpeg)
    return images


def _warp(images: Any, keypoints: Any, seed: Any, count: Any, limits: Augmentation) -> tuple[Any, Any]:
    unit = tf.random.stateless_uniform([count, 5], seed, -1.0, 1.0)
    mirror = tf.where(unit[:, 0] < 0, -1.0, 1.0)
    angle = unit[:, 1] * limits.rotation * math.pi / 180
    return warp(images, keypoints, mirror, angle, 1.0 + unit[:, 2] * limits.zoom, unit[:, 3:5] * limits.shift)


def warp(images: Any, keypoints: Any, mirror: Any, angle: Any, zoom: Any, shift: Any) -> tuple[Any, Any]:
    """Mirror, turn, zoom and shift faces about the middle of the image, and their points along with them.

    Args:
        images: uint8 [N, 48, 48].
        keypoints: float32 [N, 15, 2] in pixels, NaN where missing.
        mirror: float32 [N], -1 for those to mirror, else 1.
        angle: float32 [N], radians.
        zoom: float32 [N].
        shift: float32 [N, 2], pixels right and down.

    Returns:
        The images, float32 [N, 48, 48], and the points.
    """
    # A point p of the face goes to q = matrix · (p - centre) + centre + shift.
    cos, sin = zoom * tf.cos(angle), zoom * tf.sin(angle)
    matrix = tf.reshape(tf.stack([mirror * cos, -sin, mirror * sin, cos], axis=1), [-1, 2, 2])
    centre = tf.constant([(IMAGE_SIZE - 1) / 2] * 2)
    moved = tf.einsum("nij,npj->npi", matrix, keypoints - centre) + centre + shift[:, None]
    swapped = tf.gather(moved, MIRRORED, axis=1)
    keypoints = tf.where(mirror[:, None, None] < 0, swapped, moved)
    # The image operation wants the way back, from a pixel of the result to where its grey comes from.
    back = tf.linalg.inv(matrix)
    offset = centre - tf.einsum("nij,nj->ni", back, centre + shift)
    transform = tf.stack(
        [back[:, 0, 0], back[:, 0, 1], offset[:, 0], back[:, 1, 0], back[:, 1, 1], offset[:, 1]]
        + [tf.zeros_like(angle)] * 2,
        axis=1,
    )
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images[..., None], tf.float32),
        transforms=transform,
        output_shape=[IMAGE_SIZE, IMAGE_SIZE],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return warped[..., 0], keypoints


def _light(images: Any, seed: Any, count: Any, limits: Augmentation) -> Any:
    unit = tf.random.stateless_uniform([count, 2, 1, 1], seed, -1.0, 1.0)
    mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
    return (images - mean) * (1.0 + unit[:, 0] * limits.contrast) + mean + unit[:, 1] * limits.brightness


def _blur(images: Any, seed: Any, count: Any, strongest: float) -> Any:
    """Blur half of the faces by a Gaussian of up to `strongest` pixels, each by its own."""
    sigma = tf.maximum(tf.random.stateless_uniform([count], seed, -strongest, strongest), SHARP)
    reach = math.ceil(3 * strongest)
    weights = tf.exp(-tf.square(tf.range(-reach, reach + 1, dtype=tf.float32))[:, None] / (2 * tf.square(sigma)))
    weights /= tf.reduce_sum(weights, axis=0)
    # One picture with a channel for each face, as every channel of a depthwise convolution has a kernel of its own.
    faces = tf.pad(tf.transpose(images, [1, 2, 0]), [[reach, reach], [reach, reach], [0, 0]], "SYMMETRIC")[None]
    for kernel in (weights[:, None, :, None], weights[None, :, :, None]):
        faces = tf.nn.depthwise_conv2d(faces, kernel, [1, 1, 1, 1], "VALID")
    return tf.transpose(faces[0], [2, 0, 1])


def _compress(images: Any, seed: Any, count: Any, lowest: int) -> Any:
    """Send half of the faces, uint8 [N, 48, 48], through JPEG of a quality from `lowest` up."""
    qualities = tf.random.stateless_uniform([count], seed, lowest, 2 * JPEG_QUALITIES - lowest, tf.int32)

    def through_jpeg(image: Any, quality: Any) -> Any:
        encoded = tf.raw_ops.EncodeJpegVariableQuality(images=image[..., None], quality=quality)
        decoded: Any = tf.ensure_shape(tf.io.decode_jpeg(encoded, channels=1)[..., 0], [IMAGE_SIZE, IMAGE_SIZE])
        return decoded

    return tf.map_fn(
        lambda one: tf.cond(one[1] < JPEG_QUALITIES, lambda: through_jpeg(*one), lambda: one[0]),
        (images, qualities),
        fn_output_signature=tf.TensorSpec([IMAGE_SIZE, IMAGE_SIZE], tf.uint8),
    )


def _cover(images: Any, place_seed: Any, grey_seed: Any, count: Any, largest: int) -> Any:
    """Paint a rectangle of one grey level over some of the faces."""
    unit = tf.random.stateless_uniform([count, 5], place_seed)
    middle = unit[:, :2] * IMAGE_SIZE
    half = tf.where(unit[:, 4:] < COVERED_SHARE, unit[:, 2:4] * largest / 2, 0.0)
    axis = tf.range(IMAGE_SIZE, dtype=tf.float32)
    inside = tf.abs(axis - middle[..., None]) < half[..., None]
    mask = inside[:, 0, :, None] & inside[:, 1, None, :]
    return tf.where(mask, tf.random.stateless_uniform([count, 1, 1], grey_seed, 0, 255), images)


def _grey_levels(images: Any) -> Any:
    return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)
