"""The FER+ votes: reading them, the consensus of the voters, and the training targets made of them."""

import gzip
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client import DataError, kaggle
from mien_training.votes import (
    NO_CONSENSUS,
    NONE_OF_FIVE,
    VOTE_COLUMNS,
    blend,
    class_votes,
    consensus,
    not_a_face,
    read_votes,
)


def counts(**votes):
    return np.array([[votes.get(name, 0) for name in VOTE_COLUMNS]], np.int32)


rows = st.lists(st.lists(st.integers(0, 10), min_size=10, max_size=10).filter(any), min_size=1, max_size=8).map(
    lambda rows: np.array(rows, np.int32)
)


@pytest.mark.parametrize(
    ("votes", "seen"),
    [
        ({"anger": 6, "neutral": 4}, 0),
        ({"disgust": 10}, 1),
        ({"sadness": 7, "fear": 3}, 2),
        ({"happiness": 6, "unknown": 4}, 3),
        ({"surprise": 6, "fear": 4}, 4),
        ({"neutral": 6, "anger": 4}, NONE_OF_FIVE),
        ({"neutral": 3, "fear": 2, "contempt": 1, "happiness": 4}, NONE_OF_FIVE),  # none of them alone has half
        ({"NF": 6, "happiness": 4}, NONE_OF_FIVE),
        ({"anger": 5, "neutral": 5}, NO_CONSENSUS),  # half is not more than half
        ({"anger": 4, "disgust": 4, "neutral": 2}, NO_CONSENSUS),
        ({"happiness": 5, "unknown": 5}, NO_CONSENSUS),
        ({"unknown": 10}, NO_CONSENSUS),
    ],
)
def test_the_consensus_is_the_choice_of_more_than_half_of_all_voters(votes, seen):
    assert consensus(counts(**votes)).tolist() == [seen]


def test_a_picture_that_most_voters_called_not_a_face_is_known():
    both = np.concatenate([counts(NF=6, anger=4), counts(NF=5, anger=5)])
    assert not_a_face(both).tolist() == [True, False]


def test_contempt_and_not_a_face_count_as_neutral_and_unknown_as_nothing():
    votes = class_votes(counts(anger=1, neutral=2, contempt=3, NF=1, fear=1, unknown=2))
    assert votes.tolist() == [[1, 0, 0, 0, 0, 1, 6]]


def test_targets_blend_the_votes_with_the_label():
    target = blend(np.array([2], np.int32), counts(anger=5, sadness=3, unknown=2), 0.6)
    np.testing.assert_allclose(target, [[0.6 * 5 / 8, 0, 0.6 * 3 / 8 + 0.4, 0, 0, 0, 0]], rtol=1e-6)


def test_targets_of_five_classes_leave_out_the_votes_for_others():
    target = blend(np.array([0], np.int32), counts(anger=2, sadness=2, neutral=6), 1.0, classes=5)
    assert target.tolist() == [[0.5, 0, 0.5, 0, 0]]
    assert blend(np.array([1], np.int32), counts(neutral=10), 1.0, classes=5).tolist() == [[0, 1, 0, 0, 0]]


def test_a_face_without_a_valid_vote_keeps_its_label():
    assert blend(np.array([3], np.int32), counts(unknown=10), 0.9).tolist() == [[0, 0, 0, 1, 0, 0, 0]]


@given(rows, st.floats(0, 1))
def test_targets_are_distributions(votes, share):
    targets = blend(np.zeros(len(votes), np.int32), votes, share)
    assert (targets >= 0).all()
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)


@given(rows)
def test_there_is_at_most_one_consensus_and_it_has_more_than_half_of_the_votes(votes):
    five = class_votes(votes)[:, :5]
    for seen, row, mine in zip(consensus(votes), votes, five, strict=True):
        if 0 <= seen < 5:
            assert mine[seen] > row.sum() / 2
        elif seen == NO_CONSENSUS:
            assert (mine <= row.sum() / 2).all()


HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
USAGES = ["Training", "Training", "PublicTest", "PrivateTest"]
VOTES = [
    [4, 0, 0, 1, 3, 2, 0, 0, 0, 0],
    [0, 10, 0, 0, 0, 0, 0, 0, 0, 0],
    [5, 0, 0, 5, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 10],
]


