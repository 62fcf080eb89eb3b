"""Reading what somebody else has written: never a hang, a full memory or a traceback, always a reason."""

import os
import socket

import pytest
from mien_serving.repository.reading import NESTING_LIMIT, open_regular, parse_json, read_file


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a named pipe"),
        (os.mkdir, "a folder"),
        (make_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.symlink_to(path.parent), "a folder"),
    ],
)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)  # A socket's path must be short.
    path = tmp_path / "file"
    make(path.relative_to(tmp_path) if kind == "a socket" else path)
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        read_file(path)
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        open_regular(path, os.O_RDWR | os.O_CREAT)


def test_a_link_to_a_file_is_followed_unless_that_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"content"
    with pytest.raises(OSError, match="it is a link, not a regular file"):
        read_file(tmp_path / "link", follow_links=False)
    with pytest.raises(OSError, match="it is a link, not a regular file"):
        open_regular(tmp_path / "link", os.O_WRONLY | os.O_TRUNC, follow_links=False)
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "file")
    os.close(open_regular(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
    assert read_file(tmp_path / "file") == b""


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 2**40)  # No disk space is used.
    with pytest.raises(OSError, match="it is larger than 4 MiB"):
        read_file(path)
    os.truncate(path, 5)
    assert read_file(path, 5) == bytes(5)
    with pytest.raises(OSError, match="it is larger than"):
        read_file(path, 4)


def test_json_is_parsed():
    assert parse_json(b'{"a": [1, 2.5, "\\u00e4", null]}') == {"a": [1, 2.5, "ä", None]}
    deepest = "[" * (NESTING_LIMIT + 1) + "]" * (NESTING_LIMIT + 1)
    assert parse_json(deepest)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"[" * 900 + b"]" * 900,
        b"[" * (NESTING_LIMIT + 2) + b"]" * (NESTING_LIMIT + 2),
        b"1" * 5000,
    ],
)
def test_what_is_not_json_or_exceeds_pythons_limits_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)
