"""docker-compose.yml and models.config: what operators run in production."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from mien_client import contract, protos
from mien_serving._config import check_config, read_config

ROOT = Path(__file__).parents[2]
MODELS = [contract.EMOTION_MODEL, contract.KEYPOINT_MODEL]


@pytest.fixture(scope="module")
def service():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["serving"]


@pytest.fixture
def is_healthy(service):
    """Runs the very command that the container's health is decided by, against a port of this machine."""
    program, *arguments = service["healthcheck"]["test"][1:]

    def ask(port):
        command = [program, *(argument.replace("$$", "$") for argument in arguments)]
        environment = {**os.environ, "REST_API_PORT": str(port)}
        return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, timeout=30).returncode == 0

    return ask


def test_the_container_serves_the_repository_as_the_configuration_says(service):
    assert service["image"] == "tensorflow/serving:2.20.0"
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert "./models:/models:ro" in service["volumes"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert "--model_config_file=/config/models.config" in service["command"]
    assert ".:/config:ro" in service["volumes"]


def test_the_configuration_names_both_models_under_the_repository():
    config = read_config(ROOT / "models.config")
    check_config(config)
    assert {model.name: model.base_path for model in config.model_config_list.config} == {
        name: f"/models/{name}" for name in MODELS
    }


def test_the_container_is_healthy_only_when_both_models_are_available(
    start_server, publish, is_healthy, warm_up_waits, tmp_path
):
    repository = tmp_path / "models"
    publish(repository / "emotion", 1)
    server = start_server("--model_name=emotion", f"--model_repository={repository}")
    assert not is_healthy(server.rest_port)  # One model is not known: status 404.

    keypoints = publish(repository / "keypoints", 1, source=warm_up_waits(tmp_path / "go"))
    both = protos.ReloadConfigRequest(config=read_config(ROOT / "models.config"))
    reloaded = server.future("HandleReloadConfigRequest", both)
    server.until(lambda: server.states("keypoints") == {1: ("LOADING", "OK")})
    assert not is_healthy(server.rest_port)  # It is known, but still loads: status 200.
    (tmp_path / "go").touch()
    reloaded.result()
    assert is_healthy(server.rest_port)

    keypoints.rename(tmp_path / "away")
    server.until(lambda: server.states("keypoints") == {1: ("END", "OK")})
    assert not is_healthy(server.rest_port)  # It has ended: still status 200.
    server.stop()
    assert not is_healthy(server.rest_port)  # Nobody answers.
