"""REST: TensorFlow Serving's HTTP interface.

An answer to a predict request does not say which version computed it. So the version is looked up first (GET metadata,
kept for a second) and then asked for by its number, which makes the number in the result reliable.
"""

from __future__ import annotations

import base64
import json
import re
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import requests
from numpy.typing import NDArray

from mien_client._exceptions import MienError, NotServedError
from mien_client._threads import in_thread
from mien_client.contract import IMAGE_BYTES_INPUT, OTHER_OUTPUT, SIGNATURE_RAW
from mien_client.security import Security
from mien_client.transports.base import Answer, Deadline, Pending, Request, Target, Transport, VersionStatus
from mien_client.transports.failures import failure, unexpected
from mien_client.transports.http import Connections, content, innermost

_MAX_CONNECTIONS = 32
"""Connections that are kept open: two for each of sixteen callers that share a client. Others are closed after use."""
_VERSION_KEPT_SECONDS = 1.0
_MAX_ANSWER = 64 * 2**20
"""Bytes of an answer, decompressed: as much as over gRPC."""

_CODES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.FORBIDDEN: "PERMISSION_DENIED",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.REQUEST_TIMEOUT: "DEADLINE_EXCEEDED",
    HTTPStatus.CONFLICT: "ABORTED",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.NOT_IMPLEMENTED: "UNIMPLEMENTED",
    HTTPStatus.BAD_GATEWAY: "UNAVAILABLE",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}

_NOT_HTTP = (requests.exceptions.ContentDecodingError, requests.exceptions.InvalidHeader)
"""Raised for an answer that breaks the rules of HTTP."""

_HTTP2_SETTINGS = r"\x00\x00.\x04\x00"
"""How the first frame of a gRPC server begins."""


class RestTransport(Transport):
    """A pool of connections to one server, and a thread for each request that is under way."""

    def __init__(self, address: str, security: Security) -> None:
        self.endpoint = address
        self._connections = Connections(address, security, _MAX_CONNECTIONS)
        proxy = self._connections.proxy
        self._by_way = f" (asked through the proxy {proxy})" if proxy else ""
        self._may_be_tls = address.startswith("http://") and not proxy
        self._answered = False
        self._closed = False
        self._versions: dict[Target, tuple[int, Deadline]] = {}

    def predict(self, request: Request) -> Pending[Answer]:
        """See `Transport.predict`."""
        if self._closed:
            raise self._failure("CANCELLED", "the client was closed", request.target, request.deadline)
        return in_thread(self._predict, request)

    def status(self, model: str, deadline: Deadline) -> Pending[tuple[VersionStatus, ...]]:
        """See `Transport.status`."""
        return in_thread(self._status, Target(model), deadline)

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        self._connections.close()

    def _predict(self, request: Request) -> Answer:
        target, exact, deadline = request.target, request.target, request.deadline
        if target.version is None:
            exact = target.pinned(self._current_version(target, deadline))
        try:
            body = predict_body(request.images)
            document = self._request("POST", f"{_path(exact)}:predict", body, exact, deadline)
        except NotServedError:
            self._versions.pop(target, None)
            raise
        try:
            values = to_array(document, request.output)
            outputs = document.get("outputs")
            other = to_array(document, OTHER_OUTPUT) if isinstance(outputs, dict) and OTHER_OUTPUT in outputs else None
            return Answer(values, cast("int", exact.version), other)
        except ValueError as error:
            raise unexpected(str(error), endpoint=self.endpoint, target=exact) from None

    def _current_version(self, target: Target, deadline: Deadline) -> int:
        version, expiry = self._versions.get(target, (0, None))
        if expiry is None or not expiry.remaining():
            version = self._resolve(target, deadline)
            self._versions[target] = (version, Deadline(_VERSION_KEPT_SECONDS))
        return version

    def _resolve(self, target: Target, deadline: Deadline) -> int:
        """Return the version that would answer ``target`` now."""
        document = self._request("GET", f"{_path(target)}/metadata", None, target, deadline)
        try:
            name, version = str(document["model_spec"]["name"]), _number(document["model_spec"]["version"])
        except (KeyError, TypeError, ValueError):
            raise unexpected("does not name its model and version", endpoint=self.endpoint, target=target) from None
        if name != target.model:
            raise unexpected(f"comes from the model {name[:100]!r}", endpoint=self.endpoint, target=target)
        return version

    def _status(self, target: Target, deadline: Deadline) -> tuple[VersionStatus, ...]:
        document = self._request("GET", _path(target), None, target, deadline)
        try:
            return tuple(
                VersionStatus(_number(entry["version"]), str(entry["state"]), str(entry["status"]["error_message"]))
                for entry in document["model_version_status"]
            )
        except (KeyError, TypeError, ValueError):
            raise unexpected("is not a list of versions", endpoint=self.endpoint, target=target) from None

    def _request(self, method: str, path: str, body: bytes | None, target: Target, deadline: Deadline) -> Any:
        """Return the JSON document of a successful answer."""
        try:
            response = self._connections.request(method, path, body, deadline.remaining())
            raw = content(response, _MAX_ANSWER)
        except Exception as error:  # urllib3's own exceptions too, and that of a closed session.
            if isinstance(error, _NOT_HTTP):
                code = "UNIMPLEMENTED"
            else:
                late = isinstance(error, requests.Timeout) or not deadline.remaining()
                code = "DEADLINE_EXCEEDED" if late else "UNAVAILABLE"
            root = innermost(error)
            words = str(root)
            if re.match(_HTTP2_SETTINGS, words, re.DOTALL):
                code = "UNIMPLEMENTED"
                words = "it speaks gRPC, not REST. Leave 'http://' out of the address, or use the REST port"
            elif isinstance(root, ConnectionResetError) and self._may_be_tls and not self._answered:
                words += ". If this is a TLS port, write 'https://'; if it is a gRPC port, leave 'http://' out"
            raise self._failure(code, words + self._by_way, target, deadline) from None
        self._answered = True
        if raw is None:
            text = f"is larger than {_MAX_ANSWER >> 20} MiB"
            raise unexpected(text, endpoint=self.endpoint, target=target)
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            document = None
        status = f"HTTP status {response.status_code} {response.reason}"
        if response.status_code == HTTPStatus.OK:
            if isinstance(document, dict):
                return document
            raise self._failure("UNIMPLEMENTED", f"{status} with a body that is not a JSON object", target, deadline)
        told = document.get("error") if isinstance(document, dict) else None
        text = told if isinstance(told, str) else ""
        if not text and b"plain HTTP request was sent to HTTPS port" in raw[:1000]:
            status = "the server uses TLS on this port. Write 'https://' in the address"
        code = _code(response.status_code, bool(text))
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE and not text:
            code = "RESOURCE_EXHAUSTED"  # A proxy that limits the number of requests answers this.
        raise self._failure(code, text or status + self._by_way, target, deadline)

    def _failure(self, code: str, text: str, target: Target, deadline: Deadline) -> MienError:
        return failure(code, text, endpoint=self.endpoint, target=target, timeout=deadline.timeout)


