"""``mien serve``: its flags as options, and its exit status."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import re
import sys
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

from mien_client.cli import Command
from mien_client.protos import POOL, ConfigProto, ModelServerConfig

from mien_serving.batching.parameters import BatchingOptions, read_batching_parameters
from mien_serving.core.config import REPOSITORY, read_config, single_model_config
from mien_serving.core.config_files import parse_file, read_message
from mien_serving.core.manager import ManagerOptions
from mien_serving.core.server_core import CoreOptions
from mien_serving.core.status import StatusError, invalid_argument
from mien_serving.model_servers.flags import add_flags, without_meaning
from mien_serving.model_servers.listening import resolved_host
from mien_serving.model_servers.options import (
    METRICS_PATH,
    GrpcOptions,
    RestOptions,
    ServerOptions,
)
from mien_serving.model_servers.tls import read_ssl_options
from mien_serving.servables.session_options import SessionOptions
from mien_serving.servables.without_keras import import_tensorflow

_START_FAILED: Final = 255
"""TensorFlow Serving's exit status when it cannot start."""

_BATCH_THREADS: Final = "model_server_batch_threads"
"""The name of the batch threads in metrics unless the batching parameters name them."""

_CONTAINER_MODEL_NAME: Final = "model"
"""The model that TensorFlow Serving's container serves if only MODEL_BASE_PATH is set."""


def _run(flags: argparse.Namespace) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if flags.version:
        sys.stdout.write(_versions() + "\n")
        return 0
    _allow_many_connections()
    if warning := without_meaning(flags):
        logging.getLogger(__name__).warning("%s", warning)
    try:
        options = options_from(flags)
        options.check()

        import_tensorflow()
        from mien_serving.model_servers.server import ModelServer

        # The objects of the imports stay for ever. When the garbage collector looks at all of them, twice in 60,000
        # malformed requests, callers wait for 0.2 s; frozen, they are left out.
        gc.freeze()
        ModelServer(options).run(_announce)
    except StatusError as error:
        sys.stderr.write(f"Failed to start server. Error: {error}\n")
        return _START_FAILED
    return 0


