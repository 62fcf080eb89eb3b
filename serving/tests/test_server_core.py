"""The server core: configurations, labels, and start-up."""

import threading
import time
from functools import partial

import pytest
from mien_client.protos import ModelServerConfig, ModelSpec
from mien_serving.core.manager import ManagerOptions
from mien_serving.core.servable_state import State
from mien_serving.core.server_core import CoreOptions, ServerCore
from mien_serving.core.status import Code, StatusError

from tests import waiting


class Loaded:
    def close(self):
        pass


def load(servable_id, path):
    if (path / "broken").exists():
        raise StatusError(Code.DATA_LOSS, "torn")
    return Loaded()


def core_of(load=load, **options):
    quickly = ManagerOptions(max_num_load_retries=0)
    return ServerCore(load, CoreOptions(**{"file_system_poll_wait_seconds": 0.01, "manager": quickly, **options}))


def config_of(base_path, labels=None, name="m"):
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=name,
        base_path=str(base_path),
        model_platform="tensorflow",
        model_version_policy={"all": {}},
        version_labels=labels or {},
    )
    return config


until = partial(waiting.until, timeout_s=20, pause_s=0.001)


def version_for(core, **choice):
    with core.handle(ModelSpec(name="m", **choice)) as (servable_id, _):
        return servable_id.version


@pytest.fixture
def base_path(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    return tmp_path / "m"


def test_start_returns_when_the_models_are_available(base_path):
    core = core_of()
    core.start(config_of(base_path))
    assert version_for(core) == 1
    core.stop()


def test_start_waits_for_a_base_path_that_does_not_exist_yet(tmp_path):
    core = core_of()
    starting = threading.Thread(target=core.start, args=(config_of(tmp_path / "m"),))
    starting.start()
    time.sleep(0.1)
    assert starting.is_alive()
    (tmp_path / "m" / "1").mkdir(parents=True)
    starting.join(timeout=20)
    assert version_for(core) == 1
    core.stop()


def test_start_waits_for_the_attempts_of_a_broken_version_beside_a_good_one(base_path):
    (base_path / "2").mkdir()
    (base_path / "2" / "broken").touch()
    attempts = []

    def load_and_count(servable_id, path):
        attempts.append(servable_id.version)
        return load(servable_id, path)

    core = core_of(load_and_count, manager=ManagerOptions(max_num_load_retries=3, load_retry_interval_s=0.3))
    core.start(config_of(base_path))
    assert version_for(core) == 1
    assert core.states("m")[2].state is State.END
    assert sorted(attempts) == [1, 2, 2, 2, 2]
    core.stop()


def test_start_fails_when_the_only_version_of_a_model_cannot_be_loaded(base_path):
    (base_path / "1" / "broken").touch()
    with pytest.raises(StatusError) as error:
        core_of().start(config_of(base_path))
    assert str(error.value) == (
        "UNKNOWN: 1 servable(s) did not become available: {{{name: m version: 1} due to error: DATA_LOSS: torn}, }"
    )


def test_labels_at_start_require_the_flag(base_path):
    with pytest.raises(StatusError) as error:
        core_of().start(config_of(base_path, labels={"stable": 1}))
    assert error.value.code is Code.FAILED_PRECONDITION
    assert error.value.message == (
        "Request to assign label to version 1 of model m, which is not currently available for inference"
    )
    core = core_of(allow_version_labels_for_unavailable_models=True)
    core.start(config_of(base_path, labels={"stable": 1}))
    assert version_for(core, version_label="stable") == 1
    core.stop()


def test_even_with_the_flag_a_label_in_use_moves_only_to_an_available_version(base_path):
    core = core_of(allow_version_labels_for_unavailable_models=True)
    core.start(config_of(base_path, labels={"stable": 1}))
    with pytest.raises(StatusError, match="which is not currently available"):
        core.reload_config(config_of(base_path, labels={"stable": 2}))
    core.reload_config(config_of(base_path, labels={"stable": 1, "canary": 2}))
    with pytest.raises(StatusError, match=r"Servable not found for request: Specific\(m, 2\)"):
        version_for(core, version_label="canary")
    core.stop()


def test_an_unknown_label_and_a_missing_name_are_errors(base_path):
    core = core_of()
    core.start(config_of(base_path))
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: Unrecognized servable version label: nope"):
        version_for(core, version_label="nope")
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: ModelSpec has no name specified"):
        core.handle(ModelSpec())
    core.stop()


def test_a_refused_reload_leaves_everything_as_it_was(base_path, tmp_path):
    core = core_of()
    core.start(config_of(base_path))
    core.reload_config(config_of(base_path, labels={"stable": 1}))
    for wrong in (config_of("relative"), config_of(tmp_path / "nowhere", name="n")):
        with pytest.raises(StatusError):
            core.reload_config(wrong)
    assert version_for(core, version_label="stable") == 1
    core.stop()


def test_an_empty_configuration_unloads_nothing_and_a_list_without_models_everything(base_path):
    core = core_of()
    core.start(ModelServerConfig())
    core.reload_config(ModelServerConfig())
    core.reload_config(config_of(base_path))
    with pytest.raises(StatusError, match="FAILED_PRECONDITION: Cannot transition to requested config"):
        core.reload_config(ModelServerConfig())
    assert version_for(core) == 1
    core.reload_config(ModelServerConfig(model_config_list={}))
    until(lambda: core.states("m")[1].state is State.END)
    with pytest.raises(StatusError, match="NOT_FOUND"):
        version_for(core)
    core.stop()


def test_models_that_fail_are_reported_in_the_order_of_their_names(tmp_path):
    config = ModelServerConfig()
    for name in ("b", "a"):
        (tmp_path / name / "1" / "broken").mkdir(parents=True)
        config.MergeFrom(config_of(tmp_path / name, name=name))
    with pytest.raises(StatusError, match=r"2 servable\(s\) did not become available: \{\{\{name: a .*\{\{name: b "):
        core_of().start(config)


def test_a_reload_waits_for_a_model_that_was_there_before_to_come_back(base_path, tmp_path):
    (tmp_path / "n" / "1").mkdir(parents=True)
    core = core_of()
    core.start(config_of(base_path))
    core.reload_config(config_of(tmp_path / "n", name="n"))
    core.reload_config(config_of(base_path))
    assert version_for(core) == 1
    core.stop()
