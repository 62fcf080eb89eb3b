"""Holding faces out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mien_client import DataError
from mien_client.kaggle import EmotionData, KeypointData
from mien_client.splits import split_by_person
from mien_training.splits import add_others, split_emotion, split_keypoints
from sklearn.model_selection import GroupShuffleSplit


def emotion_data(labels, usage=None):
    images = np.zeros((len(labels), 48, 48), np.uint8)
    images[:, 0, 0] = np.arange(len(labels))
    rows = np.arange(len(labels))
    return EmotionData(images, np.array(labels, np.int32), None if usage is None else np.array(usage), rows)


def keypoint_data(count):
    images = np.zeros((count, 48, 48), np.uint8)
    images[:, 0, 0] = np.arange(count)
    return KeypointData(images, np.zeros((count, 15, 2), np.float32), np.arange(count))


def numbers(faces):
    return faces.images[:, 0, 0].tolist()


def test_the_files_own_usage_decides_where_there_is_one():
    data = emotion_data([0, 1, 2, 3], ["Training", "PublicTest", "PrivateTest", "Training"])
    split = split_emotion(data, 0.5, 0)
    assert (numbers(split.training), numbers(split.validation)) == ([0, 3], [1])


def test_without_one_every_emotion_is_held_out_in_proportion():
    split = split_emotion(emotion_data([0] * 100 + [1] * 20), 0.1, 0)
    assert np.bincount(split.validation.targets).tolist() == [10, 2]
    assert sorted(numbers(split.training) + numbers(split.validation)) == list(range(120))


def test_training_rows_alone_are_parted_and_private_ones_left_out():
    data = emotion_data([0, 1] * 20, (["Training"] * 38) + ["PrivateTest"] * 2)
    split = split_emotion(data, 0.25, 0)
    assert sorted(numbers(split.training) + numbers(split.validation)) == list(range(38))


def test_the_seed_decides_the_split():
    data = emotion_data([0, 1] * 50)
    assert numbers(split_emotion(data, 0.2, 1).validation) == numbers(split_emotion(data, 0.2, 1).validation)
    assert numbers(split_emotion(data, 0.2, 1).validation) != numbers(split_emotion(data, 0.2, 2).validation)


def test_faces_of_other_emotions_join_the_training_ones_and_validate_nothing():
    split = split_emotion(emotion_data([0, 1, 2, 3], ["Training", "PublicTest", "PrivateTest", "Training"]), 0.5, 0)
    more = add_others(split, emotion_data([5, 6, 5], ["PublicTest", "Training", "PrivateTest"]))
    assert more.training.targets.tolist() == [0, 3, 6]
    assert more.validation is split.validation
    assert add_others(split, emotion_data([5, 6])).training.targets.tolist() == [0, 3, 5, 6]
    assert add_others(split, None) is split


def test_nobody_is_on_both_sides_of_a_key_point_split():
    people = np.arange(100) // 7
    split = split_keypoints(keypoint_data(100), people, 0.3, 0)
    sides = [{people[number] for number in numbers(part)} for part in (split.training, split.validation)]
    assert sides[0] & sides[1] == set()
    assert sides[0] | sides[1] == set(people)


@settings(deadline=None)
@given(
    people=st.lists(st.integers(0, 20), min_size=2, max_size=60).filter(lambda people: len(set(people)) > 1),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_people_held_out_are_those_that_scikit_learn_would_hold_out(people, share, seed):
    """The shipped metrics are of these people."""
    splitter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    try:
        expected = next(splitter.split(people, groups=people))
    except ValueError:
        with pytest.raises(DataError):
            split_by_person(np.array(people), share, seed)
    else:
        for found, wanted in zip(split_by_person(np.array(people), share, seed), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_what_cannot_be_parted_is_refused_in_a_sentence():
    with pytest.raises(DataError, match="cannot be split"):
        split_keypoints(keypoint_data(10), np.zeros(10), 0.3, 0)
    with pytest.raises(DataError, match="cannot be parted"):
        split_emotion(emotion_data([0, 0, 0, 1]), 0.5, 0)
    with pytest.raises(DataError, match="nothing to train on"):
        split_emotion(emotion_data([0, 1], ["PublicTest", "PublicTest"]), 0.5, 0)