def _allow_many_connections() -> None:
    """Raise the limit on open files as far as this process may: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS takes no more than OPEN_MAX, whatever it claims.
    limit = min(hard, 10_240) if sys.platform == "darwin" else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _announce(grpc: str, rest_port: int) -> None:
    sys.stdout.write(f"mien serve is ready: gRPC on {grpc}, REST on port {rest_port}.\n")
    sys.stdout.flush()


def options_from(flags: argparse.Namespace) -> ServerOptions:
    """Return the options that the flags describe.

    Raises:
        StatusError: The flags contradict each other, or name a file that cannot be read.
    """
    parallelism = flags.tensorflow_session_parallelism
    if parallelism > 0 and flags.tensorflow_intra_op_parallelism > 0 and flags.tensorflow_inter_op_parallelism > 0:
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    host = resolved_host(flags.host)
    return ServerOptions(
        config=_config(flags),
        config_file=flags.model_config_file,
        config_file_poll_wait_seconds=flags.model_config_file_poll_wait_seconds,
        grpc=GrpcOptions(
            host=host,
            port=flags.port,
            socket_path=flags.grpc_socket_path,
            max_threads=flags.grpc_max_threads,
            serialization_as_tensor_content=flags.enable_serialization_as_tensor_content,
            channel_arguments=_channel_arguments(flags.grpc_channel_arguments),
            enable_health_service=flags.enable_grpc_healthcheck_service,
            ssl=read_ssl_options(flags.ssl_config_file) if flags.ssl_config_file else None,
        ),
        rest=RestOptions(
            host=host,
            port=flags.rest_api_port,
            threads=flags.rest_api_num_threads,
            timeout_s=flags.rest_api_timeout_in_ms / 1000,
            enable_cors_support=flags.rest_api_enable_cors_support,
            metrics_path=_metrics_path(flags.monitoring_config_file),
        ),
        enable_model_warmup=flags.enable_model_warmup,
        warmup_iterations=flags.num_request_iterations_for_warmup,
        batching=_batching(flags),
        per_model_batching=flags.enable_per_model_batching_parameters,
        core=CoreOptions(
            model_repository=flags.model_repository,
            file_system_poll_wait_seconds=flags.file_system_poll_wait_seconds,
            allow_version_labels_for_unavailable_models=flags.allow_version_labels_for_unavailable_models,
            manager=ManagerOptions(
                max_num_load_retries=flags.max_num_load_retries,
                load_retry_interval_s=flags.load_retry_interval_micros / 1_000_000,
                num_load_threads=flags.num_load_threads,
            ),
        ),
        session=SessionOptions(
            intra_op_parallelism=flags.tensorflow_intra_op_parallelism or parallelism,
            inter_op_parallelism=flags.tensorflow_inter_op_parallelism or parallelism,
            config=_session_config(flags.tensorflow_session_config_file),
            saved_model_tags=flags.saved_model_tags.split(","),
            gpu_memory_fraction=flags.per_process_gpu_memory_fraction,
            check_method_names=flags.enable_signature_method_name_check,
            bfloat16=flags.mixed_precision == "bfloat16",
        ),
    )


def _config(flags: argparse.Namespace) -> ModelServerConfig:
    """Return the models to serve, by the flags or by the environment variables of TensorFlow Serving's container."""
    if flags.model_config_file:
        return read_config(flags.model_config_file)
    environment_name, environment_path = os.environ.get("MODEL_NAME", ""), os.environ.get("MODEL_BASE_PATH", "")
    name = flags.model_name or environment_name
    if flags.model_base_path:
        return single_model_config(name or "default", flags.model_base_path)
    if environment_name or environment_path:
        folder = PurePosixPath(environment_path or str(REPOSITORY)) / (environment_name or _CONTAINER_MODEL_NAME)
        return single_model_config(name or _CONTAINER_MODEL_NAME, str(folder))
    if flags.model_repository and flags.model_name:
        return single_model_config(name, str(REPOSITORY / name))
    raise invalid_argument(
        "Both model_base_path and model_config_file are empty! Use --model_config_file=FILE, or "
        "--model_name=NAME with --model_base_path=DIR or --model_repository=DIR."
    )


def _session_config(file: Path | None) -> bytes:
    config: bytes = parse_file(file, ConfigProto(), POOL).SerializeToString() if file else b""
    return config


def _batching(flags: argparse.Namespace) -> BatchingOptions | None:
    file = flags.batching_parameters_file
    if flags.enable_batching:
        return read_batching_parameters(file) if file else BatchingOptions(thread_pool_name=_BATCH_THREADS)
    if file:
        raise invalid_argument(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    return None


def _metrics_path(monitoring_config_file: Path | None) -> str | None:
    if not monitoring_config_file:
        return None
    prometheus = read_message(monitoring_config_file, "MonitoringConfig").prometheus_config
    return (prometheus.path or METRICS_PATH) if prometheus.enable else None


def _channel_arguments(text: str) -> dict[str, int | str]:
    """Return the arguments in ``name=value,…``; values that look like integers become integers."""
    arguments: dict[str, int | str] = {}
    for argument in filter(None, text.split(",")):
        name, equals, value = argument.partition("=")
        if not equals:
            raise invalid_argument(
                f"--grpc_channel_arguments: expected NAME=VALUE, got {argument!r}; write {argument}=VALUE"
            )
        arguments[name] = int(value) if re.fullmatch(r"-?\d+", value) else value
    return arguments


def _versions() -> str:
    [tensorflow] = metadata.packages_distributions()["tensorflow"]  # The package without CUDA has another name.
    return f"mien serve: {metadata.version('mien-serving')}\nTensorFlow Library: {metadata.version(tensorflow)}"


COMMAND: Final = Command("serve models as TensorFlow Serving does, on this machine's TensorFlow", add_flags, _run)
