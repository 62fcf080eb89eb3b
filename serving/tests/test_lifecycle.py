"""Versions and models coming and going under a running `mien serve`."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import requests
from mien_client import protos

MODELS = ("swap", "broken", "last", "busy", "warm", "labels")


@pytest.fixture(scope="module")
def repository(tmp_path_factory, publish):
    root = tmp_path_factory.mktemp("repository").resolve()
    for model in MODELS:
        publish(root / model, 1)
    return root


@pytest.fixture(scope="module")
def config(repository):
    return {model: repository / model for model in MODELS}


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory, config):
    file = tmp_path_factory.mktemp("config") / "models.config"
    file.write_text(str(server_config(config)), encoding="utf-8")
    return start_server(
        f"--model_config_file={file}",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=1000",
    )


def server_config(base_paths, **of_model):
    """A configuration of these models; keyword arguments are further fields of the model of that name."""
    message = protos.ModelServerConfig()
    for name, base_path in base_paths.items():
        model = message.model_config_list.config.add(
            name=name, base_path=str(base_path), model_platform="tensorflow", **of_model.get(name, {})
        )
        assert model.name
    return message


def reload(server, base_paths, timeout=30, **of_model):
    request = protos.ReloadConfigRequest(config=server_config(base_paths, **of_model))
    return server.call("HandleReloadConfigRequest", request, timeout=timeout)


def test_a_new_version_takes_over_while_requests_run_and_none_of_them_fails(server, repository, publish):
    stop = threading.Event()

    def ask_grpc():
        return server.predict("swap")

    def ask_rest():
        answer = requests.post(f"{server.url}/v1/models/swap:predict", data='{"instances": [1.0]}', timeout=10)
        assert answer.json() == {"predictions": [2.0]}

    def watch():
        """Watch whether some version is available at every observed moment."""
        assert "AVAILABLE" in dict(server.states("swap").values())

    def keep(ask, answers):
        while not stop.is_set():
            answers.append(ask())

    def until_everybody_has_asked():
        """Wait until each caller has an answer to a request that it began after this, or has failed."""
        before = [len(answers) for answers in every]
        server.until(
            lambda: all(
                caller.done() or len(answers) >= count + 2
                for caller, answers, count in zip(callers, every, before, strict=True)
            )
        )

    every: list[list[Any]] = [[], [], []]
    with ThreadPoolExecutor() as pool:
        callers = [pool.submit(keep, *each) for each in zip((ask_grpc, ask_rest, watch), every, strict=True)]
        try:
            until_everybody_has_asked()
            publish(repository / "swap", 2)
            server.until(lambda: server.states("swap").get(1) == ("END", "OK"))
            until_everybody_has_asked()
        finally:
            stop.set()
        for caller in callers:
            caller.result()
        versions, *_ = every
        assert versions == sorted(versions)
        assert set(versions) == {1, 2}
    assert server.states("swap") == {2: ("AVAILABLE", "OK"), 1: ("END", "OK")}


def test_a_broken_version_leaves_the_old_one_serving_and_reports_why_it_ended(server, repository, publish, broken):
    publish(repository / "broken", 2, source=broken)
    server.until(lambda: server.states("broken").get(2, ("",))[0] == "END")
    assert server.predict("broken") == 1
    assert server.states("broken") == {2: ("END", "OUT_OF_RANGE"), 1: ("AVAILABLE", "OK")}
    answer = requests.get(f"{server.url}/v1/models/broken/versions/2", timeout=10).json()
    message = answer["model_version_status"][0]["status"]["error_message"]
    assert message == "Read less bytes than requested"
    publish(repository / "broken", 3)
    server.until(lambda: server.predict("broken") == 3)


def test_deleting_the_newest_version_brings_the_one_before_back_and_deleting_the_last_unloads_the_model(
    server, repository, publish, tmp_path
):
    newest = publish(repository / "last", 2)
    server.until(lambda: server.predict("last") == 2)
    newest.rename(tmp_path / "2")
    server.until(lambda: server.predict("last") == 1)
    (repository / "last" / "1").rename(tmp_path / "1")
    server.until(lambda: server.states("last") == {2: ("END", "OK"), 1: ("END", "OK")})
    with pytest.raises(grpc.RpcError) as error:
        server.predict("last")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert error.value.details() == "Servable not found for request: Latest(last)"
    answer = requests.post(f"{server.url}/v1/models/last:predict", data='{"instances": [1.0]}', timeout=10)
    assert answer.status_code == 404


def test_a_version_is_unloaded_only_when_the_requests_that_it_answers_are_done(server, repository, publish, tmp_path):
    in_flight = server.wait_for_file("busy", tmp_path / "go")
    server.until((tmp_path / "go.started").exists)
    publish(repository / "busy", 2)
    server.until(lambda: server.states("busy") == {2: ("AVAILABLE", "OK"), 1: ("UNLOADING", "OK")})
    assert server.predict("busy") == 2
    (tmp_path / "go").touch()
    assert in_flight.result().model_spec.version.value == 1
    server.until(lambda: server.states("busy") == {2: ("AVAILABLE", "OK"), 1: ("END", "OK")})


def test_warm_up_requests_run_before_a_version_is_available(server, repository, publish, warm_up_waits, tmp_path):
    publish(repository / "warm", 2, source=warm_up_waits(tmp_path / "go"))
    server.until(lambda: server.states("warm") == {2: ("LOADING", "OK"), 1: ("AVAILABLE", "OK")})
    assert server.predict("warm") == 1
    (tmp_path / "go").touch()
    server.until(lambda: server.predict("warm") == 2)


def test_models_come_and_go_by_reload(server, config, repository, publish):
    publish(repository / "guest", 5)
    reload(server, {**config, "guest": repository / "guest"})
    assert server.predict("guest") == 5
    reload(server, config)
    server.until(lambda: server.states("guest") == {5: ("END", "OK")})


def test_a_reload_that_cannot_succeed_is_refused_and_blocks_no_later_one(server, config, repository):
    with pytest.raises(grpc.RpcError) as error:
        reload(server, {**config, "nowhere": repository / "nowhere"})
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details().startswith(f"Could not find base path {repository}/nowhere for servable nowhere")
    (repository / "empty").mkdir()
    with pytest.raises(grpc.RpcError) as error:
        reload(server, {**config, "empty": repository / "empty"})
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert server.predict("labels") == 1
    reload(server, config, timeout=10)


def test_a_label_moves_only_to_a_version_that_is_available(server, config, repository, publish):
    everything: dict[str, Any] = {"model_version_policy": {"all": {}}}

    def label(version):
        reload(server, config, labels={**everything, "version_labels": {"stable": version}})

    def ask_stable():
        url = f"{server.url}/v1/models/labels/labels/stable:predict"
        return requests.post(url, data='{"instances": [1.0]}', timeout=10).status_code

    label(1)
    assert ask_stable() == 200
    with pytest.raises(grpc.RpcError) as error:
        label(2)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.value.details() == (
        "Request to assign label to version 2 of model labels, which is not currently available for inference"
    )
    assert ask_stable() == 200
    publish(repository / "labels", 2)
    server.until(lambda: server.predict("labels") == 2)
    label(2)
    assert ask_stable() == 200
    assert server.states("labels") == {2: ("AVAILABLE", "OK"), 1: ("AVAILABLE", "OK")}
    reload(server, config)
    assert ask_stable() == 400


def test_on_sigterm_requests_in_flight_are_answered_and_the_status_is_0(start_server, repository, tmp_path):
    server = start_server("--model_name=m", f"--model_base_path={repository / 'labels'}")
    over_grpc = server.wait_for_file("m", tmp_path / "grpc")
    with ThreadPoolExecutor() as pool:
        over_rest = pool.submit(
            requests.post,
            f"{server.url}/v1/models/m:predict",
            json={"signature_name": "wait_for", "inputs": [str(tmp_path / "rest")]},
            timeout=30,
        )
        server.until(lambda: (tmp_path / "grpc.started").exists() and (tmp_path / "rest.started").exists())
        server.process.terminate()
        server.until(lambda: "Stopping" in server.log.read_text(encoding="utf-8"))
        assert server.process.poll() is None
        (tmp_path / "grpc").touch()
        (tmp_path / "rest").touch()
        assert over_grpc.result().model_spec.name == "m"
        assert over_rest.result().status_code == 200
    assert server.process.wait(timeout=60) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url, timeout=10)


@pytest.fixture
def broken(tmp_path):
    """A SavedModel that is cut off."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\x12\x7f")
    return folder


