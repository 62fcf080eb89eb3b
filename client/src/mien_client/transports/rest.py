"""REST: TensorFlow Serving's HTTP interface.

Its answer to a predict request does not say which version computed it. So the version is found out first (GET
metadata, kept for a second) and asked for by its number: then the number in the result is the truth.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from http import HTTPStatus, cookiejar
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import requests
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter

from mien_client._exceptions import MienError, NotServedError
from mien_client._forks import leave_alone, renew_in_children
from mien_client._threads import in_thread
from mien_client.contract import IMAGE_BYTES_INPUT, SIGNATURE_RAW
from mien_client.security import Security
from mien_client.transports import Answer, Deadline, Pending, Target, VersionStatus
from mien_client.transports.failures import failure, unexpected, without_password

# Kept open, that is: two for each of sixteen callers that share a client. Beyond that they are made and closed again.
_MAX_CONNECTIONS = 32
_VERSION_KEPT_SECONDS = 1.0

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
"""What comes of an answer that breaks HTTP's rules."""

_HTTP2_SETTINGS = r"\x00\x00.\x04\x00"
"""How the first frame of a gRPC server begins."""


class RestTransport:
    """A pool of connections to one server, and a thread for each answer that is waited for."""

    def __init__(self, address: str, security: Security) -> None:
        security.is_for(address, encrypted=address.startswith("https://"))
        self.endpoint = address
        self._headers = {"Content-Type": "application/json", **dict(security.headers)}
        certificate = (security.cert_file, security.key_file) if security.cert_file and security.key_file else None
        # What the environment says of proxies and authorities is read once: each time takes as long as a small answer.
        self._settings = requests.Session().merge_environment_settings(
            self.endpoint, {}, None, security.ca_file or True, certificate
        )
        proxy = requests.utils.select_proxy(address, self._settings["proxies"])
        self._by_way = f" (asked by way of the proxy {without_password(proxy)})" if proxy else ""
        self._may_be_tls = address.startswith("http://") and not proxy
        self._answered = False
        self._closed = False
        self._disconnect()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`."""
        leave_alone(self._session)
        self._disconnect()

    def predict(
        self, target: Target, images: NDArray[np.uint8], output: str, deadline: Deadline, ended: Callable[[], object]
    ) -> Pending:
        """See `Transport.predict`."""
        if self._closed:
            raise self._failure("CANCELLED", "the client was closed", target, deadline)
        answer = in_thread(self._predict, target, images, output, deadline)
        answer.add_done_callback(lambda _: ended())
        return answer

    def resolve(self, target: Target, deadline: Deadline) -> int:
        """See `Transport.resolve`."""
        document = self._request("GET", f"{_path(target)}/metadata", None, target, deadline)
        try:
            name, version = str(document["model_spec"]["name"]), _number(document["model_spec"]["version"])
        except (KeyError, TypeError, ValueError):
            raise unexpected("does not name its model and version", endpoint=self.endpoint, target=target) from None
        if name != target.model:
            raise unexpected(f"comes from the model {name[:100]!r}", endpoint=self.endpoint, target=target)
        return version

    def status(self, model: str, deadline: Deadline) -> tuple[VersionStatus, ...]:
        """See `Transport.status`."""
        target = Target(model)
        document = self._request("GET", _path(target), None, target, deadline)
        try:
            return tuple(
                VersionStatus(_number(entry["version"]), str(entry["state"]), str(entry["status"]["error_message"]))
                for entry in document["model_version_status"]
            )
        except (KeyError, TypeError, ValueError):
            raise unexpected("is no list of versions", endpoint=self.endpoint, target=target) from None

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        self._session.close()

    def _disconnect(self) -> None:
        self._session = requests.Session()
        self._session.mount(self.endpoint, HTTPAdapter(pool_connections=1, pool_maxsize=_MAX_CONNECTIONS))
        # A session that never stores a cookie has nothing that its threads could change under each other.
        self._session.cookies.set_policy(cookiejar.DefaultCookiePolicy(allowed_domains=()))
        self._session.headers.update(self._headers)
        # Nor is a .netrc file looked at, to which the token would give way.
        self._session.trust_env = False
        self._versions: dict[Target, tuple[int, Deadline]] = {}

    def _predict(self, target: Target, images: NDArray[np.uint8], output: str, deadline: Deadline) -> Answer:
        exact = target
        if target.version is None:
            exact = target.pinned(self._current_version(target, deadline))
        try:
            document = self._request("POST", f"{_path(exact)}:predict", predict_body(images), exact, deadline)
        except NotServedError:
            self._versions.pop(target, None)
            raise
        try:
            return Answer(to_array(document, output), cast("int", exact.version))
        except ValueError as error:
            raise unexpected(str(error), endpoint=self.endpoint, target=exact) from None

    def _current_version(self, target: Target, deadline: Deadline) -> int:
        version, expiry = self._versions.get(target, (0, None))
        if expiry is None or not expiry.remaining():
            version = self.resolve(target, deadline)
            self._versions[target] = (version, Deadline(_VERSION_KEPT_SECONDS))
        return version

    def _request(self, method: str, path: str, body: bytes | None, target: Target, deadline: Deadline) -> Any:
        """Returns the JSON document of a successful answer."""
        try:
            response = self._session.request(
                method,
                f"{self.endpoint}{path}",
                data=body,
                timeout=max(1e-3, deadline.remaining()),
                allow_redirects=False,
                **self._settings,
            )
        except Exception as error:  # Some of urllib3's own come through, and what a session that is closed says.
            if isinstance(error, _NOT_HTTP):
                code = "UNIMPLEMENTED"
            else:
                late = isinstance(error, requests.Timeout) or not deadline.remaining()
                code = "DEADLINE_EXCEEDED" if late else "UNAVAILABLE"
            root = _innermost(error)
            words = str(root)
            if re.match(_HTTP2_SETTINGS, words, re.DOTALL):
                code = "UNIMPLEMENTED"
                words = "it speaks gRPC, not REST. Leave 'http://' out of the address, or use the REST port"
            elif isinstance(root, ConnectionResetError) and self._may_be_tls and not self._answered:
                words += ". If this is a TLS port, write 'https://'; if it is a gRPC port, leave 'http://' out"
            raise self._failure(code, words + self._by_way, target, deadline) from None
        self._answered = True
        try:
            document = json.loads(response.content)
        except (ValueError, RecursionError):
            document = None
        status = f"HTTP status {response.status_code} {response.reason}"
        if response.status_code == HTTPStatus.OK:
            if isinstance(document, dict):
                return document
            raise self._failure("UNIMPLEMENTED", f"{status} with a body that is not a JSON object", target, deadline)
        told = document.get("error") if isinstance(document, dict) else None
        text = told if isinstance(told, str) else ""
        if not text and b"plain HTTP request was sent to HTTPS port" in response.content[:1000]:
            status = "the server uses TLS on this port. Write 'https://' in the address"
        code = _code(response.status_code, bool(text))
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE and not text:
            code = "RESOURCE_EXHAUSTED"  # What a proxy answers that limits its requests.
        raise self._failure(code, text or status + self._by_way, target, deadline)

    def _failure(self, code: str, text: str, target: Target, deadline: Deadline) -> MienError:
        return failure(code, text, endpoint=self.endpoint, target=target, timeout=deadline.timeout)


def predict_body(images: NDArray[np.uint8]) -> bytes:
    """Returns the JSON text of a predict request for ``images``, uint8 [n, 48, 48]."""
    faces = b",".join(b'{"b64":"%s"}' % base64.b64encode(image) for image in images)
    return b'{"signature_name":"%s","inputs":{"%s":[%s]}}' % (SIGNATURE_RAW.encode(), IMAGE_BYTES_INPUT.encode(), faces)


def to_array(document: dict[str, Any], output: str) -> NDArray[np.float32]:
    """Returns the numbers of one output of an answer in column format.

    Raises:
        ValueError: With a clause that says what is wrong with the answer.
    """
    outputs = document.get("outputs")
    if isinstance(outputs, dict):  # A signature's only output comes without its name.
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
    """Returns the gRPC code behind an HTTP status; ``told``: whether the answer explains itself."""
    if not 400 <= status < 600 or (status == HTTPStatus.NOT_FOUND and not told):
        return "UNIMPLEMENTED"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or told or status >= 500:
        return _CODES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    return _CODES.get(status, "UNIMPLEMENTED")  # TensorFlow Serving explains itself, so this is another web server.


def _number(version: Any) -> int:
    """Return the number of a version, which JSON has as a text.

    Raises:
        ValueError: If it is not one.
    """
    number = int(version) if isinstance(version, str) and len(version) < 20 else -1
    if not 0 <= number < 2**63:
        raise ValueError("not the number of a version")
    return number


def _innermost(error: BaseException) -> BaseException:
    """Returns the bottom of a stack of wrapped exceptions, where the operating system speaks."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
