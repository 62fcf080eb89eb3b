"""The whole deployment on a real Docker engine: three replicas and a gateway behind the edge, watched by Prometheus.

The image of the local model server stands in for tensorflow/serving, unless SERVING_IMAGE names one.
docker-compose.yml, the edge and the monitoring are what operators run. `make test-docker` runs it; `.ci/docker-engine`
starts an engine where there is none.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from mien_client import AccessDeniedError, Client, protos
from mien_client.pictures import find_faces, read_picture

from tests import waiting
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
IMAGE = "mien-serving:test"
GATEWAY_IMAGE = "mien-gateway:test"
PORTRAIT = ROOT / "examples" / "astronaut.jpg"
SETTINGS = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))

# What a server exits with after SIGTERM: TensorFlow Serving has no handler for it, the local model server has.
ENDED = {True: {"0"}, False: {"0", "143"}}

# Building the image downloads TensorFlow, and starting three servers takes a while.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]


def docker(*arguments, check=True):
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, encoding="utf-8")
    assert not check or done.returncode == 0, f"docker {arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def obtainable(image):
    done = subprocess.run(["docker", "image", "inspect", image], capture_output=True)
    return done.returncode == 0 or subprocess.run(["docker", "pull", "-q", image], capture_output=True).returncode == 0


until = partial(waiting.until, timeout_s=300, pause_s=0.5)


def free_range(count, lowest):
    """Return a range of free, consecutive ports, in the notation of Compose."""
    for first in range(lowest, lowest + 2000, count):
        with ExitStack() as opened, suppress(OSError):
            for port in range(first, first + count):
                opened.enter_context(socket.create_server(("127.0.0.1", port)))
            return f"{first}-{first + count - 1}"
    raise AssertionError("no free ports")


def checkout():
    """Return the files of this checkout that git lists as changed or new."""
    return subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, encoding="utf-8").stdout


PROFILES = ("--profile=edge", "--profile=gateway", "--profile=monitoring")


class Stack:
    """docker-compose.yml as it runs, with the profiles edge, gateway and monitoring."""

    def __init__(self, compose, project, environment, certificates, folder):
        self.compose, self.project, self.environment = compose, project, environment
        self.folder, self.certificates = folder, certificates
        self.checkout = checkout()
        self.ca, self.key = certificates / "ca.crt", (certificates / "api-key").read_text(encoding="utf-8").strip()

    def run(self, *arguments):
        command = [*self.compose, "-p", self.project, *PROFILES, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def containers(self, service=None, *filters):
        labels = [f"label=com.docker.compose.project={self.project}"]
        labels += [f"label=com.docker.compose.service={service}"] if service else []
        return docker("ps", "-q", *(f"--filter={one}" for one in (*labels, *filters))).split()

    def wait_until_healthy(self, replicas=3):
        def healthy():
            return len(self.containers("serving", "health=healthy")) == replicas and all(
                self.containers(service, "health=healthy") for service in ("edge", "gateway", "prometheus")
            )

        until(healthy)

    @property
    def servers(self):
        """The gRPC addresses of the replicas, on this machine."""
        return [docker("port", container, 8500) for container in self.containers("serving")]

    def client(self, kind="grpc", **who):
        address = {"grpc": "127.0.0.1:{}", "rest": "https://127.0.0.1:{}"}[kind]
        who = who or {"api_key": self.key}
        return Client(address.format(self.environment["EDGE_PORT"]), ca_file=self.ca, **who)

    def prometheus(self, query):
        """Return the value of each series, by its labels."""
        port = self.environment["PROMETHEUS_PORT"]
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=30)
        except requests.ConnectionError:
            return {}
        if answer.status_code == 503:  # It is still starting.
            return {}
        assert answer.status_code == 200, answer.text
        return {
            tuple(sorted(series["metric"].items())): float(series["value"][1])
            for series in answer.json()["data"]["result"]
        }


@pytest.fixture(scope="module")
def compose():
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers (.ci/docker-engine starts one on Debian)")
    for command in ([os.environ.get("COMPOSE_V2", "")], ["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    return pytest.skip("Compose is not installed")


@pytest.fixture(scope="module")
def image(compose):
    """Build the image of the local model server, with this machine's pip settings."""
    if given := os.environ.get("SERVING_IMAGE"):
        return given
    build("Dockerfile", IMAGE)
    return IMAGE


