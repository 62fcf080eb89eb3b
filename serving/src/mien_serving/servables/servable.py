"""A servable: one loaded SavedModel."""

from __future__ import annotations

import ctypes
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from mien_client.protos import SignatureDef, TensorProto
from tensorflow.python.client import pywrap_tf_session

from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.status import Code, StatusError, invalid_argument
from mien_serving.servables.loader import load_saved_model
from mien_serving.servables.session_options import SessionOptions

NO_DEADLINE = math.inf
"""The deadline of a request without one; deadlines are seconds on the monotonic clock."""

PREDICT_API = "Predict"
"""The name in metrics for requests that carry tensors."""

tf.get_logger().setLevel(logging.ERROR)


@dataclass(frozen=True)
class SignatureTensors:
    """The tensors of a signature, read from its message once, since reading them for every request is slow.

    Attributes:
        inputs: Tensor names by input name.
        shapes: Their shapes by input name, -1 for a size that is not fixed; None for any shape.
        outputs: Tensor names by output name, in the order of these.
        defaults: Values of optional inputs, by input name.
    """

    inputs: Mapping[str, str]
    shapes: Mapping[str, Sequence[int] | None]
    outputs: Mapping[str, str]
    defaults: Mapping[str, TensorProto]


class Servable:
    """A SavedModel in a TensorFlow session of its own.

    TensorFlow Serving runs SavedModels in the same way, so inputs are checked and errors are worded exactly as there,
    and closing the session frees everything that belongs to the version.

    Args:
        path: The folder that holds ``saved_model.pb``.
        options: How to load and run it.
        metrics: Measures its runs.
        name: The name of the model in metrics.

    Raises:
        StatusError: The SavedModel cannot be loaded.

    Attributes:
        signatures: The signatures by name.
        signature_tensors: The tensors of each signature.
        input_types: The ``DataType`` of each input of each signature.
        max_examples: The highest number of examples in a request; None for any number.
    """

    max_examples: int | None = None

    def __init__(self, path: Path, options: SessionOptions, metrics: Metrics = NO_METRICS, name: str = "") -> None:
        model = load_saved_model(path, options)
        self._session = model.session
        self._tensors = model.tensors
        self.signatures: Mapping[str, SignatureDef] = {
            name: SignatureDef.FromString(signature.SerializeToString()) for name, signature in model.signatures.items()
        }
        self.signature_tensors: Mapping[str, SignatureTensors] = {
            name: SignatureTensors(
                {input_name: info.name for input_name, info in signature.inputs.items()},
                {input_name: _shape(info) for input_name, info in signature.inputs.items()},
                {output_name: signature.outputs[output_name].name for output_name in sorted(signature.outputs)},
                dict(signature.defaults),
            )
            for name, signature in self.signatures.items()
        }
        self.input_types: Mapping[str, Mapping[str, int]] = {
            name: {input_name: info.dtype for input_name, info in signature.inputs.items()}
            for name, signature in self.signatures.items()
        }
        self._check_method_names = options.check_method_names
        self._metrics = metrics
        self._name = name

    def accepts_method(self, signature_name: str, *methods: str) -> bool:
        """Return whether the method name of a signature is one of these, or is not checked."""
        return not self._check_method_names or self.signatures[signature_name].method_name in methods

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        deadline: float = NO_DEADLINE,
        api: str = PREDICT_API,
    ) -> list[np.ndarray]:
        """Run the graph; other threads run meanwhile.

        Args:
            feeds: Values by tensor name.
            fetches: Tensor names.
            deadline: When the result is no longer needed, in seconds on the monotonic clock.
            api: The name of the kind of request in metrics.

        Returns:
            The value of each fetched tensor.

        Raises:
            StatusError: TensorFlow refused the inputs or failed, or the deadline passed.
        """
        with self._metrics.run(self._name, api):
            return self._run(feeds, fetches, deadline)

    def _run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], deadline: float) -> list[np.ndarray]:
        options = None
        if deadline != NO_DEADLINE:
            remaining_ms = math.ceil((deadline - time.monotonic()) * 1000)
            if remaining_ms <= 0:
                raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
            options = pywrap_tf_session.TF_NewBufferFromString(
                tf.compat.v1.RunOptions(timeout_in_ms=remaining_ms).SerializeToString()
            )
        try:
            # Session.run() would refuse inputs that the graph accepts, and reword its error messages.
            with self._metrics.graph_run():
                outputs = self._session._call_tf_sessionrun(
                    options,
                    {self._tensor(name): value for name, value in feeds.items()},
                    [self._tensor(name) for name in fetches],
                    [],
                    None,
                )
        except tf.errors.OpError as error:
            raise StatusError(Code(error.error_code), error.message) from error
        except UnicodeDecodeError as error:  # TensorFlow's message quotes bytes of the inputs.
            raise invalid_argument(error.object.decode(errors="replace")) from error
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)
        # A string without dimensions comes as bytes.
        return [np.array(value, object) if isinstance(value, bytes) else value for value in outputs]

    def close(self) -> None:
        """Free the session; no request may be running."""
        self._session.close()
        del self._session, self._tensors
        give_memory_back()

    def _tensor(self, name: str) -> Any:
        if name not in self._tensors:
            raise StatusError(Code.INVALID_ARGUMENT, f"Tensor {name} was not found in the Graph")
        return self._tensors[name]


def _shape(info: Any) -> Sequence[int] | None:
    return None if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim]


def give_memory_back() -> None:
    """Return free memory to the system; otherwise glibc keeps it in fragments, which the next version cannot use."""
    with suppress(AttributeError, OSError, TypeError):  # Other C libraries do not have this function.
        ctypes.CDLL(None).malloc_trim(0)
