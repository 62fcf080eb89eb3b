"""Comparing two versions: which faces, which figures, which gates, and the report."""

import argparse
import base64
import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from mien_client import contract, protos
from mien_client.cli import CommandError
from mien_client.transports import Answer
from mien_serving.rollout import _compare, _report
from mien_serving.rollout._compare import Side, judge, measure
from mien_serving.rollout._faces import Faces, read_data, read_recorded
from mien_serving.rollout._fleet import ServerError
from PIL import Image

RANDOM = np.random.default_rng(4)
IMAGES = RANDOM.integers(0, 256, (6, 48, 48), np.uint8)
GATES = argparse.Namespace(min_accuracy_delta=-0.01, min_agreement=0.9, max_p99_ratio=1.5)


def pixels(image):
    return " ".join(map(str, image.ravel()))


class TestKaggleFiles:
    def test_five_labels_without_usage(self, tmp_path):
        file = tmp_path / "five.csv"
        rows = "".join(f"{index % 5}, {pixels(image)}\n" for index, image in enumerate(IMAGES))
        file.write_text(f"emotion, pixels\n{rows}")
        faces = read_data(file, "emotion")
        np.testing.assert_array_equal(faces.images, IMAGES)
        assert faces.truth.tolist() == [0, 1, 2, 3, 4, 0]
        assert read_data(file, "keypoints").truth is None

    def test_seven_labels_of_which_two_are_dropped_and_what_was_held_out_is_taken(self, tmp_path):
        file = tmp_path / "fer2013.csv.gz"
        labels, usages = [4, 2, 3, 6, 4, 5], ["Training", *["PublicTest"] * 4, "PrivateTest"]
        rows = "".join(
            f"{label},{pixels(image)},{usage}\n" for label, image, usage in zip(labels, IMAGES, usages, strict=True)
        )
        file.write_bytes(gzip.compress(f"emotion,pixels,Usage\n{rows}".encode()))
        faces = read_data(file, "emotion")
        assert [contract.EMOTIONS[index] for index in faces.truth] == ["Happy", "Sad", "Surprise"]
        np.testing.assert_array_equal(faces.images, IMAGES[[2, 4, 5]])
        assert faces.source == "fer2013.csv.gz, held out"

    def test_key_points_of_large_images_are_halved_and_missing_ones_stay_missing(self, tmp_path):
        file = tmp_path / "training.csv"
        names = [f"{point}_{axis}" for point in contract.KEYPOINTS for axis in "xy"]
        large = np.kron(IMAGES[0], np.ones((2, 2), np.uint8))
        values = [str(number) for number in range(29)] + [""]
        file.write_text(f"{','.join([*names, 'Image'])}\n{','.join([*values, pixels(large)])}\n")
        faces = read_data(file, "keypoints")
        np.testing.assert_array_equal(faces.images, IMAGES[:1])
        np.testing.assert_allclose(faces.truth[0, 1], [(2 - 0.5) / 2, (3 - 0.5) / 2])
        assert np.isnan(faces.truth[0, 14]).any()

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("a,b\n1,2\n", "is no file of faces: its header should be"),
            ("emotion,pixels\n0,1 2 3\n", "is damaged, or not what its header says: an image has 3 pixels, not 2304"),
            ("emotion,pixels\nx,1\n", "is damaged"),
            ("emotion,pixels\n", "it holds no face"),
            ("emotion,pixels\n7,1 2\n", "is damaged, or not what its header says: it has the label 7"),
            ("emotion,pixels\n-1,1 2\n", "it has the label -1"),
            ("emotion,pixels\n3\n", "an image has 0 pixels, not 2304"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, content, sentence):
        (tmp_path / "file.csv").write_text(content)
        with pytest.raises(CommandError, match=sentence):
            read_data(tmp_path / "file.csv", "emotion")

    def test_packed_in_a_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "fer.zip", "w") as archive:
            archive.writestr("fer/fer.csv", f"emotion,pixels\n3,{pixels(IMAGES[0])}\n")
            archive.writestr("fer/README", "Faces.")
        assert read_data(tmp_path / "fer.zip", "emotion").truth.tolist() == [3]
        with zipfile.ZipFile(tmp_path / "fer.zip", "a") as archive:
            archive.writestr("more.csv", "emotion,pixels\n")
        with pytest.raises(CommandError, match=r"it holds 2 \.csv files, not one"):
            read_data(tmp_path / "fer.zip", "emotion")

    @pytest.mark.parametrize("name", ["file.csv.gz", "file.zip", "file.npz"])
    def test_a_damaged_one_is_named(self, tmp_path, name):
        (tmp_path / name).write_bytes(gzip.compress(bytes(1000))[:20])
        with pytest.raises(CommandError, match=f"{name} (is damaged|cannot be read)"):
            read_data(tmp_path / name, "emotion")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(CommandError, match=r"none\.csv cannot be read: No such file"):
            read_data(tmp_path / "none.csv", "emotion")


