"""The REST API: requests and answers in JSON, with the same predictor as gRPC."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from google.protobuf import json_format
from mien_client.protos import (
    GetModelStatusRequest,
    Input,
    ModelSpec,
    SignatureDefMap,
)

from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.status import HTTP_STATUS, StatusError, invalid_argument
from mien_serving.model_servers.model_service import ModelService
from mien_serving.model_servers.options import MAX_REQUEST
from mien_serving.model_servers.rest.json_body import BodyReader, read_inference, read_predict
from mien_serving.model_servers.rest.json_examples import classification_body, regression_body
from mien_serving.model_servers.rest.json_response import error_body, predict_body
from mien_serving.servables.predict import DEFAULT_SIGNATURE
from mien_serving.servables.predictor import Predictor
from mien_serving.servables.servable import NO_DEADLINE

_METHODS: Final = {"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"}
"""The methods that TensorFlow Serving's HTTP server accepts."""

_API: Final = re.compile(r"/v1/.*", re.IGNORECASE)
_PREDICTION: Final = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)",
    re.IGNORECASE | re.ASCII,
)
_MODEL: Final = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE | re.ASCII,
)
_MAX_VERSION: Final = 2**63 - 1
_MAX_VERSION_DIGITS: Final = len(str(_MAX_VERSION))  # Python refuses to read thousands of digits.


@dataclass(frozen=True)
class HttpRequest:
    """An HTTP request.

    Attributes:
        method: ``GET``, ``POST``, ….
        target: The path, still percent-encoded, with the query string.
        body: The body, decompressed.
        deadline: When the answer is no longer needed, in seconds on the monotonic clock.
    """

    method: str
    target: str
    body: bytes
    deadline: float = NO_DEADLINE


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = "application/json"


class RestApi:
    """Answers REST requests.

    Args:
        predictor: Answers predictions.
        models: Answers requests about the models.
        metrics: Counts requests.
    """

    def __init__(self, predictor: Predictor, models: ModelService, metrics: Metrics = NO_METRICS) -> None:
        self._predictor = predictor
        self._models = models
        self._metrics = metrics
        self._bodies = BodyReader()

    def close(self) -> None:
        """End the process that reads large requests, if there is one."""
        self._bodies.close()

    def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer one request; every error becomes an answer."""
        if request.method not in _METHODS:
            return _html(501, "Not Implemented")
        if not _API.fullmatch(request.target):
            return _html(404, "Not Found")
        try:
            return HttpAnswer(200, self._dispatch(request))
        except _BadVersion:
            return HttpAnswer(400, b"")
        except StatusError as error:
            return error_answer(error)
        except RecursionError:
            return error_answer(invalid_argument("JSON Parse error: The document is nested too deeply."))

    def _dispatch(self, request: HttpRequest) -> bytes:
        spec, answer, verb = self._route(request)
        with self._metrics.request(spec.name, verb, "REST"):
            return answer(spec, request)

    def _route(self, request: HttpRequest) -> tuple[ModelSpec, Callable[[ModelSpec, HttpRequest], bytes], str]:
        """Return the model spec of a request, the method that answers it, and the verb of its path."""
        if request.method == "POST" and (route := _PREDICTION.fullmatch(request.target)):
            # The case of the verb matters, that of the rest does not.
            answers = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
            return _model_spec(route), answers.get(route[4], _malformed), route[4]
        if request.method == "GET" and (route := _MODEL.fullmatch(request.target)):
            return _model_spec(route), self._metadata if route[4] == "metadata" else self._status, ""
        return ModelSpec(), _malformed, ""

    def _predict(self, spec: ModelSpec, request: HttpRequest) -> bytes:
        with ExitStack() as stack:
            # A mistake in the body is reported before a missing model; but only a model tells which values are valid.
            try:
                predictor = stack.enter_context(self._predictor.pinned(spec))
            except StatusError as error:
                self._bodies.read(read_predict, request.body, {}, request.deadline)
                raise error.without_traceback() from None
            types = predictor.input_types(spec)
            name, inputs, row_format = self._bodies.read(read_predict, request.body, types, request.deadline)
            if (name or DEFAULT_SIGNATURE) not in types:
                raise invalid_argument(
                    f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def'
                )
            if inputs is None:
                raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
            spec.signature_name = name
            _, outputs = predictor.predict(spec, inputs, deadline=request.deadline)
            return predict_body(outputs, row_format)

    def _classify(self, spec: ModelSpec, request: HttpRequest) -> bytes:
        spec.signature_name, examples = self._bodies.read(read_inference, request.body, {}, request.deadline)
        _, result = self._predictor.classify(spec, Input.FromString(examples), request.deadline)
        return classification_body(result)

    def _regress(self, spec: ModelSpec, request: HttpRequest) -> bytes:
        spec.signature_name, examples = self._bodies.read(read_inference, request.body, {}, request.deadline)
        _, result = self._predictor.regress(spec, Input.FromString(examples), request.deadline)
        return regression_body(result)

    def _status(self, spec: ModelSpec, _: HttpRequest) -> bytes:
        _require_name(spec)
        return _json(self._models.get_model_status(GetModelStatusRequest(model_spec=spec))).encode()

    def _metadata(self, spec: ModelSpec, _: HttpRequest) -> bytes:
        _require_name(spec)
        servable_id, signatures = self._predictor.signatures(spec)
        answered_by = ModelSpec(name=servable_id.name, version={"value": servable_id.version})
        written = _json(SignatureDefMap(signature_def=signatures))
        return f'{{\n"model_spec":{_json(answered_by)},\n"metadata": {{"signature_def": {written}}}\n}}\n'.encode()


def error_answer(error: StatusError) -> HttpAnswer:
    """Return the answer to a request that failed."""
    return HttpAnswer(HTTP_STATUS[error.code], error_body(error.message))


def decompressed(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Decompress a body with ``Content-Encoding: gzip``; an invalid or too large one counts as empty."""
    if "gzip" not in headers.get("content-encoding", ""):
        return body
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = decompressor.decompress(body, MAX_REQUEST)
    except zlib.error:
        return b""
    return plain if decompressor.eof else b""


class _BadVersion(Exception):
    """A version number that is too large; TensorFlow Serving answers 400 with an empty body."""


def _model_spec(match: re.Match[str]) -> ModelSpec:
    spec = ModelSpec(name=unquote(match[1] or ""))
    if match[2]:
        digits = match[2].lstrip("0") or "0"
        if len(digits) > _MAX_VERSION_DIGITS or int(digits) > _MAX_VERSION:
            raise _BadVersion
        spec.version.value = int(digits)
    elif match[3]:
        spec.version_label = unquote(match[3])
    return spec


def _malformed(_: ModelSpec, request: HttpRequest) -> bytes:
    raise invalid_argument(f"Malformed request: {request.method} {request.target}")


def _require_name(spec: ModelSpec) -> None:
    if not spec.name:
        raise invalid_argument("Missing model name in request.")


def _json(message: Any) -> str:
    text = json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )
    return f"{text}\n"


def _html(status: int, reason: str) -> HttpAnswer:
    page = f"<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n"
    return HttpAnswer(status, page.encode(), "text/html")
