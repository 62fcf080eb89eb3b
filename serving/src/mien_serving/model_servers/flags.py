"""The flags of ``mien serve``: the names and forms of ``tensorflow_model_server``, without TensorFlow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from mien_serving.model_servers.options import DEFAULT_GRPC_THREADS, DEFAULT_HOST, DEFAULT_REST_THREADS

_WITHOUT_MEANING: Final = {
    "num_unload_threads": "every version unloads in its own thread",
    "flush_filesystem_caches": "the operating system manages its caches",
    "use_alts_credentials": "ALTS works only in Google's data centres",
    "platform_config_file": "the only platform is tensorflow",
    "remove_unused_fields_from_bundle_metagraph": "unused fields are always removed",
    "prefer_tflite_model": "TensorFlow Lite models are not served",
    "num_tflite_pools": "TensorFlow Lite models are not served",
    "num_tflite_interpreters_per_pool": "TensorFlow Lite models are not served",
    "xla_cpu_compilation_enabled": "the SavedModel decides what is compiled",
    "xla_gpu_compilation_enabled": "the SavedModel decides what is compiled",
    "enable_profiler": "there is no profiler service",
    "thread_pool_factory_config_file": "TensorFlow creates its own thread pools",
    "skip_initialize_tpu": "there is no TPU",
}
"""Flags of ``tensorflow_model_server`` that have no effect here, and why."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag to a parser; ``--flag=value`` and ``--flag value`` both work."""
    parser.allow_abbrev = False
    group = parser.add_argument_group("flags of tensorflow_model_server")
    _add_model_flags(group)
    _add_front_end_flags(group)
    _add_session_flags(group)
    _add_batching_flags(group)
    for name in _WITHOUT_MEANING:
        group.add_argument(f"--{name}", nargs="?", const="", help=argparse.SUPPRESS)
    group.add_argument("--version", action="store_true", help="print the versions and exit")
    own = parser.add_argument_group("flags of mien serve").add_argument
    own("--model_repository", type=Path, metavar="DIR", help="the folder that stands for /models in base paths")
    own(
        "--host",
        default=DEFAULT_HOST,
        metavar="ADDRESS",
        help="the address to listen on; 0.0.0.0 or :: lets other machines call the server (%(default)s)",
    )


def without_meaning(flags: argparse.Namespace) -> str:
    """Return one line about the given flags that have no effect; empty if there are none."""
    given = [name for name in _WITHOUT_MEANING if getattr(flags, name) is not None]
    return (
        "These flags have no effect here: " + "; ".join(f"--{name} ({_WITHOUT_MEANING[name]})" for name in given)
        if given
        else ""
    )


