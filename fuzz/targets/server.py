"""What the model server reads from its callers: REST, gRPC messages, and a new list of models."""

from __future__ import annotations

import asyncio
import gzip
import json
import runpy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from mien_client import protos
from mien_serving.core.manager import ManagerOptions
from mien_serving.core.server_core import CoreOptions, ServerCore
from mien_serving.core.status import HTTP_STATUS, StatusError

from fuzz.connection import Server
from fuzz.target import Check, Fault, Target

if TYPE_CHECKING:
    from mien_serving.model_servers.rest.routes import HttpAnswer, RestApi
    from mien_serving.servables.servable import Servable

_MODELS: Final = Path(__file__).parents[2] / "serving" / "tests" / "conformance" / "make_models.py"
_ANSWERS: Final = frozenset({200, 400, 404, 501, 504})
"""Statuses that a REST request may be answered with while the server is well; 501 stands for unsupported types."""

_made: dict[str, Path] = {}


def _models(folder: Path) -> Path:
    """Return the folder of two small models with many signatures, made once in each process."""
    if "models" not in _made or not _made["models"].exists():
        runpy.run_path(str(_MODELS))["main"](folder)
        _made["models"] = folder
    return _made["models"]


@contextmanager
def _core(folder: Path) -> Iterator[ServerCore[Servable]]:
    from mien_serving.core.config import read_config
    from mien_serving.servables.servable import Servable
    from mien_serving.servables.session_options import SessionOptions

    models = _models(folder)
    options = CoreOptions(file_system_poll_wait_seconds=0, allow_version_labels_for_unavailable_models=True)
    core = ServerCore(lambda _, path: Servable(path, SessionOptions()), options)
    core.start(read_config(models / "models.config"))
    try:
        yield core
    finally:
        core.stop()


@contextmanager
def _api(folder: Path) -> Iterator[RestApi]:
    from mien_serving.model_servers.model_service import ModelService
    from mien_serving.model_servers.rest.routes import RestApi
    from mien_serving.servables.predictor import Predictor

    with _core(folder) as core:
        api = RestApi(Predictor(core.handle), ModelService(core))
        try:
            yield api
        finally:
            api.close()


def _outcome(answer: HttpAnswer) -> str:
    if answer.status not in _ANSWERS:
        raise Fault(f"It was answered {answer.status}: {answer.body[:200]!r}")
    if answer.content_type != "application/json" or not answer.body:
        return str(answer.status)
    document = json.loads(answer.body)
    return f"{answer.status} {document.get('error', '')}"


_JSON: Final = (
    b'{"instances": [[1, 2], [3, 4]]}',
    b'{"inputs": [[1.5, -2e3]]}',
    b'{"signature_name": "two", "inputs": {"a": [[1, 2]], "b": [7]}}',
    b'{"signature_name": "two", "instances": [{"a": [1, 2], "b": 7}]}',
    b'{"signature_name": "raw", "instances": [{"b64": "aGVsbG8="}, {"b64": ""}]}',
    b'{"signature_name": "words", "instances": ["hello", "w\xc3\xb6rld"]}',
    b'{"signature_name": "mean", "instances": [[[1, 2], [3, 255]]]}',
    b'{"signature_name": "kinds", "inputs": {"flag": [true], "i": [-7], "d": [0.1]}}',
    b'{"signature_name": "scalar", "inputs": 3}',
    b'{"signature_name": "checked", "instances": [4, 9]}',
    b'{"signature_name": "classify", "context": {"x": [1]}, "examples": [{"x": [1.0, 2.0]}, {"x": {"b64": "AA=="}}]}',
    b'{"signature_name": "regress", "examples": [{"x": 1.5}, {}]}',
)


@contextmanager
def _rest_json(folder: Path) -> Iterator[Check]:
    from mien_serving.model_servers.rest.routes import HttpRequest

    with _api(folder) as api:

        def check(data: bytes) -> str:
            verb = "predict"
            if b'"examples"' in data:
                verb = "regress" if b"regress" in data else "classify"
            return _outcome(api.answer(HttpRequest("POST", f"/v1/models/tiny:{verb}", data)))

        yield check


def _requests() -> Sequence[bytes]:
    body = b'\n{"instances": [[1, 2]]}'
    paths = [
        b"GET /v1/models/tiny",
        b"GET /v1/models/tiny/versions/1",
        b"GET /v1/models/tiny/labels/canary",
        b"GET /v1/models/tiny/versions/2/metadata",
        b"POST /v1/models/tiny:predict" + body,
        b"POST /v1/models/tiny/versions/1:predict" + body,
        b"POST /v1/models/tiny/labels/stable:predict" + body,
        b"POST /v1/models/%74iny:classify" + body,
        b"OPTIONS /v1/models/solo:regress?x=1" + body,
        b"HEAD /",
    ]
    return [*paths, *(path.replace(b"GET", b"PUT") for path in paths[:2])]


