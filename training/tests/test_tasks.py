"""Losses and class weights."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from mien_training.configs import CONFIGS
from mien_training.tasks import HUBER, class_weights, emotion_loss, keypoint_loss


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


def test_faces_without_any_point_do_no_harm():
    loss = keypoint_loss(
        np.full((2, 15, 2), np.nan, np.float32), tf.zeros((2, 15, 2)), None, None, CONFIGS["keypoints"]
    )
    assert float(loss) == 0


def test_class_weights_lift_rare_emotions_and_keep_the_mean_face_at_one():
    labels = np.repeat(np.arange(5), [100, 25, 400, 100, 100]).astype(np.int32)
    half = class_weights(labels, 5, 0.5)
    assert half[1] / half[2] == pytest.approx(4)
    assert half[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(labels, 5, 0.0), 1)
    whole = class_weights(labels, 5, 1.0)
    np.testing.assert_allclose(whole * np.bincount(labels), whole[0] * 100, rtol=1e-5)


def test_an_emotion_without_faces_weighs_nothing():
    weights = class_weights(np.array([0, 0, 3], np.int32), 5, 0.5)
    assert (weights[[1, 2, 4]] == 0).all()
    assert np.isfinite(weights).all()


def test_the_emotion_loss_is_least_for_the_right_answer_and_follows_the_weights():
    labels = tf.constant([2])
    ones, heavy = tf.ones(5), tf.constant([1.0, 1, 3, 1, 1])
    right, wrong = tf.one_hot(labels, 5) * 6, tf.one_hot([0], 5) * 6
    losses = [float(emotion_loss(labels, logits, None, ones, CONFIGS["emotion"])) for logits in (right, wrong)]
    assert losses[0] < losses[1]
    assert float(emotion_loss(labels, wrong, None, heavy, CONFIGS["emotion"])) == pytest.approx(3 * losses[1])


def test_a_teacher_has_its_share_of_the_loss():
    config = replace(CONFIGS["emotion"], teacher=0.25, label_smoothing=0.0)
    labels, ones = tf.constant([2]), tf.ones(5)
    logits = tf.constant([[0.0, 0, 2, 0, 1]])
    alone = float(emotion_loss(labels, logits, None, ones, config))
    answers = tf.nn.softmax(logits)
    entropy = -float(tf.reduce_sum(answers * tf.math.log(answers)))
    taught = float(emotion_loss(labels, logits, answers, ones, config))
    assert taught == pytest.approx(0.75 * alone + 0.25 * entropy)


def test_a_teacher_has_no_say_in_the_classes_that_only_training_knows():
    config = replace(CONFIGS["emotion"], teacher=1.0)
    labels, logits, taught = tf.constant([2]), tf.constant([[0.0, 0, 2, 0, 1]]), tf.constant([[0.1, 0.2, 0.3, 0.4, 0]])
    more = tf.concat([logits, [[7.0, -7.0]]], axis=1)
    five = emotion_loss(labels, logits, taught, tf.ones(5), config)
    seven = emotion_loss(labels, more, taught, tf.ones(7), config)
    assert float(five) == pytest.approx(float(seven))
