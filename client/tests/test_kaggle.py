"""Reading the Kaggle files."""

import gzip
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mien_client import DataError, kaggle
from mien_client.contract import EMOTIONS, KEYPOINTS

IMAGE = np.arange(2304, dtype=np.uint16).reshape(48, 48) % 256
LARGE = np.arange(9216, dtype=np.uint16).reshape(96, 96) % 256
KEYPOINT_HEADER = ",".join(kaggle.KEYPOINT_HEADER)


def compress_as(kind, path):
    if kind == "plain":
        return path
    packed = path.with_name("no-telling-name")
    if kind == "gz":
        packed.write_bytes(gzip.compress(path.read_bytes()))
    else:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("readme.csv", "nothing,here\n1,2\n")
            archive.write(path, "folder/data.csv")
    return packed


class TestEmotionFiles:
    @pytest.mark.parametrize("kind", ["plain", "gz", "zip"])
    def test_seven_labels_become_our_five_and_the_rest_is_counted(self, write_csv, pixel_text, kind):
        rows = [(label, pixel_text((IMAGE + label) % 256), "Training") for label in range(7)]
        data = kaggle.read_emotion(compress_as(kind, write_csv("emotion,pixels,Usage", rows)))
        assert [EMOTIONS[label] for label in data.labels] == ["Angry", "Disgust", "Happy", "Sad", "Surprise"]
        assert data.dropped == {"Fear": 1, "Neutral": 1}
        assert data.others.labels.tolist() == [5, 6]
        assert data.others.usage.tolist() == ["Training"] * 2
        assert data.rows.tolist() == [0, 1, 3, 4, 5]
        assert data.others.rows.tolist() == [2, 6]
        np.testing.assert_array_equal(data.others.images[0], (IMAGE + 2) % 256)
        np.testing.assert_array_equal(data.images[2], (IMAGE + 3) % 256)
        assert data.images.dtype == np.uint8

    def test_the_icml_file_has_spaces_in_its_header_and_another_order(self, write_csv, pixel_text):
        path = write_csv("emotion, Usage, pixels", [(3, " PublicTest", pixel_text(IMAGE))])
        data = kaggle.read_emotion(path)
        assert EMOTIONS[data.labels[0]] == "Happy"
        assert data.usage.tolist() == ["PublicTest"]

    def test_the_five_class_variant_has_our_labels_already(self, write_csv, pixel_text):
        path = write_csv("emotion, pixels", [(label, pixel_text(IMAGE)) for label in range(5)])
        data = kaggle.read_emotion(path)
        assert data.labels.tolist() == [0, 1, 2, 3, 4]
        assert data.usage is None
        assert data.others is None

    def test_seven_labels_without_usage_are_not_taken_for_five(self, write_csv, pixel_text):
        path = write_csv("emotion,pixels", [(label, pixel_text(IMAGE)) for label in (0, 6, 3)])
        with pytest.raises(DataError, match=r"row 3 .*emotion is '6', expected 0 to 4.*--seven-labels"):
            kaggle.read_emotion(path)
        assert kaggle.read_emotion(path, seven_labels=True).labels.tolist() == [0, 3]

    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(images=arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(48), st.just(48))))
    def test_every_image_comes_back_as_it_was_written(self, write_csv, pixel_text, images):
        path = write_csv("emotion,pixels", [(0, pixel_text(image)) for image in images])
        np.testing.assert_array_equal(kaggle.read_emotion(path).images, images)


