"""The options of the server, read from flags and checked before TensorFlow is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mien_client.protos import ModelServerConfig

from mien_serving.batching.parameters import BatchingOptions
from mien_serving.core.config import check_config
from mien_serving.core.server_core import CoreOptions
from mien_serving.core.status import invalid_argument
from mien_serving.model_servers.listening import check_port, check_socket
from mien_serving.servables.session_options import SessionOptions

DEFAULT_HOST: Final = "127.0.0.1"
"""The default address: only programs on this machine can call the server."""

DEFAULT_GRPC_THREADS: Final = 160
"""Default number of threads for gRPC, enough for 64 callers of two models; while all are busy, requests are refused."""

DEFAULT_REST_THREADS: Final = 64
"""Default number of threads for REST, where requests wait for a free one. TensorFlow Serving has four per processor."""

MAX_REQUEST: Final = 100 << 20
"""Limit on the bytes of a request over gRPC and REST, after decompression."""

METRICS_PATH: Final = "/monitoring/prometheus/metrics"
"""The path of the metrics unless the monitoring configuration names another."""


@dataclass(frozen=True)
class SslOptions:
    """How gRPC connections are secured; keys and certificates are PEM text.

    Attributes:
        server_key: The server's private key.
        server_cert: Its certificate, or chain of certificates.
        custom_ca: Certificates of those who sign the certificates of clients.
        client_verify: Whether clients need a certificate.
    """

    server_key: str
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False


@dataclass(frozen=True)
class GrpcOptions:
    """How gRPC is served.

    Attributes:
        host: The address to listen on.
        port: The port; 0 takes a free one, or none if there is a socket.
        socket_path: The path of a UNIX socket to serve on as well; empty for none.
        max_threads: Number of threads: one accepts requests, the others compute one each; further requests are refused.
        serialization_as_tensor_content: Whether predictions are written as bytes instead of typed fields.
        channel_arguments: Arguments of the gRPC library, by name.
        enable_health_service: Whether to serve the standard health service.
        ssl: How connections are secured; None for plain text.
    """

    host: str = DEFAULT_HOST
    port: int = 8500
    socket_path: str = ""
    max_threads: int = DEFAULT_GRPC_THREADS
    serialization_as_tensor_content: bool = False
    channel_arguments: Mapping[str, int | str] = field(default_factory=dict)
    enable_health_service: bool = False
    ssl: SslOptions | None = None


@dataclass(frozen=True)
class RestOptions:
    """How REST is served.

    Attributes:
        host: The address to listen on.
        port: The port; 0 takes a free one.
        threads: Number of requests computed at the same time; further requests wait.
        timeout_s: The deadline of a request, in seconds; 0 for none.
        enable_cors_support: Whether web pages of other origins may call.
        metrics_path: The path of the metrics; None switches metrics off.
    """

    host: str = DEFAULT_HOST
    port: int = 8501
    threads: int = DEFAULT_REST_THREADS
    timeout_s: float = 30.0
    enable_cors_support: bool = False
    metrics_path: str | None = None


@dataclass(frozen=True)
class ServerOptions:
    """All options of the server.

    Attributes:
        config: The models to serve.
        config_file: The file that the configuration was read from, if any.
        config_file_poll_wait_seconds: Pause between two checks of that file; 0 reads it once.
        grpc: How gRPC is served.
        rest: How REST is served.
        enable_model_warmup: Whether versions run their warm-up requests before they are available.
        warmup_iterations: How often each warm-up request runs.
        batching: How batches are formed; None runs each request alone.
        per_model_batching: Whether only models with a ``batching_params.pbtxt`` are batched, with its parameters.
        core: How models are found and loaded.
        session: How TensorFlow loads and runs them.
    """

    config: ModelServerConfig
    config_file: Path | None = None
    config_file_poll_wait_seconds: float = 0.0
    grpc: GrpcOptions = field(default_factory=GrpcOptions)
    rest: RestOptions = field(default_factory=RestOptions)
    enable_model_warmup: bool = True
    warmup_iterations: int = 1
    batching: BatchingOptions | None = None
    per_model_batching: bool = False
    core: CoreOptions = field(default_factory=CoreOptions)
    session: SessionOptions = field(default_factory=SessionOptions)

    def check(self) -> None:
        """Check now what would otherwise fail only after the models are loaded.

        Raises:
            StatusError: The configuration is invalid, or a port or a socket cannot be used.
        """
        check_config(self.config)
        if self.grpc.port == self.rest.port != 0:
            raise invalid_argument(
                f"--rest_api_port cannot be same as --port ({self.grpc.port}). Please use a different port for "
                "HTTP/REST API."
            )
        if self.grpc.socket_path:
            check_socket(self.grpc.socket_path)
        check_port(self.grpc.host, self.grpc.port, "--port")
        check_port(self.rest.host, self.rest.port, "--rest_api_port")
