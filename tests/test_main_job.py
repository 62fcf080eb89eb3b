"""From the shipped weights to merged answers, across the three distributions."""

import asyncio
import base64
import doctest
import inspect
import io
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import mien_client
import numpy as np
import pytest
import requests
from mien_client import Client
from mien_client.pictures import find_faces, read_picture
from PIL import Image

from tests.public_api import SPLIT, entries
from tests.waiting import until

ROOT = Path(__file__).parent.parent
PORTRAIT = ROOT / "examples" / "astronaut.jpg"


@pytest.fixture(scope="module")
def faces():
    portrait = find_faces(read_picture(PORTRAIT))[0].image
    noise = np.random.default_rng(0).integers(0, 256, (5, 48, 48), np.uint8)
    return np.concatenate([portrait[None], portrait[None, :, ::-1], noise])


@pytest.fixture(params=["grpc", "rest"])
def address(request, server):
    return getattr(server, request.param)


def test_the_portrait_is_read_as_people_read_it(address, faces):
    with Client(address) as client:
        face = client.analyze(faces[0])[0]
    assert face.emotion == "Happy"
    assert face.confidence > 0.6
    assert face.versions == {"emotion": 1, "keypoints": 1}
    left, right, nose, lip = (
        face.keypoint(name) for name in ("left_eye_center", "right_eye_center", "nose_tip", "mouth_center_bottom_lip")
    )
    assert right[0] < nose[0] < left[0]  # the subject's left is on our right
    assert max(left[1], right[1]) < nose[1] < lip[1]


def test_grpc_and_rest_give_the_same_numbers(server, faces):
    with Client(server.grpc) as over_grpc, Client(server.rest) as over_rest:
        one, other = over_grpc.analyze(faces), over_rest.analyze(faces)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-4)
    assert one.versions == other.versions


def test_the_server_answers_as_the_networks_do(address, faces):
    import tensorflow as tf
    from mien_training.prediction import inference
    from mien_training.runs import open_pretrained

    emotion, keypoints = (inference(open_pretrained(model).load())(faces) for model in ("emotion", "keypoints"))
    with Client(address) as client:
        analysis = client.analyze(faces)
    shares = tf.nn.softmax(emotion).numpy()
    five = shares[:, :5].sum(axis=1)
    np.testing.assert_allclose(analysis.probabilities, shares[:, :5] / five[:, None], atol=1e-4)
    np.testing.assert_allclose(analysis.other, 1 - five, atol=1e-4)
    np.testing.assert_allclose(analysis.keypoints, keypoints, rtol=1e-4, atol=1e-3)


def test_bfloat16_gives_nearly_the_same_answers(server, bfloat16_server, faces):
    """On processors that compute in bfloat16; elsewhere, exactly the same."""
    with Client(server.grpc) as one, Client(bfloat16_server.grpc) as other:
        exact, rounded = one.analyze(faces), other.analyze(faces)
    np.testing.assert_allclose(rounded.probabilities, exact.probabilities, atol=3e-2)
    np.testing.assert_allclose(rounded.keypoints, exact.keypoints, rtol=1e-2, atol=0.25)