class TestBadRows:
    @pytest.mark.parametrize(
        ("row", "complaint"),
        [
            ((3, "1 2 3", "Training"), "expected 2,304 pixel values, found 3"),
            ((3, "1 " * 2305, "Training"), "expected 2,304 pixel values, found 2,305"),
            ((3, "256 " + "1 " * 2303, "Training"), "pixel value 256, expected 0 to 255"),
            ((3, "-1 " + "1 " * 2303, "Training"), "pixel value -1, expected 0 to 255"),
            ((3, "1.5 " + "1 " * 2303, "Training"), "pixel value '1.5', expected whole numbers"),
            ((3, "x " + "1 " * 2303, "Training"), "pixel value 'x', expected whole numbers"),
            ((3, "4294967301 " + "1 " * 2303, "Training"), "pixel value 4294967301, expected 0 to 255"),
            ((7, "1 " * 2304, "Training"), "emotion is '7', expected 0 to 6"),
            (("sad", "1 " * 2304, "Training"), "emotion is 'sad', expected 0 to 6"),
            ((3, "1 " * 2304, "Test"), "Usage is 'Test', expected one of Training, PublicTest, PrivateTest"),
            ((3, "1 " * 2304), "expected 3 columns, found 2"),
        ],
    )
    def test_are_errors_that_name_the_row_or_are_skipped_and_listed(self, write_csv, pixel_text, row, complaint):
        good = (3, pixel_text(IMAGE), "Training")
        path = write_csv("emotion,pixels,Usage", [good, row, good])
        with pytest.raises(DataError) as caught:
            kaggle.read_emotion(path)
        assert str(caught.value).startswith(f"{path}, row 3 (the header is row 1): {complaint}")
        assert "--skip-bad-rows" in str(caught.value)
        data = kaggle.read_emotion(path, skip_bad_rows=True)
        assert len(data.images) == 2
        assert len(data.skipped) == 1
        assert complaint in data.skipped[0]

    def test_of_key_point_files_are_handled_in_the_same_way(self, write_csv, pixel_text):
        cells = ["10"] * 30
        rows = [
            [*cells, pixel_text(LARGE)],
            ["left", *cells[1:], pixel_text(LARGE)],
            ["1000", *cells[1:], pixel_text(LARGE)],
            ["nan", *cells[1:], pixel_text(LARGE)],
            [""] * 30 + [pixel_text(LARGE)],
            [*cells, pixel_text(IMAGE)],
        ]
        path = write_csv(KEYPOINT_HEADER, rows)
        with pytest.raises(DataError, match=r"row 3 .*left_eye_center_x is 'left', expected pixels of the 96×96"):
            kaggle.read_keypoints(path)
        data = kaggle.read_keypoints(path, skip_bad_rows=True)
        assert data.rows.tolist() == [0]
        assert [line.split(": ")[1].split(",")[0] for line in data.skipped] == [
            "left_eye_center_x is 'left'",
            "left_eye_center_x is '1000'",
            "left_eye_center_x is 'nan'",
            "none of the fifteen points is given",
            "expected 9",
        ]


class TestFilesThatAreSomethingElse:
    @pytest.mark.parametrize("read", [kaggle.read_emotion, kaggle.read_keypoints])
    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"a,b,c\n1,2,3\n", "has the header 'a,b,c'; expected the header '"),
            (b"", "is empty"),
            (gzip.compress(b"", mtime=0), "is empty"),
            (gzip.compress(b"emotion,pixels\n" + bytes(range(256)) * 500, mtime=0)[:60], "is truncated or damaged"),
            (b"\x1f\x8bnonsense", "is truncated or damaged"),
            (b"PK\x03\x04nonsense", "is truncated or damaged"),
        ],
    )
    def test_are_refused_with_one_sentence(self, tmp_path, read, content, complaint):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read(path)
        assert complaint in str(caught.value)
        assert str(path) in str(caught.value)

    def test_a_file_of_the_other_kind_is_recognised_by_its_header(self, write_csv, pixel_text):
        with pytest.raises(DataError, match="holds faces with emotions, not key points; expected the header"):
            kaggle.read_keypoints(write_csv("emotion,pixels", [(1, pixel_text(IMAGE))]))

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=r"nothing\.csv cannot be read: No such file or directory"):
            kaggle.read_emotion(tmp_path / "nothing.csv")

    def test_a_file_without_one_of_our_emotions(self, write_csv, pixel_text):
        with pytest.raises(DataError, match="no face with one of the emotions"):
            kaggle.read_emotion(write_csv("emotion,pixels,Usage", [(2, pixel_text(IMAGE), "Training")]))


