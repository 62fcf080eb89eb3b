"""How faces are changed for `--robustness`, and how the answers are measured."""

import numpy as np
from mien_training.robustness import changes, measure
from mien_training.splits import Faces


def test_points_move_with_the_image():
    columns, rows = np.meshgrid(np.arange(48), np.arange(48))
    dot = np.round(255 * np.exp(-((columns - 20) ** 2 + (rows - 28) ** 2) / 8)).astype(np.uint8)
    faces = Faces(np.stack([dot] * 2), np.tile(np.array([20, 28], np.float32), (2, 15, 1)))
    for what, sets in changes(faces).items():
        if "shifted" in what or "turned" in what:
            for changed in sets:
                image = changed.images[0].astype(float)
                centre = [(image * axis).sum() / image.sum() for axis in (columns, rows)]
                np.testing.assert_allclose(changed.targets[0, 0], centre, atol=0.1)
                assert not np.array_equal(changed.targets, faces.targets)


def test_labels_and_the_number_of_faces_do_not_change(emotion_faces):
    for sets in changes(emotion_faces[:5]).values():
        for changed in sets:
            assert changed.images.shape == (5, 48, 48)
            assert changed.images.dtype == np.uint8
            np.testing.assert_array_equal(changed.targets, emotion_faces.targets[:5])


def test_every_change_is_measured_by_the_mean_of_its_sets(emotion_faces):
    faces = emotion_faces[:6]
    found = {
        what: measure(sets, lambda images: images.mean(axis=(1, 2)), lambda _, answers: float(answers.mean()))
        for what, sets in changes(faces).items()
    }
    assert found["unchanged"] == faces.images.mean()
    assert found["40 grey levels darker"] < found["unchanged"] < found["40 grey levels brighter"]
    both = [changed.images.mean() for changed in changes(faces)["turned by 15°, both ways"]]
    assert found["turned by 15°, both ways"] == np.mean(both)
