"""The bodies of REST requests, from JSON to tensors or examples. Large bodies are read in another process.

RapidJSON, and numpy while it converts lists, hold Python's global lock: all other requests would wait meanwhile.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import numpy as np
from mien_client.protos import TensorInfo

from mien_serving.core.status import Code, StatusError, invalid_argument, value_of
from mien_serving.model_servers.rest.json_examples import read_examples
from mien_serving.model_servers.rest.json_request import predict_inputs
from mien_serving.model_servers.rest.json_value import parse_object, signature_name

LARGE: Final = 1 << 20
"""Bytes from which on a body is read in another process."""

T = TypeVar("T")

Signatures = Mapping[str, Mapping[str, int]]
"""The ``DataType`` of each input of each signature."""


def read_predict(body: bytes, signatures: Signatures) -> tuple[str, dict[str, np.ndarray] | None, bool]:
    """Read a predict request.

    Returns:
        The name of its signature, empty for the default one; the tensors by input name, None if there is no such
        signature or it has no inputs; and whether the request is in row format.

    Raises:
        StatusError: The body is not a predict request, or its values do not fit the inputs.
    """
    document = parse_object(body)
    name = signature_name(document)
    inputs = signatures.get(name or "serving_default")
    if not inputs:
        return name, None, False
    infos = {
        input_name: TensorInfo(dtype=dtype)  # type: ignore[arg-type]  # A number of the enum.
        for input_name, dtype in inputs.items()
    }
    return name, *predict_inputs(document, infos, b"true" in body or b"false" in body)


def read_inference(body: bytes, _: Signatures) -> tuple[str, bytes]:
    """Read a classify or regress request.

    Returns:
        The name of its signature, empty for the default one, and its serialized `Input`.

    Raises:
        StatusError: The body is not such a request.
    """
    document = parse_object(body)
    return signature_name(document), read_examples(document).SerializeToString()


class BodyReader:
    """Reads small bodies directly, and large ones one after the other in a process that starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, read: Callable[[bytes, Signatures], T], body: bytes, signatures: Signatures, deadline: float) -> T:
        """Return what `read` returns for a body.

        Raises:
            StatusError: What `read` raises; DEADLINE_EXCEEDED if other large bodies took until the deadline;
                RESOURCE_EXHAUSTED if the process died, most likely because this body needs too much memory.
        """
        if len(body) < LARGE:
            return read(body, signatures)
        if not self._lock.acquire(timeout=min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)):
            raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for other large requests to be read")
        try:
            outcome: T | StatusError = self._in_process(read, body, signatures)
        finally:
            self._lock.release()
        return value_of(outcome)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process:
            self._process.communicate()

    def _in_process(self, *job: Any) -> Any:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mien_serving.model_servers.rest.json_body"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        try:
            _send(job, self._process.stdin)
            return _received(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._process.kill()
            self._process = None
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                "The request could not be read, most likely because it needs too much memory; send a smaller one",
            ) from error


def _send(value: Any, pipe: Any) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def _received(pipe: Any) -> Any:
    return pickle.load(pipe)  # noqa: S301 -- only the two processes of this module write to the pipes


def _serve() -> None:
    """Read bodies until the other process closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs, outcomes = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            _send(_outcome(*_received(jobs)), outcomes)


def _outcome(read: Callable[[bytes, Signatures], Any], body: bytes, signatures: Signatures) -> Any:
    try:
        return read(body, signatures)
    except StatusError as error:
        return error
    except RecursionError:
        return invalid_argument("JSON Parse error: The document is nested too deeply.")
    except MemoryError:
        return StatusError(Code.RESOURCE_EXHAUSTED, "The request needs too much memory; send a smaller one")


if __name__ == "__main__":
    _serve()
