"""What the server is told to do; read from flags and checked before TensorFlow is loaded."""

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
"""Where the server listens unless told otherwise: only programs of this machine can call it."""

DEFAULT_GRPC_THREADS: Final = 160
"""Threads of gRPC, which refuses what finds all of them busy: 64 callers may ask two models each, and for states."""

DEFAULT_REST_THREADS: Final = 64
"""Threads of REST, where requests wait for a free one. TensorFlow Serving has four threads a processor for each."""

MAX_REQUEST: Final = 100 << 20
"""Bytes of a request at most, over gRPC and REST, unpacked if it came compressed."""

METRICS_PATH: Final = "/monitoring/prometheus/metrics"
"""Where Prometheus finds the metrics unless the monitoring configuration names another path."""


@dataclass(frozen=True)
class SslOptions:
    """How gRPC connections are secured; keys and certificates are PEM text.

    Attributes:
        server_key: The server's private key.
        server_cert: Its certificate, or chain of certificates.
        custom_ca: Who signs the certificates of clients.
        client_verify: Whether clients need one.
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
        socket_path: A UNIX socket to serve on as well, if not empty.
        max_threads: Threads, of which one waits for the next request; a request that would take that one is refused.
        serialization_as_tensor_content: Whether predictions are written as bytes instead of typed fields.
        channel_arguments: Arguments of the gRPC library, by name.
        enable_health_service: Whether the standard health service answers too.
        ssl: How connections are secured; None if they are not.
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
        threads: Requests computed at the same time; more wait.
        timeout_s: How long a request may take; 0 for as long as it takes.
        enable_cors_support: Whether web pages from elsewhere may ask.
        metrics_path: Where Prometheus finds the metrics; None if nothing is measured.
    """

    host: str = DEFAULT_HOST
    port: int = 8501
    threads: int = DEFAULT_REST_THREADS
    timeout_s: float = 30.0
    enable_cors_support: bool = False
    metrics_path: str | None = None


@dataclass(frozen=True)
class ServerOptions:
    """All of it.

    Attributes:
        config: The models to serve.
        config_file: Where that was read from, if it is to be looked at again.
        config_file_poll_wait_seconds: Pause between two looks at it; 0 never looks again.
        grpc: How gRPC is served.
        rest: How REST is served.
        enable_model_warmup: Whether versions run their warm-up requests before they are available.
        warmup_iterations: How often each of those runs.
        batching: How concurrent requests are joined; None if each runs alone.
        per_model_batching: Whether each model's own ``batching_params.pbtxt`` says so instead, if it has one.
        core: How models are found and kept.
        session: How TensorFlow runs them.
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
        """Finds out now what would only fail after the models are loaded.

        Raises:
            StatusError: The configuration is wrong, or a port cannot be used.
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
