"""A comparison of two versions: its faces, answers, figures, gates and report."""

import base64
import gzip
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from mien_client import DataError, contract, protos
from mien_client.security import Security
from mien_client.transports import Answer
from mien_serving.rollout.comparison import answers as answers_module
from mien_serving.rollout.comparison import report as report_module
from mien_serving.rollout.comparison.answers import Side
from mien_serving.rollout.comparison.faces import Faces, Reading, read_data, read_recorded
from mien_serving.rollout.comparison.figures import judge, measure
from mien_serving.rollout.fleet.server import FleetError, Server
from mien_serving.rollout.requests import CompareRequest, Deployment, Limits
from mien_serving.rollout.verbs import compare
from PIL import Image
from sklearn.model_selection import GroupShuffleSplit

RANDOM = np.random.default_rng(4)
IMAGES = RANDOM.integers(0, 256, (6, 48, 48), np.uint8)
LIMITS = Limits()


def pixels(image):
    return " ".join(map(str, image.ravel()))


class TestKaggleFiles:
    """How they are read is tested with the reader; here, which faces are used and what is noted about them."""

    def fer(self, folder, usages=(), header="emotion,pixels,Usage"):
        labels = [4, 2, 3, 6, 4, 5]
        rows = "".join(
            f"{label},{pixels(image)}{f',{usage}' if usage else ''}\n"
            for label, image, usage in zip(labels, IMAGES, usages or [""] * 6, strict=True)
        )
        (folder / "fer2013.csv.gz").write_bytes(gzip.compress(f"{header}\n{rows}".encode()))
        return folder / "fer2013.csv.gz"

    def keypoints(self, folder, count=20):
        names = [f"{point}_{axis}" for point in contract.KEYPOINTS for axis in "xy"]
        large = np.kron(IMAGES[0], np.ones((2, 2), np.uint8))
        rows = (",".join([str(number), *["10.5"] * 29, pixels(large)]) + "\n" for number in range(count))
        (folder / "training.csv").write_text(f"{','.join([*names, 'Image'])}\n{''.join(rows)}", encoding="utf-8")
        people = "".join(f"{number},{number // 2}\n" for number in range(count))
        (folder / "people.csv").write_text(f"row,person\n{people}", encoding="utf-8")
        return folder / "training.csv", folder / "people.csv"

    def test_with_a_usage_the_validation_faces_of_training_are_used(self, tmp_path):
        usages = ["Training", *["PublicTest"] * 4, "PrivateTest"]
        faces = read_data(self.fer(tmp_path, usages), "emotion", Reading())
        assert [contract.EMOTIONS[index] for index in faces.truth] == ["Happy", "Sad"]
        np.testing.assert_array_equal(faces.images, IMAGES[[2, 4]])
        assert faces.source == "fer2013.csv.gz (2 faces of the Usage PublicTest)"
        assert faces.split == "Usage Training trains, PublicTest validates"
        assert faces.notes == []

    def test_without_validation_faces_the_test_faces_are_used(self, tmp_path):
        faces = read_data(self.fer(tmp_path, ["Training"] * 5 + ["PrivateTest"]), "emotion", Reading())
        np.testing.assert_array_equal(faces.images, IMAGES[[5]])
        assert faces.source == "fer2013.csv.gz (1 faces of the Usage PrivateTest)"

    def test_without_a_usage_all_faces_are_used_and_a_note_says_that_training_has_seen_them(self, tmp_path):
        path = self.fer(tmp_path, header="emotion,pixels")
        faces = read_data(path, "emotion", Reading(seven_labels=True))
        np.testing.assert_array_equal(faces.images, IMAGES[[0, 2, 4, 5]])
        assert faces.source == "fer2013.csv.gz (all 4 faces)"
        assert "a version that was trained on this file has seen most of them" in faces.notes[0]
        with pytest.raises(DataError, match=r"emotion is '6', expected 0 to 4; .*--seven-labels"):
            read_data(path, "emotion", Reading())

    def test_of_key_points_the_held_out_people_of_training_are_used(self, tmp_path):
        path, people = self.keypoints(tmp_path)
        faces = read_data(path, "keypoints", Reading(groups=people, share=0.3, seed=5))
        _, held_out = next(
            GroupShuffleSplit(1, test_size=0.3, random_state=5).split(range(20), groups=np.arange(20) // 2)
        )
        np.testing.assert_allclose(faces.truth[:, 0, 0], (held_out - 0.5) / 2)
        assert faces.source == "training.csv (6 faces of 3 people: 30% of the people validate, seed 5)"
        assert faces.notes == []

    def test_without_groups_the_split_is_by_row_and_a_note_says_so(self, tmp_path):
        faces = read_data(self.keypoints(tmp_path)[0], "keypoints", Reading())
        assert len(faces.images) == 3
        assert faces.split == "15% of the rows validate, seed 0"
        assert "Without --groups the split of training.csv is by row" in faces.notes[0]

    def test_bad_rows_can_be_skipped_and_are_listed(self, tmp_path):
        path = self.fer(tmp_path, ["Training"] * 5 + ["Sometimes"])
        with pytest.raises(DataError, match="Usage is 'Sometimes'"):
            read_data(path, "emotion", Reading())
        assert "Usage is 'Sometimes'" in read_data(path, "emotion", Reading(skip_bad_rows=True)).notes[0]

    def test_faces_of_the_other_kind_are_refused(self, tmp_path):
        path, people = self.keypoints(tmp_path)
        with pytest.raises(DataError, match="holds faces with key points, not emotions"):
            read_data(path, "emotion", Reading())
        with pytest.raises(DataError, match="holds faces with emotions, not key points"):
            read_data(self.fer(tmp_path, ["Training"] * 6), "keypoints", Reading())
        with pytest.raises(DataError, match="--groups only applies to key points"):
            read_data(path, "emotion", Reading(groups=people))
        with pytest.raises(DataError, match="--seven-labels only applies to emotion"):
            read_data(path, "keypoints", Reading(seven_labels=True))


class TestSplitOfTheVersions:
    """Their manifests say how they were trained."""

    def read(self, folder, **manifests):
        path, people = TestKaggleFiles().keypoints(folder)
        nowhere = Deployment(repository=folder, config=folder / "models.config", servers=[])
        request = CompareRequest(deployment=nowhere, model="keypoints", data=path, groups=people)
        return compare._read(request, {int(name[1:]): manifest for name, manifest in manifests.items()})

    def test_is_that_of_the_canary(self, tmp_path):
        manifest = {"config": {"validation": 0.5, "seed": 9}, "split": "50% of the people validate, seed 9"}
        faces = self.read(tmp_path, v1=manifest, v2=manifest)
        assert faces.split == "50% of the people validate, seed 9"
        assert faces.notes == []

    def test_a_note_names_a_version_with_another_split(self, tmp_path):
        manifest = {"config": {"validation": 0.5, "seed": 9}, "split": "50% of the people validate, seed 9"}
        faces = self.read(tmp_path, v1={"split": "15% of the rows validate, seed 0"}, v2=manifest)
        assert faces.notes == [
            "Version 1 was trained with another split (15% of the rows validate, seed 0), "
            "so it may have seen some of these faces."
        ]

    @pytest.mark.parametrize(
        "manifest", [{}, {"config": 5}, {"config": {}}, {"config": {"validation": "x", "seed": -1}}, {"split": 5}]
    )
    def test_is_that_of_the_shipped_recipes_without_a_manifest(self, tmp_path, manifest):
        assert self.read(tmp_path, v1=manifest, v2=manifest).split == "15% of the people validate, seed 0"


@pytest.mark.parametrize(
    ("model", "arrays", "sentence"),
    [
        ("emotion", {"labels": np.array([0, 1, 2, 3, 4, 5])}, "labels are not all integers from 0 to 4"),
        ("emotion", {"labels": np.zeros(5, int)}, r"labels are int64 \(5,\), expected numbers \(6,\)"),
        ("emotion", {"labels": np.array(["a"] * 6)}, r"labels are <U1 \(6,\), expected numbers \(6,\)"),
        ("emotion", {"keypoints": np.zeros((6, 15, 2))}, "has keypoints; expected labels for the model emotion"),
        ("keypoints", {"keypoints": np.zeros((6, 30))}, r"\(6, 30\), expected numbers \(6, 15, 2\)"),
        ("emotion", {"images": IMAGES.astype(float)}, r"images are float64 \(6, 48, 48\), expected uint8"),
        ("emotion", {"images": np.array([None])}, "not a valid .npz file: Object arrays cannot be loaded"),
    ],
)
def test_arrays_with_other_content_are_refused(tmp_path, model, arrays, sentence):
    np.savez(tmp_path / "faces.npz", **{"images": IMAGES, **arrays})
    with pytest.raises(DataError, match=sentence):
        read_data(tmp_path / "faces.npz", model, Reading())


def test_arrays_are_read_with_their_labels_if_they_have_any(tmp_path):
    np.savez(tmp_path / "faces.npz", images=IMAGES, labels=np.arange(6) % 5)
    assert read_data(tmp_path / "faces.npz", "emotion", Reading()).truth.tolist() == [0, 1, 2, 3, 4, 0]
    np.savez(tmp_path / "faces.npz", images=IMAGES)
    assert read_data(tmp_path / "faces.npz", "emotion", Reading()).truth is None
    np.savez(tmp_path / "faces.npz", labels=IMAGES)
    with pytest.raises(DataError, match="has labels; expected images and, where known, labels"):
        read_data(tmp_path / "faces.npz", "emotion", Reading())


@pytest.mark.parametrize("header", [b"(900000000, 48, 48)", b"(6, 48, 48)"])
def test_arrays_that_are_larger_than_their_file_are_refused(tmp_path, header):
    stream = io.BytesIO()
    np.save(stream, IMAGES)
    with zipfile.ZipFile(tmp_path / "faces.npz", "w") as archive:
        archive.writestr("images.npy", stream.getvalue().replace(b"(6, 48, 48)", header)[:500])
    with pytest.raises(DataError, match=r"faces\.npz is not a valid \.npz file"):
        read_data(tmp_path / "faces.npz", "emotion", Reading())


@pytest.mark.parametrize("read", [lambda path: read_data(path, "emotion", Reading()), lambda p: read_recorded(p, "x")])
@pytest.mark.parametrize("name", ["pipe.npz", "pipe.csv"])
def test_a_pipe_is_refused_before_it_is_opened(tmp_path, read, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="it is a named pipe, not a regular file"):
        read(tmp_path / name)


def test_a_limited_number_of_faces_is_spread_over_the_file():
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

    def test_tensors_and_raw_bytes_are_read_and_other_requests_are_counted(self, tmp_path):
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
        assert faces.source == "requests, 1 requests skipped"
        np.testing.assert_array_equal(read_recorded(file, "keypoints").images, IMAGES[4:5])

    def test_a_file_written_by_tensorflow_is_read(self, tiny_model, tmp_path):
        """As TensorFlow writes it, checksums and all."""
        import tensorflow as tf

        log = protos.PredictionLog()
        log.predict_log.request.inputs["images"].tensor_content = IMAGES.tobytes()
        with tf.io.TFRecordWriter(str(tmp_path / "requests")) as writer:
            writer.write(log.SerializeToString())
        np.testing.assert_array_equal(read_recorded(tmp_path / "requests", "emotion").images, IMAGES)

    @pytest.mark.parametrize("content", [b"", b"short", bytes(12), struct.pack("<Q", 3) + b"1234abc5678"])
    def test_an_invalid_file_is_refused(self, tmp_path, content):
        (tmp_path / "requests").write_bytes(content)
        with pytest.raises(DataError, match=r"requests (is not a valid TFRecord file|has no predict request|is empty)"):
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

    def test_of_key_points_are_relative_to_the_distance_between_the_eyes(self):
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

    def test_only_include_faces_that_both_answered(self):
        lost = one_hot(0, 1, 2)
        lost[1] = np.nan
        figures = measure(side("stable", one_hot(0, 1, 2)), side("canary", lost, errors=["gone"]), None)
        assert figures["agreement"] == 1
        assert figures["errors_canary"] == 1
        assert "accuracy_delta" not in figures


class TestGates:
    def passed(self, **figures):
        usual = {"errors_stable": 0, "errors_canary": 0, "agreement": 1.0, "p99_ratio": 1.0}
        return {gate.name: gate.passed for gate in judge(usual | figures, LIMITS)}

    def test_pass_if_all_figures_are_within_their_limits(self):
        assert self.passed(accuracy_delta=0.0) == {
            "errors": True,
            "accuracy delta": True,
            "agreement": True,
            "p99 ratio": True,
        }

    def test_on_accuracy_require_the_truth(self):
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
    def test_fail_independently(self, figures, gate):
        assert [name for name, passed in self.passed(**figures).items() if not passed] == [gate]

    def test_all_fail_without_any_answer(self):
        nothing = np.full((2, 5), np.nan)
        gates = judge(measure(side("stable", one_hot(0, 1)), side("canary", nothing, errors=["no"]), None), LIMITS)
        assert not any(gate.passed for gate in gates)


class Counts:
    """Records the progress of a comparison."""

    def __init__(self):
        self.counts = []

    def say(self, text):
        pass

    def count(self, done, total):
        self.counts.append((done, total))


class TestAsking:
    """Two servers; the second one stops answering at some moment."""

    def ask(self, answers):
        asked = []

        class StandIn(Server):
            def __init__(self, address):
                super().__init__(address, Security())

            def predict(self, target, images, output, timeout):
                asked.append((self.address, target.label, len(images)))
                if sum(address == self.address for address, *_ in asked) > answers[self.address]:
                    raise FleetError("cannot be reached")
                return Answer(one_hot(0), 1 if target.label == "stable" else 2)

        faces = Faces(np.zeros((200, 48, 48), np.uint8), None, "faces")
        servers = [StandIn(address) for address in answers]
        self.progress = Counts()
        return asked, *answers_module.ask(servers, "emotion", {"stable": 1, "canary": 2}, faces, 1.0, self.progress)

    def test_both_labels_get_the_same_faces_and_the_servers_share_them(self):
        asked, stable, canary = self.ask({"a": 1000, "b": 1000})
        assert stable.answered.all()
        assert canary.answered.all()
        for server in "ab":
            for label in ("stable", "canary"):
                assert asked.count((server, label, 1)) == 100 + answers_module.WARM_UP

    def test_progress_counts_the_faces(self):
        self.ask({"a": 1000, "b": 1000})
        assert sorted(self.progress.counts) == [(number, 200) for number in range(1, 201)]

    def test_a_server_that_fails_repeatedly_is_asked_no_more(self):
        asked, stable, canary = self.ask({"a": 1000, "b": 50})
        assert sum(server == "b" for server, *_ in asked) == 50 + answers_module._GIVE_UP
        assert stable.errors + canary.errors == ["b cannot be reached"] * answers_module._GIVE_UP
        assert not judge(measure(stable, canary, None), LIMITS)[0].passed


def report(model, faces, stable, canary):
    figures = measure(stable, canary, faces.truth)
    gates = [vars(gate) for gate in judge(figures, LIMITS)]
    document = {
        "model": model,
        "stable": 1,
        "canary": 2,
        "faces": len(faces.images),
        "source": faces.source,
        "notes": faces.notes,
    }
    document |= {"figures": figures, "gates": gates, "passed": False, "errors": []}
    return report_module.page(document, faces, stable, canary)


def test_the_report_shows_gates_figures_and_the_faces_with_the_largest_drift():
    faces = Faces(IMAGES[:3], np.array([0, 1, 4]), "<faces>.csv", notes=["Seen < before."])
    page = report("emotion", faces, side("stable", one_hot(0, 1, 2)), side("canary", one_hot(0, 1, 4)))
    assert "Failed on 3 faces of &lt;faces&gt;.csv." in page
    assert "<p>Seen &lt; before.</p>" in page
    assert '<td>agreement</td><td>0.6667</td><td>0.9</td><td class="failed">failed</td>' in page
    assert "<td>Surprise</td><td>1</td><td>0.000</td><td>1.000</td>" in page
    assert page.count("<figure>") == 1
    assert "stable: Sad 84%<br>\ncanary: Surprise 84%<br>\nlabelled Surprise" in page
    image = base64.b64decode(page.partition("base64,")[2].partition('"')[0])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), IMAGES[2])


