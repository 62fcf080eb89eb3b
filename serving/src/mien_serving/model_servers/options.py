"""What the server is told to do; read from flags and checked before TensorFlow is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mien_client.protos import ModelServerConfig

from mien_serving.batching.parameters import BatchingOptions
from mien_serving.core.config import check_config
from mien_serving.core.status import invalid_argument
from mien_serving.model_servers.listening import check_port, check_socket

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
class ManagerOptions:
    """How versions are loaded.

    Attributes:
        max_num_load_retries: How often a failed load is tried again before the version ends.
        load_retry_interval_s: Pause before each retry, in seconds; the load thread is occupied meanwhile.
        num_load_threads: How many versions load at the same time; 0 has the manager's own thread load, so that nothing
            else is loaded or unloaded meanwhile. At start-up many versions load at the same time anyway.
    """

    max_num_load_retries: int = 5
    load_retry_interval_s: float = 60.0
    num_load_threads: int = 0


@dataclass(frozen=True)
class CoreOptions:
    """How models are found and kept.

    Attributes:
        model_repository: The folder that stands for ``/models`` in base paths, if any does.
        file_system_poll_wait_seconds: Pause between two looks for new versions; 0 looks only at configuration changes.
        allow_version_labels_for_unavailable_models: Whether a new label may name a version that is not available.
        manager: How versions are loaded.
    """

    model_repository: Path | None = None
    file_system_poll_wait_seconds: float = 1.0
    allow_version_labels_for_unavailable_models: bool = False
    manager: ManagerOptions = field(default_factory=ManagerOptions)


@dataclass(frozen=True)
class SessionOptions:
    """How TensorFlow runs graphs; 0 lets it choose by the number of processors.

    Attributes:
        intra_op_parallelism: Threads that share the work of one operation.
        inter_op_parallelism: Operations that run at the same time.
        saved_model_tags: Which of a SavedModel's graphs is loaded.
        bfloat16: Whether TensorFlow may compute in bfloat16, which it does on processors that have it.
        config: A serialized ``ConfigProto`` with everything else.
    """

    intra_op_parallelism: int = 0
    inter_op_parallelism: int = 0
    saved_model_tags: Sequence[str] = ("serve",)
    bfloat16: bool = False
    config: bytes = b""
    gpu_memory_fraction: float = 0.0
    check_method_names: bool = False


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
