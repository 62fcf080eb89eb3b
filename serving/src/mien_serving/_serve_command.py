"""``mien serve``: the local model server."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from typing import Final

from mien_client.cli import Command

from mien_serving._config import REPOSITORY, read_config, single_model_config
from mien_serving._flags import add_flags
from mien_serving._options import CoreOptions, ManagerOptions, ServerOptions, SessionOptions
from mien_serving._status import StatusError, invalid_argument

_START_FAILED: Final = 255
"""TensorFlow Serving's exit status when it cannot start."""


def _run(flags: argparse.Namespace) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        options = _options(flags)
        options.check()

        from mien_serving._model_server import ModelServer

        # What is here now stays; not looking through it again keeps the pauses for garbage collection short.
        gc.freeze()
        ModelServer(options).run(_announce)
    except StatusError as error:
        sys.stderr.write(f"Failed to start server. Error: {error}\n")
        return _START_FAILED
    return 0


def _announce(grpc_port: int, rest_port: int) -> None:
    sys.stdout.write(f"mien serve is ready: gRPC on port {grpc_port}, REST on port {rest_port}.\n")
    sys.stdout.flush()


def _options(flags: argparse.Namespace) -> ServerOptions:
    if flags.model_config_file:
        config = read_config(flags.model_config_file)
    elif flags.model_base_path:
        config = single_model_config(flags.model_name or "default", flags.model_base_path)
    elif flags.model_repository and flags.model_name:
        config = single_model_config(flags.model_name, str(REPOSITORY / flags.model_name))
    else:
        raise invalid_argument(
            "Both model_base_path and model_config_file are empty! Say what to serve: --model_config_file=FILE, or "
            "--model_name=NAME with --model_base_path=DIR or --model_repository=DIR."
        )
    return ServerOptions(
        config=config,
        config_file=flags.model_config_file,
        config_file_poll_wait_seconds=flags.model_config_file_poll_wait_seconds,
        grpc_port=flags.port,
        rest_port=flags.rest_api_port,
        grpc_max_threads=flags.grpc_max_threads,
        rest_threads=flags.rest_api_num_threads,
        rest_timeout_s=flags.rest_api_timeout_in_ms / 1000,
        enable_model_warmup=flags.enable_model_warmup,
        warmup_iterations=flags.num_request_iterations_for_warmup,
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
            intra_op_parallelism=flags.tensorflow_intra_op_parallelism or flags.tensorflow_session_parallelism,
            inter_op_parallelism=flags.tensorflow_inter_op_parallelism or flags.tensorflow_session_parallelism,
        ),
    )


COMMAND: Final = Command("serve models as TensorFlow Serving does, on this machine's TensorFlow", add_flags, _run)
