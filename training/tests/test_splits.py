"""The split into training and validation faces."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client import DataError
from mien_client.kaggle import EmotionData, KeypointData
from mien_client.splits import split_by_person
from mien_training.splits import split_emotion, split_keypoints
from mien_training.votes import VOTE_COLUMNS, Votes
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
    split = split_emotion(data, 0.5, 0, others=True)
    assert (numbers(split.training), numbers(split.validation)) == ([0, 3], [1])


def test_without_a_usage_every_emotion_is_held_out_in_proportion():
    split = split_emotion(emotion_data([0] * 100 + [1] * 20), 0.1, 0, others=True)
    assert np.bincount(split.validation.targets).tolist() == [10, 2]
    assert sorted(numbers(split.training) + numbers(split.validation)) == list(range(120))


def test_only_training_rows_are_split_and_private_ones_are_left_out():
    data = emotion_data([0, 1] * 20, (["Training"] * 38) + ["PrivateTest"] * 2)
    split = split_emotion(data, 0.25, 0, others=True)
    assert sorted(numbers(split.training) + numbers(split.validation)) == list(range(38))


def test_the_seed_decides_the_split():
    first, again, other = (split_emotion(emotion_data([0, 1] * 50), 0.2, seed, others=True) for seed in (1, 1, 2))
    assert numbers(first.validation) == numbers(again.validation)
    assert numbers(first.validation) != numbers(other.validation)


def with_others(others=(5, 6, 5)):
    """Faces in rows 0, 2, 4 and 6 with our emotions, and others in rows 1, 3 and 5."""
    usage = np.array(["Training", "PublicTest", "Training", "Training"])
    ours = emotion_data([0, 1, 2, 3], usage)
    theirs = emotion_data(others, usage[:3])
    return replace(ours, rows=np.array([0, 2, 4, 6]), others=replace(theirs, rows=np.array([1, 3, 5])))


def test_faces_of_other_emotions_train_and_validate_as_their_usage_says():
    split = split_emotion(with_others(), 0.5, 0, others=True)
    assert split.training.targets.tolist() == [0, 5, 2, 5, 3]
    assert split.validation.targets.tolist() == [1, 6]


def test_a_recipe_without_others_leaves_them_out():
    split = split_emotion(with_others(), 0.5, 0, others=False)
    assert split.training.targets.tolist() == [0, 2, 3]
    assert split.validation.targets.tolist() == [1]


def votes(rows, **columns):
    """Ten votes for anger in every row, except in the given rows."""
    counts = np.zeros((rows, len(VOTE_COLUMNS)), np.int32)
    counts[:, VOTE_COLUMNS.index("anger")] = 10
    for name, row in columns.items():
        counts[row] = 10 * np.eye(len(VOTE_COLUMNS), dtype=np.int32)[VOTE_COLUMNS.index(name)]
    return Votes("votes.csv", np.full(rows, "Training"), counts)


def test_every_face_has_the_votes_of_its_row():
    split = split_emotion(with_others(), 0.5, 0, others=True, votes=votes(7, happiness=2, sadness=5, fear=6))
    assert split.training.consensus.tolist() == [0, 0, 0, 2, 5]
    assert split.validation.consensus.tolist() == [3, 0]


def test_pictures_that_most_voters_called_not_a_face_validate_but_do_not_train():
    split = split_emotion(with_others(), 0.5, 0, others=True, votes=votes(7, NF=4))
    assert split.training.targets.tolist() == [0, 5, 5, 3]
    split = split_emotion(with_others(), 0.5, 0, others=True, votes=votes(7, NF=2))
    assert split.validation.consensus.tolist() == [5, 0]


def test_no_person_is_on_both_sides_of_a_key_point_split():
    people = np.arange(100) // 7
    split = split_keypoints(keypoint_data(100), people, 0.3, 0)
    sides = [{people[number] for number in numbers(part)} for part in (split.training, split.validation)]
    assert sides[0] & sides[1] == set()
    assert sides[0] | sides[1] == set(people)


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


def test_faces_that_cannot_be_split_are_refused_with_the_reason():
    with pytest.raises(DataError, match="cannot be split"):
        split_keypoints(keypoint_data(10), np.zeros(10, np.int64), 0.3, 0)
    with pytest.raises(DataError, match="cannot be parted"):
        split_emotion(emotion_data([0, 0, 0, 1]), 0.5, 0, others=True)
    with pytest.raises(DataError, match="nothing to train on"):
        split_emotion(emotion_data([0, 1], ["PublicTest", "PublicTest"]), 0.5, 0, others=True)
