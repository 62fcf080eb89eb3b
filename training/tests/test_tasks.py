"""Losses and class weights."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from mien_training.configs import CONFIGS
from mien_training.splits import Faces
from mien_training.tasks import HUBER, class_weights, emotion_loss, emotion_targets, keypoint_loss
from mien_training.votes import VOTE_COLUMNS


def test_missing_points_count_neither_in_the_loss_nor_in_its_gradient():
    config = CONFIGS["keypoints"]
    points = np.full((2, 15, 2), 20, np.float32)
    points[0, 3:] = np.nan
    predicted = tf.Variable(np.full((2, 15, 2), 23, np.float32))
    with tf.GradientTape() as tape:
        loss = keypoint_loss(points, predicted, None, None, config)
    gradient = tape.gradient(loss, predicted).numpy()
    assert float(loss) == pytest.approx(3 - HUBER / 2)
    assert (gradient[0, 3:] == 0).all()
    np.testing.assert_allclose(gradient[0, :3], 1 / 36)  # 36 coordinates are there
    np.testing.assert_allclose(gradient[1], 1 / 36)


def test_faces_without_any_point_have_a_loss_of_zero():
    loss = keypoint_loss(
        np.full((2, 15, 2), np.nan, np.float32), tf.zeros((2, 15, 2)), None, None, CONFIGS["keypoints"]
    )
    assert float(loss) == 0


def test_class_weights_raise_rare_emotions_and_are_one_on_average_over_the_faces():
    labels = np.repeat(np.arange(5), [100, 25, 400, 100, 100])
    targets = np.eye(5, dtype=np.float32)[labels]
    half = class_weights(targets, 0.5)
    assert half[1] / half[2] == pytest.approx(4)
    assert half[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(targets, 0.0), 1)
    whole = class_weights(targets, 1.0)
    np.testing.assert_allclose(whole * np.bincount(labels), whole[0] * 100, rtol=1e-5)


def test_an_emotion_without_faces_has_no_weight():
    weights = class_weights(np.eye(5, dtype=np.float32)[[0, 0, 3]], 0.5)
    assert (weights[[1, 2, 4]] == 0).all()
    assert np.isfinite(weights).all()


def test_the_emotion_loss_is_least_for_the_right_answer_and_follows_the_weights():
    targets = tf.one_hot([2], 5)
    ones, heavy = tf.ones(5), tf.constant([1.0, 1, 3, 1, 1])
    right, wrong = targets * 6, tf.one_hot([0], 5) * 6
    losses = [float(emotion_loss(targets, logits, None, ones, CONFIGS["emotion"])) for logits in (right, wrong)]
    assert losses[0] < losses[1]
    assert float(emotion_loss(targets, wrong, None, heavy, CONFIGS["emotion"])) == pytest.approx(3 * losses[1])


def test_a_teacher_has_its_share_of_the_loss():
    config = replace(CONFIGS["emotion"], teacher=0.25, label_smoothing=0.0)
    targets, ones = tf.one_hot([2], 5), tf.ones(5)
    logits = tf.constant([[0.0, 0, 2, 0, 1]])
    alone = float(emotion_loss(targets, logits, None, ones, config))
    answers = tf.nn.softmax(logits)
    entropy = -float(tf.reduce_sum(answers * tf.math.log(answers)))
    taught = float(emotion_loss(targets, logits, answers, ones, config))
    assert taught == pytest.approx(0.75 * alone + 0.25 * entropy)


def test_a_key_point_teacher_has_its_share_of_the_loss_also_where_labels_are_missing():
    config = replace(CONFIGS["keypoints"], teacher=0.25)
    points, predicted, taught = (np.full((1, 15, 2), value, np.float32) for value in (20, 23, 24))
    points[0, 3:] = np.nan
    alone = float(keypoint_loss(points, predicted, None, None, config))
    assert float(keypoint_loss(points, predicted, taught, None, config)) == pytest.approx(
        0.75 * alone + 0.25 * (1 - HUBER / 2)
    )


def test_votes_and_labels_are_blended_by_the_recipe():
    counts = np.zeros((1, len(VOTE_COLUMNS)), np.int32)
    counts[0, VOTE_COLUMNS.index("fear")] = 10
    faces = Faces(np.zeros((1, 48, 48), np.uint8), np.array([2], np.int32), counts)
    config = replace(CONFIGS["emotion"], votes=0.75)
    np.testing.assert_allclose(emotion_targets(faces, config), [[0, 0, 0.25, 0, 0, 0.75, 0]])
    np.testing.assert_allclose(emotion_targets(replace(faces, votes=None), config), [[0, 0, 1, 0, 0, 0, 0]])
