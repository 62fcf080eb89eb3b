"""Keys of callers and operators, kept as hashes in files that are read again when they change."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
import time
from pathlib import Path
from typing import Final

from mien_client.reading import read_file
from starlette.requests import HTTPConnection

_LOOK_S: Final = 1.0
"""Seconds between two looks at a file."""

_LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@-]{0,63})\s+sha256:([0-9a-f]{64})")

_SUBPROTOCOL: Final = "key."
"""What the WebSocket subprotocol begins with that carries a key, as base64url without padding: browsers can send no
header there."""

_log = logging.getLogger("mien_gateway")


class KeyFileError(Exception):
    """A file of keys is unusable. The text says where, and what was expected."""


class KeyFile:
    """The keys in a file: on each line a name and ``sha256:`` with the hash of the key.

    Empty lines and lines that begin with ``#`` mean nothing. A key is 256 random bits (`new_key`), so that its plain
    hash does not help whoever reads the file.

    Args:
        path: The file.

    Raises:
        KeyFileError: It cannot be read, or a line is not as described.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._names = self._read()
        self._look_at = time.monotonic() + _LOOK_S
        self._reported: object = None

    def name_of(self, key: str) -> str | None:
        """Return the name of a key, or None if the file does not have it."""
        if time.monotonic() >= self._look_at:
            self._look()
        return self._names.get(_hash(key))

    def _look(self) -> None:
        """Read the file again if it has changed; a damaged one leaves the keys as they are."""
        self._look_at = time.monotonic() + _LOOK_S
        if (stamp := self._stamp()) == self._seen:
            return
        try:
            self._names = self._read()
        except KeyFileError as error:
            if self._reported != stamp:
                _log.warning("%s; the keys from before stay valid", error)
            self._reported = stamp
        else:
            self._seen = stamp
            _log.info("%s has changed: it has %d keys now", self._path, len(self._names))

    def _stamp(self) -> object:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> dict[str, str]:
        try:
            text = read_file(self._path).decode()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise KeyFileError(f"{self._path} cannot be read: {reason}") from None
        names = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if not match:  # The line may hold a key, so it is not shown.
                raise KeyFileError(
                    f"{self._path}, line {number}: expected a name and sha256:HASH, as `mien gateway --new_key NAME` "
                    "writes them"
                )
            names[match[2]] = match[1]
        return names


def new_key(name: str) -> tuple[str, str]:
    """Return a new key, and its line for the file.

    Raises:
        KeyFileError: The name is not valid.
    """
    key = secrets.token_hex(32)
    line = f"{name} sha256:{_hash(key)}"
    if not _LINE.fullmatch(line):
        raise KeyFileError(f"Expected a name of at most 64 letters, digits and ._@-, got {name[:80]!r}")
    return key, line


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def presented(connection: HTTPConnection) -> str | None:
    """Return the key that a request or a WebSocket presents, or None."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if key := connection.headers.get("x-api-key"):
        return key
    for protocol in connection.scope.get("subprotocols", ()):
        if protocol.startswith(_SUBPROTOCOL):
            text = protocol.removeprefix(_SUBPROTOCOL)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except ValueError:
                return None
    return None
