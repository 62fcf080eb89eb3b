"""Several workers, which are processes on this machine, train as a single one does."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mien_client.contract import EMOTIONS
from mien_training.distribution import strategy
from mien_training.errors import RunError
from mien_training.runs import open_run

from tests.ports import free_ports

MIEN = [sys.executable, "-c", "import sys; from mien_client.cli import main; sys.exit(main())"]
RECIPE = """
teacher = 0.0
epochs = 2
batch_size = 16
learning_rate = 2e-3
warmup_epochs = 0.5
weight_decay = 2e-2
average = 0.9
label_smoothing = 0.1
balance = 0.3
others = true
validation = 0.1
seed = 0
network = { blocks = "basic", stem = 8, early = true, widths = [8, 16], depths = [1, 1], dropout = 0.0, mirror = false }

[augmentation]
shift = 4.0
rotation = 8.0
zoom = 0.1
contrast = 0.2
brightness = 20.0
blur = 1.0
cutout = 8
jpeg = 20
"""


def start(data: Path, recipe: Path, out: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    command = [*MIEN, "train", "emotion", "--data", str(data), "--config", str(recipe), "--out", str(out), *more]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )


@pytest.mark.slow
def test_two_workers_have_the_losses_and_the_accuracy_of_one(tmp_path, emotion_csv):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    alone = start(emotion_csv, recipe, tmp_path / "alone")
    assert alone.wait() == 0, alone.communicate()[0]

    addresses = [f"localhost:{port}" for port in free_ports(2)]
    workers = [
        start(
            emotion_csv,
            recipe,
            tmp_path / "shared",
            "--strategy",
            "multi-worker",
            TF_CONFIG=json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said

    logs = [list(csv.DictReader((tmp_path / name / "log.csv").open(encoding="utf-8"))) for name in ("alone", "shared")]
    assert len(logs[0]) == 2
    for one, two in zip(*logs, strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-3)
        assert float(two["val_accuracy"]) == pytest.approx(float(one["val_accuracy"]), abs=0.04)
    assert open_run(tmp_path / "shared").load().output_shape == (None, len(EMOTIONS) + 2)  # Fear and Neutral


def test_workers_must_be_named(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(RunError, match="needs TF_CONFIG, which names the workers"):
        strategy("multi-worker")