@pytest.mark.parametrize(
    ("model", "truth", "sentence"),
    [
        ("emotion", {"labels": np.array([0, 1, 2, 3, 4, 5])}, "labels are not all numbers from 0 to 4"),
        ("emotion", {"labels": np.zeros(5, int)}, r"labels have the shape \(5,\), not \(6,\)"),
        ("keypoints", {"keypoints": np.zeros((6, 30))}, r"keypoints have the shape \(6, 30\), not \(6, 15, 2\)"),
    ],
)
def test_arrays_whose_truth_is_something_else_are_refused(tmp_path, model, truth, sentence):
    np.savez(tmp_path / "faces.npz", images=IMAGES, **truth)
    with pytest.raises(CommandError, match=sentence):
        read_data(tmp_path / "faces.npz", model)


def test_arrays(tmp_path):
    np.savez(tmp_path / "faces.npz", images=IMAGES, labels=np.arange(6) % 5)
    assert read_data(tmp_path / "faces.npz", "emotion").truth.tolist() == [0, 1, 2, 3, 4, 0]
    np.savez(tmp_path / "faces.npz", images=IMAGES.astype(float))
    with pytest.raises(CommandError, match=r"images are float64 \(6, 48, 48\), not uint8"):
        read_data(tmp_path / "faces.npz", "emotion")


def test_a_few_of_many_come_from_all_over_the_file():
    faces = Faces(np.zeros((1000, 48, 48), np.uint8), np.arange(1000), "many").spread(5)
    assert faces.truth.tolist() == [0, 250, 500, 749, 999]


class TestRecordedRequests:
    def record(self, model, signature, name, **tensor):
        log = protos.PredictionLog()
        request = log.predict_log.request
        request.model_spec.name, request.model_spec.signature_name = model, signature
        request.inputs[name].MergeFrom(protos.TensorProto(**tensor))
        content = log.SerializeToString()
        return struct.pack("<Q", len(content)) + bytes(4) + content + bytes(4)

    def test_tensors_and_raw_bytes_are_faces_and_the_rest_is_counted(self, tmp_path):
        file = tmp_path / "requests"
        png = io.BytesIO()
        Image.fromarray(IMAGES[0]).save(png, "PNG")
        file.write_bytes(
            self.record("emotion", "serving_default", "images", tensor_content=IMAGES[:2].tobytes())
            + self.record("emotion", "serving_default", "images", int_val=IMAGES[2].ravel().tolist())
            + self.record("emotion", "serving_raw", "image_bytes", string_val=[IMAGES[3].tobytes()])
            + self.record("emotion", "serving_encoded", "image_bytes", string_val=[png.getvalue()])
            + self.record("keypoints", "serving_default", "images", tensor_content=IMAGES[4].tobytes())
        )
        faces = read_recorded(file, "emotion")
        np.testing.assert_array_equal(faces.images, IMAGES[:4])
        assert faces.truth is None
        assert faces.source == "requests, 1 requests left out"
        np.testing.assert_array_equal(read_recorded(file, "keypoints").images, IMAGES[4:5])

    def test_the_warm_up_file_of_a_version_is_one(self, tiny_model, tmp_path):
        """As TensorFlow writes it, checksums and all."""
        import tensorflow as tf

        log = protos.PredictionLog()
        log.predict_log.request.inputs["images"].tensor_content = IMAGES.tobytes()
        with tf.io.TFRecordWriter(str(tmp_path / "requests")) as writer:
            writer.write(log.SerializeToString())
        np.testing.assert_array_equal(read_recorded(tmp_path / "requests", "emotion").images, IMAGES)

    @pytest.mark.parametrize("content", [b"", b"short", bytes(12), struct.pack("<Q", 3) + b"1234abc5678"])
    def test_what_is_no_such_file_is_refused(self, tmp_path, content):
        (tmp_path / "requests").write_bytes(content)
        with pytest.raises(CommandError, match=r"requests (is no TFRecord file|holds no predict request)"):
            read_recorded(tmp_path / "requests", "emotion")


