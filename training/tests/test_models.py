"""The two networks."""

import keras
import numpy as np
import pytest
from mien_training.models import emotion_network, keypoint_network, residual_block

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
