"""Publishing a version: what is in it, and that it appears whole or not at all."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from mien_client import contract, protos, signing
from mien_client.cli import main
from mien_training import export
from mien_training.errors import ExportError, RunError
from mien_training.prediction import inference
from mien_training.runs import open_run
from PIL import Image

IMAGES = np.random.default_rng(5).integers(0, 256, (4, 48, 48), np.uint8)


def silent(_words):
    pass


def encode(image, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def repository(tmp_path_factory, finished_runs):
    folder = tmp_path_factory.mktemp("repository") / "models"
    for model, run in finished_runs.items():
        described = shutil.copytree(run, folder.with_name(f"described-{model}"))
        (described / "MODEL_CARD.md").write_text(f"# {model}", encoding="utf-8")
        export.export(open_run(described), folder, silent)
    return folder


@pytest.fixture(scope="module")
def signatures(repository):
    loaded = {model: tf.saved_model.load(str(repository / model / "1")) for model in ("emotion", "keypoints")}
    return {model: (saved, saved.signatures) for model, saved in loaded.items()}


@pytest.mark.parametrize("model", ["emotion", "keypoints"])
class TestAVersion:
    def test_its_signatures_are_the_contracts(self, signatures, model):
        functions = signatures[model][1]
        assert set(functions) == {"serving_default", "serving_raw", "serving_encoded"}
        for name, function in functions.items():
            inputs = {
                key: (spec.dtype, spec.shape.as_list()) for key, spec in function.structured_input_signature[1].items()
            }
            if name == "serving_default":
                assert inputs == {"images": (tf.uint8, [None, 48, 48])}
            else:
                assert inputs == {"image_bytes": (tf.string, [None])}
            outputs = {key: spec.dtype for key, spec in function.structured_outputs.items()}
            if model == "emotion":
                assert outputs == {"probabilities": tf.float32, "label": tf.string, "other": tf.float32}
            else:
                assert outputs == {"keypoints": tf.float32}

    def test_all_signatures_answer_as_the_network_does(self, signatures, finished_runs, model):
        expected = inference(open_run(finished_runs[model]).load())(IMAGES).numpy()
        functions = signatures[model][1]
        answers = [
            functions["serving_default"](images=tf.constant(IMAGES)),
            functions["serving_raw"](image_bytes=tf.constant([image.tobytes() for image in IMAGES])),
            functions["serving_encoded"](image_bytes=tf.constant([encode(image) for image in IMAGES])),
        ]
        for answer in answers:
            if model == "emotion":
                expected_probabilities = tf.nn.softmax(expected[:, :5]).numpy()
                np.testing.assert_allclose(answer["probabilities"], expected_probabilities, atol=1e-5)
                labels = [contract.EMOTIONS[index].encode() for index in expected[:, :5].argmax(axis=1)]
                assert answer["label"].numpy().tolist() == labels
                other = tf.nn.softmax(expected).numpy()[:, 5:].sum(axis=1)
                np.testing.assert_allclose(answer["other"], other, atol=1e-5)
            else:
                np.testing.assert_allclose(answer["keypoints"], expected, rtol=1e-5, atol=1e-5)

    def test_no_faces_give_an_empty_answer(self, signatures, model):
        output = "probabilities" if model == "emotion" else "keypoints"
        functions = signatures[model][1]
        empty = tf.constant([], tf.string)
        assert functions["serving_default"](images=tf.zeros((0, 48, 48), tf.uint8))[output].shape[0] == 0
        assert functions["serving_raw"](image_bytes=empty)[output].shape[0] == 0
        assert functions["serving_encoded"](image_bytes=empty)[output].shape[0] == 0

    @pytest.mark.parametrize("count", [0, 2303, 2305])
    def test_raw_bytes_of_another_length_are_refused(self, signatures, model, count):
        with pytest.raises(tf.errors.InvalidArgumentError, match="every image must be 2304 raw bytes"):
            signatures[model][1]["serving_raw"](image_bytes=tf.constant([bytes(2304), bytes(count)]))

    def test_pictures_of_any_size_and_kind_are_scaled_and_made_grey(self, signatures, model):
        large = np.kron(IMAGES[0], np.ones((4, 4), np.uint8))
        pictures = [encode(IMAGES[0]), encode(large), encode(np.stack([large] * 3, axis=-1))]
        output = "probabilities" if model == "emotion" else "keypoints"
        function = signatures[model][1]["serving_encoded"]
        answers = function(image_bytes=tf.constant(pictures))[output].numpy()
        np.testing.assert_allclose(answers, np.repeat(answers[:1], 3, axis=0), atol=1e-3)
        with pytest.raises(tf.errors.InvalidArgumentError, match="send one upright face crop"):
            function(image_bytes=tf.constant([encode(large[:100], "JPEG", quality=95)]))

    def test_weights_are_in_the_saved_model(self, repository, finished_runs, model, tmp_path):
        """A new process without Keras and Mien gets the numbers of the network."""
        np.save(tmp_path / "images.npy", IMAGES)
        output = "probabilities" if model == "emotion" else "keypoints"
        code = (
            "import sys, numpy, tensorflow as tf\n"
            "saved = tf.saved_model.load(sys.argv[1])\n"
            "images = tf.constant(numpy.load(sys.argv[2]))\n"
            "numpy.save(sys.argv[3], saved.signatures['serving_default'](images=images)[sys.argv[4]])\n"
        )
        command = [repository / model / "1", tmp_path / "images.npy", tmp_path / "answers.npy", output]
        subprocess.run([sys.executable, "-c", code, *map(str, command)], check=True, capture_output=True)
        expected = inference(open_run(finished_runs[model]).load())(IMAGES)
        if model == "emotion":
            expected = tf.nn.softmax(expected[:, :5])
        np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, rtol=1e-5, atol=1e-5)

    def test_the_manifest_describes_the_version(self, repository, model):
        folder = repository / model / "1"
        manifest = json.loads((folder / "assets.extra" / "manifest.json").read_text(encoding="utf-8"))
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert set(manifest["sha256"]) == files - {"assets.extra/manifest.json"}
        for name, digest in manifest["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert manifest["model"] == model
        assert manifest["outputs"] == list(contract.EMOTIONS if model == "emotion" else contract.KEYPOINTS)
        assert manifest["trained_on"] == {"file": "made up"}
        assert manifest["metrics"]["validation"]
        assert manifest["versions"]["tensorflow"] == tf.__version__
        assert manifest["largest_difference"] <= 1e-5

    def test_golden_images_come_with_the_networks_answers(self, repository, signatures, finished_runs, model):
        with np.load(repository / model / "1" / "assets.extra" / "golden.npz") as golden:
            images, answers = golden["images"], golden["answers"]
        expected = inference(open_run(finished_runs[model]).load())(images)
        if model == "emotion":
            expected = tf.nn.softmax(expected[:, :5])
        assert images.shape == (8, 48, 48)
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, expected, rtol=1e-6, atol=1e-6)
        output = "probabilities" if model == "emotion" else "keypoints"
        answered = signatures[model][1]["serving_default"](images=tf.constant(images))[output]
        np.testing.assert_allclose(answered, answers, rtol=1e-5, atol=1e-5)

    def test_the_runs_model_card_is_in_it(self, repository, model):
        assert (repository / model / "1" / "assets.extra" / "MODEL_CARD.md").read_text(encoding="utf-8") == f"# {model}"

    def test_warm_up_requests_cover_every_signature(self, repository, signatures, model):
        path = repository / model / "1" / "assets.extra" / "tf_serving_warmup_requests"
        seen = set()
        for record in tf.data.TFRecordDataset(str(path)):
            request = protos.PredictionLog.FromString(record.numpy()).predict_log.request
            assert request.model_spec.name == model
            inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
            signatures[model][1][request.model_spec.signature_name](**inputs)
            seen.add(request.model_spec.signature_name)
        assert seen == {"serving_default", "serving_raw", "serving_encoded"}


def test_nothing_is_written_to_standard_error(tmp_path, finished_runs, capfd):
    export.export(open_run(finished_runs["emotion"]), tmp_path, silent)
    assert capfd.readouterr().err == ""


class TestTheSameRunTwice:
    @pytest.fixture
    def run(self, finished_runs):
        return open_run(finished_runs["emotion"])

    def test_is_found_in_the_repository(self, repository, run, tmp_path):
        assert export.published(run, repository) == repository / "emotion" / "1"
        assert export.published(run, tmp_path) is None

    def change(self, manifest, tmp_path, repository):
        """A repository whose manifest differs in some keys; `None` removes one."""
        path = tmp_path / "emotion" / "3" / "assets.extra" / "manifest.json"
        path.parent.mkdir(parents=True)
        before = json.loads(
            (repository / "emotion" / "1" / "assets.extra" / "manifest.json").read_text(encoding="utf-8")
        )
        changed = {key: value for key, value in {**before, **manifest}.items() if value is not None}
        path.write_text(json.dumps(changed), encoding="utf-8")
        return tmp_path

    def test_is_known_from_a_manifest_without_the_sum_of_the_weights(self, repository, run, tmp_path):
        older = self.change({"weights_sha256": None}, tmp_path, repository)
        assert export.published(run, older) == older / "emotion" / "3"

    @pytest.mark.parametrize(
        "other",
        [
            {"weights_sha256": "0" * 64},
            {"metrics": {"best_epoch": 1}},
            {"config": {}},
            {"trained_on": {"file": "other"}},
            {"versions": {"mien-training": "0.0.1"}},
        ],
    )
    def test_is_distinguished_from_other_runs_and_from_exports_by_other_versions(
        self, repository, run, tmp_path, other
    ):
        assert export.published(run, self.change(other, tmp_path, repository)) is None

    @pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
    def test_is_not_found_in_a_damaged_manifest(self, run, tmp_path, content):
        path = tmp_path / "emotion" / "1" / "assets.extra" / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text(content, encoding="utf-8")
        assert export.published(run, tmp_path) is None


class TestVersionNumbers:
    def test_the_next_number_is_taken_and_the_ones_before_stay_as_they_are(self, tmp_path, finished_runs):
        (tmp_path / "emotion" / "7").mkdir(parents=True)
        (tmp_path / "emotion" / "notes").mkdir()
        run = open_run(finished_runs["emotion"])
        assert export.export(run, tmp_path, silent) == tmp_path / "emotion" / "8"
        assert sorted(path.name for path in (tmp_path / "emotion").iterdir()) == ["7", "8", "notes"]
        assert list((tmp_path / "emotion" / "7").iterdir()) == []

    def test_two_exports_at_once_get_two_numbers(self, tmp_path):
        (tmp_path / "emotion").mkdir()
        asides = []
        for index in range(8):
            aside = tmp_path / "emotion" / f".export-{index}"
            aside.mkdir()
            (aside / "who").write_text(str(index), encoding="utf-8")
            asides.append(aside)
        with ThreadPoolExecutor(8) as pool:
            versions = list(pool.map(lambda aside: export._publish(aside, tmp_path / "emotion"), asides))
        assert sorted(int(version.name) for version in versions) == list(range(1, 9))
        assert sorted((version / "who").read_text(encoding="utf-8") for version in versions) == [
            str(index) for index in range(8)
        ]

    def test_a_version_is_readable_by_all_users(self, repository):
        assert (repository / "emotion" / "1").stat().st_mode & 0o777 == 0o755


class TestAFailedExport:
    @pytest.mark.parametrize(
        "step",
        [
            "_write_saved_model",
            "_write_warmup",
            "_write_golden",
            "_copy_card",
            "_compare",
            "_manifest",
            "flush_to_disk",
        ],
    )
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
    def test_leaves_no_trace(self, tmp_path, finished_runs, monkeypatch, step, error):
        def fail(*_arguments):
            raise error

        if step != "_write_saved_model":  # the real one takes seconds
            monkeypatch.setattr(export, "_write_saved_model", lambda _network, _model, folder: (folder / "pb").touch())
            monkeypatch.setattr(export, "_compare", lambda *_arguments: 0.0)
        monkeypatch.setattr(export, step, fail)
        with pytest.raises((ExportError, KeyboardInterrupt, ValueError)) as caught:
            export.export(open_run(finished_runs["emotion"]), tmp_path / "models", silent)
        assert not (tmp_path / "models").exists()
        if isinstance(error, OSError):
            assert str(caught.value) == f"{tmp_path / 'models'} cannot be written: No space left on device"

    @pytest.mark.parametrize("difference", [2e-5, float("nan")])
    def test_answers_that_differ_are_not_published(self, tmp_path, finished_runs, monkeypatch, difference):
        monkeypatch.setattr(export, "_write_saved_model", lambda _network, _model, folder: (folder / "pb").touch())
        monkeypatch.setattr(export, "_compare", lambda *_arguments: difference)
        (tmp_path / "emotion" / "1").mkdir(parents=True)
        with pytest.raises(ExportError, match=r"differ from the emotion network's by .*nothing was published"):
            export.export(open_run(finished_runs["emotion"]), tmp_path, silent)
        assert [path.name for path in (tmp_path / "emotion").iterdir()] == ["1"]


class TestRunFolders:
    def test_a_folder_without_a_run_is_named(self, tmp_path):
        with pytest.raises(RunError, match=r"has no run.json"):
            open_run(tmp_path)

    @pytest.mark.parametrize("content", ["{", "{}", '{"config": 3}', '{"config": {"widths": [1]}}'])
    def test_a_damaged_description_is_named(self, tmp_path, content):
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
        with pytest.raises(RunError, match=r"run\.json is damaged, or from another version"):
            open_run(tmp_path)

    def test_weights_that_do_not_fit_are_named(self, tmp_path, finished_runs):
        for name in ("run.json", "metrics.json"):
            (tmp_path / name).write_text(
                (finished_runs["emotion"] / name).read_text(encoding="utf-8"), encoding="utf-8"
            )
        (tmp_path / "best.weights.h5").write_bytes((finished_runs["keypoints"] / "best.weights.h5").read_bytes())
        with pytest.raises(RunError, match="does not fit the emotion network"):
            open_run(tmp_path).load()
        (tmp_path / "best.weights.h5").write_bytes(b"nonsense")
        with pytest.raises(RunError, match="does not fit the emotion network"):
            open_run(tmp_path).load()


class TestASignedVersion:
    @pytest.fixture
    def key(self, tmp_path):
        pytest.importorskip("model_signing", reason="the extra signing is not installed")
        from tests.signing_keys import write_key

        return write_key(tmp_path, "training")[0]

    def test_is_verified_with_the_public_key(self, tmp_path, finished_runs, key, capsys):
        where = f"--repository={tmp_path / 'models'}"
        assert main(["export", str(finished_runs["keypoints"]), where, f"--sign={key}"]) == 0
        version = tmp_path / "models" / "keypoints" / "1"
        assert f"keypoints: published {version}, signed\n" in capsys.readouterr().out
        signing.verify(version, signing.Policy.read(key.with_suffix(".pub")))

    def test_is_not_published_if_the_key_is_not_suitable(self, tmp_path, finished_runs, key, capsys):
        where = f"--repository={tmp_path / 'models'}"
        assert main(["export", str(finished_runs["keypoints"]), where, f"--sign={key.with_suffix('.pub')}"]) == 1
        assert "Expected a private key without a password" in capsys.readouterr().err
        assert not (tmp_path / "models").exists()

    def test_needs_a_key_for_its_certificate(self, tmp_path, finished_runs, capsys):
        where = f"--repository={tmp_path / 'models'}"
        assert main(["export", str(finished_runs["keypoints"]), where, "--certificate=ada.crt"]) == 1
        assert "--certificate requires --sign KEY" in capsys.readouterr().err
