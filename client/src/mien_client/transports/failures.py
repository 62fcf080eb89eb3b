"""From a server's status code to the exception that says what it means.

TensorFlow Serving's REST statuses are translations of its gRPC codes. Both transports use the gRPC codes here, so that
they raise the same exception for the same cause.
"""

from __future__ import annotations

import os
import re

from mien_client import _exceptions as exceptions
from mien_client.transports.base import Target

_CLASSES: dict[str, type[exceptions.MienError]] = {
    "UNAVAILABLE": exceptions.UnavailableError,
    "RESOURCE_EXHAUSTED": exceptions.UnavailableError,
    "ABORTED": exceptions.UnavailableError,
    "CANCELLED": exceptions.UnavailableError,
    "DEADLINE_EXCEEDED": exceptions.DeadlineExceededError,
    "INVALID_ARGUMENT": exceptions.BadRequestError,
    "FAILED_PRECONDITION": exceptions.BadRequestError,
    "OUT_OF_RANGE": exceptions.BadRequestError,
    "UNAUTHENTICATED": exceptions.AccessDeniedError,
    "PERMISSION_DENIED": exceptions.AccessDeniedError,
    "UNIMPLEMENTED": exceptions.UnexpectedResponseError,
}


_FULL = "queue to which this task was submitted is full"
"""What TensorFlow Serving says when a model's batching queue is full."""

_MOST_WORDS = 500
"""Characters of a server's message that are shown."""


def failure(code: str, text: str, *, endpoint: str, target: Target, timeout: float) -> exceptions.MienError:
    """Return the exception for a request that ended with ``code``, the name of a gRPC status code.

    Args:
        code: The status code.
        text: The message of the server or the network library. Only its first line is shown.
        endpoint: The server that was asked.
        target: The model that was asked.
        timeout: The seconds after which the call gave up.
    """
    if code == "UNAVAILABLE" and re.search(_NOT_GRPC, text):
        code = "UNIMPLEMENTED"
    kind = _classify(code, text, target)
    words = text.strip().partition("\n")[0][:_MOST_WORDS] or code
    words = "".join(character if character.isprintable() else "?" for character in words)
    if explanation := _explanation(text, endpoint) if code in ("UNAVAILABLE", "UNIMPLEMENTED") else "":
        words = f"{explanation} ({words})"
    sentence = {
        exceptions.UnavailableError: f"{endpoint} is not available: {words}",
        exceptions.DeadlineExceededError: f"{endpoint} gave no answer for {target} within {timeout:g} s",
        exceptions.ModelNotFoundError: f"{endpoint} does not serve {target}",
        exceptions.VersionNotFoundError: f"{endpoint} does not serve {target}",
        exceptions.BadRequestError: f"{endpoint} refused the request for {target}: {words}",
        exceptions.AccessDeniedError: f"{endpoint} denied access to {target}: {words}",
        exceptions.UnexpectedResponseError: f"{endpoint} does not answer as TensorFlow Serving does: {words}",
        exceptions.ServerError: f"{endpoint} failed on {target}: {words}",
    }[kind]
    error = kind(sentence, endpoint=endpoint, model=target.model, version=target.version, label=target.label)
    full = code == "RESOURCE_EXHAUSTED" or (code == "UNAVAILABLE" and _FULL in text)
    error._overloaded = full and kind is exceptions.UnavailableError
    return error


def unexpected(what: str, *, endpoint: str, target: Target) -> exceptions.UnexpectedResponseError:
    """Return the exception for an answer that is wrong in the way that ``what``, a clause with a verb, describes."""
    return exceptions.UnexpectedResponseError(
        f"The answer of {target} at {endpoint} {what}",
        endpoint=endpoint,
        model=target.model,
        version=target.version,
        label=target.label,
    )


_NOT_GRPC = r"Expected SETTINGS frame|http1\.x server"
_EXPLANATIONS = [
    (
        _NOT_GRPC,
        "it does not speak gRPC without TLS. For a REST port, write 'http://' before the address; for a TLS port, "
        "set tls=True",
    ),
    (
        r"WRONG_VERSION_NUMBER",
        "the client uses TLS, but the server does not on this port. Use its TLS port, or leave tls=True and 'https://' "
        "out",
    ),
    (
        r"(?i)hostname mismatch|IP address mismatch|Hostname Verification Check failed",
        "the server's certificate is for another host name. Use the name that the certificate has",
    ),
    (r"(?i)certificate has expired", "the server's certificate has expired. Renew it"),
    (
        r"(?i)CERTIFICATE_VERIFY_FAILED",
        "the server's certificate is not from an authority that this client knows. Give that authority as ca_file",
    ),
    (
        r"missing selected ALPN",
        "it uses TLS but does not speak gRPC. For a REST port, write 'https://' before the address",
    ),
    (
        r"failing; last error: .*(Socket closed|reset by peer)",
        "it closes connections as soon as they are open. If this is a TLS port, set tls=True",
    ),
]
"""What a network library's message means for the address and the options of the client."""


def _explanation(text: str, endpoint: str) -> str:
    names = [name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)]
    if names and "failing; last error" in text:
        proxy = os.environ[names[0]]
        port = proxy.rstrip("/").rpartition(":")[2]
        if "HTTP proxy" in text or (f":{port}: " in text and not endpoint.endswith(f":{port}")):
            return (
                f"the proxy {without_password(proxy)}, which {names[0]} names, does not connect. Correct {names[0]}, "
                "or add the server to no_proxy"
            )
    return next((explanation for pattern, explanation in _EXPLANATIONS if re.search(pattern, text)), "")


def without_password(url: str) -> str:
    """Return ``url`` without the user name and password that it may have."""
    return re.sub(r"//[^/@]*@", "//", url)


def _classify(code: str, text: str, target: Target) -> type[exceptions.MienError]:
    if code == "NOT_FOUND":
        return exceptions.ModelNotFoundError if target.version is None else exceptions.VersionNotFoundError
    if code == "INVALID_ARGUMENT" and target.label is not None and "version label" in text:
        return exceptions.VersionNotFoundError
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in text:
        return exceptions.BadRequestError  # A message over a size limit stays over it, however often it is sent.
    return _CLASSES.get(code, exceptions.ServerError)
