"""The flags of ``mien serve``: the names and forms of ``tensorflow_model_server``, without TensorFlow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mien_serving._options import DEFAULT_THREADS


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds every flag to a parser; each can be written ``--flag=value`` or ``--flag value``."""
    parser.allow_abbrev = False
    flag = parser.add_argument_group("flags of tensorflow_model_server").add_argument
    flag("--port", type=_port, default=8500, metavar="N", help="port for gRPC, 0 for any free one (%(default)s)")
    flag(
        "--rest_api_port", type=_port, default=8501, metavar="N", help="port for REST, 0 for any free one (%(default)s)"
    )
    flag("--model_config_file", type=Path, metavar="FILE", help="a ModelServerConfig in text form: the models to serve")
    flag("--model_name", default="", metavar="NAME", help="without a config file: the one model to serve (default)")
    flag("--model_base_path", default="", metavar="DIR", help="without a config file: the folder of its versions")
    flag(
        "--model_config_file_poll_wait_seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="how often to look for changes in the config file; 0 never looks again (%(default)s)",
    )
    flag(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="how often to look for new versions; 0 looks once (%(default)s)",
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
        help="how often to try again to load a version that failed (%(default)s)",
    )
    flag(
        "--load_retry_interval_micros",
        type=int,
        default=60_000_000,
        metavar="US",
        help="pause before each of them, in microseconds (%(default)s)",
    )
    flag("--num_load_threads", type=int, default=0, metavar="N", help="versions that load at the same time (one)")
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
        help="how often each warm-up request runs (%(default)s)",
    )
    flag(
        "--rest_api_timeout_in_ms",
        type=int,
        default=30_000,
        metavar="MS",
        help="how long a model may take for a REST request (%(default)s)",
    )
    flag(
        "--rest_api_num_threads",
        type=_count,
        default=DEFAULT_THREADS,
        metavar="N",
        help="REST requests computed at the same time; more wait (4 per processor)",
    )
    flag(
        "--grpc_max_threads",
        type=_count,
        default=DEFAULT_THREADS,
        metavar="N",
        help="gRPC requests computed at the same time; more are refused (4 per processor)",
    )
    for name, what in (
        ("intra_op", "threads that share the work of one operation"),
        ("inter_op", "operations that run at the same time"),
        ("session", "both of these"),
    ):
        flag(f"--tensorflow_{name}_parallelism", type=int, default=0, metavar="N", help=f"{what} (TensorFlow chooses)")
    parser.add_argument_group("flags of its own").add_argument(
        "--model_repository", type=Path, metavar="DIR", help="the folder that stands for /models in base paths"
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
            raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
