"""The gRPC front end."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from mien_client import protos

from mien_serving._servable import NO_DEADLINE
from mien_serving._services import Services
from mien_serving._status import Code, StatusError
from mien_serving._workers import Workers

_UNLIMITED: Final = -1

_PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
_MODEL_SERVICE: Final = "tensorflow.serving.ModelService"


class GrpcFront:
    """Serves the services over gRPC.

    Args:
        services: Answers the requests.
        max_threads: Requests computed at the same time; one more is refused, as TensorFlow Serving does.
    """

    def __init__(self, services: Services, max_threads: int) -> None:
        self._workers = Workers("grpc", max_threads, refusal="Server Threadpool Exhausted")
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _UNLIMITED),
                ("grpc.max_send_message_length", _UNLIMITED),
                # A second server on a port is a mistake, not a way to share it.
                ("grpc.so_reuseport", 0),
            ]
        )
        methods: dict[str, dict[str, Callable[[Any, float], Any]]] = {
            _PREDICTION_SERVICE: {
                "Predict": services.predict,
                "Classify": services.classify,
                "Regress": services.regress,
                "MultiInference": services.multi_inference,
                "GetModelMetadata": services.get_model_metadata,
            },
            _MODEL_SERVICE: {
                "GetModelStatus": services.get_model_status,
                "HandleReloadConfigRequest": services.handle_reload_config_request,
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

    def bind(self, port: int) -> int:
        """Takes a port on all interfaces; 0 takes a free one.

        Returns:
            The port.
        """
        return self._server.add_insecure_port(f"0.0.0.0:{port}")

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuses new requests, and returns when those in flight are answered or the time is over."""
        await self._server.stop(grace_s)
        self._workers.stop()

    def _handler(self, service: str, name: str, method: Callable[[Any, float], Any]) -> grpc.RpcMethodHandler[Any, Any]:
        descriptor = protos.POOL.FindServiceByName(service).FindMethodByName(name)
        parse = getattr(protos, descriptor.input_type.name).FromString

        async def answer(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            remaining_s = context.time_remaining()
            deadline = NO_DEADLINE if remaining_s is None else time.monotonic() + remaining_s

            def compute() -> bytes:
                try:
                    request = parse(body)
                except DecodeError as error:
                    raise StatusError(Code.INTERNAL, f"The request is not a {descriptor.input_type.name}") from error
                response: bytes = method(request, deadline).SerializeToString()
                return response

            try:
                return await self._workers.run(compute)
            except StatusError as error:
                await context.abort(grpc.StatusCode[error.code.name], error.message)

        # Messages are parsed and written in the worker threads, so gRPC itself only handles bytes.
        handler: Callable[[bytes, grpc.aio.ServicerContext[Any, Any]], Awaitable[bytes]] = answer
        return grpc.unary_unary_rpc_method_handler(handler)
