"""Training: what a run leaves behind, and that an interruption costs nothing."""

import csv
import json
import re
import shutil
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from mien_training import train, training_run
from mien_training.configs import Augmentation
from mien_training.errors import RunError
from mien_training.interruption import Interrupted
from mien_training.runs import open_run
from mien_training.splits import batches
from mien_training.train import Trainer

SOURCE = {"file": "made up"}


def interrupt_after(trainer, steps):
    """Send ourselves SIGTERM once a number of steps is done."""
    step = trainer._train_step

    def counted(*arguments):
        result = step(*arguments)
        if trainer.step + 1 == steps:
            signal.raise_signal(signal.SIGTERM)
        return result

    trainer._train_step = counted


def test_a_run_leaves_its_records(finished_runs):
    folder = finished_runs["emotion"]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["validation"]) == {"accuracy", "macro_f1"}
    assert set(metrics["calibration"]) == {"temperature", "ece_before", "ece"}
    assert metrics["faces"] == {"training": 90, "validation": 30}
    log = list(csv.DictReader((folder / "log.csv").open(encoding="utf-8")))
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert float(log[-1]["learning_rate"]) == pytest.approx(0, abs=1e-5)
    assert max(float(row["val_accuracy"]) for row in log) == metrics["validation"]["accuracy"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "tensorboard").iterdir())


def test_a_network_learns_simple_patterns(tmp_path, tiny, emotion_split):
    still = Augmentation(shift=1, rotation=0, zoom=0, contrast=0, brightness=0, blur=0, cutout=0, jpeg=0)
    config = replace(tiny["emotion"], epochs=25, batch_size=8, learning_rate=5e-3, average=0.9, augmentation=still)
    result = Trainer("emotion", emotion_split, config, tmp_path / "run", SOURCE, "float32").run()
    assert result["validation"]["accuracy"] > 0.6  # chance is 0.2