RETRIES = ("--max_num_load_retries=2", "--load_retry_interval_micros=300000")


def load_failures(server):
    return server.log.read_text(encoding="utf-8").count("load failure: OUT_OF_RANGE: Read less bytes than requested")


def test_a_start_beside_a_broken_version_waits_for_all_of_its_attempts(start_server, tmp_path, publish, broken):
    publish(tmp_path / "m", 1)
    publish(tmp_path / "m", 2, source=broken)
    file = tmp_path / "models.config"
    file.write_text(
        str(server_config({"m": tmp_path / "m"}, m={"model_version_policy": {"all": {}}})), encoding="utf-8"
    )
    server = start_server(f"--model_config_file={file}", *RETRIES)
    assert server.states("m") == {2: ("END", "OUT_OF_RANGE"), 1: ("AVAILABLE", "OK")}
    assert load_failures(server) == 3


def test_a_start_with_only_a_broken_version_ends_after_all_of_its_attempts(start_server, tmp_path, publish, broken):
    publish(tmp_path / "m", 2, source=broken)
    server = start_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}", *RETRIES, wait=False)
    assert server.process.wait() == 255
    assert load_failures(server) == 3
    assert server.log.read_text(encoding="utf-8").splitlines()[-1] == (
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {{{name: m version: 2} due to "
        "error: OUT_OF_RANGE: Read less bytes than requested}, }"
    )
