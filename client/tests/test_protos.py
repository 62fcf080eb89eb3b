"""Our message classes are TensorFlow Serving's, byte for byte, and live beside the official ones."""

import ast
import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mien_client import protos
from mien_client.transports import Target
from mien_client.transports.grpc_messages import predict_request, to_array

MODULES = {
    "ClassificationRequest": "classification",
    "ClassificationResponse": "classification",
    "GetModelMetadataRequest": "get_model_metadata",
    "GetModelStatusRequest": "get_model_status",
    "GetModelStatusResponse": "get_model_status",
    "MultiInferenceRequest": "inference",
    "MultiInferenceResponse": "inference",
    "PredictRequest": "predict",
    "PredictResponse": "predict",
    "PredictionLog": "prediction_log",
    "RegressionRequest": "regression",
    "RegressionResponse": "regression",
    "ReloadConfigRequest": "model_management",
    "ReloadConfigResponse": "model_management",
}


@pytest.fixture(scope="session")
def official():
    """Return a function from a name to the official class. It imports TensorFlow, after our classes."""
    return lambda name: getattr(importlib.import_module(f"tensorflow_serving.apis.{MODULES[name]}_pb2"), name)


SCALARS = {
    "TYPE_BOOL": st.booleans(),
    "TYPE_BYTES": st.binary(max_size=9),
    "TYPE_DOUBLE": st.floats(allow_nan=False),
    "TYPE_FLOAT": st.floats(width=32, allow_nan=False),
    "TYPE_INT32": st.integers(-(2**31), 2**31 - 1),
    "TYPE_INT64": st.integers(-(2**63), 2**63 - 1),
    "TYPE_STRING": st.text(max_size=5),
    "TYPE_UINT32": st.integers(0, 2**32 - 1),
    "TYPE_UINT64": st.integers(0, 2**64 - 1),
}


def fill(draw, message, depth=5):
    """Set some of a message's fields, and some of the messages in it."""
    if fields := list(message.DESCRIPTOR.fields):
        for field in draw(st.lists(st.sampled_from(fields), unique_by=lambda field: field.name, max_size=3)):
            put(draw, message, field, depth)
    return message


def scalar(field):
    if field.enum_type is not None:
        return st.sampled_from(sorted(field.enum_type.values_by_number))
    return next(strategy for name, strategy in SCALARS.items() if getattr(field, name) == field.type)


def put(draw, message, field, depth):
    if field.message_type is None:
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(scalar(field), max_size=3)))
        else:
            setattr(message, field.name, draw(scalar(field)))
    elif depth == 0:
        return
    elif field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        for name in draw(st.lists(scalar(key), max_size=2)):
            if value.message_type is None:
                getattr(message, field.name)[name] = draw(scalar(value))
            else:
                fill(draw, getattr(message, field.name)[name], depth - 1)
    elif field.is_repeated:
        for _ in range(draw(st.integers(0, 2))):
            fill(draw, getattr(message, field.name).add(), depth - 1)
    else:
        getattr(message, field.name).SetInParent()
        fill(draw, getattr(message, field.name), depth - 1)


@pytest.mark.parametrize("name", MODULES)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_both_classes_write_the_same_bytes_and_read_each_others(official, name, data):
    ours = fill(data.draw, getattr(protos, name)())
    theirs = text_format.Parse(text_format.MessageToString(ours), official(name)())
    written = ours.SerializeToString(deterministic=True)
    assert theirs.SerializeToString(deterministic=True) == written
    assert type(ours).FromString(theirs.SerializeToString()) == ours
    assert type(theirs).FromString(written) == theirs


@settings(max_examples=25)
@given(
    images=st.sampled_from([1, 2, 56, 57, 300, 7300]).map(  # whose sizes take two to four bytes
        lambda count: np.random.default_rng(count).integers(0, 256, (count, 48, 48), np.uint8)
    ),
    target=st.builds(
        Target, st.text(max_size=5), st.none() | st.integers(0, 2**63 - 1), st.none() | st.text(max_size=5)
    ),
    output=st.sampled_from(["probabilities", "keypoints"]),
)
def test_our_predict_request_is_the_one_that_the_official_package_would_send(official, images, target, output):
    request = official("PredictRequest")()
    request.model_spec.name = target.model
    request.model_spec.signature_name = "serving_default"
    if target.version is not None:
        request.model_spec.version.value = target.version
    elif target.label is not None:
        request.model_spec.version_label = target.label
    if output == "keypoints":  # A filter for the output `other` would be an error where a version lacks it.
        request.output_filter.append(output)
    import tensorflow as tf

    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    assert predict_request(target, images, output) == request.SerializeToString()