def _add_model_flags(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag("--model_config_file", type=Path, metavar="FILE", help="a ModelServerConfig in text form: the models to serve")
    flag(
        "--model_name",
        default="",
        metavar="NAME",
        help="without a config file: the one model to serve (the environment's MODEL_NAME, or default)",
    )
    flag(
        "--model_base_path",
        default="",
        metavar="DIR",
        help="without a config file: the folder of its versions (the environment's MODEL_BASE_PATH/MODEL_NAME)",
    )
    flag(
        "--model_config_file_poll_wait_seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds between two checks of the config file; 0 reads it once (%(default)s)",
    )
    flag(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between two polls for new versions; 0 polls once (%(default)s)",
    )
    flag(
        "--allow_version_labels_for_unavailable_models",
        **_boolean(False),
        help="let new labels name versions that are not available yet (%(default)s)",
    )
    flag(
        "--max_num_load_retries",
        type=int,
        default=5,
        metavar="N",
        help="retries of a failed load, in the same load thread (%(default)s)",
    )
    flag(
        "--load_retry_interval_micros",
        type=int,
        default=60_000_000,
        metavar="US",
        help="microseconds before each retry; the load thread is occupied meanwhile (%(default)s)",
    )
    flag(
        "--num_load_threads",
        type=int,
        default=0,
        metavar="N",
        help="threads that load versions; with 0, nothing else is loaded or unloaded during a load (%(default)s)",
    )
    flag(
        "--enable_model_warmup",
        **_boolean(True),
        help="run warm-up requests before a version is available (%(default)s)",
    )
    flag(
        "--num_request_iterations_for_warmup",
        type=int,
        default=1,
        metavar="N",
        help="runs of each warm-up request (%(default)s)",
    )


def _add_front_end_flags(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag(
        "--port",
        type=_port,
        default=8500,
        metavar="N",
        help="port for gRPC; 0 takes a free one, or none with --grpc_socket_path (%(default)s)",
    )
    flag(
        "--rest_api_port", type=_port, default=8501, metavar="N", help="port for REST; 0 takes a free one (%(default)s)"
    )
    flag("--grpc_socket_path", default="", metavar="FILE", help="a UNIX socket for gRPC, beside the port")
    flag(
        "--grpc_channel_arguments",
        default="",
        metavar="NAME=VALUE,…",
        help="arguments of the gRPC library, such as grpc.max_connection_age_ms=2000",
    )
    flag(
        "--ssl_config_file",
        type=Path,
        metavar="FILE",
        help="an SSLConfig in text form: gRPC uses TLS; REST does not",
    )
    flag(
        "--grpc_max_threads",
        type=_count,
        default=DEFAULT_GRPC_THREADS,
        metavar="N",
        help="threads for gRPC: one accepts requests, the others compute one each, more are refused (%(default)s)",
    )
    flag(
        "--enable_grpc_healthcheck_service",
        **_boolean(False),
        help="answer the standard gRPC health service (%(default)s)",
    )
    flag(
        "--enable_serialization_as_tensor_content",
        **_boolean(False),
        help="write gRPC predictions as bytes instead of typed fields (%(default)s)",
    )
    flag(
        "--rest_api_timeout_in_ms",
        type=int,
        default=30_000,
        metavar="MS",
        help="deadline of a REST request, in milliseconds (%(default)s)",
    )
    flag(
        "--rest_api_num_threads",
        type=_count,
        default=DEFAULT_REST_THREADS,
        metavar="N",
        help="REST requests computed at the same time; further requests wait (%(default)s)",
    )
    flag(
        "--rest_api_enable_cors_support",
        **_boolean(False),
        help="let web pages of other origins use REST (%(default)s)",
    )
    flag(
        "--monitoring_config_file",
        type=Path,
        metavar="FILE",
        help="a MonitoringConfig in text form: whether and at which path Prometheus finds metrics",
    )


def _add_session_flags(group: argparse._ArgumentGroup) -> None:
    for name, what in (
        ("intra_op", "threads that share the work of one operation"),
        ("inter_op", "operations that run at the same time"),
        ("session", "both of the above"),
    ):
        group.add_argument(
            f"--tensorflow_{name}_parallelism", type=int, default=0, metavar="N", help=f"{what} (TensorFlow chooses)"
        )
    group.add_argument(
        "--tensorflow_session_config_file", type=Path, metavar="FILE", help="a TensorFlow ConfigProto in text form"
    )
    group.add_argument(
        "--mixed_precision",
        default="",
        choices=("", "bfloat16"),
        help="bfloat16 if the processor supports it: faster, slightly less exact (float32)",
    )
    group.add_argument(
        "--enable_signature_method_name_check",
        **_boolean(False),
        help="let each signature answer only the calls that its method name stands for (%(default)s)",
    )
    group.add_argument(
        "--per_process_gpu_memory_fraction",
        type=_fraction,
        default=0.0,
        metavar="0..1",
        help="share of each GPU's memory to allocate at once; 0 allocates as needed (%(default)s)",
    )
    group.add_argument(
        "--saved_model_tags", default="serve", metavar="TAG,…", help="the graph of a SavedModel to load (%(default)s)"
    )


def _add_batching_flags(group: argparse._ArgumentGroup) -> None:
    flag = group.add_argument
    flag("--enable_batching", **_boolean(False), help="run concurrent requests together (%(default)s)")
    flag(
        "--batching_parameters_file",
        type=Path,
        metavar="FILE",
        help="with --enable_batching: BatchingParameters in text form",
    )
    flag(
        "--enable_per_model_batching_parameters",
        **_boolean(False),
        help="with --enable_batching: only models with a batching_params.pbtxt, with its parameters (%(default)s)",
    )


def _boolean(default: bool) -> dict[str, Any]:
    return {"nargs": "?", "const": True, "default": default, "type": _truth, "metavar": "true|false"}


def _truth(text: str) -> bool:
    match text.lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return fraction