@pytest.mark.slow
@pytest.mark.parametrize("model", ["emotion", "keypoints"])
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    tmp_path, tiny, finished_runs, emotion_split, keypoint_split, model
):
    split = emotion_split if model == "emotion" else keypoint_split
    arguments = (model, split, tiny[model], tmp_path / "run", SOURCE, "float32")
    first = Trainer(*arguments)
    assert first.total_steps == 2 * first.steps_per_epoch
    stop = first.steps_per_epoch + 2
    interrupt_after(first, stop)
    with pytest.raises(Interrupted):
        first.run()
    assert not (tmp_path / "run" / "metrics.json").exists()
    with pytest.raises(RunError, match="has not ended; repeat its `mien train`"):
        open_run(tmp_path / "run")

    second = Trainer(*arguments)
    assert second.step == stop
    second.run()
    for ours, theirs in zip(
        open_run(tmp_path / "run").load().weights, open_run(finished_runs[model]).load().weights, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    whole, parts = (
        list(csv.DictReader((folder / "log.csv").open(encoding="utf-8")))
        for folder in (finished_runs[model], tmp_path / "run")
    )
    for one, other in zip(whole, parts, strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-4)


@pytest.mark.slow
def test_a_killed_run_continues_from_its_last_checkpoint(tmp_path, tiny, emotion_split, monkeypatch):
    monkeypatch.setattr(training_run, "CHECKPOINT_SECONDS", 0.0)
    arguments = ("emotion", emotion_split, tiny["emotion"], tmp_path / "run", SOURCE, "float32")
    first = Trainer(*arguments)
    step = first._train_step

    def die(*values):
        if first.step == 3:
            raise MemoryError  # as good as a kill: nothing below catches it
        return step(*values)

    first._train_step = die
    with pytest.raises(MemoryError):
        first.run()
    assert Trainer(*arguments).step == 3


def test_a_teachers_answers_are_learned_and_the_run_names_the_teacher(tmp_path, tiny, finished_runs, emotion_split):
    teacher = open_run(finished_runs["emotion"])
    config = replace(tiny["emotion"], teacher=1.0, epochs=1)
    wrong = replace(emotion_split.training, targets=(emotion_split.training.targets + 1) % 5)
    for name, split in {"right": emotion_split, "wrong": replace(emotion_split, training=wrong)}.items():
        Trainer("emotion", split, config, tmp_path / name, SOURCE, "float32", [teacher]).run()
        (named,) = open_run(tmp_path / name).facts["source"]["teachers"]
        assert len(named["sha256"]) == 64
    right, wrong = (
        next(csv.DictReader((tmp_path / name / "log.csv").open(encoding="utf-8"))) for name in ("right", "wrong")
    )
    assert right["loss"] == wrong["loss"]  # the labels have no share


def test_a_teacher_sees_what_its_pupil_sees_but_not_degraded(tmp_path, tiny, finished_runs, emotion_split, monkeypatch):
    teacher = open_run(finished_runs["emotion"])
    config = replace(tiny["emotion"], teacher=0.5)
    trainer = Trainer("emotion", emotion_split, config, tmp_path / "run", SOURCE, "float32", [teacher])
    changed, degraded = (np.full((8, 48, 48), grey, np.uint8) for grey in (77, 78))
    monkeypatch.setattr(train, "augment", lambda _images, points, *_: (tf.constant(changed), points))
    monkeypatch.setattr(train, "degrade", lambda images, *_: images + 1)
    seen: dict[str, Any] = {}
    answer, learn = [tf.zeros((8, 7))], trainer.model.call
    monkeypatch.setattr(trainer, "_teachers", [lambda images: (seen.update(teacher=images), answer)[1]])
    monkeypatch.setattr(
        trainer.model, "call", lambda images, **how: (seen.update(pupil=images), learn(images, **how))[1]
    )
    faces = emotion_split.training[slice(8)]
    trainer._step(tf.constant(faces.images), tf.one_hot(faces.targets, 7), tf.constant(0))
    np.testing.assert_array_equal(seen["teacher"], changed)
    np.testing.assert_array_equal(seen["pupil"], degraded)


def test_estimating_the_time_changes_no_variable(tmp_path, tiny, emotion_split):
    trainer = Trainer("emotion", emotion_split, tiny["emotion"], tmp_path / "run", SOURCE, "float32")
    before = [np.array(variable) for variable in trainer._variables()]
    assert trainer.estimate() > 0
    assert trainer.step == 0
    for old, variable in zip(before, trainer._variables(), strict=True):
        np.testing.assert_array_equal(old, variable)


def test_a_finished_run_is_not_trained_again(tmp_path, tiny, finished_runs, emotion_split):
    trainer = Trainer("emotion", emotion_split, tiny["emotion"], finished_runs["emotion"], SOURCE, "float32")
    before = (finished_runs["emotion"] / "best.weights.h5").read_bytes()
    assert trainer.step == trainer.total_steps
    assert trainer.run() == json.loads((finished_runs["emotion"] / "metrics.json").read_text(encoding="utf-8"))
    assert (finished_runs["emotion"] / "best.weights.h5").read_bytes() == before


def test_other_arguments_do_not_continue_a_run(tiny, finished_runs, emotion_split, keypoint_split):
    folder = finished_runs["emotion"]
    other = replace(tiny["emotion"], epochs=1, augmentation=replace(tiny["emotion"].augmentation, blur=0.5))
    with pytest.raises(
        RunError, match=r"holds a run with other settings: epochs 2, not 1; augmentation\.blur 2\.0, not 0\.5\. Repeat"
    ):
        Trainer("emotion", emotion_split, other, folder, SOURCE, "float32")
    with pytest.raises(RunError, match=r'settings: source\.file "made up", not "other"\.'):
        Trainer("emotion", emotion_split, tiny["emotion"], folder, {"file": "other"}, "float32")
    with pytest.raises(RunError, match=r'settings: model "emotion", not "keypoints"\.'):
        Trainer("keypoints", keypoint_split, tiny["keypoints"], folder, SOURCE, "float32")
    with pytest.raises(RunError, match=r'settings: precision "float32", not "mixed_bfloat16"\.'):
        Trainer("emotion", emotion_split, tiny["emotion"], folder, SOURCE, "mixed_bfloat16")


class TestMoreEpochs:
    @pytest.fixture
    def folder(self, tmp_path, finished_runs):
        return shutil.copytree(finished_runs["emotion"], tmp_path / "run")

    @pytest.fixture
    def longer(self, tiny):
        return replace(tiny["emotion"], epochs=4)

    @pytest.fixture
    def trainer(self, folder, longer, emotion_split):
        return Trainer("emotion", emotion_split, longer, folder, SOURCE, "float32")

    def test_continue_a_finished_run(self, trainer, folder):
        assert trainer.earlier_epochs == 2
        assert trainer.step == 2 * trainer.steps_per_epoch
        assert trainer.learning_rate > 0  # on the longer cosine, although the shorter one had ended at zero
        result = trainer.run()
        log = list(csv.DictReader((folder / "log.csv").open(encoding="utf-8")))
        assert [row["epoch"] for row in log] == ["1", "2", "3", "4"]
        assert float(log[1]["learning_rate"]) == pytest.approx(0, abs=1e-5)
        assert float(log[2]["learning_rate"]) > 1e-4
        assert float(log[3]["learning_rate"]) == pytest.approx(0, abs=1e-5)
        run = open_run(folder)
        assert (run.config.epochs, run.metrics) == (4, result)
        assert result["epochs"] == 4
        assert max(float(row["val_accuracy"]) for row in log) == result["validation"]["accuracy"]

    def test_are_not_finished_before_their_end(self, trainer, folder, longer, emotion_split):
        interrupt_after(trainer, trainer.step + 1)
        with pytest.raises(Interrupted):
            trainer.run()
        with pytest.raises(RunError, match="has not ended; repeat its `mien train`"):
            open_run(folder)
        again = Trainer("emotion", emotion_split, longer, folder, SOURCE, "float32")
        assert again.step == trainer.step
        assert again.run()["epochs"] == 4

    def test_without_an_improvement_keep_the_calibrated_weights(self, trainer, folder, finished_runs, monkeypatch):
        before = open_run(finished_runs["emotion"])
        weights = (folder / "best.weights.h5").read_bytes()
        worse = dict.fromkeys(before.metrics["validation"], 0.0)
        monkeypatch.setattr(trainer, "task", replace(trainer.task, measure=lambda *_: worse))
        result = trainer.run()
        for name in ("best_epoch", "validation", "calibration"):
            assert result[name] == before.metrics[name]
        assert (folder / "best.weights.h5").read_bytes() == weights

    def test_need_the_checkpoint(self, folder, longer, emotion_split):
        (folder / "checkpoint.npz").unlink()
        with pytest.raises(RunError, match=r"holds a finished run without its checkpoint\.npz"):
            Trainer("emotion", emotion_split, longer, folder, SOURCE, "float32")


def test_a_run_of_an_older_version_is_continued(tmp_path, tiny, finished_runs, emotion_split):
    folder = shutil.copytree(finished_runs["emotion"], tmp_path / "run")
    plain = replace(tiny["emotion"], augmentation=replace(tiny["emotion"].augmentation, blur=0.0, jpeg=0))
    recorded = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for key in ("blur", "jpeg"):
        del recorded["config"]["augmentation"][key]
    (folder / "run.json").write_text(json.dumps(recorded), encoding="utf-8")
    trainer = Trainer("emotion", emotion_split, plain, folder, SOURCE, "float32")
    assert trainer.step == trainer.total_steps


def test_the_learning_rate_is_shown_with_its_digits(tmp_path, tiny, emotion_split, capfd):
    Trainer("emotion", emotion_split, replace(tiny["emotion"], epochs=1), tmp_path / "run", SOURCE, "float32").run()
    assert re.search(
        r"epoch 1/1: loss \d\.\d{4}, learning_rate \d\.\d\de[+-]\d\d, val_accuracy", capfd.readouterr().err
    )


@pytest.mark.parametrize("name", ["run.json", "checkpoint.npz"])
def test_a_damaged_run_is_named(tmp_path, tiny, finished_runs, emotion_split, name):
    folder = shutil.copytree(finished_runs["emotion"], tmp_path / "run")
    (folder / name).write_bytes(b"PK nonsense")
    with pytest.raises(RunError, match=f"{name} is damaged"):
        Trainer("emotion", emotion_split, tiny["emotion"], folder, SOURCE, "float32")


def test_damaged_metrics_are_named(tmp_path, tiny, finished_runs, emotion_split):
    folder = shutil.copytree(finished_runs["emotion"], tmp_path / "run")
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    for read in (
        lambda: open_run(folder),
        Trainer("emotion", emotion_split, tiny["emotion"], folder, SOURCE, "float32").run,
    ):
        with pytest.raises(RunError, match=r"metrics\.json is damaged"):
            read()


def test_a_folder_that_holds_something_else_is_not_changed(tmp_path, tiny, emotion_split):
    (tmp_path / "precious.txt").write_text("do not touch", encoding="utf-8")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        Trainer("emotion", emotion_split, tiny["emotion"], tmp_path, SOURCE, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_every_face_is_seen_once_an_epoch_and_each_epoch_has_another_order(emotion_faces):
    def order(epoch, first=0):
        return [image.tobytes() for faces in batches(emotion_faces, 24, 0, epoch, first) for image in faces.images]

    assert sorted(order(0)) == sorted(image.tobytes() for image in emotion_faces.images)
    assert order(0) != order(1)
    assert order(0, first=2) == order(0)[48:]


def test_signal_handlers_are_restored(finished_runs, tiny, emotion_split):
    before = signal.getsignal(signal.SIGINT)
    Trainer("emotion", emotion_split, tiny["emotion"], finished_runs["emotion"], SOURCE, "float32").run()
    assert signal.getsignal(signal.SIGINT) is before