def test_the_tables_of_the_report_scroll_on_narrow_screens():
    faces = Faces(IMAGES[:3], np.array([0, 1, 4]), "faces")
    page = report("emotion", faces, side("stable", one_hot(0, 1, 2)), side("canary", one_hot(0, 1, 4)))
    assert page.count('<div class="table"><table>') == page.count("<table>") == 4
    assert ".table { overflow-x: auto }" in page
    assert '<meta name="viewport" content="width=device-width' in page


def test_the_report_draws_the_key_points_of_both_versions():
    points = RANDOM.uniform(0, 47, (2, 15, 2))
    moved = points.copy()
    moved[1, 10] = points[1, 10] + (3, 4)
    page = report("keypoints", Faces(IMAGES[:2], None, "faces"), side("stable", points), side("canary", moved))
    assert "<td>nose_tip</td><td>2.50</td><td>5.00</td>" in page
    assert page.count("<figure>") == 1
    assert page.count('<circle class="stable"') == page.count('<circle class="canary"') == 15
    x, y = moved[1, 10]
    assert f'<circle class="canary" cx="{x:.2f}" cy="{y:.2f}"' in page


def test_the_report_of_a_canary_without_answers_counts_errors():
    nothing = side("canary", np.full((2, 15, 2), np.nan), errors=["gone"])
    page = report("keypoints", Faces(IMAGES[:2], None, "faces"), side("stable", np.zeros((2, 15, 2))), nothing)
    assert "<td>errors canary</td><td>1</td>" in page
