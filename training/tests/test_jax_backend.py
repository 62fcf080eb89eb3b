"""Training on JAX: the same faces, the same steps, and weights that TensorFlow loads."""

import json
import os
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from mien_client.cli import INTERRUPTED
from mien_training import augmentation
from mien_training.configs import CONFIGS
from mien_training.jax_backend import augmentation as on_jax
from mien_training.jax_backend import distil
from mien_training.runs import PRETRAINED, open_run
from mien_training.tasks import TASKS

pytestmark = pytest.mark.slow

SMALL = ["epochs=2", "batch_size=16", "network.stem=8", "network.widths=[8, 8, 8]", "network.depths=[1, 1, 1]"]


@pytest.fixture(scope="module")
def images():
    """32 smooth pictures, uint8 [32, 48, 48]: noise would make every small difference a large one."""
    coarse = np.random.default_rng(0).uniform(0, 255, (32, 8, 8, 1)).astype(np.float32)
    return tf.image.resize(coarse, (48, 48), "bicubic").numpy()[..., 0].clip(0, 255).astype(np.uint8)


class TestAugmentation:
    def test_moves_faces_and_points_as_on_tensorflow(self, images):
        random = np.random.default_rng(1)
        points = random.uniform(0, 47, (32, 15, 2)).astype(np.float32)
        points[0, 3] = np.nan
        mirror = np.where(random.uniform(size=32) < 0.5, -1.0, 1.0).astype(np.float32)
        angle, zoom = random.uniform(-0.3, 0.3, 32).astype("f4"), random.uniform(0.8, 1.2, 32).astype("f4")
        shift = random.uniform(-5, 5, (32, 2)).astype(np.float32)
        expected = augmentation.warp(images, tf.constant(points), mirror, angle, zoom, shift)
        found = on_jax.warp(*map(jnp.asarray, (images, points, mirror, angle, zoom, shift)))
        np.testing.assert_allclose(found[0], expected[0], atol=0.01)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-4)

    @pytest.mark.parametrize("quality", [15, 50, 90])
    def test_compresses_as_a_jpeg_library_does(self, images, quality):
        def through_library(image):
            encoded = tf.io.encode_jpeg(image[..., None], quality=quality)
            return tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE").numpy()[..., 0]

        expected = np.stack([through_library(image) for image in images]).astype(int)
        found = np.asarray(on_jax.through_jpeg(jnp.asarray(images), jnp.full(len(images), quality))).astype(int)
        # The library computes in whole numbers, so some grey levels are one apart.
        assert np.abs(found - expected).mean() < 0.25
        assert np.abs(found - expected).mean() < np.abs(images - expected).mean() / 2

    def test_leaves_faces_alone_where_the_recipe_says_so(self, images):
        limits = CONFIGS["emotion"].augmentation.__class__(0.0, 0.0, 0.0, 0.0, 0.0, 0)
        points = np.zeros((32, 15, 2), np.float32)
        same, _ = on_jax.augment(jnp.asarray(images), jnp.asarray(points), jax.random.key(0), limits)
        flipped = np.abs(np.asarray(same).astype(int) - images[:, :, ::-1]).max(axis=(1, 2)) <= 1
        kept = np.abs(np.asarray(same).astype(int) - images).max(axis=(1, 2)) <= 1
        assert (flipped | kept).all()
        assert flipped.any()
        assert kept.any()
        np.testing.assert_array_equal(on_jax.degrade(jnp.asarray(images), jax.random.key(0), limits), images)


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "mien_training.jax_backend.distil", *map(str, arguments)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def make(*arguments):
    running = start(*arguments)
    output, errors = running.communicate()
    return subprocess.CompletedProcess(running.args, running.returncode, output, errors)


@pytest.fixture(scope="module")
def faces(tmp_path_factory, emotion_split, keypoint_split):
    """A file as `prepare` writes it."""
    file = {"file": "made up", "sha256": "0"}
    about: dict[str, object] = {"how": {"emotion": "by hand", "keypoints": "by hand"}}
    about["files"] = dict.fromkeys(("emotion", "votes", "keypoints", "people"), file)
    arrays = {
        f"{model}_{part}_{what}": getattr(getattr(split, part), what)
        for model, split in (("emotion", emotion_split), ("keypoints", keypoint_split))
        for part in ("training", "validation")
        for what in ("images", "targets")
    }
    path = tmp_path_factory.mktemp("faces") / "faces.npz"
    np.savez(path, about=json.dumps(about), **arrays)
    return path


