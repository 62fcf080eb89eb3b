"""`analyze_pictures`: from a picture, however it is given, to the faces in it."""

import asyncio
import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
from mien_client import AsyncClient, InvalidImageError, PictureError, pictures
from mien_client.pictures import find_faces, read_picture
from PIL import Image

PORTRAIT = Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
EMPTY = Image.new("L", (100, 100))


@pytest.mark.parametrize(
    "picture",
    [str(PORTRAIT), PORTRAIT, PORTRAIT.read_bytes(), Image.open(PORTRAIT)],
    ids=["text", "path", "bytes", "PIL"],
)
def test_one_picture(client, backend, picture):
    [crop] = find_faces(read_picture(PORTRAIT))
    analysis = client.analyze_pictures(picture)
    [face] = analysis
    np.testing.assert_array_equal(face.keypoints, client.analyze(crop.image).keypoints[0])
    assert (face.crop.left, face.crop.top, face.crop.side) == (crop.left, crop.top, crop.side)
    np.testing.assert_array_equal(face.keypoints_in_picture, crop.to_picture(face.keypoints))
    np.testing.assert_array_equal(analysis[0].keypoints, face.keypoints)
    assert analysis.versions == {"emotion": 1, "keypoints": 1}


def test_several_pictures_each_have_their_own_faces(client, backend):
    small = [Image.fromarray(image) for image in backend.faces(2)]
    two_faces = np.hstack([read_picture(PORTRAIT).grey] * 2)
    results = client.analyze_pictures([small[0], EMPTY, Image.fromarray(two_faces), small[1]])
    assert [len(analysis) for analysis in results] == [1, 0, 2, 1]
    for analysis, image in ((results[0], small[0]), (results[3], small[1])):
        np.testing.assert_array_equal(analysis.keypoints, client.analyze(np.asarray(image)).keypoints)
    left, right = results[2]
    assert right.crop.left > left.crop.left + 400
    assert [face.crop.left for face in results[2][1:]] == [right.crop.left]
    assert {faces for _, _, faces in backend.asked} >= {4}  # One call for all of them.


def test_any_iterable_of_pictures(client, backend):
    for several in (tuple, iter, lambda pictures: (each for each in pictures)):
        assert [len(analysis) for analysis in client.analyze_pictures(several([EMPTY, PORTRAIT]))] == [0, 1]
    assert client.analyze_pictures([]) == []


def test_a_picture_without_a_face(client, backend):
    analysis = client.analyze_pictures(EMPTY)
    assert len(analysis) == 0
    assert analysis.to_dict() == {"faces": [], "versions": {}, "errors": {}}
    assert backend.asked == []


def test_as_json(client):
    [face] = analysis = client.analyze_pictures(PORTRAIT)
    document = json.loads(json.dumps(analysis.to_dict()))
    assert document == analysis.to_dict()
    [described] = document["faces"]
    crop = face.crop
    assert described["crop"] == {"left": crop.left, "top": crop.top, "side": crop.side, "angle": crop.angle}
    assert list(described["keypoints_in_picture"].values()) == face.keypoints_in_picture.tolist()
    assert list(described["keypoints"].values()) == face.keypoints.tolist()


def test_partial(client, backend, failure):
    backend.failures["keypoints"] = failure("INTERNAL", "broken")
    [face] = client.analyze_pictures(PORTRAIT, partial=True)
    assert face.to_dict()["keypoints_in_picture"] is None
    assert face.to_dict()["errors"]["keypoints"]["type"] == "ServerError"
    assert face.emotion


def test_versions_and_timeout_are_passed_on(client, backend):
    backend.load("emotion", 7)
    analysis = client.analyze_pictures(PORTRAIT, emotion_version=7, keypoint_version=1, timeout=9, key="k")
    assert analysis.versions == {"emotion": 7, "keypoints": 1}


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("nowhere.png", "nowhere.png cannot be read"),
        (b"hello", "not a PNG"),
        (b"", "empty"),
        (np.zeros((48, 48), np.uint8), "got ndarray: for face crops call analyze"),
        (bytearray(b"x"), r"got bytearray: convert with bytes\(picture\)"),
        (io.BytesIO(b"x"), r"got BytesIO: pass its content, file.read\(\)"),
        (7, "got int"),
        (None, "got NoneType"),
        ([PORTRAIT, b""], r"^Picture number 1 \(from 0\): .* empty"),
        ([PORTRAIT, 7], r"^Picture number 1 \(from 0\): .* got int"),
    ],
)
def test_anything_but_a_picture_is_refused_before_a_request_is_sent(client, backend, picture, message):
    with pytest.raises(PictureError, match=message):
        client.analyze_pictures(picture)
    assert backend.asked == []


@pytest.mark.parametrize(
    "images",
    ["face.png", Path("face.png"), b"bytes", Image.new("L", (48, 48)), ["face.png"], [b"bytes"], io.BytesIO(b"x")],
    ids=lambda images: type(images).__name__,
)
def test_analyze_points_to_analyze_pictures_when_it_gets_a_picture(client, backend, images):
    with pytest.raises(InvalidImageError, match="to find the faces in a picture call analyze_pictures"):
        client.analyze(images)
    with pytest.raises(InvalidImageError, match=r"number 0 .* call analyze_pictures"):
        list(client.analyze_iter([images]))
    assert backend.asked == []


def test_the_event_loop_runs_while_a_picture_is_read(grpc_address, monkeypatch):
    loop_went_on = threading.Event()

    def find_slowly(picture):
        assert loop_went_on.wait(30)  # Which is set only if the loop runs meanwhile.
        return find_faces(picture)

    monkeypatch.setattr(pictures, "find_faces", find_slowly)

    async def ask():
        async with AsyncClient(grpc_address) as client:
            asking = asyncio.create_task(client.analyze_pictures(PORTRAIT))
            await asyncio.sleep(0.01)
            loop_went_on.set()
            return await asking

    assert len(asyncio.run(ask())) == 1


def test_the_error_without_the_extra_names_it(grpc_address):
    code = (
        "import sys\nsys.modules['cv2'] = None\nfrom mien_client import Client\n"
        "try:\n    Client(sys.argv[1]).analyze_pictures('a.png')\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, grpc_address], capture_output=True, encoding="utf-8", check=True)
    assert "pip install 'mien-client[pictures]'" in done.stdout
