"""The `curl` lines of TensorFlow Serving's REST guide, with the model that they ask, as they stand there."""

import json
import shlex
import shutil
import subprocess

import pytest


@pytest.fixture(scope="module")
def half_plus_three(start_server, tmp_path_factory):
    import tensorflow as tf

    class HalfPlusThree(tf.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = tf.Variable(0.5), tf.Variable(3.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def predict(self, x):
            return {"y": self.a * x + self.b}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def regress(self, inputs):
            x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
            return {"outputs": self.a * x + self.b}

    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    base_path, model = tmp_path_factory.mktemp("half_plus_three"), HalfPlusThree()
    signatures = {"serving_default": model.predict, "tensorflow/serving/regress": model.regress}
    tf.saved_model.save(model, str(base_path / "123"), signatures)
    return start_server("--model_name=half_plus_three", f"--model_base_path={base_path}")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (
            "curl http://localhost:8501/v1/models/half_plus_three",
            {
                "model_version_status": [
                    {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
                ]
            },
        ),
        (
            """curl -d '{"instances": [1.0,2.0,5.0]}' -X POST http://localhost:8501/v1/models/half_plus_three:predict""",
            {"predictions": [3.5, 4.0, 5.5]},
        ),
        (
            """curl -d '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}' """
            "-X POST http://localhost:8501/v1/models/half_plus_three:regress",
            {"results": [3.5, 4.0]},
        ),
    ],
)
def test_a_curl_line_of_the_guide_is_answered_as_it_says(half_plus_three, line, answer):
    command = shlex.split(line.replace("localhost:8501", f"localhost:{half_plus_three.rest_port}"))
    printed = subprocess.run(
        [*command, "--silent"], capture_output=True, encoding="utf-8", timeout=60, check=True
    ).stdout
    assert json.loads(printed) == answer


def test_the_guides_metadata_request_is_answered(half_plus_three):
    line = f"curl --silent http://localhost:{half_plus_three.rest_port}/v1/models/half_plus_three/metadata"
    printed = subprocess.run(shlex.split(line), capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    metadata = json.loads(printed)
    assert metadata["model_spec"] == {"name": "half_plus_three", "signature_name": "", "version": "123"}
    assert "tensorflow/serving/regress" in metadata["metadata"]["signature_def"]["signature_def"]


def test_the_guides_request_for_an_unknown_model_is_answered(half_plus_three):
    line = """curl -i -d '{"instances": [1.0,5.0]}' -X POST http://localhost:8501/v1/models/half:predict"""
    command = shlex.split(line.replace("localhost:8501", f"localhost:{half_plus_three.rest_port}"))
    printed = subprocess.run(
        [*command, "--silent"], capture_output=True, encoding="utf-8", timeout=60, check=True
    ).stdout
    head, _, body = printed.partition("\n\n")
    assert head.startswith("HTTP/1.1 404 Not Found")
    assert "content-type: application/json" in head.lower()
    assert json.loads(body) == {"error": "Servable not found for request: Latest(half)"}
