"""The two networks."""

import keras
import numpy as np
import pytest
from mien_training.configs import Network
from mien_training.fused_normalization import BatchNormalization
from mien_training.models import (
    BLOCKS,
    MIRRORED,
    SoftArgmax,
    emotion_network,
    keypoint_network,
    transfer,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)


@pytest.fixture(autouse=True)
def single_precision():
    """Compute in float32, whatever earlier tests have trained in."""
    keras.mixed_precision.set_global_policy("float32")


def shape(blocks="basic", early=True, widths=(8, 16), depths=(1, 2), mirror=False):
    return Network(blocks, stem=8, early=early, widths=widths, depths=depths, dropout=0.1, mirror=mirror)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("early", [True, False])
def test_both_networks_take_raw_images_and_answer_as_the_contract_says(blocks, early):
    assert emotion_network(shape(blocks, early))(IMAGES).shape == (3, 5)
    assert keypoint_network(shape(blocks, early))(IMAGES).shape == (3, 15, 2)


def test_further_classes_follow_the_five():
    network = emotion_network(shape(), others=2)
    five = keras.Model(network.input, network.get_layer("logits").output)
    assert network(IMAGES).shape == (3, 7)
    np.testing.assert_allclose(network(IMAGES)[:, :5], five(IMAGES))


def test_normalisation_in_training_is_that_of_keras():
    features = np.random.default_rng(0).normal(3, 2, (16, 6, 6, 4)).astype(np.float32)
    ours, theirs = BatchNormalization(), keras.layers.BatchNormalization()
    for layer in (ours, theirs):
        layer.build(features.shape)
    np.testing.assert_allclose(ours(features, training=True), theirs(features, training=True), atol=1e-4)
    # The moving variance differs as the sample's does from the population's.
    np.testing.assert_allclose(ours(features), theirs(features), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("early", [True, False])
def test_both_networks_are_made_of_the_same_residual_blocks(early):
    for network in (emotion_network(shape(early=early)), keypoint_network(shape(early=early))):
        names = {layer.name for layer in network.layers}
        assert {"stage1_add", "stage2_add", "stage2_2_add"} <= names
        assert network.get_layer("stage1_add").output.shape[1] == (12 if early else 24)
        assert network.get_layer("stage2_2_add").output.shape[1] == (6 if early else 12)


@pytest.mark.parametrize(("blocks", "last"), [("basic", "b"), ("bottleneck", "c"), ("separable", "b")])
def test_a_block_whose_convolutions_are_zero_returns_its_input(blocks, last):
    inputs = keras.Input((6, 6, 4))
    block = keras.Model(inputs, BLOCKS[blocks](inputs, 4, 1, "block"))
    block.get_layer(f"block_{last}_norm").set_weights([np.zeros(4), np.zeros(4), np.zeros(4), np.ones(4)])
    features = np.random.default_rng(0).random((2, 6, 6, 4), np.float32)
    np.testing.assert_allclose(block(features), features)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize(("filters", "stride", "size"), [(4, 1, (6, 6, 4)), (8, 1, (6, 6, 8)), (8, 2, (3, 3, 8))])
def test_a_blocks_shape(blocks, filters, stride, size):
    inputs = keras.Input((6, 6, 4))
    assert BLOCKS[blocks](inputs, filters, stride, "block").shape[1:] == size


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
    source, target = emotion_network(shape(widths=(8, 16))), keypoint_network(shape(widths=(8, 12)))
    before = {layer.name: layer.get_weights() for layer in target.layers}
    assert transfer(source, target) > 0
    same, other = target.get_layer("stage1_a_conv"), target.get_layer("stage2_a_conv")
    np.testing.assert_array_equal(same.get_weights()[0], source.get_layer("stage1_a_conv").get_weights()[0])
    np.testing.assert_array_equal(other.get_weights()[0], before["stage2_a_conv"][0])


def test_a_face_and_its_mirror_image_get_mirrored_points_except_for_the_labels_offset():
    network = keypoint_network(shape(mirror=True))
    network.get_layer("keypoints").offset.assign([0.5, -0.25])
    points, mirrored = (network(images, training=False).numpy() for images in (IMAGES, IMAGES[:, :, ::-1]))
    marked, marked_mirrored = points - [0.5, -0.25], mirrored - [0.5, -0.25]
    np.testing.assert_allclose(marked_mirrored[:, MIRRORED] * [-1, 1] + [47, 0], marked, atol=1e-4)