def test_the_stock_client_works_unchanged(server, faces):
    """Call the server as users of tensorflow-serving-api do."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "emotion"
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(faces))
    with grpc.insecure_channel(server.grpc) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    with Client(server.grpc) as client:
        expected = client.analyze(faces)
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["probabilities"]), expected.probabilities, atol=1e-6)
    labels = [label.decode() for label in tf.make_ndarray(response.outputs["label"])]
    assert labels == [face.emotion for face in expected]
    assert response.model_spec.version.value == 1


@pytest.mark.parametrize("name", sorted(entries()))
def test_the_example_in_the_docstring_runs(name, server, faces):
    text = inspect.getdoc(entries()[name])
    text = text.replace("localhost:8500", server.grpc).replace("astronaut.jpg", str(PORTRAIT))
    known = {public: getattr(mien_client, public) for public in mien_client.__all__}
    known |= {public.__name__: public for public in SPLIT}
    known |= {"asyncio": asyncio, "np": np, "read_picture": read_picture, "find_faces": find_faces, "images": faces[:3]}
    output: list[str] = []
    with Client(server.grpc) as client:
        known |= {"client": client, "analysis": client.analyze(faces[:3]), "face": client.analyze(faces[0])[0]}
        example = doctest.DocTestParser().get_doctest(text, known, name, None, None)
        ran = doctest.DocTestRunner(verbose=False).run(example, out=output.append)
    assert ran.attempted
    assert output == []


def test_a_face_crop_can_be_posted_as_it_is(server):
    """The third signature: a PNG or JPEG of one upright face, base64-encoded."""
    [crop] = find_faces(read_picture(PORTRAIT))
    encoded = io.BytesIO()
    Image.fromarray(crop.colour).save(encoded, "JPEG")
    body = {
        "signature_name": "serving_encoded",
        "instances": [{"b64": base64.b64encode(encoded.getvalue()).decode()}],
    }
    answer = requests.post(f"{server.rest}/v1/models/emotion:predict", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    [prediction] = answer.json()["predictions"]
    assert prediction["label"] == "Happy"
    assert sum(prediction["probabilities"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_a_new_version_takes_over_without_a_failed_call(changing_server, published, faces, mien):
    """While calls are made continuously, version 2 appears: one version answers each call, and no call fails."""
    addresses = (changing_server.grpc, changing_server.rest)
    seen: list[tuple[str, int]] = []
    failures: list[Exception] = []
    done = threading.Event()

    def calls(address):
        return sum(where == address for where, _ in list(seen))

    def call(address):
        with Client(address) as client:
            while not done.wait(0.01):
                try:
                    seen.append((address, client.analyze(faces).versions["emotion"]))
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=call, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    try:
        exported = mien("export", "--pretrained", "--again", "--repository", changing_server.repository)
        assert exported.returncode == 0, exported.stderr
        with Client(changing_server.grpc) as client:
            newest = {"emotion": 2, "keypoints": 2}
            until(lambda: client.analyze(faces[:1]).versions == newest, timeout_s=120)
        enough = {address: calls(address) + 20 for address in addresses}  # Of each: one alone may be held up.
        until(lambda: failures or all(calls(address) >= count for address, count in enough.items()))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    for address in addresses:
        versions = [version for where, version in seen if where == address]
        assert versions[0] == 1
        assert versions[-1] == 2


def test_mien_analyze_reads_a_picture(address, mien, tmp_path):
    done = mien("analyze", PORTRAIT, f"--server={address}", "--json", f"--picture={tmp_path / 'out.png'}")
    assert done.returncode == 0, done.stderr
    assert "Happy" in done.stdout
    json.loads(done.stdout)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_running_server_is_evaluated_as_its_weights_are(server, mien, tmp_path):
    path = tmp_path / "five.csv"
    random = np.random.default_rng(0)
    rows = [f"{index % 5},{' '.join(map(str, random.integers(0, 256, 2304)))}\n" for index in range(10)]
    path.write_text("emotion, pixels\n" + "".join(rows), encoding="utf-8")
    found: list[dict[str, Any]] = []
    for which in ("--pretrained", f"--server={server.grpc}", f"--server={server.rest}"):
        out = tmp_path / str(len(found))
        done = mien("evaluate", "emotion", which, "--data", path, "--usage", "all", "--out", out)
        assert done.returncode == 0, done.stderr
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        del metrics["evaluated"]
        found.append(metrics)
    errors = [metrics.pop("ece") for metrics in found]  # of confidences, which agree to the last bit or two
    assert errors == pytest.approx([errors[0]] * 3, rel=1e-4)
    assert found[0] == found[1] == found[2]


def test_the_demo(published, tmp_path):
    """The script behind `make demo`, on a copy of the files that it uses."""
    for name in ("examples", "models.config"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    shutil.copytree(published, tmp_path / "models")
    done = subprocess.run(
        [sys.executable, tmp_path / "examples" / "demo.py"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "gRPC and REST agree" in done.stdout
    assert done.stdout.count("$ mien analyze") == 2
    assert "make console" in done.stdout.splitlines()[-1]
    assert (tmp_path / "demo" / "faces.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.real_data
def test_the_shipped_networks_are_as_good_as_their_cards_say(real_data, mien, tmp_path):
    faces, points = real_data / "fer2013", real_data / "facial_keypoints"
    for model, arguments in {
        "emotion": ["--data", faces / "fer2013.csv.gz", "--votes", faces / "fer2013new.csv", "--usage", "PublicTest"],
        "keypoints": ["--data", points / "training.csv.gz", "--groups", points / "people.csv"],
    }.items():
        done = mien("evaluate", model, "--pretrained", *arguments, "--out", tmp_path / model)
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / model / "metrics.json").read_text(encoding="utf-8"))
        said = json.loads(
            (ROOT / f"training/src/mien_training/pretrained/{model}/metrics.json").read_text(encoding="utf-8")
        )
        if model == "emotion":
            found |= {f"consensus_{name}": value for name, value in found["consensus"].items()}
            found["other_auc"] = found["other"]["auc"]
        for name, value in said["validation"].items():
            assert found[name] == pytest.approx(value, rel=2e-3)
