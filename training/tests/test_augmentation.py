"""Changing faces, and their points with them."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from mien_client.contract import KEYPOINTS
from mien_training.augmentation import augment, degrade
from mien_training.configs import CONFIGS, Augmentation
from mien_training.models import MIRRORED

STILL = Augmentation(shift=0, rotation=0, zoom=0, contrast=0, brightness=0, blur=0, cutout=0, jpeg=0)
MOVING = replace(STILL, shift=4, rotation=20, zoom=0.2)


def test_mirroring_swaps_left_and_right_points_and_keeps_the_middle_ones():
    for here, there in enumerate(MIRRORED):
        assert MIRRORED[there] == here
        names = {KEYPOINTS[here].split("_")[0], KEYPOINTS[there].split("_")[0]}
        assert names in ({"left", "right"}, {"nose"}, {"mouth"})
    assert KEYPOINTS[MIRRORED[KEYPOINTS.index("mouth_left_corner")]] == "mouth_right_corner"
    assert KEYPOINTS[MIRRORED[KEYPOINTS.index("left_eye_inner_corner")]] == "right_eye_inner_corner"
    assert KEYPOINTS[MIRRORED[KEYPOINTS.index("nose_tip")]] == "nose_tip"


def test_without_any_change_a_face_is_itself_or_its_mirror_image():
    images = np.random.default_rng(0).integers(0, 256, (32, 48, 48), np.uint8)
    points = np.random.default_rng(1).uniform(0, 47, (32, 15, 2)).astype(np.float32)
    changed, moved = (array.numpy() for array in augment(images, points, [0, 0], STILL))
    mirrored = np.array([not np.array_equal(a, b) for a, b in zip(images, changed, strict=True)])
    assert 4 < mirrored.sum() < 28
    np.testing.assert_array_equal(changed[mirrored], images[mirrored, :, ::-1])
    np.testing.assert_allclose(moved[~mirrored], points[~mirrored], atol=1e-4)
    expected = (points * [-1, 1] + [47, 0])[mirrored][:, MIRRORED]
    np.testing.assert_allclose(moved[mirrored], expected, atol=1e-4)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), x=st.floats(14, 33), y=st.floats(14, 33))
def test_points_follow_the_image(seed, x, y):
    """A soft white dot at a point is, after the change, at the changed point, to a tenth of a pixel."""
    columns, rows = np.meshgrid(np.arange(48), np.arange(48))
    image = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    images = np.repeat(np.round(image)[None].astype(np.uint8), 8, axis=0)
    points = np.tile(np.array([x, y], np.float32), (8, 15, 1))
    changed, moved = (array.numpy().astype(float) for array in augment(images, points, [seed, 1], MOVING))
    total = changed.sum(axis=(1, 2))
    centres = (
        np.stack([(changed * columns).sum(axis=(1, 2)), (changed * rows).sum(axis=(1, 2))], axis=1) / total[:, None]
    )
    np.testing.assert_allclose(moved, np.repeat(centres[:, None], 15, axis=1), atol=0.1)


@pytest.mark.parametrize("model", CONFIGS)
def test_the_seed_decides_and_missing_points_stay_missing(model):
    images = np.random.default_rng(0).integers(0, 256, (8, 48, 48), np.uint8)
    points = np.full((8, 15, 2), 20, np.float32)
    points[:, [0, 11]] = np.nan
    first, again, other = (augment(images, points, [0, seed], CONFIGS[model].augmentation) for seed in (5, 5, 6))
    tf.debugging.assert_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    assert first[0].dtype == tf.uint8
    missing = np.isnan(first[1].numpy()).any(axis=2)
    pairs = {frozenset(np.flatnonzero(row)) for row in missing}
    assert pairs <= {frozenset({0, 11}), frozenset({MIRRORED[0], MIRRORED[11]})}
    assert len(pairs) == 2


@pytest.mark.parametrize("model", CONFIGS)
def test_the_seed_decides_what_is_degraded_too(model):
    images = np.random.default_rng(0).integers(0, 256, (32, 48, 48), np.uint8)
    first, again, other = (degrade(images, [0, seed], CONFIGS[model].augmentation) for seed in (5, 5, 6))
    tf.debugging.assert_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == tf.uint8


def test_nothing_is_degraded_unless_asked_for():
    images = np.random.default_rng(0).integers(0, 256, (8, 48, 48), np.uint8)
    np.testing.assert_array_equal(degrade(images, [0, 0], STILL), images)


def test_covering_paints_one_grey_over_a_part_of_about_half_of_the_faces():
    images = np.full((64, 48, 48), 100, np.uint8)
    changed = degrade(images, [0, 0], replace(STILL, cutout=12)).numpy()
    covered = (changed != 100).sum(axis=(1, 2))
    assert 16 < (covered > 0).sum() < 48
    assert covered.max() <= 13 * 13


def test_half_of_the_faces_are_blurred_each_by_its_own_gaussian():
    images = np.zeros((64, 48, 48), np.uint8)
    images[:, 20, 30] = 255
    changed = degrade(images, [0, 0], replace(STILL, blur=2)).numpy().astype(float)
    blurred = np.array([not np.array_equal(a, b) for a, b in zip(images, changed, strict=True)])
    assert 16 < blurred.sum() < 48
    peaks = changed[blurred, 20, 30]
    assert len(set(peaks)) > 8
    assert peaks.min() > 0.9 * 255 / (2 * np.pi * 2**2)  # the peak of the strongest Gaussian
    np.testing.assert_array_equal(changed[blurred].max(axis=(1, 2)), peaks)  # it stays where it was


def test_blurring_keeps_a_plain_face_plain_up_to_its_edges():
    images = np.full((16, 48, 48), 100, np.uint8)
    np.testing.assert_array_equal(degrade(images, [0, 0], replace(STILL, blur=2)), images)


def test_half_of_the_faces_go_through_jpeg_and_stay_like_themselves():
    columns, rows = np.meshgrid(np.arange(48), np.arange(48))
    image = np.round(127 + 100 * np.sin(columns / 5) * np.cos(rows / 4)).astype(np.uint8)
    images = np.repeat(image[None], 64, axis=0)
    changed = degrade(images, [0, 0], replace(STILL, jpeg=15)).numpy()
    errors = np.abs(changed.astype(float) - images).mean(axis=(1, 2))
    assert 16 < (errors > 0).sum() < 48
    assert len(set(errors)) > 8  # of many qualities
    assert errors.max() < 10
