"""Evaluations: numbers, tables, pictures and the page that holds them all."""

import json
import re

import numpy as np
import pytest
from mien_client.contract import EMOTIONS, KEYPOINTS
from mien_training.compare import compare
from mien_training.evaluate import evaluate_emotion, evaluate_keypoints
from mien_training.splits import Faces

LABELS = np.array([0, 0, 1, 3, 3, 3, 4, 2], np.int32)
PROBABILITIES = np.eye(5, dtype=np.float32)[[0, 3, 1, 3, 3, 2, 4, 2]]
POINTS = np.random.default_rng(0).uniform(10, 38, (6, 15, 2)).astype(np.float32)

IMAGES = np.random.default_rng(1).integers(0, 256, (8, 48, 48), np.uint8)
FACES, POINT_FACES = Faces(IMAGES, LABELS), Faces(IMAGES[:6], POINTS)


@pytest.fixture
def emotion():
    return evaluate_emotion(Faces(IMAGES, LABELS), PROBABILITIES)


def test_emotion_numbers(emotion):
    assert emotion.metrics["accuracy"] == 0.75
    assert emotion.metrics["confusion"][3] == [0, 0, 1, 2, 0]
    assert emotion.metrics["classes"]["Happy"]["recall"] == pytest.approx(2 / 3)
    assert emotion.metrics["classes"]["Angry"]["precision"] == 1


def test_an_emotion_that_does_not_occur_is_still_in_the_table():
    found = evaluate_emotion(Faces(IMAGES[:2], np.array([0, 1], np.int32)), np.eye(5, dtype=np.float32)[[0, 1]])
    assert [row[0] for row in found.tables[1].rows] == list(EMOTIONS)


def test_key_point_numbers():
    points = POINTS.copy()
    points[0, 3:] = np.nan
    points[:, 14] = np.nan
    found = evaluate_keypoints(Faces(IMAGES[:6], points), POINTS + np.array([3, 4], np.float32))
    assert found.metrics["rmse_48"] == pytest.approx(np.sqrt(12.5), rel=1e-5)
    assert found.metrics["rmse_96"] == pytest.approx(2 * np.sqrt(12.5), rel=1e-5)
    assert list(found.metrics["mean_error_48"]) == list(KEYPOINTS[:14])
    assert found.metrics["mean_error_48"]["nose_tip"] == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize(
    "evaluation", [evaluate_emotion(FACES, PROBABILITIES), evaluate_keypoints(POINT_FACES, POINTS + 1)]
)
def test_the_report_needs_no_other_file(tmp_path, evaluation):
    evaluation.write(tmp_path / "out", "A <title>", {"data": "faces & more"})
    page = (tmp_path / "out" / "report.html").read_text()
    assert "A &lt;title&gt;" in page
    assert "faces &amp; more" in page
    assert page.count("data:image/png;base64,") == len(evaluation.figures)
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    for table in evaluation.tables:
        assert table.title in page
    for name in evaluation.figures:
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["evaluated"] == {"data": "faces & more"}


def test_a_comparison_has_every_number_of_both_side_by_side(tmp_path):
    better = evaluate_emotion(FACES, np.eye(5, dtype=np.float32)[LABELS])
    both = compare(evaluate_emotion(FACES, PROBABILITIES), better)
    assert both.metrics["A"]["accuracy"] == 0.75
    assert both.metrics["B"]["accuracy"] == 1
    summary, by_emotion = both.tables[:2]
    assert summary.rows[1] == ["accuracy", "0.7500", "1.0000"]
    assert by_emotion.header[:3] == ["emotion", "precision A", "precision B"]
    assert by_emotion.rows[3][3:5] == ["0.667", "1.000"]
    both.write(tmp_path, "Both", {})
    assert (tmp_path / "confusion_A.png").exists()
    assert (tmp_path / "confusion_B.png").exists()
