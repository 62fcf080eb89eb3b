"""The files inside gzip, tar and zip files, however deep they are packed.

What a file is, is recognised by its content, never by its name.
"""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from mien_client._exceptions import DataError

BUFFER: Final = 1 << 18
"""Bytes that are read at a time."""
_DEPTH: Final = 4
"""How often a file may be packed."""
_SPOOLED: Final = 64 << 20
"""Bytes of a zip file inside another file that are kept in memory instead of in a temporary file."""
_HEADER: Final = 1 << 20
"""Bytes of one header of a tar file."""
_TABLE_SUFFIXES: Final = ("", ".csv", ".txt", ".tsv", ".gz", ".tgz", ".tar", ".zip")

DAMAGED: Final = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError)
"""Raised while a damaged or truncated archive is read."""


class Budget:
    """The number of bytes that may still be unpacked from a file.

    Args:
        path: The file, for messages.
        most: Bytes in all.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most
        self._left = most

    def spend(self, count: int) -> None:
        """Take ``count`` bytes out of the budget.

        Raises:
            DataError: They are more than are left.
        """
        self._left -= count
        if self._left < 0:
            raise DataError(
                f"{self._path} unpacks to more than {self._most / 1e9:.1f} GB, which is the most that is read"
            )


class _Unpacked(io.RawIOBase):
    """The unpacked content of a gzip, tar or zip file, up to the budget."""

    def __init__(self, source: IO[bytes], budget: Budget) -> None:
        self._source = source
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._source.read(len(buffer))
        self._budget.spend(len(content))
        buffer[: len(content)] = content
        return len(content)


class _SmallHeaders(tarfile.TarInfo):
    """A member of a tar file whose headers, which are read into memory, are not too large."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _SmallHeaders:
        member = super().frombuf(buf, encoding, errors)
        if member.type not in tarfile.REGULAR_TYPES and member.size > _HEADER:
            raise tarfile.ReadError("one of its headers is too large")
        return member


def buffered(raw: io.RawIOBase) -> io.BufferedReader:
    """Return a buffered reader of ``raw``, as `members` needs it."""
    return io.BufferedReader(raw, BUFFER)


def members(
    stream: io.BufferedReader, budget: Budget, seen: list[tuple[str, str]], name: str = "", depth: int = 0
) -> Generator[tuple[str, io.BufferedReader]]:
    """Yield every file that may be a table, with its name in the archives that it comes from.

    Args:
        stream: The file, which is yielded itself if it is not packed.
        budget: The bytes that may be unpacked.
        seen: Gets the name of every file that is skipped, and the reason.
        name: The name of the stream in the archives around it.
        depth: The number of archives around it.

    Raises:
        DataError: The budget is used up.
        Exception: One of `DAMAGED`: an archive is damaged; the consumer of a yielded file may meet them, too.
    """
    head = stream.peek(BUFFER)
    if depth > _DEPTH:
        seen.append((name, f"is packed more than {_DEPTH} times"))
    elif head[:2] == b"\x1f\x8b":
        inner = buffered(_Unpacked(cast("IO[bytes]", gzip.GzipFile(fileobj=stream)), budget))
        yield from members(inner, budget, seen, name, depth + 1)
    elif _is_tar(head):
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_SmallHeaders) as archive:
            for member in archive:
                source = archive.extractfile(member) if member.isfile() and _may_be_table(member.name) else None
                if source:
                    inner = buffered(_Unpacked(source, budget))
                    yield from members(inner, budget, seen, _joined(name, member.name), depth + 1)
                elif member.isfile():
                    seen.append((_joined(name, member.name), ""))
    elif head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        yield from _zip_members(stream, budget, seen, name, depth)
    else:
        yield name, stream


def _zip_members(
    stream: io.BufferedReader, budget: Budget, seen: list[tuple[str, str]], name: str, depth: int
) -> Generator[tuple[str, io.BufferedReader]]:
    with tempfile.SpooledTemporaryFile(_SPOOLED) as spooled:
        if depth:  # A zip file is read from its end, so that one inside another file must be unpacked as a whole.
            shutil.copyfileobj(stream, spooled)
        with zipfile.ZipFile(cast("IO[bytes]", spooled if depth else stream)) as archive:
            for member in archive.infolist():
                place = _joined(name, member.filename)
                if not member.filename or member.is_dir():
                    continue
                if member.flag_bits & 1:
                    seen.append((place, "is encrypted"))
                elif _may_be_table(member.filename):
                    with archive.open(member) as source:
                        yield from members(buffered(_Unpacked(source, budget)), budget, seen, place, depth + 1)
                else:
                    seen.append((place, ""))


def _joined(archive: str, member: str) -> str:
    return f"{archive}/{member}" if archive else member


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _may_be_table(name: str) -> bool:
    """Return whether a member of an archive may be a table; the files that macOS adds to archives are not."""
    path = PurePosixPath(name.replace("\\", "/"))
    return "__MACOSX" not in path.parts and not path.name.startswith(".") and path.suffix.lower() in _TABLE_SUFFIXES
