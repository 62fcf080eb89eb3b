"""What `mien_training.augmentation` does to faces, in JAX, by other random numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from mien_client.contract import IMAGE_SIZE

from mien_training.configs import COVERED_SHARE, JPEG_QUALITIES, SHARP, Augmentation
from mien_training.models import MIRRORED

_BLOCK = 8
# The luminance table of ITU-T T.81, annex K.1, and the cosines of its annex A.3.3.
_QUANTA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
_COSINES = np.array(
    [
        [math.cos((2 * x + 1) * u * math.pi / 16) * (math.sqrt(1 / 8) if u == 0 else 0.5) for x in range(_BLOCK)]
        for u in range(_BLOCK)
    ],
    np.float32,
)


def augment(images: Array, keypoints: Array, key: Array, limits: Augmentation) -> tuple[Array, Array]:
    """Mirror, shift, turn, zoom and light faces at random.

    Args:
        images: uint8 [N, 48, 48].
        keypoints: float32 [N, 15, 2] in pixels, NaN where missing.
        key: Of JAX's random numbers.
        limits: How far each change may go.

    Returns:
        The changed images, uint8 [N, 48, 48], and where the points are in them, float32 [N, 15, 2].
    """
    warp_key, light_key = jax.random.split(key)
    unit = jax.random.uniform(warp_key, (len(images), 5), minval=-1.0)
    mirror = jnp.where(unit[:, 0] < 0, -1.0, 1.0)
    angle = unit[:, 1] * limits.rotation * math.pi / 180
    faces, keypoints = warp(images, keypoints, mirror, angle, 1 + unit[:, 2] * limits.zoom, unit[:, 3:] * limits.shift)
    unit = jax.random.uniform(light_key, (len(images), 2, 1, 1), minval=-1.0)
    mean = faces.mean(axis=(1, 2), keepdims=True)
    lit = (faces - mean) * (1 + unit[:, 0] * limits.contrast) + mean + unit[:, 1] * limits.brightness
    return _grey_levels(lit), keypoints


def degrade(images: Array, key: Array, limits: Augmentation) -> Array:
    """Blur, compress and partly cover half of the faces each, at random.

    Args:
        images: uint8 [N, 48, 48].
        key: Of JAX's random numbers.
        limits: How far each change may go.

    Returns:
        uint8 [N, 48, 48].
    """
    blur_key, place_key, grey_key, jpeg_key = jax.random.split(key, 4)
    faces = images.astype(jnp.float32)
    if limits.blur:
        sigma = jax.random.uniform(blur_key, (len(faces),), minval=-limits.blur, maxval=limits.blur)
        faces = blur(faces, jnp.maximum(sigma, SHARP), math.ceil(3 * limits.blur))
    if limits.cutout:
        faces = _cover(faces, place_key, grey_key, limits.cutout)
    faces = _grey_levels(faces)
    if limits.jpeg:
        qualities = jax.random.randint(jpeg_key, (len(faces),), limits.jpeg, 2 * JPEG_QUALITIES - limits.jpeg)
        faces = jnp.where((qualities < JPEG_QUALITIES)[:, None, None], through_jpeg(faces, qualities), faces)
    return faces


def warp(
    images: Array, keypoints: Array, mirror: Array, angle: Array, zoom: Array, shift: Array
) -> tuple[Array, Array]:
    """Mirror, turn, zoom and shift faces and their points, as `mien_training.augmentation.warp` does."""
    cos, sin = zoom * jnp.cos(angle), zoom * jnp.sin(angle)
    matrix = jnp.stack([mirror * cos, -sin, mirror * sin, cos], axis=1).reshape(-1, 2, 2)
    centre = (IMAGE_SIZE - 1) / 2
    moved = jnp.einsum("nij,npj->npi", matrix, keypoints - centre) + centre + shift[:, None]
    keypoints = jnp.where(mirror[:, None, None] < 0, moved[:, jnp.array(MIRRORED)], moved)
    axis = jnp.arange(IMAGE_SIZE, dtype=jnp.float32)
    pixels = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(1, -1, 2)
    source = jnp.einsum("nij,npj->npi", jnp.linalg.inv(matrix), pixels - centre - shift[:, None]) + centre
    source = jnp.clip(source, 0, IMAGE_SIZE - 1)
    corner = jnp.minimum(jnp.floor(source), IMAGE_SIZE - 2).astype(jnp.int32)
    right, down = jnp.moveaxis(source - corner, -1, 0)
    flat = images.reshape(len(images), -1).astype(jnp.float32)
    first = corner[..., 1] * IMAGE_SIZE + corner[..., 0]

    def grey(offset: int) -> Array:
        return jnp.take_along_axis(flat, first + offset, axis=1)

    upper = grey(0) * (1 - right) + grey(1) * right
    lower = grey(IMAGE_SIZE) * (1 - right) + grey(IMAGE_SIZE + 1) * right
    return (upper * (1 - down) + lower * down).reshape(images.shape), keypoints


def blur(faces: Array, sigma: Array, reach: int) -> Array:
    """Blur each face, float32 [N, 48, 48], by a Gaussian of its own `sigma`, float32 [N], cut off at `reach` pixels."""
    taps = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    weights = jnp.exp(-(taps**2) / (2 * sigma[:, None] ** 2))
    weights = (weights / weights.sum(axis=1, keepdims=True))[:, :, None, None]
    padded = jnp.pad(faces, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    rows = sum((weights[:, tap] * padded[:, tap : tap + IMAGE_SIZE] for tap in range(2 * reach + 1)), jnp.zeros(()))
    return sum((weights[:, tap] * rows[:, :, tap : tap + IMAGE_SIZE] for tap in range(2 * reach + 1)), jnp.zeros(()))


def through_jpeg(images: Array, qualities: Array) -> Array:
    """Lose what JPEG loses of each face, uint8 [N, 48, 48], at its own quality, int32 [N], 1 to 100.

    Only the rounding of the discrete cosine transform is left to do, since nothing else in JPEG loses anything of a
    grey image whose sides are multiples of 8 (ITU-T T.81). Qualities scale the table as libjpeg does.
    """
    quality = qualities.astype(jnp.float32)[:, None, None]
    scale = jnp.floor(jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality))
    table = jnp.clip(jnp.floor((_QUANTA * scale + 50) / 100), 1, 255)[:, None, :, None, :]
    blocks = images.reshape(-1, IMAGE_SIZE // _BLOCK, _BLOCK, IMAGE_SIZE // _BLOCK, _BLOCK).astype(jnp.float32) - 128
    exact = jax.lax.Precision.HIGHEST
    waves = jnp.einsum("nrycx,vy,ux->nrvcu", blocks, _COSINES, _COSINES, precision=exact)
    kept = jnp.round(waves / table) * table
    back = jnp.einsum("nrvcu,vy,ux->nrycx", kept, _COSINES, _COSINES, precision=exact)
    return _grey_levels(back + 128).reshape(images.shape)


def _cover(faces: Array, place_key: Array, grey_key: Array, largest: int) -> Array:
    unit = jax.random.uniform(place_key, (len(faces), 5))
    middle = unit[:, :2] * IMAGE_SIZE
    half = jnp.where(unit[:, 4:] < COVERED_SHARE, unit[:, 2:4] * largest / 2, 0.0)
    inside = jnp.abs(jnp.arange(IMAGE_SIZE) - middle[..., None]) < half[..., None]
    grey = jax.random.uniform(grey_key, (len(faces), 1, 1), maxval=255)
    return jnp.where(inside[:, 0, :, None] & inside[:, 1, None, :], grey, faces)


def _grey_levels(images: Array) -> Array:
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)