def build(file, image):
    names = {"BASE_IMAGE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"} & set(os.environ)
    arguments = [f"--build-arg={name}={os.environ[name]}" for name in sorted(names)]
    docker("build", "-f", ROOT / "deploy/docker" / file, "-t", image, *arguments, ROOT)


@pytest.fixture(scope="module")
def gateway_image(compose):
    """Build the image of the gateway."""
    build("gateway.Dockerfile", GATEWAY_IMAGE)
    return GATEWAY_IMAGE


@pytest.fixture(scope="module")
def stack(compose, image, gateway_image, published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "config").mkdir(mode=0o755)
    shutil.copy(ROOT / "models.config", folder / "config")
    shutil.copytree(published, folder / "models")
    certificates = folder / "certificates"
    maker = ROOT / "deploy/edge/make-certificates"
    subprocess.run([maker, certificates, "localhost", "127.0.0.1"], check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS or name.endswith("_IMAGE")}
    environment |= {
        "SERVING_IMAGE": image,
        "GATEWAY_IMAGE": gateway_image,
        "GATEWAY_CPUS": "1",
        "GATEWAY_PORT": str(free_port()),
        "SERVING_REPLICAS": "3",
        "SERVING_CPUS": "1",
        "BATCH_THREADS": "1",
        "GRPC_PORT": free_range(3, 20000),
        "REST_PORT": free_range(3, 30000),
        "MODELS_DIR": str(folder / "models"),
        "CONFIG_DIR": str(folder / "config"),
        "EDGE_CERTIFICATES": str(certificates / "edge"),
        "EDGE_ADDRESS": "127.0.0.1",
        "EDGE_PORT": str(free_port()),
        "PROMETHEUS_PORT": str(free_port()),
        "GRAFANA_PORT": str(free_port()),
    }
    if os.getuid():
        environment["EDGE_USER"] = f"{os.getuid()}:{os.getgid()}"
    services = ["serving", "gateway", "edge", "prometheus"]
    for name in ("EDGE_IMAGE", "PROMETHEUS_IMAGE"):
        if not obtainable(environment.get(name, SETTINGS[name])):
            pytest.skip(f"{environment.get(name, SETTINGS[name])} cannot be pulled here ({name})")
    if obtainable(environment.get("GRAFANA_IMAGE", SETTINGS["GRAFANA_IMAGE"])):
        services.append("grafana")
    running = Stack(compose, f"mien-test-{os.getpid()}", environment, certificates, folder)
    try:
        running.run("up", "-d", *services)
        running.wait_until_healthy()
        yield running
    except BaseException:
        print(running.run("logs", "--no-color"))  # noqa: T201
        raise
    finally:
        running.run("down", "-v", "--timeout=30")


def test_the_image_takes_the_environment_and_the_flags_of_tensorflow_serving(image, published):
    assert "TensorFlow Library: 2.20" in docker("run", "--rm", image, "--version")
    container = docker(
        *("run", "-d", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "-p=127.0.0.1::8501"),
        *("-e", "MODEL_NAME=emotion", f"-v={published}:/models:ro", image, "--enable_batching"),
    )
    try:
        url = f"http://{docker('port', container, 8501)}/v1/models/emotion"

        def available():
            try:
                [version] = requests.get(url, timeout=30).json()["model_version_status"]
            except requests.ConnectionError:  # It is still starting.
                return False
            return version["state"] == "AVAILABLE"

        until(available)
        docker("stop", container)
        assert docker("inspect", "-f", "{{.State.ExitCode}}", container) in ENDED[image == IMAGE]
    finally:
        docker("rm", "-f", container)


@pytest.fixture(scope="module")
def face():
    return find_faces(read_picture(ROOT / "examples" / "astronaut.jpg"))[0].image