@pytest.fixture(scope="module")
def runs(faces, tmp_path_factory):
    """Two teachers' runs, one started from the other model's, and their pupils'."""
    out = tmp_path_factory.mktemp("runs")
    names = ["emotion-teacher-1", "keypoints-teacher-1"]
    settings = [part for setting in SMALL for part in ("--set", setting)]
    done = make("train", "--faces", faces, "--out", out, "--precision", "float32", *settings, *names)
    assert done.returncode == 0, done.stderr + done.stdout + (out / f"{names[0]}.log").read_text(encoding="utf-8")
    return out


def test_a_plan_is_made_in_the_order_of_its_needs(runs):
    for name in ("emotion-teacher-1", "keypoints-teacher-1"):
        run = open_run(runs / name)
        assert run.facts["backend"] == "jax"
        assert run.metrics["epochs"] == 2
    assert open_run(runs / "keypoints-teacher-1").facts["source"]["start"]


@pytest.mark.parametrize("name", ["emotion-teacher-1", "keypoints-teacher-1"])
def test_tensorflow_answers_with_the_weights_as_jax_did(runs, name, emotion_split, keypoint_split):
    run = open_run(runs / name)
    faces = (emotion_split if run.model == "emotion" else keypoint_split).validation
    answers = run.load()(faces.images, training=False).numpy()
    for metric, value in TASKS[run.model].measure(faces, answers).items():
        assert run.metrics["validation"][metric] == pytest.approx(value, abs=1e-4)


def test_a_run_that_was_stopped_continues_where_it_was(faces, tmp_path):
    name = "keypoints-teacher-1"
    settings = [part for setting in (*SMALL, "epochs=40") for part in ("--set", setting)]
    shutil.copytree(PRETRAINED / "emotion", tmp_path / "emotion-teacher-1")
    arguments = ["train-one", name, "--faces", faces, "--out", tmp_path, *settings]
    running = start(*arguments)
    while not (tmp_path / name / "log.csv").exists():
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.1)
    running.terminate()
    output, errors = running.communicate()
    assert running.returncode == INTERRUPTED, errors
    assert "the same command continues" in output
    before = np.loadtxt(tmp_path / name / "log.csv", delimiter=",", skiprows=1, ndmin=2)
    assert 1 <= len(before) < 40
    done = make(*arguments)
    assert done.returncode == 0, done.stderr
    after = np.loadtxt(tmp_path / name / "log.csv", delimiter=",", skiprows=1)
    assert len(after) == 40
    np.testing.assert_array_equal(after[: len(before)], before)


def test_a_pupil_learns_from_its_teachers_and_from_more_faces(faces, runs):
    settings = [part for setting in SMALL for part in ("--set", setting)]
    for other in ("2", "3"):  # Any finished run of the model will do.
        shutil.copytree(runs / "keypoints-teacher-1", runs / f"keypoints-teacher-{other}", dirs_exist_ok=True)
    done = make("train-one", "keypoints-0", "--faces", faces, "--out", runs, *settings)
    assert done.returncode == 0, done.stderr
    pupil = open_run(runs / "keypoints-0")
    assert len(pupil.facts["source"]["teachers"]) == 3
    assert pupil.metrics["faces"]["training"] == distil.OWN_FACES * 60 + 90


def test_a_run_that_is_not_in_the_plan_is_refused(faces, tmp_path):
    done = make("train", "--faces", faces, "--out", tmp_path, "emotion-9")
    assert done.returncode != 0
    assert done.stderr.startswith("The plan has no run 'emotion-9'; its runs are emotion-teacher-1, ")


def test_prepare_parts_faces_as_training_does(emotion_csv, votes_csv, keypoint_csv, tmp_path):
    data, people = keypoint_csv
    files = ["--emotion", emotion_csv, "--votes", votes_csv, "--keypoints", data, "--people", people]
    done = make("prepare", *files, "--faces", tmp_path / "faces.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "faces.npz") as arrays:
        assert len(arrays["emotion_training_images"]) == 90  # 91, less one that is not a face
        assert arrays["emotion_training_votes"].shape == (90, 10)
        assert len(arrays["keypoints_training_images"]) + len(arrays["keypoints_validation_images"]) == 80
        assert json.loads(str(arrays["about"]))["files"]["votes"]["file"] == votes_csv.name
