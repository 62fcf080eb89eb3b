"""Files are replaced whole or not at all, and stay whose they were."""

import json
import os
import stat

import pytest
from mien_client.writing import write_atomically, write_json


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(b"before")
    return path


def test_a_file_is_created_or_replaced(path):
    write_atomically(path, lambda stream: stream.write(b"after"))
    assert path.read_bytes() == b"after"
    path.unlink()
    write_atomically(path, lambda stream: stream.write(b"again"))
    assert path.read_bytes() == b"again"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_a_failure_leaves_the_file_unchanged_and_no_other_file(path):
    def fail(stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"before"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_permissions_and_symbolic_links_are_kept(path, tmp_path):
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    write_atomically(tmp_path / "link", lambda stream: stream.write(b"after"))
    assert (tmp_path / "link").is_symlink()
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_is_kept(path):
    os.chown(path, 4711, 4712)
    write_atomically(path, lambda stream: stream.write(b"after"))
    assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


def test_the_new_content_is_not_written_through_a_symbolic_link(path, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    path.with_name(f".file.{os.getpid()}").symlink_to(tmp_path / "precious")
    write_atomically(path, lambda stream: stream.write(b"after"))
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert path.read_bytes() == b"after"


def test_json_is_readable_by_people(path):
    write_json(path, {"name": "Zoë", "numbers": [1]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Zoë", "numbers": [1]}
    assert '\n  "name": "Zoë",\n' in text