class Load:
    """Callers that send requests to the edge continuously, over gRPC and REST."""

    def __init__(self, stack, face, **options):
        self.versions: Counter[tuple[str, int]] = Counter()
        self.failures, self.done = [], threading.Event()
        self.threads = [
            threading.Thread(target=self.call, args=(stack, kind, face, options)) for kind in ("grpc", "rest")
        ]

    def call(self, stack, kind, face, options):
        with stack.client(kind, api_key=stack.key, **options) as mien:
            while not self.done.wait(0.02):
                try:
                    self.versions[kind, mien.analyze(face).versions["emotion"]] += 1
                except Exception as error:
                    self.failures.append(f"{kind}: {error}")

    def calls(self):
        return min(sum(n for (kind, _), n in self.versions.items() if kind == one) for one in ("grpc", "rest"))

    def wait_for_more(self, calls=50):
        """Wait until each kind of caller has made this many more calls, or one has failed."""
        enough = self.calls() + calls
        until(lambda: self.calls() >= enough or self.failures)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *_):
        self.done.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_clients_are_answered_through_tls_with_the_right_key(stack, face, kind):
    with stack.client(kind) as mien:
        found = mien.analyze(face)[0]
    assert found.emotion == "Happy"
    assert found.versions == {"emotion": 1, "keypoints": 1}
    pair = {"cert_file": stack.certificates / "client.crt", "key_file": stack.certificates / "client.key"}
    with stack.client(kind, **pair) as mien:
        assert mien.analyze(face)[0].emotion == "Happy"


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_the_wrong_key_is_refused(stack, face, kind):
    with stack.client(kind, api_key="0" * 64) as mien, pytest.raises(AccessDeniedError):
        mien.analyze(face)


def through_the_edge(stack, method, path, data=None, key=None):
    headers = {"content-type": "image/jpeg", **({"authorization": f"Bearer {key}"} if key else {})}
    url = f"https://127.0.0.1:{stack.environment['EDGE_PORT']}{path}"
    return requests.request(method, url, headers=headers, data=data, verify=stack.ca, timeout=60)


def test_the_gateway_reads_pictures_through_the_edge(stack):
    picture = PORTRAIT.read_bytes()
    answer = through_the_edge(stack, "POST", "/v1/analyze", picture, stack.key)
    assert answer.status_code == 200, answer.text
    [face] = answer.json()["faces"]
    assert face["emotion"] == "Happy"
    assert face["versions"] == {"emotion": 1, "keypoints": 1}
    assert through_the_edge(stack, "POST", "/v1/analyze", picture, "0" * 64).status_code == 401
    assert "<html" in through_the_edge(stack, "GET", "/").text  # The console needs no key.
    assert through_the_edge(stack, "GET", "/metrics", key=stack.key).status_code == 404
    local = f"http://127.0.0.1:{stack.environment['GATEWAY_PORT']}"
    assert requests.get(f"{local}/v1/models", timeout=60).json()["models"]["emotion"]["versions"][0]["version"] == 1
    until(lambda: stack.prometheus("sum(mien_gateway_faces_total) > 0"))


def test_every_replica_gets_its_share(stack, face):
    with Load(stack, face):
        pass
    [edge] = stack.containers("edge")
    lines = [json.loads(line) for line in docker("logs", edge).splitlines() if line.startswith("{")]
    shares = Counter(line["replica"].partition(":")[0] for line in lines if line["replica"][-5:] in (":8500", ":8501"))
    assert len(shares) == 3
    assert min(shares.values()) > sum(shares.values()) / 6


def test_containers_have_limits_and_no_privileges(stack):
    for container in stack.containers():
        facts = json.loads(docker("inspect", container))[0]
        assert facts["HostConfig"]["Memory"] > 0
        assert facts["HostConfig"]["NanoCpus"] > 0
        status = dict(
            line.split(":\t", 1)
            for line in docker("exec", container, "cat", "/proc/self/status").splitlines()
            if ":\t" in line
        )
        assert "0" not in status["Uid"].split()
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        writing = subprocess.run(
            ["docker", "exec", container, "sh", "-c", "echo > /usr/x"], capture_output=True, encoding="utf-8"
        )
        assert "Read-only file system" in writing.stderr
    for container in stack.containers("serving"):
        writing = subprocess.run(
            ["docker", "exec", container, "sh", "-c", "echo > /models/x"], capture_output=True, encoding="utf-8"
        )
        assert "Read-only file system" in writing.stderr