def side(label, answers, seconds=0.01, errors=()):
    answers = np.asarray(answers, np.float32)
    return Side(label, 1 if label == "stable" else 2, answers, np.full(len(answers), seconds), list(errors))


def one_hot(*indices):
    return np.eye(5, dtype=np.float32)[list(indices)] * 0.8 + 0.04


class TestFigures:
    def test_of_emotions(self):
        figures = measure(
            side("stable", one_hot(0, 1, 2, 3)), side("canary", one_hot(0, 1, 2, 4), 0.02), np.array([0, 1, 3, 4])
        )
        assert figures["agreement"] == 0.75
        assert figures["accuracy_stable"] == 0.5
        assert figures["accuracy_delta"] == 0.25
        assert figures["drift"] == pytest.approx(0.8 / 4)
        assert figures["largest_drift"] == pytest.approx(0.8)
        assert figures["p99_ratio"] == pytest.approx(2)
        assert figures["p50_ms_stable"] == pytest.approx(10)

    def test_of_key_points_are_in_proportion_to_the_distance_of_the_eyes(self):
        points = RANDOM.uniform(0, 47, (3, 15, 2))
        points[:, 0], points[:, 1] = (34, 20), (14, 20)  # The eyes, 20 pixels apart.
        moved = points.copy()
        moved[0, 5] += (1.9, 0)  # Less than a tenth of that.
        moved[1, 6] += (0, 2.1)  # More.
        truth = points.copy()
        truth[2, 7] = np.nan
        figures = measure(side("stable", points), side("canary", moved), truth)
        assert figures["agreement"] == pytest.approx(44 / 45)
        assert figures["accuracy_stable"] == 1
        assert figures["accuracy_canary"] == pytest.approx(43 / 44)
        assert figures["largest_drift"] == pytest.approx(2.1 / 15, rel=1e-4)

    def test_are_of_faces_that_both_answered(self):
        lost = one_hot(0, 1, 2)
        lost[1] = np.nan
        figures = measure(side("stable", one_hot(0, 1, 2)), side("canary", lost, errors=["gone"]), None)
        assert figures["agreement"] == 1
        assert figures["errors_canary"] == 1
        assert "accuracy_delta" not in figures


class TestGates:
    def passed(self, **figures):
        usual = {"errors_stable": 0, "errors_canary": 0, "agreement": 1.0, "p99_ratio": 1.0}
        return {gate.name: gate.passed for gate in judge(usual | figures, GATES)}

    def test_all_pass(self):
        assert self.passed(accuracy_delta=0.0) == {
            "errors": True,
            "accuracy delta": True,
            "agreement": True,
            "p99 ratio": True,
        }

    def test_without_truth_there_is_no_gate_on_accuracy(self):
        assert "accuracy delta" not in self.passed()

    @pytest.mark.parametrize(
        ("figures", "gate"),
        [
            ({"accuracy_delta": -0.02}, "accuracy delta"),
            ({"agreement": 0.89}, "agreement"),
            ({"p99_ratio": 1.6}, "p99 ratio"),
            ({"errors_canary": 1}, "errors"),
        ],
    )
    def test_each_fails_alone(self, figures, gate):
        assert [name for name, passed in self.passed(**figures).items() if not passed] == [gate]

    def test_without_any_answer_nothing_passes(self):
        nothing = np.full((2, 5), np.nan)
        gates = judge(measure(side("stable", one_hot(0, 1)), side("canary", nothing, errors=["no"]), None), GATES)
        assert not any(gate.passed for gate in gates)


