"""What clients read from servers, which may not be the ones that they expect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from mien_client import UnexpectedResponseError, protos
from mien_client._gateway_source import _split_of
from mien_client.contract import EMOTION_MODEL, PROBABILITIES_OUTPUT
from mien_client.reading import parse_json
from mien_client.transports.base import Target as Asked
from mien_client.transports.grpc_messages import read_answer, version_statuses
from mien_client.transports.rest import to_array

from fuzz.target import Check, Fault, Target


@contextmanager
def _grpc(_: Path) -> Iterator[Check]:
    def check(data: bytes) -> str:
        try:
            if data[:1] == b"\0":
                version_statuses(protos.GetModelStatusResponse.FromString(data[1:]))
                return "versions"
            response = protos.PredictResponse.FromString(data)
            answer = read_answer(response, PROBABILITIES_OUTPUT, "server", Asked(EMOTION_MODEL))
        except DecodeError:
            return "not a message"
        except UnexpectedResponseError as error:
            return str(error)
        return _numbers(answer.values)

    yield check


def _numbers(values: Any) -> str:
    if values.dtype != np.float32:
        raise Fault(f"The answer has values of type {values.dtype}")
    return "read"


def _responses() -> Sequence[bytes]:
    response = protos.PredictResponse(model_spec={"name": EMOTION_MODEL, "version": {"value": 2}})
    for name, shape, field, values in (
        (PROBABILITIES_OUTPUT, [1, 5], "float_val", [0.1, 0.2, 0.3, 0.2, 0.2]),
        ("other", [1], "float_val", [0.5]),
    ):
        tensor = response.outputs[name]
        tensor.dtype = protos.DataType.DT_FLOAT
        getattr(tensor, field).extend(values)
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
    content = protos.PredictResponse()
    content.CopyFrom(response)
    content.outputs[PROBABILITIES_OUTPUT].ClearField("float_val")
    content.outputs[PROBABILITIES_OUTPUT].tensor_content = bytes(20)
    states = protos.GetModelStatusResponse(
        model_version_status=[{"version": 1, "state": 30, "status": {"error_message": "x"}}]
    )
    return [response.SerializeToString(), content.SerializeToString(), b"\0" + states.SerializeToString()]


@contextmanager
def _rest(_: Path) -> Iterator[Check]:
    def check(data: bytes) -> str:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return "not JSON"
        if not isinstance(document, dict):
            return "not an object"
        try:
            return _numbers(to_array(document, PROBABILITIES_OUTPUT))
        except ValueError as error:
            return str(error)

    yield check


@contextmanager
def _gateway(_: Path) -> Iterator[Check]:
    def check(data: bytes) -> str:
        try:
            split = _split_of(parse_json(data))
        except ValueError as error:
            return str(error)
        return f"{min(len(split.canary_percent), 3)} models"

    yield check


TARGETS: Final = (
    Target(
        "answers_grpc", _grpc, _responses, (b"probabilities", b"\x22\x14", b"\x08\x01", b"\xff\xff\x03", b"emotion")
    ),
    Target(
        "answers_rest",
        _rest,
        lambda: [
            b'{"outputs": {"probabilities": [[0.1, 0.2, 0.3, 0.2, 0.2]], "other": [0.5]}}',
            b'{"outputs": [[0.1, 0.2, 0.3, 0.2, 0.2]]}',
        ],
        (b'"outputs"', b"[", b"]", b"null", b"true", b"[[" * 40),
    ),
    Target(
        "answers_gateway",
        _gateway,
        lambda: [
            b'{"models": {"emotion": {"versions": [], "canary_percent": 10}, "keypoints": {"canary_percent": null}}}'
        ],
        (b'"models"', b'"canary_percent"', b"101", b"null"),
    ),
)
