"""What TensorFlow Serving's own end-to-end tests ask of a model server, asked of `mien serve`.

Their model answers x / 2 + 2: once as TensorFlow 1 exports it, with one input tensor that several signatures share, and
once as TensorFlow 2 does, with an input tensor for each. Their tests of the profiler and of TensorFlow Lite are left
out, since this server has neither.
"""

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import requests
from mien_client import protos

VERSION = 123
MODELS = ("tf1", "tf2")


def export_tf1(path):
    import tensorflow as tf

    signature_def = tf.compat.v1.saved_model.build_signature_def
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        examples = tf.compat.v1.placeholder(tf.string, [None])
        x = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        half = tf.compat.v1.Variable(0.5)
        tensors = {"x": x, "y": x * half + 2.0, "inputs": examples}
        info = {name: tf.compat.v1.saved_model.build_tensor_info(tensor) for name, tensor in tensors.items()}
        session.run(half.initializer)
        builder = tf.compat.v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature_def({"x": info["x"]}, {"y": info["y"]}, "tensorflow/serving/predict"),
                "classify_x_to_y": signature_def(
                    {"inputs": info["inputs"]}, {"scores": info["y"]}, "tensorflow/serving/classify"
                ),
                "regress_x_to_y": signature_def(
                    {"inputs": info["inputs"]}, {"outputs": info["y"]}, "tensorflow/serving/regress"
                ),
            },
        )
        builder.save()


def export_tf2(path):
    import tensorflow as tf

    class HalfPlusTwo(tf.Module):
        def __init__(self):
            self.half = tf.Variable(0.5)

        def of_examples(self, inputs):
            x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
            return x * self.half + 2.0

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def predict(self, x):
            return {"y": x * self.half + 2.0}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def classify(self, inputs):
            return {"scores": self.of_examples(inputs)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def regress(self, inputs):
            return {"outputs": self.of_examples(inputs)}

    model = HalfPlusTwo()
    signatures = {"serving_default": model.predict, "classify_x_to_y": model.classify, "regress_x_to_y": model.regress}
    tf.saved_model.save(model, str(path), signatures)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("half_plus_two").resolve()
    export_tf1(root / "tf1" / "00000123")
    export_tf2(root / "tf2" / "00000123")
    return root


def model_config(repository, *models):
    listed = "".join(
        f'config {{ name: "{name}", base_path: "{repository / name}", model_platform: "tensorflow" }}\n'
        for name in models
    )
    return f"model_config_list: {{\n{listed}}}\n"


@pytest.fixture(scope="module")
def half_plus_two(start_server, repository):
    file = repository / "models.config"
    file.write_text(model_config(repository, *MODELS), encoding="utf-8")
    return start_server(
        f"--model_config_file={file}",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=2000,grpc.lb_policy_name=grpclb",
    )


def one_example(request):
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2.0)
    return request


def spec(model, signature):
    return {"name": model, "signature_name": signature}


def check_spec(answered, model, signature):
    assert (answered.name, answered.signature_name, answered.version.value) == (model, signature, VERSION)