class TestAsking:
    """Two servers; the second one stops answering at some moment."""

    def ask(self, answers):
        asked = []

        class Server:
            def __init__(self, address):
                self.address = address

            def predict(self, target, images, output, timeout):
                asked.append((self.address, target.label, len(images)))
                if sum(address == self.address for address, *_ in asked) > answers[self.address]:
                    raise ServerError("cannot be reached")
                return Answer(one_hot(0), 1 if target.label == "stable" else 2)

        faces = Faces(np.zeros((200, 48, 48), np.uint8), None, "faces")
        servers = [Server(address) for address in answers]
        return asked, *_compare._ask(servers, "emotion", {"stable": 1, "canary": 2}, faces, 1.0, lambda: None)

    def test_both_get_the_same_faces_one_at_a_time_half_of_them_at_each_server(self):
        asked, stable, canary = self.ask({"a": 1000, "b": 1000})
        assert stable.answered.all()
        assert canary.answered.all()
        for server in "ab":
            for label in ("stable", "canary"):
                assert asked.count((server, label, 1)) == 100 + _compare._WARM_UP

    def test_a_server_that_has_gone_is_not_asked_about_all_the_rest(self):
        asked, stable, canary = self.ask({"a": 1000, "b": 50})
        assert sum(server == "b" for server, *_ in asked) == 50 + _compare._GIVE_UP
        assert stable.errors + canary.errors == ["b cannot be reached"] * _compare._GIVE_UP
        assert not judge(measure(stable, canary, None), GATES)[0].passed


def report(model, faces, stable, canary):
    figures = measure(stable, canary, faces.truth)
    gates = [vars(gate) for gate in judge(figures, GATES)]
    document = {"model": model, "stable": 1, "canary": 2, "faces": len(faces.images), "source": faces.source}
    document |= {"figures": figures, "gates": gates, "passed": False, "errors": []}
    return _report.page(document, faces, stable, canary)


def test_the_report_shows_gates_figures_and_the_faces_that_differ_most():
    faces = Faces(IMAGES[:3], np.array([0, 1, 4]), "<faces>.csv")
    page = report("emotion", faces, side("stable", one_hot(0, 1, 2)), side("canary", one_hot(0, 1, 4)))
    assert "Failed on 3 faces of &lt;faces&gt;.csv." in page
    assert "<td>agreement</td><td>0.6667</td><td>0.9</td><td class=failed>failed</td>" in page
    assert "<td>Surprise</td><td>1</td><td>0.000</td><td>1.000</td>" in page
    assert page.count("<figure>") == 1
    assert "stable: Sad 84%<br>canary: Surprise 84%<br>labelled Surprise" in page
    image = base64.b64decode(page.partition("base64,")[2].partition('"')[0])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), IMAGES[2])


def test_the_report_draws_the_key_points_of_both_where_they_differ():
    points = RANDOM.uniform(0, 47, (2, 15, 2))
    moved = points.copy()
    moved[1, 10] = points[1, 10] + (3, 4)
    page = report("keypoints", Faces(IMAGES[:2], None, "faces"), side("stable", points), side("canary", moved))
    assert "<td>nose_tip</td><td>2.50</td><td>5.00</td>" in page
    assert page.count("<figure>") == 1
    assert page.count("<circle class=stable") == page.count("<circle class=canary") == 15
    x, y = moved[1, 10]
    assert f'<circle class=canary cx="{x:.2f}" cy="{y:.2f}"' in page


def test_the_report_of_a_canary_that_answered_nothing_has_figures_of_errors():
    nothing = side("canary", np.full((2, 15, 2), np.nan), errors=["gone"])
    page = report("keypoints", Faces(IMAGES[:2], None, "faces"), side("stable", np.zeros((2, 15, 2))), nothing)
    assert "<td>errors canary</td><td>1</td>" in page
