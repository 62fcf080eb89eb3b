"""Manifests, which may come from elsewhere: what they say, and whether a version's files match."""

import json
import os

import pytest
from mien_client.contract import MANIFEST
from mien_client.reading import sha256
from mien_serving.repository.errors import VersionError
from mien_serving.repository.manifest import check_files, facts, file_size


def write(folder, text):
    path = folder / MANIFEST
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
    return folder


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[" * 200_000, b"[]", b"5", b" " * (5 * 2**20), b'{"a": ' + b"9" * 5000]
)
def test_an_invalid_manifest_has_no_facts(tmp_path, text):
    assert facts(write(tmp_path, text)) == {}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_manifest_that_is_not_a_regular_file_has_no_facts(tmp_path, make):
    path = write(tmp_path, b"")
    (path / MANIFEST).unlink()
    make(path / MANIFEST)
    assert facts(path) == {}


def test_facts_are_printable_and_finite(tmp_path):
    metrics = {"good": 0.5, "huge": 10**400, "infinite": float("inf"), "none": float("nan"), "a\nb": 1, "text": "1"}
    path = write(
        tmp_path, {"created": "\x1b[2J\n", "metrics": metrics, "trained_on": {"file": "a\x1b[2J\n" + "b" * 1000}}
    )
    found = facts(path)
    assert found["metrics"] == {"good": 0.5, "a?b": 1}
    assert found["data"] == "a?[2J?" + "b" * 74
    assert (found["created"], found["age_s"]) == ("?[2J?", None)


@pytest.fixture
def version(tmp_path):
    """A version with two files and a manifest; returns its folder, and the sha256 of each file."""
    (tmp_path / "variables").mkdir()
    for name in ("saved_model.pb", "variables/index"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    write(tmp_path, {})
    return tmp_path, {
        name: sha256(tmp_path / name, follow_links=False) for name in ("saved_model.pb", "variables/index")
    }


def test_a_version_whose_files_are_those_of_its_manifest_passes(version):
    check_files(*version)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "saved_model.pb").unlink(), "saved_model.pb is missing"),
        (lambda folder: (folder / "more").touch(), "more is not in its manifest"),
        (lambda folder: (folder / "saved_model.pb").write_text("x", encoding="utf-8"), "its sha256 differs"),
        (lambda folder: (folder / "link").symlink_to("saved_model.pb"), "link cannot be read: it is a symbolic link"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe cannot be read: it is a named pipe, not a regular file"),
    ],
)
def test_a_version_whose_files_differ_from_its_manifest_is_refused(version, damage, problem):
    damage(version[0])
    with pytest.raises(VersionError, match=problem):
        check_files(*version)


def test_the_size_of_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(VersionError, match="nowhere is missing"):
        file_size(tmp_path / "nowhere")