@contextmanager
def _rest_routes(folder: Path) -> Iterator[Check]:
    from mien_serving.model_servers.rest.routes import HttpRequest

    with _api(folder) as api:

        def check(data: bytes) -> str:
            head, _, body = data.partition(b"\n")
            method, _, target = head.decode("latin-1").partition(" ")
            return _outcome(api.answer(HttpRequest(method, target, body)))

        yield check


@contextmanager
def _rest_connections(folder: Path) -> Iterator[Check]:
    from mien_serving.model_servers.options import METRICS_PATH, RestOptions
    from mien_serving.model_servers.prometheus import PrometheusMetrics
    from mien_serving.model_servers.rest.front import RestFront
    from mien_serving.model_servers.rest.http_server import HttpProtocol

    options = RestOptions(threads=2, enable_cors_support=True, metrics_path=METRICS_PATH)
    with _api(folder) as api, asyncio.Runner() as runner:
        front = RestFront(api, options, PrometheusMetrics())
        server = Server(runner, HttpProtocol, front._server.config, lambda status: status < 500 or status in _ANSWERS)
        try:
            yield server.check
        finally:
            server.close()
            front._workers.stop()


def _conversations() -> Sequence[bytes]:
    body = b'{"instances": [[1, 2]]}'
    post = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\n"
    whole = post + b"Content-Length: %d\r\n\r\n" % len(body) + body
    packed = gzip.compress(body)
    return [
        whole,
        whole * 2,
        post + b"Transfer-Encoding: chunked\r\n\r\n17\r\n" + body + b"\r\n0\r\n\r\n",
        post + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed,
        b"GET /v1/models/tiny/metadata HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /monitoring/prometheus/metrics HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\r\n",
    ]


_RPCS: Final = (
    "Predict",
    "Classify",
    "Regress",
    "MultiInference",
    "GetModelMetadata",
    "GetModelStatus",
)
"""The call that an input is for, by its first byte."""


def _messages() -> Sequence[bytes]:
    spec = {"name": "tiny"}
    tensors = []
    for signature, name, dtype, field, values, shape in (
        ("", "x", "DT_FLOAT", "float_val", [1.0, 2.0], [1, 2]),
        ("raw", "image_bytes", "DT_STRING", "string_val", [b"a", b"bc"], [2]),
        ("mean", "images", "DT_UINT8", "int_val", [1, 2, 3, 4], [1, 2, 2]),
        ("checked", "x", "DT_HALF", "half_val", [15360], [1]),
        ("scalar", "x", "DT_COMPLEX64", "scomplex_val", [1.0, 2.0], []),
    ):
        request = protos.PredictRequest(model_spec={**spec, "signature_name": signature})
        tensor = request.inputs[name]
        tensor.dtype = getattr(protos.DataType, dtype)
        getattr(tensor, field).extend(values)
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        tensors.append(request)
    content = protos.PredictRequest(model_spec={**spec, "version": {"value": 1}}, output_filter=["y"])
    content.inputs["x"].dtype = protos.DataType.DT_FLOAT
    content.inputs["x"].tensor_content = bytes(8)
    content.inputs["x"].tensor_shape.dim.add(size=1)
    content.inputs["x"].tensor_shape.dim.add(size=2)
    feature = {"feature": {"x": {"float_list": {"value": [1.0, 2.0]}}}}
    examples = protos.Input(example_list={"examples": [{"features": feature}]})
    with_context = protos.Input(
        example_list_with_context={"context": {"features": feature}, "examples": [{"features": feature}]}
    )
    classify = {**spec, "signature_name": "classify"}
    regress = {**spec, "signature_name": "regress"}
    method = "tensorflow/serving/"
    requests: list[tuple[str, Any]] = [
        *(("Predict", request) for request in (*tensors, content)),
        ("Classify", protos.ClassificationRequest(model_spec=classify, input=examples)),
        ("Regress", protos.RegressionRequest(model_spec=regress, input=with_context)),
        (
            "MultiInference",
            protos.MultiInferenceRequest(
                input=examples,
                tasks=[
                    {"model_spec": classify, "method_name": f"{method}classify"},
                    {"model_spec": regress, "method_name": f"{method}regress"},
                ],
            ),
        ),
        ("GetModelMetadata", protos.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])),
        ("GetModelStatus", protos.GetModelStatusRequest(model_spec={**spec, "version_label": "stable"})),
    ]
    deep = b"".join(b"\x0a\x7f" for _ in range(300))
    return [
        *(bytes([_RPCS.index(rpc)]) + request.SerializeToString() for rpc, request in requests),
        *(bytes([number]) + deep for number in range(len(_RPCS))),
    ]