def listening(container):
    """Ports with a TCP listener in a container, those of its own loopback addresses apart."""
    everyone: set[int] = set()
    loopback: set[int] = set()
    for line in docker("exec", container, "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines():
        _, local, _, state, *_ = line.split()
        address, _, port = local.partition(":")
        if state == "0A":  # LISTEN
            (loopback if address.endswith("7F") and len(address) == 8 else everyone).add(int(port, 16))
    return everyone, loopback


def test_only_the_documented_ports_are_listened_on_and_published(stack):
    for container in stack.containers("serving"):
        assert listening(container)[0] == {8500, 8501}
    for service, ports in {"edge": {8443}, "gateway": {8080}, "prometheus": {9090}}.items():
        [container] = stack.containers(service)
        assert listening(container)[0] == ports
    for container in stack.containers():
        for line in docker("port", container).splitlines():
            assert "-> 127.0.0.1:" in line  # the edge's too, as EDGE_ADDRESS says here


def test_prometheus_has_the_metrics_of_every_replica(stack, face):
    with Load(stack, face) as load:
        until(lambda: stack.prometheus('sum(up{job="serving"})') == {(): 3})
        for model in ("emotion", "keypoints"):
            query = f'count(:tensorflow:serving:request_count{{model_name="{model}",status="OK"}} > 0)'
            until(lambda query=query: stack.prometheus(query) == {(): 3})
        for query in (
            "sum(rate(:tensorflow:serving:request_latency_count[1m]))",
            "sum(rate(:tensorflow:serving:batching_session:queuing_latency_count[1m]))",
            "sum(rate(:tensorflow:serving:batching_session:wrapped_run_count[1m]))",
        ):
            until(lambda query=query: stack.prometheus(f"{query} > 0"))
    assert load.failures == []
    loaded = stack.prometheus('count by (model_path) (:tensorflow:cc:saved_model:load_attempt_count{status="success"})')
    assert loaded == {(("model_path", "/models/emotion/1"),): 3, (("model_path", "/models/keypoints/1"),): 3}
    until(lambda: stack.prometheus('ALERTS{alertstate="firing",severity="critical"}') == {})


def test_grafana_shows_the_dashboard(stack):
    if not stack.containers("grafana"):
        pytest.skip(f"{SETTINGS['GRAFANA_IMAGE']} cannot be pulled here")
    url = f"http://127.0.0.1:{stack.environment['GRAFANA_PORT']}/api"

    def panels():
        try:
            answer = requests.get(f"{url}/dashboards/uid/mien", auth=("admin", "admin"), timeout=30)
        except requests.ConnectionError:
            return None
        return answer.status_code == 200 and answer.json()["dashboard"]["panels"]

    assert until(panels)
    query = {
        "queries": [
            {"refId": "A", "datasource": {"uid": "prometheus"}, "expr": 'sum(up{job="serving"})', "instant": True}
        ]
    }
    answer = requests.post(f"{url}/ds/query", json=query, auth=("admin", "admin"), timeout=30).json()
    assert answer["results"]["A"]["frames"][0]["data"]["values"][1] == [3]


class GatewayLoad:
    """A caller who never stops asking the gateway."""

    def __init__(self, stack, face):
        self.url, self.face = f"http://127.0.0.1:{stack.environment['GATEWAY_PORT']}/v1/analyze", face.tobytes()
        self.failures, self.done, self.version = [], threading.Event(), 0
        self.thread = threading.Thread(target=self.call)

    def call(self):
        with requests.Session() as session:
            while not self.done.wait(0.02):
                kind = {"content-type": "application/octet-stream"}
                answer = session.post(self.url, self.face, headers=kind, timeout=60)
                if answer.status_code == 200:
                    self.version = answer.json()["versions"]["emotion"]
                else:
                    self.failures.append(answer.text)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def test_a_rollout_goes_through_the_replicas_and_no_caller_notices(stack, face, published, mien):
    where = [
        f"--repository={stack.folder / 'models'}",
        f"--config={stack.folder / 'config' / 'models.config'}",
        f"--servers={','.join(stack.servers)}",
    ]

    def rollout(verb, *arguments):
        done = mien("rollout", verb, *arguments, *where)
        assert done.returncode == 0, done.stdout + done.stderr

    faces = stack.folder / "faces.npz"
    np.savez(faces, images=np.stack([face] * 20), labels=np.full(20, 3))
    with Load(stack, face) as load, GatewayLoad(stack, face) as pictures:
        rollout("publish", published / "emotion" / "1")
        rollout("canary", "emotion", "2")
        for percent, version in ((100, 2), (0, 1)):  # The gateway follows the split that operators set.
            rollout("shift", "emotion", percent)
            until(lambda version=version: pictures.version == version)
        rollout("compare", "emotion", f"--data={faces}", "--max-p99-ratio=1000")
        rollout("promote", "emotion")
        load.wait_for_more()
        rollout("retire", "emotion", "1")
        load.wait_for_more()
        until(lambda: pictures.version == 2)
    assert load.failures == pictures.failures == []
    assert {version for kind, version in load.versions} == {1, 2}
    for server in stack.servers:
        with Client(server, emotion_version="stable") as one:
            assert one.analyze(face).versions["emotion"] == 2


def test_callers_do_not_notice_a_killed_replica_which_restarts_on_its_ports(stack, face):
    addresses = set(stack.servers)
    victim = stack.containers("serving")[0]
    with Load(stack, face) as load:
        docker("exec", victim, "bash", "-c", "kill -KILL -1", check=False)  # Everything but the first process.
        until(lambda: docker("inspect", "-f", "{{.RestartCount}}", victim) == "1")
        load.wait_for_more()
        stack.wait_until_healthy()
        load.wait_for_more()
    assert load.failures == []
    assert set(stack.servers) == addresses


def test_callers_are_answered_while_a_replica_is_frozen(stack, face):
    """A frozen replica accepts connections, because the kernel does, and answers nothing."""
    victim = stack.containers("serving")[0]
    with Load(stack, face) as load:
        docker("pause", victim)
        try:
            load.wait_for_more(200)
        finally:
            docker("unpause", victim)
        stack.wait_until_healthy()
        load.wait_for_more()
    assert load.failures == []


def test_callers_are_answered_while_one_of_them_sends_large_bodies(stack, face):
    body = b'{"signature_name": "serving_raw", "instances": [{"b64": "' + b"A" * 7_500_000 + b'"}]}'
    url = f"https://127.0.0.1:{stack.environment['EDGE_PORT']}/v1/models/emotion:predict"
    other, enough = (str(stack.certificates / "client.crt"), str(stack.certificates / "client.key")), threading.Event()
    answers: Counter[int] = Counter()

    def insist():
        with requests.Session() as session:
            session.verify, session.cert, session.trust_env = str(stack.ca), other, False
            while not enough.is_set():
                answers[session.post(url, data=body, timeout=60).status_code] += 1

    callers = [threading.Thread(target=insist) for _ in range(48)]  # 360 MB at once; the edge may have 256
    for caller in callers:
        caller.start()
    with Load(stack, face) as load:
        load.wait_for_more()
        until(lambda: answers[429])
    enough.set()
    for caller in callers:
        caller.join()
    assert load.failures == []
    assert answers[400]  # some reached a replica, to which they say nothing
    assert answers.keys() <= {400, 429, 503}
    for container in stack.containers():
        assert docker("inspect", "-f", "{{.State.OOMKilled}}", container) == "false"


def test_a_replica_survives_refusing_large_requests(stack, face):
    """Far more than its queue takes, in requests of as many faces as one may have."""
    victim = stack.containers("serving")[0]
    before = docker("inspect", "-f", "{{.RestartCount}}", victim)
    request = protos.PredictRequest(model_spec={"name": "emotion"})
    images = np.stack([face] * 1024)
    request.inputs["images"].dtype = protos.DataType.DT_UINT8
    request.inputs["images"].tensor_content = images.tobytes()
    for size in images.shape:
        request.inputs["images"].tensor_shape.dim.add(size=size)
    outcomes: Counter[str] = Counter()

    def insist(predict):
        for _ in range(3):
            try:
                predict(request, timeout=60)
                outcomes["OK"] += 1
            except grpc.RpcError as error:
                outcomes[error.code().name] += 1

    with grpc.insecure_channel(docker("port", victim, 8500)) as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            protos.PredictRequest.SerializeToString,
            protos.PredictResponse.FromString,
        )
        callers = [threading.Thread(target=insist, args=(predict,)) for _ in range(32)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert outcomes.keys() == {"OK", "UNAVAILABLE"}
    assert docker("inspect", "-f", "{{.State.OOMKilled}} {{.RestartCount}}", victim) == f"false {before}"


def test_a_replica_that_stays_down_raises_an_alert(stack, face):
    # What has been there is looked at once a minute.
    until(lambda: stack.prometheus('max_over_time(count(up{job="serving"} == 1)[1h:1m])') == {(): 3})
    victim = stack.containers("serving")[0]
    with Load(stack, face) as load:
        docker("stop", victim)
        load.wait_for_more()
        until(lambda: stack.prometheus('ALERTS{alertname="MienReplicaGone"}'))
        docker("start", victim)
        stack.wait_until_healthy()
        load.wait_for_more()
    assert load.failures == []


def test_a_broken_version_delays_neither_good_versions_nor_a_restart(stack, face, published):
    """Each replica restarts while the broken version exists, and even callers without retries see no failure."""
    keypoints, aside = stack.folder / "models" / "keypoints", stack.folder / "aside"
    aside.mkdir()
    (aside / "saved_model.pb").write_bytes(b"not a graph")
    aside.rename(keypoints / "9")

    def available(server):
        with Client(server) as one:
            return one.analyze(face).versions["keypoints"] == 2

    until(lambda: stack.prometheus('sum(:tensorflow:cc:saved_model:load_attempt_count{status!="success"}) >= 3'))
    shutil.copytree(published / "keypoints" / "1", aside)
    aside.rename(keypoints / "2")
    until(lambda: all(available(server) for server in stack.servers), timeout_s=120)

    started = {
        container: docker("inspect", "-f", "{{.State.StartedAt}}", container) for container in stack.containers()
    }
    addresses = set(stack.servers)
    with Load(stack, face, max_attempts=1) as load:
        restart = [ROOT / "deploy/edge/rolling-restart", "-p", stack.project, "--profile=edge"]
        done = subprocess.run(restart, cwd=ROOT, env=stack.environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        load.wait_for_more()
    assert load.failures == []
    assert set(stack.servers) == addresses
    for container in stack.containers("serving"):
        assert docker("inspect", "-f", "{{.State.StartedAt}}", container) != started[container]
    shutil.rmtree(keypoints / "9")
    stack.wait_until_healthy()


def test_a_restart_of_the_whole_deployment_keeps_its_state(stack, face):
    containers = stack.containers()
    samples = max(stack.prometheus('count_over_time(up{job="serving"}[1h])').values())
    stack.run("stop")
    for container in containers:
        facts = json.loads(docker("inspect", container))[0]
        ours = facts["Config"]["Image"] != stack.environment["SERVING_IMAGE"] or facts["Config"]["Image"] == IMAGE
        assert str(facts["State"]["ExitCode"]) in ENDED[ours], facts["Name"]  # They end when asked, and are not killed.
    stack.run("start")
    stack.wait_until_healthy()
    for kind in ("grpc", "rest"):
        with stack.client(kind) as mien:
            assert mien.analyze(face)[0].versions == {"emotion": 2, "keypoints": 2}
    assert checkout() == stack.checkout  # Nothing that git tracks has changed.
    until(lambda: max(stack.prometheus('count_over_time(up{job="serving"}[1h])').values(), default=0) >= samples)
