"""docker-compose.yml, .env.example and models.config: what operators run in production."""

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from mien_client import contract, protos
from mien_gateway import command as gateway_command
from mien_serving.batching.parameters import read_batching_parameters
from mien_serving.core.config import check_config, read_config
from mien_serving.model_servers.flags import add_flags, without_meaning

ROOT = Path(__file__).parents[2]
MODELS = [contract.EMOTION_MODEL, contract.KEYPOINT_MODEL]
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
ENV = (ROOT / ".env.example").read_text(encoding="utf-8")
SETTINGS = dict(line.split("=", 1) for line in ENV.splitlines() if line and not line.startswith("#"))
VARIABLE = re.compile(r"\$\{(\w+)(:?-)([^}]*)\}")  # ${REST_API_PORT:-…} is the container's: it begins with $$.
PROFILES = ("edge", "gateway", "gpu", "monitoring")


def variables():
    """Name, default and whether an empty value counts, of each variable in docker-compose.yml."""
    return [(m[1], m[3], m[2] == "-") for m in VARIABLE.finditer(COMPOSE) if COMPOSE[m.start() - 1] != "$"]


def resolved(**changed):
    """The services of docker-compose.yml with the settings of .env.example filled in."""
    values = {**SETTINGS, **changed}
    text = COMPOSE.replace("$$", "\0")
    text = VARIABLE.sub(lambda m: m[0] if m[1] not in values else values[m[1]] or ("" if m[2] == "-" else m[3]), text)
    return yaml.safe_load(text.replace("\0", "$$"))["services"]


@pytest.fixture(scope="module")
def services():
    return resolved()


@pytest.fixture(scope="module")
def service(services):
    return services["serving"]


@pytest.fixture
def is_healthy(service):
    """Run the health check of the container against a port of this machine."""
    program, *arguments = service["healthcheck"]["test"][1:]

    def ask(port):
        command = [program, *(argument.replace("$$", "$") for argument in arguments)]
        environment = {**os.environ, "REST_API_PORT": str(port)}
        return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, timeout=30).returncode == 0

    return ask


