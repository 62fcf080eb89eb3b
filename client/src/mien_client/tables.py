"""Read files of comma-separated values, also from inside archives.

What a file holds is recognised by its content, never by its name. Reading is bounded: see `MAX_BYTES`.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, TypeVar

from mien_client._exceptions import DataError
from mien_client.archives import BUFFER, DAMAGED, Budget, buffered, members
from mien_client.reading import open_regular

MAX_BYTES: Final = 2 << 30
"""Bytes that are read of one file, counted again at each level of packing. All 35,887 rows of FER2013 are 0.3 GB."""
MAX_LINES: Final = 1_000_000
"""Lines that are read of one file."""
MAX_ROW: Final = 1 << 20
"""Characters of one row. The pixels of a key-point image are 37,000 at most."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of bytes of the file that have been read, and with its size."""

_SHOWN: Final = 4
_PADDING: Final = "\ufeff \t\xa0"
"""Characters that may surround the name of a column: byte order marks and spaces."""
_SEPARATORS: Final = {
    ";": "semicolons, not commas, as spreadsheets do where the comma is the decimal sign",
    "\t": "tabs, not commas",
    "|": "vertical bars, not commas",
}
_OTHER_KINDS: Final = {
    b"BZh": "a bzip2 file; unpack it first",
    b"\xfd7zXZ": "an xz file; unpack it first",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it first",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file; convert it to CSV",
    b"\x89HDF": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"\x93NUMPY": "a NumPy array file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
}
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]")

Row = TypeVar("Row")


class RowError(ValueError):
    """A row that cannot be used; its text says what was expected in it and what was found."""


class Table:
    """The rows below the header of one open CSV file.

    Attributes:
        where: The file and, where it was packed, its name in the archive.
        header: The names of the columns, in lower case and without spaces around them.
        skipped: One sentence for each invalid row that was skipped.
    """

    def __init__(self, where: str, header: list[str], lines: _Lines, reader: Iterator[list[str]]) -> None:
        self.where = where
        self.header = header
        self.skipped: list[str] = []
        self._lines = lines
        self._reader = reader

    def rows(self, parse: Callable[[list[str]], Row], *, skip_bad_rows: bool) -> Iterator[tuple[int, Row]]:
        """Yield each row's number and what `parse` returns for its cells.

        Rows are counted from 0, the first below the header. Blank lines do not count; a row whose cells are all empty
        counts and is skipped.

        Args:
            parse: Takes as many cells as the header has; raises `RowError` if they are invalid.
            skip_bad_rows: Whether to skip invalid rows and list them in `skipped`, instead of raising an error.

        Raises:
            DataError: A row or the file is invalid.
        """
        index, width = -1, len(self.header)
        while True:
            self._lines.row_length = 0
            try:
                cells = next(self._reader)
                if len(cells) < 2 and not "".join(cells).strip():
                    continue
                index += 1
                if not any(map(str.strip, cells)):
                    continue
                if len(cells) < width or any(map(str.strip, cells[width:])):
                    raise RowError(f"expected {width} columns, found {len(cells)}")
                row = parse(cells[:width])
            except StopIteration:
                return
            except (RowError, csv.Error) as error:
                sentence = f"{self.where}, row {index + 2} (the header is row 1): {error}"
                if not skip_bad_rows:
                    raise DataError(f"{sentence}. Correct it, or skip such rows with --skip-bad-rows") from None
                self.skipped.append(sentence)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.where}: the text after row {index + 2} is not UTF-8, as of the byte "
                    f"0x{error.object[error.start]:02x}; save the file as CSV UTF-8"
                ) from None
            else:
                yield index, row


