"""`mien serve` answers as TensorFlow Serving did when the cases were recorded."""

import json
import math
import runpy
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from google.protobuf import text_format
from mien_client import protos

HERE = Path(__file__).parent / "conformance"
CASES = runpy.run_path(str(HERE / "cases.py"))["CASES"]
EXPECTED = {
    row["id"]: row["answer"]
    for row in map(json.loads, (HERE / "expected.jsonl").read_text(encoding="utf-8").splitlines())
}


def test_every_recording_has_its_case():
    assert [case["id"] for case in CASES] == list(EXPECTED)
    assert len(CASES) == 116


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_answers_as_tensorflow_serving_did(server, case):
    want = EXPECTED[case["id"]]
    got = _ask_rest(server, case) if case["kind"] == "rest" else _ask_grpc(server, case)
    if case.get("loose"):  # The wording of these errors is TensorFlow's and may change with it.
        want, got = _without_words(want), _without_words(got)
    assert _same(want, got), f"want {want}\ngot {got}"


def _ask_rest(server, case):
    body = case.get("body")
    answer = requests.request(
        case["method"],
        server.url + case["path"],
        data=None if body is None else body.encode(),
        headers={"Content-Type": "application/json"},
        timeout=20,
    )
    kind = answer.headers["Content-Type"].split(";")[0]
    try:
        parsed = json.loads(answer.content)
    except ValueError:
        parsed = {"not json": answer.text if kind == "application/json" else kind}
    return {"status": answer.status_code, "type": kind, "json": parsed}


def _ask_grpc(server, case):
    rpc = case["rpc"]
    name = {"Classify": "ClassificationRequest", "Regress": "RegressionRequest"}.get(rpc, f"{rpc}Request")
    name = name.replace("HandleReloadConfigRequestRequest", "ReloadConfigRequest")
    request = text_format.Parse(case["request"], getattr(protos, name)())
    try:
        return {"code": "OK", "message": _tidy(server.call(rpc, request))}
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}


def _tidy(message):
    """A message as plain values; tensors, and what an Any holds, by their content."""
    if message.DESCRIPTOR.full_name == "tensorflow.TensorProto":
        return _tidy_tensor(message)
    if message.DESCRIPTOR.full_name == "google.protobuf.Any":
        inner = protos.SignatureDefMap()
        message.Unpack(inner)
        return _tidy(inner)
    return {field.name: _tidy_field(field, value) for field, value in message.ListFields()}


def _tidy_field(field, value):
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        holds_messages = field.message_type.fields_by_name["value"].message_type is not None
        return {str(key): _tidy(value[key]) if holds_messages else value[key] for key in value}
    if field.is_repeated:
        return [_tidy(element) if field.message_type is not None else _plain(element) for element in value]
    return _tidy(value) if field.message_type is not None else _plain(value)


def _tidy_tensor(tensor):
    # The typed fields are what stock clients read: nothing may be in tensor_content.
    assert not tensor.tensor_content
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    values = [value for field, values in tensor.ListFields() if field.name.endswith("_val") for value in values]
    assert len(values) == np.prod(shape)
    return {"dtype": tensor.dtype, "shape": shape, "values": [_plain(value) for value in values]}


def _plain(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _same(want, got):
    if isinstance(want, float) or isinstance(got, float):
        if not isinstance(want, (int, float)) or not isinstance(got, (int, float)):
            return False
        if math.isnan(want) or math.isnan(got):
            return math.isnan(want) and math.isnan(got)
        return want == got or math.isclose(want, got, rel_tol=1e-5, abs_tol=1e-7)
    if isinstance(want, dict) and isinstance(got, dict):
        return want.keys() == got.keys() and all(_same(want[key], got[key]) for key in want)
    if isinstance(want, list) and isinstance(got, list):
        return len(want) == len(got) and all(map(_same, want, got))
    return type(want) is type(got) and want == got


def _without_words(answer):
    answer = {key: value for key, value in answer.items() if key != "details"}
    if isinstance(answer.get("json"), dict) and "error" in answer["json"]:
        answer["json"] = {"error": "..."}
    return answer
