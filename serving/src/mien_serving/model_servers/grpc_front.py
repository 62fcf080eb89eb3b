"""The gRPC front end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1.health import aio as health  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # type: ignore[import-untyped]
from mien_client import protos

from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.status import Code, StatusError
from mien_serving.model_servers.listening import grpc_target, port_error, socket_error
from mien_serving.model_servers.model_service import ModelService
from mien_serving.model_servers.options import MAX_REQUEST, GrpcOptions
from mien_serving.model_servers.prediction_service import PredictionService
from mien_serving.model_servers.tls import server_credentials
from mien_serving.model_servers.workers import Workers
from mien_serving.servables.predictor import Predictor
from mien_serving.servables.servable import NO_DEADLINE

_MAX_RESPONSE: Final = 2**31 - 1
_HANDSHAKE_MS: Final = 20_000
"""How long a connection may take for its HTTP/2 handshake."""

_REFUSAL: Final = (
    "Server Threadpool Exhausted: {} requests are being answered, and more are refused; raise --grpc_max_threads"
)

_PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
_PREDICTIONS: Final = {"Predict", "Classify", "Regress", "MultiInference"}
_MODEL_SERVICE: Final = "tensorflow.serving.ModelService"

RECEIVE_S: Final = 120.0
"""How long a request may take to arrive, so that senders that stop cannot occupy memory for ever."""

_NOT_RECEIVED: Final = StatusError(
    Code.DEADLINE_EXCEEDED, f"The request did not arrive within {RECEIVE_S:.0f} s; send less at once"
)
_NOT_SENT: Final = StatusError(Code.INTERNAL, "The call ended without a request")
_NOT_A_HEALTH_CHECK: Final = StatusError(Code.INTERNAL, "The request is not a HealthCheckRequest")


class GrpcFront:
    """Serves TensorFlow Serving's two services, and the standard health service, over gRPC.

    Args:
        predictor: Answers predictions.
        models: Answers requests about the models.
        options: Where and how to serve.
        metrics: Counts predictions.
    """

    def __init__(
        self, predictor: Predictor, models: ModelService, options: GrpcOptions, metrics: Metrics = NO_METRICS
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._options = options
        # As in TensorFlow Serving, one of the threads always accepts requests.
        computing = options.max_threads - 1
        self._workers = Workers("grpc", computing, refusal=_REFUSAL.format(computing))
        self._server = grpc.aio.server(
            options=list(
                {
                    # gRPC applies it to the decompressed message, too.
                    "grpc.max_receive_message_length": MAX_REQUEST,
                    "grpc.max_send_message_length": _MAX_RESPONSE,
                    "grpc.server_handshake_timeout_ms": _HANDSHAKE_MS,
                    # A second server on the same port is an error.
                    "grpc.so_reuseport": 0,
                    **options.channel_arguments,
                }.items()
            )
        )
        self._health = health.HealthServicer() if options.enable_health_service else None
        if self._health:
            self._server.add_generic_rpc_handlers([_health_handler(self._health)])
        predictions = PredictionService(predictor, as_tensor_content=options.serialization_as_tensor_content)
        methods: dict[str, dict[str, Callable[[Any, float], Any]]] = {
            _PREDICTION_SERVICE: {
                "Predict": predictions.predict,
                "Classify": predictions.classify,
                "Regress": predictions.regress,
                "MultiInference": predictions.multi_inference,
                "GetModelMetadata": predictions.get_model_metadata,
            },
            _MODEL_SERVICE: {
                "GetModelStatus": models.get_model_status,
                "HandleReloadConfigRequest": models.handle_reload_config_request,
            },
        }
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    service, {name: self._handler(service, name, method) for name, method in by_name.items()}
                )
                for service, by_name in methods.items()
            ]
        )

    def bind(self) -> str:
        """Bind the socket if there is one, and the port; with a socket, port 0 means no port.

        Returns:
            Where the server listens: ``port 8500``, or ``unix:`` and the path of the socket if there is no port.

        Raises:
            StatusError: The socket or the port cannot be used.
        """
        options = self._options
        socket = f"unix:{options.socket_path}" if options.socket_path else ""
        try:
            if socket:
                self._listen(socket)
        except RuntimeError as error:
            raise socket_error(options.socket_path, str(error)) from error
        if socket and not options.port:
            return socket
        try:
            return f"port {self._listen(grpc_target(options.host, options.port))}"
        except RuntimeError as error:
            raise port_error(options.port, "--port", error) from error

    def _listen(self, address: str) -> int:
        ssl = self._options.ssl
        if ssl is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, server_credentials(ssl))

    async def start(self) -> None:
        """Start answering."""
        if self._health:
            for service in (_PREDICTION_SERVICE, _MODEL_SERVICE):
                await self._health.set(service, HealthCheckResponse.SERVING)
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new requests; return when those in flight are answered or the grace period is over."""
        if self._health:
            await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        self._workers.stop()

    def _handler(self, service: str, name: str, method: Callable[[Any, float], Any]) -> grpc.RpcMethodHandler[Any, Any]:
        descriptor = protos.POOL.FindServiceByName(service).FindMethodByName(name)
        parse = getattr(protos, descriptor.input_type.name).FromString

        async def answer(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            try:
                async with asyncio.timeout(RECEIVE_S):
                    body = await context.read()
            except TimeoutError:
                return _refuse(context, _NOT_RECEIVED)
            if body is grpc.aio.EOF:
                return _refuse(context, _NOT_SENT)
            remaining_s = context.time_remaining()
            deadline = NO_DEADLINE if remaining_s is None else time.monotonic() + remaining_s

            def compute() -> tuple[bytes, tuple[tuple[str, str], ...]]:
                try:
                    request = parse(body)
                except DecodeError as error:
                    raise StatusError(Code.INTERNAL, f"The request is not a {descriptor.input_type.name}") from error
                with self._measured(name, request):
                    response: bytes = method(request, deadline).SerializeToString()
                return response, self._models.status_trailers(request) if name == "GetModelStatus" else ()

            try:
                response, trailers = await self._workers.run(compute)
            except StatusError as error:
                return _refuse(context, error)
            if trailers:
                context.set_trailing_metadata(trailers)
            return response

        # Messages are parsed and written by the workers; gRPC itself only handles bytes. To gRPC the request is a
        # stream of one message, because it calls a handler of single messages only when the message is there.
        handler: Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[bytes]] = answer
        return grpc.stream_unary_rpc_method_handler(handler)

    def _measured(self, name: str, request: Any) -> AbstractContextManager[None]:
        """Count a prediction; the other calls are not counted."""
        if name not in _PREDICTIONS:
            return nullcontext()
        if name != "MultiInference":
            model = request.model_spec.name
        else:
            model = request.tasks[0].model_spec.name if request.tasks else ""
        return self._metrics.request(model, name, "GRPC")