@pytest.mark.parametrize("model", MODELS)
class TestGrpc:
    def test_status(self, half_plus_two, model):
        response = half_plus_two.call("GetModelStatus", protos.GetModelStatusRequest(model_spec={"name": model}))
        (version,) = response.model_version_status
        assert (version.version, version.status.error_code) == (VERSION, 0)

    def test_metadata(self, half_plus_two, model):
        request = protos.GetModelMetadataRequest(model_spec={"name": model}, metadata_field=["signature_def"])
        response = half_plus_two.call("GetModelMetadata", request)
        assert (response.model_spec.name, response.model_spec.version.value) == (model, VERSION)
        assert list(response.metadata) == ["signature_def"]

    @pytest.mark.parametrize("output_filter", [[], ["y"]])
    def test_predict(self, half_plus_two, model, output_filter):
        request = protos.PredictRequest(model_spec=spec(model, "serving_default"), output_filter=output_filter)
        x = request.inputs["x"]
        x.dtype = protos.DataType.DT_FLOAT
        x.float_val.append(2.0)
        x.tensor_shape.dim.add(size=1)
        if model == "tf1":
            x.tensor_shape.dim.add(size=1)
        response = half_plus_two.call("Predict", request)
        assert list(response.outputs["y"].float_val) == [3.0]
        check_spec(response.model_spec, model, "serving_default")

    def test_classify(self, half_plus_two, model):
        request = one_example(protos.ClassificationRequest(model_spec=spec(model, "classify_x_to_y")))
        response = half_plus_two.call("Classify", request)
        ((one,),) = [example.classes for example in response.result.classifications]
        assert one.score == 3.0
        check_spec(response.model_spec, model, "classify_x_to_y")

    def test_regress(self, half_plus_two, model):
        request = one_example(protos.RegressionRequest(model_spec=spec(model, "regress_x_to_y")))
        response = half_plus_two.call("Regress", request)
        assert [one.value for one in response.result.regressions] == [3.0]
        check_spec(response.model_spec, model, "regress_x_to_y")

    def test_multi_inference_of_signatures_with_one_input_tensor_or_with_several(self, half_plus_two, model):
        request = one_example(protos.MultiInferenceRequest())
        for kind in ("regress", "classify"):
            request.tasks.add(model_spec=spec(model, f"{kind}_x_to_y"), method_name=f"tensorflow/serving/{kind}")
        regression, classification = half_plus_two.call("MultiInference", request).results
        assert [one.value for one in regression.regression_result.regressions] == [3.0]
        assert [one.score for one in classification.classification_result.classifications[0].classes] == [3.0]
        check_spec(regression.model_spec, model, "regress_x_to_y")
        check_spec(classification.model_spec, model, "classify_x_to_y")

    @pytest.mark.parametrize(("rpc", "kind"), [("Classify", "classification"), ("Regress", "regression")])
    def test_another_kind_of_signature_is_an_invalid_argument(self, half_plus_two, model, rpc, kind):
        message = protos.ClassificationRequest if rpc == "Classify" else protos.RegressionRequest
        with pytest.raises(grpc.RpcError) as error:
            half_plus_two.call(rpc, one_example(message(model_spec=spec(model, "serving_default"))))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.value.details().startswith(f"No {kind} inputs found in SignatureDef: ")


class TestRest:
    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize(
        ("verb", "body", "expected"),
        [
            (
                "classify",
                {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]},
                {"results": [[["", 3.0]]]},
            ),
            ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}, {"results": [3.0]}),
            ("predict", {"instances": [2.0, 3.0, 4.0]}, {"predictions": [3.0, 3.5, 4.0]}),
            ("predict", {"inputs": [2.0, 3.0, 4.0]}, {"outputs": [3.0, 3.5, 4.0]}),
        ],
    )
    def test_predictions(self, half_plus_two, model, verb, body, expected):
        answer = requests.post(f"{half_plus_two.url}/v1/models/{model}:{verb}", json=body, timeout=20)
        assert answer.json() == expected

    def test_status(self, half_plus_two):
        answer = requests.get(f"{half_plus_two.url}/v1/models/tf1", timeout=20)
        assert answer.json() == {
            "model_version_status": [
                {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        }
        assert answer.text.endswith("}\n")

    def test_metadata(self, half_plus_two):
        answer = requests.get(f"{half_plus_two.url}/v1/models/tf1/metadata", timeout=20).json()
        assert answer["model_spec"] == {"name": "tf1", "signature_name": "", "version": "123"}
        assert answer["metadata"]["signature_def"]["signature_def"].keys() == {
            "serving_default",
            "classify_x_to_y",
            "regress_x_to_y",
        }


def test_a_configuration_file_is_read_again_only_when_it_is_polled(start_server, repository, tmp_path):
    file, once = tmp_path / "polled.config", tmp_path / "read-once.config"
    for one in (file, once):
        one.write_text(model_config(repository, "tf1"), encoding="utf-8")
    polling = start_server(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1")
    reading_once = start_server(f"--model_config_file={once}", "--model_config_file_poll_wait_seconds=0")
    for one in (file, once):
        one.write_text(model_config(repository, "tf2"), encoding="utf-8")
    polling.until(lambda: polling.states("tf2") == {VERSION: ("AVAILABLE", "OK")})
    assert reading_once.states("tf2") == {}
    assert reading_once.states("tf1") == {VERSION: ("AVAILABLE", "OK")}


def test_errors_of_a_configuration_are_on_standard_error(tmp_path):
    file = tmp_path / "bad.config"
    file.write_text("improperly formatted file\n", encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("mien")),
        "serve",
        "--port=0",
        "--rest_api_port=0",
        f"--model_config_file={file}",
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 255
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in done.stderr
    assert f"Invalid protobuf file: '{file}'" in done.stderr
