"""Warm-up: requests that a version answers before it takes traffic."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from google.protobuf.message import DecodeError
from mien_client.contract import WARMUP_REQUESTS
from mien_client.protos import PredictionLog

from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.status import Code, StatusError, invalid_argument
from mien_serving.servables.predictor import Predictor

logger = logging.getLogger(__name__)

_MAX_RECORDS: Final = 1000


def has_warm_up(path: Path) -> bool:
    """Return whether a SavedModel contains warm-up requests."""
    return (path / WARMUP_REQUESTS).exists()


def warm_up(predictor: Predictor, path: Path, iterations: int = 1, metrics: Metrics = NO_METRICS) -> None:
    """Run the warm-up requests of a SavedModel.

    Args:
        predictor: Answers with the loaded SavedModel.
        path: Its folder.
        iterations: How often each request runs.
        metrics: Counts the requests.

    Raises:
        StatusError: The file cannot be read, or a request in it failed, so the version must not serve.
    """
    file = path / WARMUP_REQUESTS
    count = 0
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(file)):
            count += 1
            metrics.warm_up_record(str(path))
            if count > _MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {file}")
            for _ in range(iterations):
                _replay(predictor, record, file)
    except tf.errors.OpError as error:
        raise StatusError(
            Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error
    logger.info("Ran %d warm-up requests of %s", count, path)


def _replay(predictor: Predictor, record: bytes, file: Path) -> None:
    try:
        log = PredictionLog.FromString(record)
    except DecodeError as error:
        raise invalid_argument(f"Failed to parse warmup record from {file}") from error
    kind = log.WhichOneof("log_type")
    request: Any = getattr(log, kind).request if kind else None
    match kind:
        case "predict_log":
            predictor.predict(request.model_spec, request.inputs, request.output_filter)
        case "classify_log":
            predictor.classify(request.model_spec, request.input)
        case "regress_log":
            predictor.regress(request.model_spec, request.input)
        case "multi_inference_log":
            predictor.multi_inference(request)
        case _:
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
