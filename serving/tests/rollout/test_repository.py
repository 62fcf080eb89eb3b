"""The repository on this machine: which folders are versions, and what a manifest from elsewhere may say."""

import json
import os

import pytest
from mien_client.cli import CommandError
from mien_client.contract import MANIFEST
from mien_serving.rollout import _repository


@pytest.fixture
def folder(tmp_path):
    for name in ("1", "0002", "10", "x", "-3", "1.5", "²", str(2**63), "9" * 200):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    return tmp_path


def write(folder, text):
    path = folder / "1" / MANIFEST
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
    return folder / "1"


def test_versions_are_the_folders_that_servers_take_for_some(folder):
    assert _repository.versions(folder) == [1, 2, 10]
    assert _repository.version_folder(folder, 2).name == "0002"
    assert _repository.version_folder(folder, 4).name == "4"
    assert _repository.versions(folder / "nowhere") == []


def test_two_folders_of_one_version_are_refused_when_that_is_asked_for(folder):
    (folder / "02").mkdir()
    assert _repository.versions(folder) == [1, 2, 10]
    with pytest.raises(CommandError, match=r"/0002 and .*/02 are both version 2"):
        _repository.version_folder(folder, 2)


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[" * 200_000, b"[]", b"5", b" " * (5 * 2**20), b'{"a": ' + b"9" * 5000]
)
def test_a_manifest_that_cannot_be_used_says_nothing(folder, text):
    assert _repository.facts(write(folder, text)) == {}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_manifest_that_is_not_a_file_says_nothing(folder, make):
    path = write(folder, b"")
    (path / MANIFEST).unlink()
    make(path / MANIFEST)
    assert _repository.facts(path) == {}


def test_a_manifest_cannot_break_a_table(folder):
    metrics = {"good": 0.5, "huge": 10**400, "infinite": float("inf"), "none": float("nan"), "a\nb": 1, "text": "1"}
    path = write(folder, {"created": 5, "metrics": metrics, "trained_on": {"file": "a\x1b[2J\n" + "b" * 1000}})
    facts = _repository.facts(path)
    assert facts["metrics"] == {"good": 0.5, "a?b": 1}
    assert facts["data"] == "a?[2J?" + "b" * 74
    assert facts["age_s"] is None
