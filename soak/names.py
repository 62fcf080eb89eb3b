"""A name server for the hosts: what Docker's resolver is to containers."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, cast

from soak.network import RESOLVER, Host

_TTL_S: Final = 1
_ADDRESS: Final = 1
"""The type of a record with an IPv4 address; other types have no records here."""
_ANSWER, _NO_SUCH_NAME = 0x8180, 0x8183


class NameServer(threading.Thread):
    """Answers every host at an address of its own, from one table.

    Attributes:
        table: The addresses of each name. Replace it to change names.
        silent: Whether to answer nothing.
    """

    def __init__(self, table: Mapping[str, Sequence[str]], hosts: Iterable[Host]) -> None:
        super().__init__(daemon=True)
        self.table = table
        self.silent = False
        self._stopped = False
        self._sockets = [host.run(_open) for host in hosts]

    def run(self) -> None:
        """Answer until `stop` is called."""
        with selectors.DefaultSelector() as selector:
            for one in self._sockets:
                selector.register(one, selectors.EVENT_READ)
            while not self._stopped:
                for key, _ in selector.select(0.2):
                    one = cast("socket.socket", key.fileobj)
                    with suppress(OSError, ValueError, struct.error, IndexError):
                        query, asker = one.recvfrom(4096)
                        if not self.silent:
                            one.sendto(answer(query, self.table), asker)

    def stop(self) -> None:
        """Answer nothing any more."""
        self._stopped = True
        self.join()
        for one in self._sockets:
            one.close()


def _open() -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((RESOLVER, 53))
    return one


def answer(query: bytes, table: Mapping[str, Sequence[str]]) -> bytes:
    """Return the answer to a query of the domain name system that asks one question."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    kind, _ = struct.unpack_from("!HH", query, at + 1)
    name = ".".join(labels).lower()
    addresses = table.get(name, ()) if kind == _ADDRESS else ()
    status = _ANSWER if name in table else _NO_SUCH_NAME
    head = query[:2] + struct.pack("!5H", status, 1, len(addresses), 0, 0)
    records = (struct.pack("!3HIH", 0xC00C, _ADDRESS, 1, _TTL_S, 4) + socket.inet_aton(one) for one in addresses)
    return head + query[12 : at + 5] + b"".join(records)