@pytest.mark.parametrize("values", [[[1.5, -2.0, 0.25]], [[7.0] * 3] * 4, [[0.0] * 3], np.zeros((0, 3)), 3.0])
def test_tensors_of_tensorflow_are_read(official, values):
    """TensorFlow packs some into bytes and writes others as typed fields, without repetitions of the last value."""
    import tensorflow as tf

    array = np.array(values, np.float32)
    for proto in (tf.make_tensor_proto(array), tf.make_tensor_proto(array.tolist(), tf.float32, array.shape)):
        np.testing.assert_array_equal(to_array(protos.TensorProto.FromString(proto.SerializeToString())), array)
    if array.size:
        proto = tf.make_tensor_proto(array.ravel()[-1], tf.float32, array.shape)
        last = np.full_like(array, array.ravel()[-1])
        np.testing.assert_array_equal(to_array(protos.TensorProto.FromString(proto.SerializeToString())), last)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("dtype: DT_INT64 int64_val: 1", "of type DT_INT64, not DT_FLOAT"),
        ("dtype: 999 float_val: 1", "of type 999, not DT_FLOAT"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 2 } }", "do not fill its shape"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 1 float_val: 2", "do not fill its shape"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: -1 } } float_val: 1", "do not fill its shape"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 1 } } tensor_content: 'abcdef'", "do not fill its shape"),
        ("dtype: DT_FLOAT tensor_shape { dim { size: 2 } } tensor_content: 'abcd'", "do not fill its shape"),
    ],
)
def test_invalid_tensors_are_refused(tensor, message):
    with pytest.raises(ValueError, match=message):
        to_array(text_format.Parse(tensor, protos.TensorProto()))


def test_generating_the_descriptors_and_the_stubs_again_changes_nothing(official):
    official("PredictRequest")
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "make_protos.py"))
    made = tool["descriptor_set"]()
    assert tool["DESCRIPTORS"].read_bytes() == made.SerializeToString(deterministic=True)
    assert tool["STUBS"].read_text(encoding="utf-8") == tool["stubs"](made)


def test_mypy_knows_every_message_and_field(tmp_path):
    """Also in a user's program: the package carries its types."""
    program = tmp_path / "program.py"
    program.write_text(
        "from mien_client.protos import DataType, PredictRequest, PredictResponse\n"
        "request = PredictRequest(output_filter=['probabilities'])\n"
        "request.model_spec.version.value = 3\n"
        "request.inputs['images'].dtype = DataType.DT_UINT8\n"
        "reveal_type(PredictResponse().outputs['label'].string_val[0])\n"
        "request.model_spec.nmae = 'emotion'\n"
        "request.model_spec.name = 7\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", program]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120).stdout
    lines = [(int(line.split(":")[1]), line) for line in found.splitlines()[:-1]]
    assert [number for number, _ in lines] == [5, 6, 7]
    assert [text in line for text, (_, line) in zip(["bytes", "nmae", "str"], lines, strict=True)] == [True] * 3


def test_the_stubs_name_every_class_and_nothing_else():
    """This includes nested messages and enums."""
    tree = ast.parse(Path(protos.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    aliases = {ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)}
    assert {node.name for node in classes} | aliases == {name for name in dir(protos) if name[0].isupper()} - {"POOL"}
    for node in classes:
        ours = getattr(protos, node.name)
        for nested in (inner.name for inner in node.body if isinstance(inner, ast.ClassDef)):
            assert hasattr(ours, nested), f"{node.name}.{nested}"


def test_our_classes_can_be_imported_after_the_official_ones():
    """The other order is what this module does."""
    code = (
        "from tensorflow_serving.apis.predict_pb2 import PredictRequest as Theirs\n"
        "from mien_client.protos import PredictRequest as Ours\n"
        "theirs = Theirs()\n"
        "theirs.model_spec.version.value = 3\n"
        "ours = Ours.FromString(theirs.SerializeToString())\n"
        "assert ours.SerializeToString() == theirs.SerializeToString() and type(ours) is not type(theirs)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_a_thread_can_parse_messages_while_the_garbage_collector_works_for_another():
    """Protobuf alone would drop the classes of inner messages, and a thread that gets one of them then crashes."""
    code = (
        "import gc, threading\n"
        "from mien_client.protos import PredictRequest\n"
        "def request():\n"
        "    made = PredictRequest()\n"
        "    made.inputs['images'].tensor_shape.dim.add(size=48)\n"
        "    return made\n"
        "gc.disable()\n"
        "collecting, parsed, tensors = threading.Event(), threading.Event(), []\n"
        "class Pause:\n"
        "    def __del__(self):\n"
        "        collecting.set()\n"
        "        parsed.wait()\n"
        "def parse():\n"
        "    collecting.wait()\n"
        "    tensors.append(PredictRequest.FromString(body).inputs['images'])\n"
        "    parsed.set()\n"
        "body = request().SerializeToString()\n"
        "pause = Pause()\n"
        "gc.collect()\n"  # What is old already is destroyed while the young, which holds it, is taken apart.
        "threading.Thread(target=parse).start()\n"
        "garbage = [pause]\n"
        "garbage.append(garbage)\n"
        "del garbage, pause\n"
        "request()\n"
        "gc.collect(0)\n"
        "print(tensors[0].tensor_shape.dim[0].size, len(tensors[0].SerializeToString()))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120)
    assert (run.returncode, run.stdout) == (0, "48 6\n"), run.stderr


def test_enums_are_generated():
    assert protos.DataType.Name(protos.DataType.DT_UINT8) == "DT_UINT8"
    assert protos.ModelVersionStatus.State.Name(30) == "AVAILABLE"


def test_an_unknown_message_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Nope"):
        protos.Nope  # type: ignore[attr-defined]  # noqa: B018
    assert "PredictRequest" in dir(protos)
