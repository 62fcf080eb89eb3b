"""`POST /v1/analyze`: every kind of body gets the answer that the Python client gets."""

import base64
import io
import math
import socket

import numpy as np
import pytest
from mien_client import EMOTIONS, KEYPOINTS
from mien_serving import LocalModelServer
from PIL import Image

from tests.ports import free_port


def encoded(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def picture(portrait):
    return Image.open(io.BytesIO(portrait))


def test_a_picture_becomes_faces_in_its_own_pixels(gateway, client, portrait):
    response = gateway.analyze(portrait, "image/jpeg")
    assert response.status_code == 200
    document = response.json()
    [expected] = client.analyze_pictures(portrait)
    [face] = document["faces"]
    assert face["emotion"] == expected.emotion == "Happy"
    assert face["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
    assert face["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert face["other"] == pytest.approx(expected.other, abs=1e-5)
    assert list(face["keypoints"]) == list(KEYPOINTS)
    found = [[point["x"], point["y"]] for point in face["keypoints"].values()]
    np.testing.assert_allclose(found, expected.keypoints_in_picture, atol=1e-3)
    crop = expected.crop
    box = {"left": crop.left, "top": crop.top, "width": crop.side, "height": crop.side, "angle": crop.angle}
    assert face["box"] == pytest.approx(box)
    assert face["picture"] == 0
    assert document["pictures"] == [{"width": 320, "height": 320, "faces": 1}]
    assert document["versions"] == face["versions"] == {"emotion": 1, "keypoints": 1}
    assert document["errors"] == face["errors"] == {}


@pytest.mark.parametrize("tilt", [-60, 30, 150])
def test_the_box_of_a_tilted_face_is_turned_as_its_eyes_are(gateway, picture, tilt):
    tilted = picture.rotate(-tilt, expand=True, fillcolor="grey", resample=Image.Resampling.BICUBIC)
    [face] = gateway.analyze(encoded(tilted, "png"), "image/png").json()["faces"]
    left, right = (face["keypoints"][f"{side}_eye_center"] for side in ("left", "right"))  # The person's own.
    eyes = math.degrees(math.atan2(left["y"] - right["y"], left["x"] - right["x"]))
    assert abs(face["box"]["angle"] - tilt) < 15
    assert abs((face["box"]["angle"] - eyes + 180) % 360 - 180) < 10


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "gif"])
def test_every_format_is_read(gateway, picture, kind):
    response = gateway.analyze(encoded(picture, kind), f"image/{kind}")
    assert response.status_code == 200, response.text
    [face] = response.json()["faces"]
    assert face["emotion"] == "Happy"


def test_of_an_animation_the_first_frame_is_read(gateway, picture):
    black = Image.new("RGB", picture.size)
    content = encoded(picture, "gif", save_all=True, append_images=[black])
    assert len(gateway.analyze(content, "image/gif").json()["faces"]) == 1


def test_a_form_may_have_several_pictures(gateway, picture, portrait):
    without_face = encoded(Image.new("RGB", (200, 100), "white"), "png")
    parts = [
        ("picture", ("a.jpg", portrait, "image/jpeg")),
        ("picture", ("b.png", without_face, "image/png")),
        ("other name", ("c", encoded(picture, "png"), "application/octet-stream")),
    ]
    document = gateway.post("/v1/analyze", files=parts).json()
    assert [face["picture"] for face in document["faces"]] == [0, 2]
    assert [one["faces"] for one in document["pictures"]] == [1, 0, 1]
    assert document["pictures"][1] == {"width": 200, "height": 100, "faces": 0}


def test_pictures_may_be_base64_in_json(gateway, portrait):
    text = base64.b64encode(portrait).decode()
    document = gateway.post("/v1/analyze", json={"images": [text, text]}).json()
    assert [face["picture"] for face in document["faces"]] == [0, 1]


def test_ready_crops_are_the_fast_path(gateway, client, faces):
    document = gateway.analyze(faces.tobytes(), "application/octet-stream").json()
    expected = client.analyze(faces)
    assert [face["picture"] for face in document["faces"]] == list(range(len(faces)))
    assert {face["box"] for face in document["faces"]} == {None}
    assert [face["emotion"] for face in document["faces"]] == [face.emotion for face in expected]
    found = [[[point["x"], point["y"]] for point in face["keypoints"].values()] for face in document["faces"]]
    np.testing.assert_allclose(found, expected.keypoints, atol=1e-4)
    shares = [[face["probabilities"][name] for name in EMOTIONS] for face in document["faces"]]
    np.testing.assert_allclose(shares, expected.probabilities, atol=1e-6)
    assert document["pictures"] == [{"width": 48, "height": 48, "faces": 1}] * len(faces)


def test_a_picture_without_a_face_has_an_empty_answer(gateway):
    document = gateway.analyze(encoded(Image.new("L", (300, 200)), "png"), "image/png").json()
    assert document["faces"] == []
    assert document["versions"] == {}
    assert document["pictures"] == [{"width": 300, "height": 200, "faces": 0}]


class TestDetect:
    def test_auto_takes_48_pixels_as_a_face(self, gateway, face):
        content = encoded(Image.fromarray(np.zeros_like(face)), "png")
        [found] = gateway.analyze(content, "image/png").json()["faces"]
        assert found["box"] == {"left": 0, "top": 0, "width": 48, "height": 48, "angle": 0}

    def test_always_searches_even_there(self, gateway, face):
        content = encoded(Image.fromarray(np.zeros_like(face)), "png")
        assert gateway.analyze(content, "image/png", detect="always").json()["faces"] == []

    def test_never_takes_the_middle_of_any_picture_as_a_face(self, gateway, face):
        large = Image.fromarray(face).resize((240, 240))
        wide = Image.new("L", (480, 240))
        wide.paste(large, (120, 0))
        [found] = gateway.analyze(encoded(wide, "png"), "image/png", detect="never").json()["faces"]
        assert found["box"] == {"left": 120, "top": 0, "width": 240, "height": 240, "angle": 0}
        assert found["emotion"] == "Happy"
        assert 120 < found["keypoints"]["nose_tip"]["x"] < 360


class TestVersions:
    def test_a_version_is_asked_by_number(self, gateway, faces):
        document = gateway.analyze(faces.tobytes(), "application/octet-stream", emotion="1", keypoints="latest").json()
        assert document["versions"] == {"emotion": 1, "keypoints": 1}
        assert document["labels"] == {"emotion": None, "keypoints": None}

    def test_a_model_without_labels_answers_by_none(self, gateway, faces):
        document = gateway.analyze(faces.tobytes(), "application/octet-stream").json()
        assert document["labels"] == {"emotion": None, "keypoints": None}

    def test_a_version_that_is_not_served_is_not_found(self, gateway, faces, is_problem):
        response = gateway.analyze(faces.tobytes(), "application/octet-stream", emotion="99")
        document = is_problem(response, 404, "VersionNotFoundError")
        assert document["model"] == "emotion"
        assert document["version"] == 99

    def test_nor_is_an_unknown_label(self, gateway, faces, is_problem):
        response = gateway.analyze(faces.tobytes(), "application/octet-stream", keypoints="nightly")
        document = is_problem(response, 404, "VersionNotFoundError")
        assert (document["model"], document["label"]) == ("keypoints", "nightly")

    @pytest.mark.parametrize("version", ["", "-1", "a b", "9" * 30, "é"])
    def test_what_cannot_be_a_version_is_invalid(self, gateway, faces, is_problem, version):
        response = gateway.analyze(faces.tobytes(), "application/octet-stream", emotion=version)
        is_problem(response, 422, "ConfigurationError")


@pytest.fixture(scope="module")
def half(start_gateway, published):
    with LocalModelServer({"emotion": published / "emotion"}) as server:
        yield start_gateway("--server", server.grpc_address, wait=False)


class TestWithoutAModel:
    def test_a_partial_answer_has_nulls_and_says_why(self, half, faces):
        document = half.analyze(faces.tobytes(), "application/octet-stream", partial="true").json()
        assert document["versions"] == {"emotion": 1}
        assert document["errors"]["keypoints"]["type"] == "ModelNotFoundError"
        assert document["errors"]["keypoints"]["retryable"] is False
        for face in document["faces"]:
            assert face["keypoints"] is None
            assert face["emotion"] in EMOTIONS
            assert face["errors"] == document["errors"]

    def test_otherwise_there_is_no_answer(self, half, faces, is_problem):
        response = half.analyze(faces.tobytes(), "application/octet-stream")
        assert is_problem(response, 404, "ModelNotFoundError")["model"] == "keypoints"

    def test_the_gateway_is_not_ready(self, half, is_problem):
        is_problem(half.get("/readyz"), 503, "UnavailableError")
        assert half.get("/healthz").status_code == 200


def test_without_a_server_the_caller_may_try_again_and_learns_no_address(start_gateway, faces, is_problem):
    address = f"127.0.0.1:{free_port()}"
    gateway = start_gateway("--server", address, wait=False)
    response = gateway.analyze(faces.tobytes(), "application/octet-stream")
    is_problem(response, 503, "UnavailableError")
    assert address not in response.text
    assert address in gateway.log()


def test_a_server_that_says_nothing_ends_with_the_callers_deadline(start_gateway, faces, is_problem):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gateway = start_gateway("--server", f"127.0.0.1:{silent.getsockname()[1]}", wait=False)
        response = gateway.analyze(faces.tobytes(), "application/octet-stream", timeout=0.3)
        assert response.json()["retryable"]
        assert response.status_code in (503, 504)


def test_the_servers_may_speak_rest(start_gateway, model_server, client, faces):
    gateway = start_gateway("--server", model_server.rest_url)
    document = gateway.analyze(faces.tobytes(), "application/octet-stream").json()
    assert [face["emotion"] for face in document["faces"]] == [face.emotion for face in client.analyze(faces)]
