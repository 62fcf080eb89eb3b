"""`Analysis.to_frame`: a row for each face."""

import subprocess
import sys

import numpy as np
import pytest
from mien_client import EMOTIONS, KEYPOINTS

pytest.importorskip("pandas")


def test_a_row_for_each_face(client, backend):
    backend.versions["emotion"] = {3}
    analysis = client.analyze(backend.faces(6))
    frame = analysis.to_frame()
    assert len(frame) == 6
    assert list(frame["emotion"]) == [face.emotion for face in analysis]
    np.testing.assert_array_equal(frame["confidence"], [face.confidence for face in analysis])
    np.testing.assert_array_equal(frame[list(EMOTIONS)], analysis.probabilities)
    for index, name in enumerate(KEYPOINTS):
        np.testing.assert_array_equal(frame[[f"{name}_x", f"{name}_y"]], analysis.keypoints[:, index])
    assert set(frame["emotion_version"]) == {3}
    assert set(frame["keypoints_version"]) == {1}


def test_no_faces_give_no_rows_and_the_same_columns(client, backend):
    frame = client.analyze(backend.faces(0)).to_frame()
    assert len(frame) == 0
    assert {"emotion", "confidence", "nose_tip_x", *EMOTIONS} <= set(frame.columns)


def test_the_error_without_pandas_says_what_to_install():
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import numpy as np; from mien_client import Analysis\n"
        "try: Analysis(np.ones((1, 5)), np.ones((1, 15, 2)), {}).to_frame()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "to_frame needs pandas: pip install 'mien-client[frames]'\n"