def predict_body(images: NDArray[np.uint8]) -> bytes:
    """Return the JSON text of a predict request for ``images``, uint8 [n, 48, 48]."""
    faces = b",".join(b'{"b64":"%s"}' % base64.b64encode(image) for image in images)
    return b'{"signature_name":"%s","inputs":{"%s":[%s]}}' % (SIGNATURE_RAW.encode(), IMAGE_BYTES_INPUT.encode(), faces)


def to_array(document: dict[str, Any], output: str) -> NDArray[np.float32]:
    """Return the numbers of one output of an answer in column format.

    Raises:
        ValueError: The answer is invalid. The text is a clause that says why.
    """
    outputs = document.get("outputs")
    if isinstance(outputs, dict):  # The only output of a signature comes without its name.
        outputs = outputs.get(output)
    if outputs is None:
        raise ValueError(f"lacks the output {output!r}")
    try:
        values = np.asarray(outputs)
    except ValueError:
        raise ValueError(f"has an output {output!r} that is ragged") from None
    if values.size and values.dtype.kind not in "iuf":
        raise ValueError(f"has an output {output!r} that is not made of numbers")
    with np.errstate(over="ignore"):  # Too large for float32 becomes infinite, which is refused later.
        return values.astype(np.float32)


def _path(target: Target) -> str:
    path = f"/v1/models/{quote(target.model, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    return path if target.label is None else f"{path}/labels/{quote(target.label, safe='')}"


def _code(status: int, told: bool) -> str:
    """Return the gRPC code behind an HTTP status; ``told``: whether the answer has an error message."""
    if not 400 <= status < 600 or (status == HTTPStatus.NOT_FOUND and not told):
        return "UNIMPLEMENTED"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or told or status >= 500:
        return _CODES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    return _CODES.get(status, "UNIMPLEMENTED")  # TensorFlow Serving sends a message, so this is another web server.


def _number(version: Any) -> int:
    """Return the number of a version, which is a string in JSON.

    Raises:
        ValueError: It is not a version number.
    """
    number = int(version) if isinstance(version, str) and len(version) < 20 else -1
    if not 0 <= number < 2**63:
        raise ValueError("not the number of a version")
    return number
