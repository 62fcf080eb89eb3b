"""The source reads from folders which versions should be loaded."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client.protos import ModelConfig
from mien_serving.core.source import Source, aspired_versions, check_loadable
from mien_serving.core.status import StatusError


def model(base_path, **policy):
    return ModelConfig(name="m", base_path=str(base_path), model_version_policy=policy)


@pytest.fixture
def versions(tmp_path):
    for version in (1, 2, 10):
        (tmp_path / str(version)).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("policy", "aspired"),
    [
        ({}, {10}),
        ({"latest": {}}, {10}),
        ({"latest": {"num_versions": 2}}, {2, 10}),
        ({"latest": {"num_versions": 9}}, {1, 2, 10}),
        ({"all": {}}, {1, 2, 10}),
        ({"specific": {"versions": [1, 10, 77]}}, {1, 10}),
        ({"specific": {}}, set()),
    ],
)
def test_the_version_policy_picks_among_the_folders(versions, policy, aspired):
    found = aspired_versions(model(versions, **policy))
    assert found == {version: versions / str(version) for version in aspired}


def test_only_folders_whose_name_is_a_number_are_versions(tmp_path):
    for name in ("v1", "1.0", "-1", "+2", "tmp-3", "4 ", "²", str(2**63), "", "0005"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "6").touch()
    assert aspired_versions(model(tmp_path, all={})) == {5: tmp_path / "0005"}


@given(st.integers(0, 2**63 - 1))
def test_every_number_in_range_is_a_version(tmp_path_factory, version):
    base_path = tmp_path_factory.mktemp("base")
    (base_path / str(version)).mkdir()
    assert list(aspired_versions(model(base_path))) == [version]


def test_a_missing_base_path_is_an_error_and_not_an_empty_model(tmp_path):
    with pytest.raises(StatusError, match=r"Could not find base path .*/away for servable m"):
        aspired_versions(model(tmp_path / "away"))


def test_so_is_a_base_path_with_a_null_character():
    with pytest.raises(StatusError, match=r"Could not find base path /a\0b for servable m"):
        aspired_versions(model("/a\0b"))


def test_a_model_with_nothing_to_load_is_known_beforehand(versions, tmp_path):
    check_loadable(model(versions))
    with pytest.raises(StatusError, match="NOT_FOUND: Unable to find a numerical version path for servable m at: "):
        check_loadable(model(versions, specific={"versions": [3]}))


class Aspirations(list[Any]):
    """What a source stated, in order."""

    def __call__(self, name, versions):
        self.append((name, set(versions)))


def test_every_poll_states_every_model_in_full(versions):
    stated = Aspirations()
    source = Source(stated, poll_wait_seconds=0)
    source.set_models({"m": model(versions)})
    source.poll()
    (versions / "11").mkdir()
    source.poll()
    assert stated == [("m", {10}), ("m", {10}), ("m", {11})]


def test_a_model_that_leaves_the_configuration_is_stated_without_versions(versions):
    stated = Aspirations()
    source = Source(stated, poll_wait_seconds=0)
    source.set_models({"m": model(versions), "n": model(versions)})
    source.set_models({"n": model(versions)})
    assert ("m", set()) in stated
    assert stated[-1] == ("n", {10})


def test_no_aspirations_are_stated_while_a_base_path_is_missing_which_is_logged_once(versions, tmp_path, caplog):
    stated = Aspirations()
    source = Source(stated, poll_wait_seconds=0)
    source.set_models({"m": model(versions), "n": model(tmp_path / "away")})
    source.poll()
    assert not stated
    assert len(caplog.records) == 1
    assert "Could not find base path" in caplog.text


def test_a_base_path_without_versions_is_logged_once(tmp_path, caplog):
    source = Source(Aspirations(), poll_wait_seconds=0)
    source.set_models({"m": model(tmp_path)})
    source.poll()
    assert [record.message for record in caplog.records] == [
        f"No versions of servable m found under base path {tmp_path}; is there a folder whose name is a number?"
    ]


def test_the_source_polls_until_it_is_stopped(versions):
    stated = Aspirations()
    source = Source(stated, poll_wait_seconds=0.01)
    source.set_models({"m": model(versions)})
    source.start()
    (versions / "12").mkdir()
    give_up = time.monotonic() + 20
    while ("m", {12}) not in stated:
        assert time.monotonic() < give_up
    source.stop()
    (versions / "13").mkdir()
    time.sleep(0.1)
    assert ("m", {13}) not in stated
