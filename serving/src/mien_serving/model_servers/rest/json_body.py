"""The bodies of REST requests: JSON to tensors or examples; large ones in another process.

RapidJSON, and numpy where it makes arrays of lists, keep Python's lock for as long as they work: all other requests
would wait for megabytes.
"""

from __future__ import annotations

import contextlib
import os
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
"""Bytes of a body that is read in another process."""

_NICENESS: Final = 10
"""By how much that process gives way to others."""

T = TypeVar("T")

Signatures = Mapping[str, Mapping[str, int]]
"""The data type of each input of each signature."""


def read_predict(body: bytes, signatures: Signatures) -> tuple[str, dict[str, np.ndarray] | None, bool]:
    """Reads a predict request.

    Returns:
        The name of its signature, empty for the default one; the tensors by input name, None if there is no such
        signature or it has no inputs; and whether the request is in row format.

    Raises:
        StatusError: It is not a predict request, or its values do not fit the inputs.
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
    """Reads a classify or regress request.

    Returns:
        The name of its signature, empty for the default one, and its serialized `Input`.

    Raises:
        StatusError: It is not such a request.
    """
    document = parse_object(body)
    return signature_name(document), read_examples(document).SerializeToString()


class BodyReader:
    """Reads bodies: small ones at once, large ones one after the other in a process that starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, read: Callable[[bytes, Signatures], T], body: bytes, signatures: Signatures, deadline: float) -> T:
        """Returns what `read` makes of a body.

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
        """Ends the process."""
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
            raise StatusError(Code.RESOURCE_EXHAUSTED, "The request could not be read; send less at once") from error


def _send(value: Any, pipe: Any) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def _received(pipe: Any) -> Any:
    return pickle.load(pipe)  # noqa: S301 - Only the two processes of this module write to the pipes.


def _serve() -> None:
    """Reads bodies until the other process closes the pipe, or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
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
        return StatusError(Code.RESOURCE_EXHAUSTED, "The request needs too much memory; send less at once")


if __name__ == "__main__":
    _serve()