class TestKeypointFiles:
    def test_coordinates_move_with_the_halved_image(self, write_csv, pixel_text):
        """A 2×2 white dot whose centre is (40.5, 60.5) becomes the one white pixel (20, 30), and so does the point."""
        large = np.zeros((96, 96), np.uint8)
        large[60:62, 40:42] = 255
        cells = ["40.5", "60.5"] * 15
        data = kaggle.read_keypoints(write_csv(KEYPOINT_HEADER, [[*cells, pixel_text(large)]]))
        y, x = np.argwhere(data.images[0] == 255)[0]
        assert np.count_nonzero(data.images[0]) == 1
        np.testing.assert_array_equal(data.keypoints[0], np.tile([x, y], (15, 1)))

    def test_halving_is_the_mean_of_four_pixels(self):
        image = np.zeros((2, 4), np.uint8)
        image[:, :2] = [[10, 11], [12, 13]]
        image[:, 2:] = 255
        assert kaggle.halve_images(image).tolist() == [[12, 255]]  # 11.5 rounds up

    def test_a_point_with_only_one_coordinate_is_missing(self, write_csv, pixel_text):
        cells = ["10", "20"] * 2 + ["30", ""] + ["", "40"] + ["", ""] * 11
        data = kaggle.read_keypoints(write_csv(KEYPOINT_HEADER, [[*cells, pixel_text(LARGE)]]))
        assert np.isnan(data.keypoints[0]).all(axis=1).tolist() == [False] * 2 + [True] * 13

    def test_a_file_without_eyes_cannot_be_measured(self, write_csv, pixel_text):
        cells = ["", ""] + ["10", "20"] * 14
        with pytest.raises(DataError, match="holds no face with both eye centres"):
            kaggle.read_keypoints(write_csv(KEYPOINT_HEADER, [[*cells, pixel_text(LARGE)]]))

    def test_columns_may_come_in_any_order(self, write_csv, pixel_text):
        values = {name: str(index) for index, name in enumerate(kaggle.KEYPOINT_HEADER)} | {"Image": pixel_text(LARGE)}
        names = sorted(values)
        data = kaggle.read_keypoints(write_csv(",".join(names), [[values[name] for name in names]]))
        np.testing.assert_allclose(data.keypoints[0], ((np.arange(30).reshape(len(KEYPOINTS), 2)) - 0.5) / 2)

    def test_people_are_found_by_row_and_a_missing_row_is_an_error(self, write_csv):
        path = write_csv("row,person", [(0, "ann"), (1, "bob"), (2, "ann")])
        assert kaggle.read_groups(path, np.array([2, 0, 1])).tolist() == [0, 0, 1]
        with pytest.raises(DataError, match="says nothing of row 3"):
            kaggle.read_groups(path, np.array([0, 3]))


@pytest.mark.real_data
class TestTheRealFiles:
    def test_fer2013(self, real_data):
        data = kaggle.read_emotion(real_data / "fer2013" / "fer2013.csv.gz")
        assert len(data.images) + sum(data.dropped.values()) == 28_709 + 3_589
        assert data.dropped == {"Fear": 4_593, "Neutral": 5_572}
        assert np.bincount(data.labels).tolist() == [4_462, 492, 5_483, 8_110, 3_586]
        assert data.skipped == []

    def test_facial_keypoints(self, real_data):
        folder = real_data / "facial_keypoints"
        data = kaggle.read_keypoints(folder / "training.csv.gz")
        people = kaggle.read_groups(folder / "people.csv", data.rows)
        assert data.images.shape == (3_409, 48, 48)
        assert len(np.unique(people)) == 280
        assert not np.isnan(data.keypoints).any()
