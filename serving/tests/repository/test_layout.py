"""The folders of a model repository: which are versions, and which can be deleted."""

import pytest
from mien_serving.repository import layout
from mien_serving.repository.errors import RepositoryError


@pytest.fixture
def folder(tmp_path):
    for name in ("1", "0002", "10", "x", "-3", "1.5", "²", str(2**63), "9" * 200):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    return tmp_path


def test_versions_are_folders_whose_names_are_numbers_that_servers_accept(folder):
    assert layout.versions(folder) == [1, 2, 10]
    assert layout.version_folder(folder, 2).name == "0002"
    assert layout.version_folder(folder, 4).name == "4"
    assert layout.versions(folder / "nowhere") == []


def test_a_version_with_two_folders_is_listed_but_has_no_single_folder(folder):
    (folder / "02").mkdir()
    assert layout.versions(folder) == [1, 2, 10]
    with pytest.raises(RepositoryError, match=r"/0002 and .*/02 are both version 2"):
        layout.version_folder(folder, 2)
