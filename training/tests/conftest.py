"""Small Kaggle files and small runs, made once."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from mien_client.cli import main
from mien_client.kaggle import KEYPOINT_HEADER
from mien_training.configs import CONFIGS, Network
from mien_training.splits import Faces, Split
from mien_training.votes import VOTE_COLUMNS


@pytest.fixture
def mien(capsys):
    """Return a function that runs ``mien`` in this process, and returns its status, output and errors."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def emotion_faces():
    """120 faces: five patterns that any network can tell apart, with noise."""
    random = np.random.default_rng(0)
    labels = (np.arange(120) % 5).astype(np.int32)
    patterns = np.kron(np.random.default_rng(7).integers(0, 2, (5, 6, 6)) * 200, np.ones((8, 8)))
    images = patterns[labels] + random.integers(0, 55, (120, 48, 48))
    return Faces(images.astype(np.uint8), labels)


@pytest.fixture(scope="session")
def keypoint_faces():
    """80 noisy faces with fifteen points each, some missing."""
    random = np.random.default_rng(1)
    points = random.uniform(8, 40, (80, 15, 2)).astype(np.float32)
    points[::4, 3:] = np.nan
    return Faces(random.integers(0, 256, (80, 48, 48), np.uint8), points)


@pytest.fixture(scope="session")
def emotion_split(emotion_faces):
    return Split(emotion_faces[np.arange(90)], emotion_faces[np.arange(90, 120)], "the first 90 train")


@pytest.fixture(scope="session")
def keypoint_split(keypoint_faces):
    return Split(keypoint_faces[np.arange(60)], keypoint_faces[np.arange(60, 80)], "the first 60 train")


@pytest.fixture(scope="session")
def tiny():
    """Recipes that train in a second."""
    network = Network("basic", stem=8, early=True, widths=(8, 16), depths=(1, 1), dropout=0.0, mirror=False)
    return {
        model: replace(config, network=network, epochs=2, batch_size=16, warmup_epochs=0.5)
        for model, config in CONFIGS.items()
    }


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory, tiny, emotion_split, keypoint_split):
    """A finished run of each model, by name."""
    from mien_training.train import Trainer

    folder = tmp_path_factory.mktemp("runs")
    for model, split in (("emotion", emotion_split), ("keypoints", keypoint_split)):
        Trainer(model, split, tiny[model], folder / model, {"file": "made up"}, "float32").run()
    return {model: folder / model for model in tiny}


@pytest.fixture(scope="session")
def emotion_csv(tmp_path_factory, emotion_faces, pixel_text):
    """The emotion faces as ``fer2013.csv`` would hold them: the challenge's labels and Usage."""
    path = tmp_path_factory.mktemp("data") / "fer.csv"
    seven = [0, 1, 4, 3, 5]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["emotion", "pixels", "Usage"])
        for index, (image, label) in enumerate(zip(emotion_faces.images, emotion_faces.targets, strict=True)):
            writer.writerow([seven[label], pixel_text(image), "Training" if index < 90 else "PublicTest"])
        writer.writerow([2, pixel_text(image), "Training"])
        writer.writerow([6, pixel_text(image), "PublicTest"])
    return path


@pytest.fixture(scope="session")
def votes_csv(tmp_path_factory, emotion_csv):
    """The FER+ votes for `emotion_csv`: seven for the label and three for neutral; the first picture is not a face."""
    columns = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    path = tmp_path_factory.mktemp("data") / "fer2013new.csv"
    with emotion_csv.open(encoding="utf-8") as faces, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["Usage", "Image name", *VOTE_COLUMNS], restval=0)
        writer.writeheader()
        for index, row in enumerate(csv.DictReader(faces)):
            votes = {"neutral": 3} if index else {"NF": 10}
            if index:
                votes[columns[int(row["emotion"])]] = votes.get(columns[int(row["emotion"])], 0) + 7
            writer.writerow({"Usage": row["Usage"], "Image name": f"fer{index:07}.png", **votes})
    return path


@pytest.fixture(scope="session")
def keypoint_csv(tmp_path_factory, keypoint_faces, pixel_text):
    """The key-point faces at 96×96 and who they are: two files, as Kaggle and ``--groups`` have them."""
    folder = tmp_path_factory.mktemp("data")
    with (folder / "training.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(KEYPOINT_HEADER)
        for image, points in zip(keypoint_faces.images, keypoint_faces.targets, strict=True):
            cells = ["" if np.isnan(c) else f"{2 * c + 0.5:.4f}" for c in points.reshape(-1)]
            writer.writerow([*cells, pixel_text(np.kron(image, np.ones((2, 2), np.uint8)))])
    (folder / "people.csv").write_text("row,person\n" + "".join(f"{i},{i // 8}\n" for i in range(80)), encoding="utf-8")
    return folder / "training.csv", folder / "people.csv"