def composes():
    """Each Compose that is installed: the program (1.29, or later), the plugin, and one that COMPOSE_V2 names."""
    for command in (["docker-compose"], ["docker", "compose"], [os.environ.get("COMPOSE_V2", "")]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            yield pytest.param(command, id="-".join(command).rpartition("/")[2])


@pytest.fixture(params=list(composes()) or [None])
def compose(request):
    """Return a function that lets Compose resolve docker-compose.yml."""
    if request.param is None:
        pytest.skip("no Compose is installed")

    def config(*profiles, **changed):
        inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        done = subprocess.run(
            [*request.param, *(f"--profile={profile}" for profile in profiles), "config"],
            cwd=ROOT,
            env={**inherited, **changed},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return yaml.safe_load(done.stdout)["services"]

    return config


def active(services, *profiles):
    """Return the services that run; Compose 1.29 lists every service, whatever its profile."""
    return {
        name: it
        for name, it in services.items()
        if set(it.get("profiles", profiles)) & {*profiles} or "profiles" not in it
    }


def test_the_container_reads_the_repository_and_the_configuration(service):
    assert service["image"] == "tensorflow/serving:2.20.0"
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert "./models:/models:ro" in service["volumes"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert "--model_config_file=/config/models.config" in service["command"]
    assert ".:/config:ro" in service["volumes"]


def test_the_server_accepts_every_flag_and_none_is_ignored(service):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = parser.parse_args(service["command"])
    assert without_meaning(flags) == ""
    assert flags.enable_batching
    assert flags.enable_model_warmup
    assert flags.enable_grpc_healthcheck_service
    assert flags.allow_version_labels_for_unavailable_models
    assert flags.model_config_file_poll_wait_seconds == 5


def test_a_broken_version_delays_no_other_and_a_start_by_less_than_a_minute(service):
    """With TensorFlow Serving's defaults (five retries, 60 s apart, one thread) it delays others by minutes."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = parser.parse_args(service["command"])
    assert flags.num_load_threads >= 2
    assert 1 < flags.max_num_load_retries * flags.load_retry_interval_micros / 1e6 < 60
    assert flags.load_retry_interval_micros >= 10_000_000  # or a storage that is slow for a moment fails every try


def test_the_precision_is_a_setting(compose):
    for precision in ("", "bfloat16"):
        assert f"--mixed_precision={precision}" in compose(MIXED_PRECISION=precision)["serving"]["command"]


@pytest.fixture
def started(service, tmp_path):
    """Return what the container's entry point does with these settings before it becomes the server."""

    def start(**changed):
        program = tmp_path / "tensorflow_model_server"
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        environment = {name: str(value) for name, value in (service["environment"] | changed).items()}
        environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
        script = ROOT / "deploy/docker/start.sh"
        done = subprocess.run(
            ["bash", script, "--port=1"], env=environment, capture_output=True, encoding="utf-8", check=True
        )
        return dict(line.removeprefix("--").split("=", 1) for line in done.stdout.split())

    return start


def test_the_entry_point_writes_the_batching_parameters_and_turns_metrics_on(started):
    flags = started(BATCH_FACES=16, BATCH_WAIT_MICROS=500, BATCH_THREADS=3, BATCH_QUEUE=5, REQUEST_FACES=80)
    assert flags["port"] == "1"
    options = read_batching_parameters(Path(flags["batching_parameters_file"]))
    assert (options.batch_size, options.input_limit, options.batch_timeout_s) == (16, 80, 0.0005)
    assert (options.num_batch_threads, options.max_enqueued_batches) == (3, 5)
    assert Path(flags["monitoring_config_file"]).read_text(encoding="utf-8") == "prometheus_config { enable: true }\n"


def test_the_batching_parameters_fit_together(service, started):
    options = read_batching_parameters(Path(started()["batching_parameters_file"]))
    assert options.input_limit <= options.max_enqueued_batches * options.batch_size  # or it would never be taken
    assert options.input_limit >= 256  # what the client puts into one request
    [threads] = {
        flag.partition("=")[2] for flag in service["command"] if "max_threads" in flag or "num_threads" in flag
    }
    assert int(threads) >= 2 * options.batch_size
    assert options.num_batch_threads == int(service["cpus"])
    assert options == read_batching_parameters(ROOT / "deploy/k8s/base/batching.config")  # the same on Kubernetes


def test_env_has_every_setting_at_its_default_with_an_explanation():
    found = variables()
    assert {name: default for name, default, _ in found} | {"COMPOSE_PROFILES": ""} == SETTINGS
    for paragraph in ENV.split("\n\n"):
        assert re.match(r"# (?!-)", paragraph) or "=" not in paragraph, f"not explained: {paragraph}"


def test_the_guide_sets_only_settings_that_exist():
    guide = (ROOT / "docs/how-to/deployment.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```\n *(COMPOSE_PROFILES=.*?) *```", guide, re.DOTALL)
    chosen = dict(line.strip().split("=") for line in block.splitlines())
    assert chosen.keys() <= SETTINGS.keys()
    assert set(chosen["COMPOSE_PROFILES"].split(",")) <= set(PROFILES)


def test_every_container_is_locked(services):
    for name, it in services.items():
        assert it["read_only"], name
        assert it["cap_drop"] == ["ALL"], name
        assert it["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in it, name
        assert "cap_add" not in it, name
        assert re.fullmatch(r"[1-9]\d*:\d+", it["user"]), name  # not root
        assert float(it["cpus"]) > 0, name
        assert re.fullmatch(r"\d+[mg]", it["mem_limit"]), name
        assert it["pids_limit"] > 0, name
        assert it["logging"]["driver"] == "json-file", name
        assert it["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
        assert it["stop_grace_period"] == "30s", name
        assert it["restart"] == "unless-stopped", name
        assert it["healthcheck"]["retries"], name
        assert not any("docker.sock" in volume for volume in it["volumes"]), name
        assert re.search(r":v?\d+\.\d+", it["image"]), name  # a version, never latest
        for volume in it["volumes"]:
            assert volume.endswith(":ro") or not volume.startswith((".", "/")), name


def test_without_profiles_only_two_ports_of_localhost_are_published(compose):
    running = active(compose())
    assert list(running) == ["serving"]
    assert published(running) == {("127.0.0.1", "8500"), ("127.0.0.1", "8501")}


def test_only_the_edge_is_published_to_other_machines(compose):
    running = active(compose("edge", "monitoring"), "edge", "monitoring")
    assert set(running) == {"serving", "edge", "prometheus", "grafana"}
    beyond = {(address, port) for address, port in published(running) if address != "127.0.0.1"}
    assert beyond == {("0.0.0.0", "8443")}
    assert published({"edge": running["edge"]}) == beyond


def test_the_gateway_is_published_to_this_machine_only(compose):
    running = active(compose("gateway"), "gateway")
    assert set(running) == {"serving", "gateway"}
    assert published({"gateway": running["gateway"]}) == {("127.0.0.1", "8080")}


def test_the_gateway_understands_its_flags(services):
    parser = argparse.ArgumentParser()
    gateway_command.COMMAND.add_arguments(parser)
    flags = parser.parse_args(services["gateway"]["command"])
    assert flags.server == ["dns:///serving:8500"]
    assert flags.port == 8080
    assert flags.workers == int(services["gateway"]["cpus"])
    mounted = {volume.split(":")[1] for volume in services["gateway"]["volumes"]}
    assert {str(flags.config.parent), str(flags.repository)} == mounted


def test_every_setting_reaches_its_container(compose):
    running = active(
        compose("edge", "monitoring", EDGE_PORT="443", SERVING_IMAGE="mien-serving:1.0"), "edge", "monitoring"
    )
    assert running["serving"]["image"] == "mien-serving:1.0"
    assert ("0.0.0.0", "443") in published(running)


def test_replicas_have_ports_of_their_own(compose):
    serving = compose(SERVING_REPLICAS="3", GRPC_PORT="18500-18502", REST_PORT="18600-18602")["serving"]
    assert int(serving["scale"]) == 3
    assert published({"serving": serving}) == {("127.0.0.1", "18500-18502"), ("127.0.0.1", "18600-18602")}


def test_git_ignores_the_files_of_a_deployment():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    files = [
        ".env",
        "deployed/models.config",
        "certificates/ca.key",
        "models/emotion/1",
        "models.journal",
        "models.lock",
    ]
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert ignored.stdout.split() == files
    tracked = subprocess.run(["git", "ls-files", *files], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert not tracked.stdout


def test_the_gpu_replica_replaces_the_others(compose):
    gpu = compose("gpu", SERVING_REPLICAS="0")["serving-gpu"]
    assert gpu["image"] == "tensorflow/serving:2.20.0-gpu"
    assert gpu["networks"]["serving"]["aliases"] == ["serving"]
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert gpu["healthcheck"]["test"][1] == "bash"


def published(services):
    """Address and port on the host of everything that these services publish."""
    found = set()
    for it in services.values():
        for port in it.get("ports", []):
            if isinstance(port, str):  # as 1.29 writes it
                address, host, _ = port.split(":")
                found.add((address, host))
            else:
                found.add((port.get("host_ip", "0.0.0.0"), str(port.get("published", ""))))
    return found


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