@contextmanager
def _grpc(folder: Path) -> Iterator[Check]:
    from mien_serving.model_servers.model_service import ModelService
    from mien_serving.model_servers.prediction_service import PredictionService
    from mien_serving.servables.predictor import Predictor

    with _core(folder) as core:
        predictions, models = PredictionService(Predictor(core.handle)), ModelService(core)
        methods: list[tuple[Any, Any]] = [
            (protos.PredictRequest, predictions.predict),
            (protos.ClassificationRequest, predictions.classify),
            (protos.RegressionRequest, predictions.regress),
            (protos.MultiInferenceRequest, predictions.multi_inference),
            (protos.GetModelMetadataRequest, predictions.get_model_metadata),
            (protos.GetModelStatusRequest, models.get_model_status),
        ]

        def check(data: bytes) -> str:
            message, method = methods[data[0] % len(methods) if data else 0]
            try:
                request = message.FromString(data[1:])
            except DecodeError:
                return "not a message"
            try:
                method(request).SerializeToString()
            except StatusError as error:
                return _allowed(error)
            return "OK"

        yield check


def _allowed(error: StatusError) -> str:
    # TensorFlow's own words for inputs that a graph cannot take may come with INTERNAL; ours never do.
    if HTTP_STATUS[error.code] >= 500 and error.code.name not in ("UNIMPLEMENTED", "INTERNAL"):
        raise Fault(f"It was answered {error.code.name}: {error.message[:200]}")
    return str(error)


class _Loaded:
    """Stands for a loaded version."""

    def close(self) -> None:
        """Nothing is to be freed."""


@contextmanager
def _reload(folder: Path) -> Iterator[Check]:
    from mien_serving.model_servers.model_service import ModelService

    for version in ("1", "2"):
        (folder / "m" / version).mkdir(parents=True, exist_ok=True)

    def check(data: bytes) -> str:
        core = ServerCore(
            lambda *_: _Loaded(),
            CoreOptions(
                model_repository=folder,
                file_system_poll_wait_seconds=0,
                manager=ManagerOptions(max_num_load_retries=0),
            ),
        )
        try:
            ModelService(core).handle_reload_config_request(protos.ReloadConfigRequest.FromString(data))
        except DecodeError:
            return "not a message"
        except StatusError as error:
            return _allowed(error)
        finally:
            core.stop()
        return "OK"

    yield check
    shutil.rmtree(folder / "m")


def _configurations() -> Sequence[bytes]:
    def request(**model: Any) -> bytes:
        config = {"name": "m", "base_path": "/models/m", "model_platform": "tensorflow", **model}
        return protos.ReloadConfigRequest(
            config={"model_config_list": {"config": [config]}}, metric_names=["/tensorflow/core/graph_runs"]
        ).SerializeToString()

    return [
        request(),
        request(model_version_policy={"all": {}}, version_labels={"stable": 1}),
        request(model_version_policy={"specific": {"versions": [1, 2]}}),
        request(base_path="s3://bucket/m"),
        request(model_platform="", model_type=1),
        protos.ReloadConfigRequest(config={"custom_model_config": {"type_url": "a/b"}}).SerializeToString(),
    ]


TARGETS: Final = (
    Target(
        "rest_json",
        _rest_json,
        lambda: _JSON,
        (b'"instances"', b'"inputs"', b'"b64"', b'"examples"', b"true", b"null", b"[[", b"{}", b",,", b"1" * 400),
    ),
    Target(
        "rest_routes",
        _rest_routes,
        _requests,
        (b"/v1/models/", b"/versions/", b"/labels/", b"/metadata", b":predict", b"%2f", b"%", b"?", b"#", b"//"),
    ),
    Target(
        "rest_connections",
        _rest_connections,
        _conversations,
        (
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n\r\n",
            b"GET ",
            b" HTTP/1.1",
            b": ",
            b"\xff",
        ),
    ),
    Target("grpc_messages", _grpc, _messages, (b"tiny", b"\x0a", b"\x12\x00", b"\x28\x01", b"\x08\x07", b"\xe0\x01")),
    Target("grpc_reload_config", _reload, _configurations, (b"/models/m", b"/", b"\x0a", b"stable", b"tensorflow")),
)