@contextmanager
def open_table(
    path: Path, judge: Callable[[list[str]], str], expected: str, progress: Progress | None = None
) -> Iterator[Table]:
    """Open the first CSV file in `path` that has the right header.

    Args:
        path: A CSV file, or a gzip, tar or zip file that holds one, also inside another.
        judge: Takes the names of a header's columns; returns what is wrong with them, or "".
        expected: The header that `judge` accepts, for messages.
        progress: Called while the file is read.

    Raises:
        DataError: There is no such table, or the file cannot be read.
    """
    seen: list[tuple[str, str]] = []
    hint = ""
    descriptor = _open(path)
    try:
        with (
            _WatchedFile(descriptor, progress) as raw,
            closing(members(buffered(raw), Budget(path, MAX_BYTES), seen)) as files,
        ):
            for name, stream in files:
                where = f"{path}: {name}" if name else str(path)
                reason = _strange(stream.peek(BUFFER))
                if not reason:
                    lines = _Lines(where, io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
                    reader = csv.reader(lines, skipinitialspace=True)
                    header = _header(reader)
                    reason = _strange_header(header) or judge(header)
                    if reason:
                        hint = f"; expected the header {expected}"
                    else:
                        with warnings.catch_warnings():
                            # Older versions of NumPy only warn where a text stops being numbers.
                            warnings.simplefilter("error", DeprecationWarning)
                            yield Table(where, [column.lower() for column in header], lines, reader)
                        return
                seen.append((name, reason))
    except DAMAGED as error:
        raise DataError(
            f"{path} is truncated or damaged{f' ({error})' if str(error) else ''}; download it again"
        ) from None
    except NotImplementedError as error:  # a compression method that zipfile does not know
        raise DataError(f"{path} cannot be unpacked here ({error}); unpack it first") from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # an archive that refers to a place outside itself
            raise DataError(f"{path} is truncated or damaged; download it again") from None
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from None
    raise DataError(f"{_nothing_found(path, seen)}{hint}")


def open_file(path: Path) -> BinaryIO:
    """Open a regular file that is neither empty nor larger than `MAX_BYTES`.

    Raises:
        DataError: It cannot be opened, or is something else.
    """
    return os.fdopen(_open(path), "rb")


def _open(path: Path) -> int:
    try:
        descriptor = open_regular(path, max_bytes=MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise DataError(f"{str(path)!r} is not a valid file name: it holds a null character") from None
    if not os.fstat(descriptor).st_size:
        os.close(descriptor)
        raise DataError(f"{path} is empty")
    return descriptor


class _WatchedFile(io.FileIO):
    """A file that reports how much of it has been read."""

    def __init__(self, descriptor: int, progress: Progress | None) -> None:
        super().__init__(descriptor)
        self._size = os.fstat(descriptor).st_size
        self._progress = progress

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if self._progress:
            self._progress(self.tell(), self._size)
        return count


class _Lines:
    """The lines of a text, with limits for the length of a row and for the number of lines."""

    def __init__(self, where: str, text: io.TextIOWrapper) -> None:
        self.row_length = 0
        self._where = where
        self._readline = text.readline
        self._count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._readline(MAX_ROW)
        if not line:
            raise StopIteration
        self.row_length += len(line)
        self._count += 1
        if self.row_length >= MAX_ROW:
            raise DataError(f"{self._where}: line {self._count:,} belongs to a row of more than {MAX_ROW:,} characters")
        if self._count > MAX_LINES:
            raise DataError(f"{self._where} has more than {MAX_LINES:,} lines, which is the most that is read")
        return line


def _strange(head: bytes) -> str:
    """Return why a file that begins like this is not a CSV file in UTF-8, or ""."""
    if not head:
        return "is empty"
    if wide := _wide(head[:64]):
        return f"is {wide} text, such as a spreadsheet's 'Unicode text'; save it as CSV UTF-8"
    for magic, kind in _OTHER_KINDS.items():
        if head.startswith(magic):
            return f"is {kind}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return "is an HTML or XML page, as a download without signing in gives; download the file itself"
    if _CONTROL.search(head[:4096]):
        return "is not a text file"
    return ""


def _wide(head: bytes) -> str:
    """Return the encoding of text that has two or four bytes for each character, or ""."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    halves = head[::2], head[1::2]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (any(head) and any(half and not any(half) for half in halves)):
        return "UTF-16"
    return ""


def _header(reader: Iterator[list[str]]) -> list[str]:
    rows = (cells for cells in reader if any(cells))
    cells = next(rows, [])
    if cells and re.fullmatch("sep=.?", cells[0].strip(_PADDING)):  # a spreadsheet's own line
        cells = next(rows, [])
    return [name.strip(_PADDING) for name in cells]


def _strange_header(header: list[str]) -> str:
    text = ",".join(header)
    if any(len(name.split()) > 100 for name in header):
        return "has no header; its first row holds pixels"
    for separator, words in _SEPARATORS.items():
        if len(text.split(separator)) > max(len(header), 1):
            return f"separates its columns by {words}; save it as CSV UTF-8 (comma delimited)"
    names = [name.lower() for name in header]
    twice = next((name for index, name in enumerate(names) if name and name in names[:index]), "")
    return f"has two columns named '{twice[:40]}'" if twice else ""


def _nothing_found(path: Path, seen: list[tuple[str, str]]) -> str:
    told = [(name, reason) for name, reason in seen if reason]
    if [name for name, _ in seen] == [""]:
        return f"{path} {told[0][1]}"
    if not told:
        such = f" ({len(seen):,} other files, such as {seen[0][0][:80]})" if seen else ""
        return f"{path} is an archive without a CSV file{such}"
    parts = [f"{name[-80:]} {reason}" for name, reason in told[:_SHOWN]]
    more = f"; and {len(told) - _SHOWN:,} more files" if len(told) > _SHOWN else ""
    return f"{path} holds no table that can be used here: {'; '.join(parts)}{more}"
