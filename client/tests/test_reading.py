"""Reading files from elsewhere never hangs, fills the memory or recurses; errors say what was found."""

import hashlib
import os
import socket

import pytest
from mien_client.reading import NESTING_LIMIT, open_regular, parse_json, read_file, regular_size, sha256


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
def test_anything_but_a_regular_file_is_refused(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)  # A socket's path must be short.
    path = tmp_path / "file"
    make(path.relative_to(tmp_path) if kind == "a socket" else path)
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        read_file(path)
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        open_regular(path, os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        regular_size(path)
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        sha256(path, follow_links=True)


def test_a_symbolic_link_is_followed_unless_that_is_disabled(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"content"
    with pytest.raises(OSError, match="it is a symbolic link, not a regular file"):
        read_file(tmp_path / "link", follow_links=False)
    with pytest.raises(OSError, match="it is a symbolic link, not a regular file"):
        open_regular(tmp_path / "link", os.O_WRONLY | os.O_TRUNC, follow_links=False)
    with pytest.raises(OSError, match="it is a symbolic link, not a regular file"):
        regular_size(tmp_path / "link", follow_links=False)
    assert regular_size(tmp_path / "link") == 7
    with pytest.raises(OSError, match="it is a symbolic link, not a regular file"):
        sha256(tmp_path / "link", follow_links=False)
    assert sha256(tmp_path / "link", follow_links=True) == hashlib.sha256(b"content").hexdigest()
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_missing_file_is_reported_as_missing_and_can_be_created(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "file")
    os.close(open_regular(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
    assert read_file(tmp_path / "file") == b""


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 2**40)  # No disk space is used.
    with pytest.raises(OSError, match="it is larger than 4 MiB"):
        read_file(path)
    os.truncate(path, 5)
    assert read_file(path, 5) == bytes(5)
    with pytest.raises(OSError, match="it is larger than 4 bytes"):
        read_file(path, 4)


def test_a_file_above_the_limit_is_not_opened(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(5))
    os.close(open_regular(path, max_bytes=5))
    with pytest.raises(OSError, match="it is larger than 4 bytes"):
        open_regular(path, max_bytes=4)


def test_a_path_that_becomes_another_file_before_it_is_opened_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    open_file, opened = os.open, []

    def swap_then_open(name, *arguments):
        path.unlink()
        os.mkfifo(path)
        opened.append(open_file(name, *arguments))
        return opened[0]

    monkeypatch.setattr(os, "open", swap_then_open)
    with pytest.raises(OSError, match="it is a named pipe, not a regular file"):
        read_file(path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_json_is_parsed_down_to_the_nesting_limit():
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
def test_invalid_or_too_deeply_nested_json_raises_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)