def _refuse(context: grpc.aio.ServicerContext[Any, Any], error: StatusError) -> bytes:
    """Set the status of a call and return a response, which is not sent.

    `context.abort` keeps its exception in the context and, through the traceback, the request: a reference cycle, which
    holds the memory of refused requests until the garbage collector runs.
    """
    context.set_code(grpc.StatusCode[error.code.name])
    context.set_details(error.message)
    return b""


def _health_handler(servicer: health.HealthServicer) -> grpc.GenericRpcHandler:
    """Return the standard health service; gRPC's own handler logs a traceback for every malformed message."""

    async def check(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        request = _health_request(body)
        if request is None:
            return _refuse(context, _NOT_A_HEALTH_CHECK)
        response: bytes = (await servicer.Check(request, context)).SerializeToString()
        return response

    async def watch(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        request = _health_request(body)
        if request is None:
            _refuse(context, _NOT_A_HEALTH_CHECK)
        else:
            await servicer.Watch(request, context)

    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health",
        {
            "Check": grpc.unary_unary_rpc_method_handler(check),
            "Watch": grpc.unary_stream_rpc_method_handler(
                watch, response_serializer=HealthCheckResponse.SerializeToString
            ),
        },
    )


def _health_request(body: bytes) -> Any:
    """Return the message, or None if it cannot be parsed."""
    try:
        return HealthCheckRequest.FromString(body)
    except DecodeError:
        return None
