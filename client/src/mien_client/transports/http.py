"""Connections to one HTTP server, which threads may share."""

from __future__ import annotations

from http import cookiejar

import requests
from requests.adapters import HTTPAdapter

from mien_client._forks import leave_alone, renew_in_children
from mien_client.security import Security
from mien_client.transports.failures import without_password

_CHUNK = 2**16


class Connections:
    """A pool of connections. Cookies, redirects and .netrc files are ignored.

    Args:
        address: ``http://`` or ``https://``, host and port.
        security: Certificates and headers.
        kept: Number of connections that are kept open; others are closed after use.

    Attributes:
        proxy: The proxy that the environment names for this server, without its password; empty if there is none.

    Raises:
        ConfigurationError: The security options do not fit the address.
    """

    def __init__(self, address: str, security: Security, kept: int) -> None:
        security.check(address, encrypted=address.startswith("https://"))
        self._address = address
        self._kept = kept
        self._headers = {"Content-Type": "application/json", **dict(security.headers)}
        certificate = (security.cert_file, security.key_file) if security.cert_file and security.key_file else None
        # Proxies and authorities are read from the environment once: that takes as long as a small answer.
        self._settings = requests.Session().merge_environment_settings(
            address, {}, True, security.ca_file or True, certificate
        )
        proxy = requests.utils.select_proxy(address, self._settings["proxies"])
        self.proxy = without_password(proxy) if proxy else ""
        self._open()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable.renew`."""
        leave_alone(self._session)
        self._open()

    def request(self, method: str, path: str, body: bytes | None, timeout: float) -> requests.Response:
        """Send a request; return the answer, whose body is still to be read.

        Args:
            method: The HTTP method.
            path: The path, with the slash at its beginning.
            body: The body, a JSON text, or None.
            timeout: Seconds in which the server must accept the connection, and then send each part of its answer.
        """
        return self._session.request(
            method,
            f"{self._address}{path}",
            data=body,
            timeout=max(1e-3, timeout),
            allow_redirects=False,
            **self._settings,
        )

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _open(self) -> None:
        self._session = requests.Session()
        self._session.mount(self._address, HTTPAdapter(pool_connections=1, pool_maxsize=self._kept))
        # Without cookies, threads can share a session: nothing in it changes.
        self._session.cookies.set_policy(cookiejar.DefaultCookiePolicy(allowed_domains=()))
        self._session.headers.update(self._headers)
        # A .netrc file is ignored: its password would replace the token.
        self._session.trust_env = False


def content(response: requests.Response, limit: int) -> bytes | None:
    """Return the body of an answer, decompressed, or None if it has more than ``limit`` bytes."""
    chunks, size = [], 0
    with response:
        for chunk in response.iter_content(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                return None
    return b"".join(chunks)


def innermost(error: BaseException) -> BaseException:
    """Return the innermost of a chain of exceptions, which is the operating system's."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
