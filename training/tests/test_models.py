"""The two networks."""

import keras
import numpy as np
import pytest
from mien_training.models import MIRRORED, SoftArgmax, emotion_network, keypoint_network, residual_block, transfer

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)


def test_both_take_raw_images_and_answer_as_the_contract_says():
    assert emotion_network((4, 8), 0.1)(IMAGES).shape == (3, 5)
    assert keypoint_network((4, 8), 0.1)(IMAGES).shape == (3, 15, 2)


@pytest.mark.parametrize("build", [emotion_network, keypoint_network])
def test_both_are_made_of_the_same_residual_blocks(build):
    names = {layer.name for layer in build((4, 8, 16), 0.1).layers}
    assert {f"stage{stage}_add" for stage in (1, 2, 3)} <= names


def test_a_block_whose_convolutions_are_silent_passes_its_input_on():
    inputs = keras.Input((6, 6, 4))
    block = keras.Model(inputs, residual_block(inputs, 4, 1, "block"))
    block.get_layer("block_b_norm").set_weights([np.zeros(4), np.zeros(4), np.zeros(4), np.ones(4)])
    features = np.random.default_rng(0).random((2, 6, 6, 4), np.float32)
    np.testing.assert_allclose(block(features), features)


@pytest.mark.parametrize(("filters", "stride", "shape"), [(4, 1, (6, 6, 4)), (8, 1, (6, 6, 8)), (8, 2, (3, 3, 8))])
def test_a_blocks_shape(filters, stride, shape):
    inputs = keras.Input((6, 6, 4))
    assert residual_block(inputs, filters, stride, "block").shape[1:] == shape


@pytest.mark.parametrize(("row", "column", "point"), [(1, 1, (1.5, 1.5)), (12, 1, (1.5, 45.5)), (0, 13, (49.5, -2.5))])
def test_a_point_is_in_the_middle_of_the_four_pixels_where_its_map_is_warm(row, column, point):
    """12 cells of four pixels cover the image; one more on every side lies outside."""
    heat = np.zeros((1, 14, 14, 15), np.float32)
    heat[0, row, column, 3] = 100
    points = SoftArgmax()(heat).numpy()
    np.testing.assert_allclose(points[0, 3], point, atol=1e-4)
    np.testing.assert_allclose(points[0, 4], (23.5, 23.5), atol=1e-4)  # a map that is warm nowhere: the centre


def test_a_point_between_two_cells_lies_between_them():
    heat = np.full((1, 14, 14, 15), -100, np.float32)
    heat[0, 5, 5:7] = 0
    np.testing.assert_allclose(SoftArgmax()(heat).numpy()[0, 0], (19.5, 17.5), atol=1e-4)


def test_layers_of_the_same_name_and_shape_are_transferred_and_no_others():
    source, target = emotion_network((4, 8, 16), 0.1), keypoint_network((4, 8, 12), 0.1)
    before = {layer.name: layer.get_weights() for layer in target.layers}
    assert transfer(source, target) > 0
    same, other = target.get_layer("stage2_a_conv"), target.get_layer("stage3_a_conv")
    np.testing.assert_array_equal(same.get_weights()[0], source.get_layer("stage2_a_conv").get_weights()[0])
    np.testing.assert_array_equal(other.get_weights()[0], before["stage3_a_conv"][0])


def test_a_face_and_its_mirror_image_get_mirrored_points_except_for_the_labels_offset():
    network = keypoint_network((4, 8), 0.1)
    network.get_layer("keypoints").offset.assign([0.5, -0.25])
    points, mirrored = (network(images, training=False).numpy() for images in (IMAGES, IMAGES[:, :, ::-1]))
    marked, marked_mirrored = points - [0.5, -0.25], mirrored - [0.5, -0.25]
    np.testing.assert_allclose(marked_mirrored[:, MIRRORED] * [-1, 1] + [47, 0], marked, atol=1e-4)
