"""`mien describe`, on artificial faces whose properties are known."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mien_client.cli import main
from mien_training import duplicates
from mien_training.describe import describe_emotion, describe_keypoints
from mien_training.splits import Faces
from mien_training.votes import VOTE_COLUMNS
from PIL import Image


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def smooth(count, seed=0):
    """Faces that differ in coarse blocks, as photographs do."""
    return np.kron(np.random.default_rng(seed).integers(40, 200, (count, 8, 8)), np.ones((6, 6))).astype(np.uint8)


def votes(**counts):
    return [counts.get(name, 0) for name in VOTE_COLUMNS]


def rows_of(table):
    return {row[0]: row[1:] for row in table.rows}


class TestDuplicates:
    def test_equal_pictures_have_one_number(self):
        images = noise(3)[[0, 1, 0, 2, 1]]
        assert duplicates.exact_duplicates(images).tolist() == [0, 1, 0, 2, 1]

    def test_a_copy_that_is_lighter_or_noisier_is_near_and_another_face_is_not(self):
        images = smooth(4)
        lighter = np.clip(images[1] * 0.7 + 60, 0, 255).astype(np.uint8)
        noisier = np.clip(images[2] + np.random.default_rng(1).normal(0, 4, (48, 48)), 0, 255).astype(np.uint8)
        pairs = duplicates.near_duplicates(np.concatenate([images, [lighter, noisier]]))
        assert pairs.tolist() == [[1, 4], [2, 5]]

    def test_pictures_of_one_grey_level_are_near_to_nothing(self):
        assert not len(duplicates.near_duplicates(np.full((3, 48, 48), 7, np.uint8)))

    def test_pairs_are_found_across_the_chunks_of_the_comparison(self, monkeypatch):
        monkeypatch.setattr(duplicates, "_CHUNK", 2)
        images = smooth(5)[[0, 1, 2, 3, 4, 0, 3]]
        assert duplicates.near_duplicates(images).tolist() == [[0, 5], [3, 6]]

    @settings(max_examples=30)
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
    def test_groups_are_those_that_can_be_reached_from_each_other(self, pairs):
        groups = duplicates.groups(np.array(pairs, np.int64).reshape(-1, 2), 10)
        reached = [{index} for index in range(10)]
        for _ in pairs:
            for first, second in pairs:
                reached[first] = reached[second] = reached[first] | reached[second]
        for index, others in enumerate(reached):
            assert {*np.flatnonzero(groups == groups[index])} >= others


class TestEmotions:
    def test_classes_brightness_and_copies_are_counted(self):
        images = smooth(8)
        images[3] = images[2]  # an exact copy, of another Usage and with another label
        images[5] = images[4] + 3  # a near copy, of the same Usage
        images[6], images[7] = 20, 230
        labels = np.array([0, 0, 3, 4, 2, 2, 6, 5], np.int32)
        usage = np.array(["Training"] * 3 + ["PublicTest"] + ["Training"] * 4)
        described = describe_emotion(Faces(images, labels), usage, "made up")
        found = rows_of(described.tables[0])
        assert found["faces"] == ["8"]
        assert found["dark (mean grey level below 40)"] == ["1"]
        assert found["bright (mean grey level above 215)"] == ["1"]
        assert found["flat (standard deviation below 15)"] == ["2"]
        assert found["exact copies of an earlier face"] == ["1"]
        assert found["exact or near copies of an earlier face"] == ["2"]
        assert found["groups of such copies with faces of different Usage"] == ["1"]
        assert found["groups of exact copies with different labels"] == ["1"]
        assert described.tables[1].header == ["", "Training", "PublicTest", "share"]
        classes = rows_of(described.tables[1])
        assert classes["Angry"] == ["2", "0", "25.0%"]
        assert classes["Surprise"] == ["0", "1", "12.5%"]
        assert classes["Disgust"] == ["0", "0", "0.0%"]
        assert classes["Neutral"] == ["1", "0", "12.5%"]
        assert "near_duplicates" in described.pictures

    def test_labels_are_compared_with_the_majority_of_the_votes(self):
        counts = [
            votes(anger=9),
            votes(happiness=9),
            votes(neutral=6, sadness=3),
            votes(sadness=5, fear=5),
            votes(NF=9),
        ]
        faces = Faces(smooth(5), np.array([0, 0, 2, 2, 3], np.int32), np.array(counts, np.int32))
        described = describe_emotion(faces, None, "made up")
        table = described.tables[2]
        assert "4 faces with a majority, 25.0% of which agree; 1 not a face" in table.title
        assert table.header == ["", "Angry", "Disgust", "Sad", "Happy", "Surprise", "none of the five", "no majority"]
        found = rows_of(table)
        assert found["Angry"] == ["1", "0", "0", "1", "0", "0", "0"]
        assert found["Sad"] == ["0", "0", "0", "0", "0", "1", "1"]
        assert found["Happy"] == ["0", "0", "0", "0", "0", "1", "0"]
        [disputed] = described.pictures["disputed"].of.values()
        assert disputed[0][1] == "Angry → Happy 100%"
        assert disputed[-1][1] == "Happy → Neutral 100%"  # what is not a face comes last


class TestKeypoints:
    def test_missing_points_people_and_copies_across_people(self):
        images = smooth(6)
        images[5] = images[0]
        points = np.random.default_rng(0).uniform(5, 40, (6, 15, 2)).astype(np.float32)
        points[:3, 10] = np.nan
        described = describe_keypoints(Faces(images, points), np.array([0, 0, 1, 1, 2, 2]), "made up")
        found = rows_of(described.tables[0])
        assert found["faces with all fifteen points"] == ["3"]
        assert found["people"] == ["3"]
        assert found["groups of such copies with faces of different people"] == ["1"]
        assert rows_of(described.tables[1])["nose_tip"][:2] == ["3", "50.0%"]
        assert {"missing", "near_duplicates"} <= described.pictures.keys()

    def test_complete_faces_have_no_picture_of_missing_points(self):
        points = np.full((4, 15, 2), 20, np.float32)
        described = describe_keypoints(Faces(smooth(4), points), None, "made up")
        assert "missing" not in described.pictures
        assert not any("people" in row[0] for row in described.tables[0].rows)


class TestCommand:
    @pytest.mark.parametrize("kind", ["emotion", "key points"])
    def test_prints_tables_and_writes_one_page_with_every_picture(
        self, tmp_path, emotion_csv, votes_csv, keypoint_csv, kind, capsys
    ):
        data, people = keypoint_csv
        files = [emotion_csv, "--votes", votes_csv] if kind == "emotion" else [data, "--groups", people]
        assert main(["describe", *map(str, files), "--out", str(tmp_path / "page")]) == 0
        out = capsys.readouterr().out
        assert re.search(r"faces +122\b" if kind == "emotion" else r"faces +80\b", out)
        assert ("Labels (rows) and what most voters saw" if kind == "emotion" else "mouth_left_corner") in out
        page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
        pictures = sorted((tmp_path / "page").glob("*.png"))
        assert len(pictures) == page.count("data:image/png;base64,") >= 4
        assert not re.search(r'(src|href)="(?!data:)', page)
        for picture in pictures:
            with Image.open(picture) as drawn:
                assert drawn.width > 300
        faces = json.loads((tmp_path / "page" / "metrics.json").read_text(encoding="utf-8"))["faces"]
        assert faces == (122 if kind == "emotion" else 80)

    def test_a_file_of_neither_kind_is_refused_in_a_sentence(self, write_csv, capsys):
        assert main(["describe", str(write_csv("a,b", [(1, 2)]))]) == 1
        assert "mien describe: " in capsys.readouterr().err

    def test_votes_do_not_go_with_key_points(self, keypoint_csv, capsys):
        assert main(["describe", str(keypoint_csv[0]), "--votes", "x"]) == 1
        assert "--votes is for emotion" in capsys.readouterr().err