class TestReadingTheFile:
    @pytest.fixture
    def faces(self, write_csv, pixel_text):
        """Four faces, one of them Fear, as a faces file holds them."""
        image = np.arange(2304) % 256
        rows = [(label, pixel_text(image), usage) for label, usage in zip([0, 2, 3, 5], USAGES, strict=True)]
        return kaggle.read_emotion(write_csv("emotion,pixels,Usage", rows, "faces.csv"))

    @pytest.fixture
    def write_votes(self, write_csv):
        """Writes the votes for these faces, changed by a function of their rows; returns the path."""

        def write(change=lambda rows: rows, header=HEADER):
            names = [f"fer{index:07}.png" for index in range(3)] + [""]  # what shows no face may have no name
            rows = [list(map(str, row)) for row in zip(USAGES, names, *np.transpose(VOTES), strict=True)]
            return write_csv(header, change(rows), "votes.csv")

        return write

    @pytest.mark.parametrize("packed", ["plain", "gz", "zip", "byte order mark"])
    def test_a_packed_file_is_read(self, faces, write_votes, packed):
        path = write_votes()
        if packed == "gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
        elif packed == "zip":
            content = path.read_bytes()
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("readme.csv", "nothing,here\n1,2\n")
                archive.writestr("folder/votes.csv", content)
        elif packed == "byte order mark":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        votes = read_votes(path, faces)
        assert votes.counts.tolist() == VOTES
        assert votes.usage.tolist() == USAGES

    def test_columns_may_stand_in_another_order_and_case(self, faces, write_votes):
        header = ", ".join(reversed(HEADER.upper().split(",")))
        votes = read_votes(write_votes(lambda rows: [row[::-1] for row in rows], header), faces)
        assert votes.counts.tolist() == VOTES

    @pytest.mark.parametrize("change", [lambda rows: rows[:3], lambda rows: [*rows, rows[-1]]])
    def test_another_number_of_rows_names_both_files_and_both_numbers(self, faces, write_votes, change):
        path = write_votes(change)
        with pytest.raises(DataError, match=r"votes\.csv has (3|5) rows, but .*faces\.csv has 4") as caught:
            read_votes(path, faces)
        assert "the same rows, in the same order" in str(caught.value)

    def test_another_usage_names_both_files_and_the_row(self, faces, write_votes):
        path = write_votes(lambda rows: [["PublicTest", *rows[0][1:]], *rows[1:]])
        with pytest.raises(DataError, match=r"votes\.csv and .*faces\.csv .* in row 2 .* PublicTest .* Training"):
            read_votes(path, faces)

    def test_rows_of_fear_are_checked(self, faces, write_votes):
        path = write_votes(lambda rows: [rows[0], ["PrivateTest", *rows[1][1:]], *rows[2:]])
        with pytest.raises(DataError, match="in row 3 "):
            read_votes(path, faces)

    def test_image_names_out_of_order_name_both_files(self, faces, write_votes):
        path = write_votes(lambda rows: [[rows[0][0], "fer0000009.png", *rows[0][2:]], *rows[1:]])
        with pytest.raises(DataError, match=r"votes\.csv does not have its images in the order .*faces\.csv"):
            read_votes(path, faces)

    def test_the_row_count_is_not_checked_if_faces_were_skipped(self, faces, write_votes):
        faces = replace(faces, images=faces.images[:2], labels=faces.labels[:2], usage=faces.usage[:2])
        faces = replace(faces, rows=faces.rows[:2], skipped=["row 5 is bad"])
        assert len(read_votes(write_votes(), faces).counts) == 4

    @pytest.mark.parametrize(
        ("column", "value", "sentence"),
        [
            (0, "Test", "Usage is 'Test', expected one of Training, PublicTest, PrivateTest"),
            (1, "face1.png", "Image name is 'face1.png', expected 'fer', seven digits and '.png'"),
            (2, "-1", "neutral is '-1', expected a number of votes"),
            (4, "1.5", "surprise is '1.5', expected a number of votes"),
            (11, "", "NF is '', expected a number of votes"),
        ],
    )
    def test_a_bad_cell_names_file_row_and_what_was_expected(self, faces, write_votes, column, value, sentence):
        def change(rows):
            rows[2][column] = value
            return rows

        with pytest.raises(DataError, match=r"votes\.csv.*row 4.*" + re.escape(sentence)):
            read_votes(write_votes(change), faces)

    def test_a_row_without_votes_is_refused(self, faces, write_votes):
        path = write_votes(lambda rows: [[*rows[0][:2], *["0"] * 10], *rows[1:]])
        with pytest.raises(DataError, match="expected at least one vote, found none"):
            read_votes(path, faces)

    def test_a_missing_column_is_named(self, faces, write_votes):
        path = write_votes(lambda rows: [row[:-2] + row[-1:] for row in rows], HEADER.replace(",unknown", ""))
        with pytest.raises(DataError, match="lacks the column unknown of a votes file"):
            read_votes(path, faces)

    def test_a_faces_file_is_not_taken_for_votes(self, faces, write_csv):
        path = write_csv("emotion,pixels,Usage", [])
        with pytest.raises(DataError, match="holds faces with emotions"):
            read_votes(path, faces)

    def test_a_votes_file_is_not_taken_for_faces(self, write_votes):
        with pytest.raises(DataError, match="is a votes file"):
            kaggle.read_emotion(write_votes())

    @pytest.mark.real_data
    def test_the_published_file(self, real_data):
        folder = real_data / "fer2013"
        votes = read_votes(folder / "fer2013new.csv", kaggle.read_emotion(folder / "fer2013.csv.gz"))
        assert (votes.counts.sum(axis=1) >= 1).all()
        public = votes.usage == "PublicTest"
        agreed = consensus(votes.counts[public])
        assert ((agreed >= 0) & (agreed < NONE_OF_FIVE)).sum() == 1751
