"""Tiny models that keep the contract, in a repository, and a fleet of real servers that serves them."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import yaml
from mien_client import Client, MienError

from tests.ports import free_port
from tests.tiny_models import SIDE, answers, write_manifest, write_version, write_warm_up

MIEN = Path(sys.executable).with_name("mien")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Return a function that writes what `mien export` does: a SavedModel, golden answers, warm-up and manifest."""
    root = tmp_path_factory.mktemp("tiny")

    def make(model, mark, *, contrary=False, golden_mark=None):
        folder = root / f"{model}-{mark}{'-contrary' if contrary else ''}{f'-{golden_mark}' if golden_mark else ''}"
        if not folder.exists():
            write_version(folder, model, mark, contrary=contrary, golden_mark=golden_mark or 0)
        return folder

    return make


@pytest.fixture(scope="session")
def warm_up_with():
    return write_warm_up


@pytest.fixture(scope="session")
def describe():
    return write_manifest


CONFIG = """\
# What this site serves. This comment stays.
model_config_list {
  config {
    name: "emotion"
    base_path: "/models/emotion"
    model_platform: "tensorflow"
    model_version_policy { latest { num_versions: 2 } }  # until the first rollout
  }
  config {
    name: "keypoints"
    base_path: "/models/keypoints"
    model_platform: "tensorflow"
  }
}
"""


class Site:
    """A repository with version 1 of both models, its models.config, servers, and the verbs run against them."""

    def __init__(self, folder, tiny_model):
        self.folder = folder
        self.repository = folder / "models"
        self.config = folder / "models.config"
        self.config.write_text(CONFIG, encoding="utf-8")
        self.servers = []
        for model in ("emotion", "keypoints"):
            (self.repository / model).mkdir(parents=True)
            shutil.copytree(tiny_model(model, 1), self.repository / model / "1")

    def start(self, count, *flags):
        """Start servers in parallel, on fixed ports; loading a version is tried once unless flags change that."""
        self.servers = [ServerProcess(self, number) for number in range(count)]
        for server in self.servers:
            server.flags = flags or server.flags
            server.start()
        for server in self.servers:
            server.wait_until_ready()
        return self

    @property
    def addresses(self):
        return [server.address for server in self.servers]

    def mien(self, *arguments, repository=None, timeout=120):
        """Run `mien rollout`."""
        where = [f"--repository={repository or self.repository}"]
        if arguments[0] != "history":
            where += [f"--config={self.config}", f"--servers={','.join(self.addresses) or '127.0.0.1:1'}"]
        command = [str(MIEN), "rollout", *map(str, arguments), *where]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=timeout)

    def begin(self, *arguments):
        """Start a verb, and return its process."""
        command = [
            str(MIEN),
            "rollout",
            *map(str, arguments),
            f"--repository={self.repository}",
            f"--config={self.config}",
        ]
        command += [f"--servers={','.join(self.addresses) or '127.0.0.1:1'}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")

    def done(self, *arguments):
        """Run a verb that must succeed, and return its output."""
        result = self.mien(*arguments)
        assert result.returncode == 0, f"{arguments}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def refused(self, *arguments, **where):
        """Run a verb that must fail with one sentence, and return that."""
        result = self.mien(*arguments, **where)
        assert result.returncode == 1, f"{arguments}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr
        return result.stderr

    def journal(self):
        return [json.loads(line) for line in (self.folder / "models.journal").read_text(encoding="utf-8").splitlines()]

    def status(self):
        return json.loads(self.mien("status", "--json").stdout)

    def stop(self):
        for server in self.servers:
            server.kill()


class ServerProcess:
    """A `mien serve` that can be killed and started again on the same port."""

    def __init__(self, site, number):
        self.site = site
        self.log = site.folder / f"server{number}.log"
        self.address = f"127.0.0.1:{free_port()}"
        self.process = None
        self.flags = ["--max_num_load_retries=0"]

    def start(self):
        command = [str(MIEN), "serve", f"--port={self.address.rpartition(':')[2]}", "--rest_api_port=0"]
        command += [f"--model_config_file={self.site.config}", f"--model_repository={self.site.repository}"]
        command += ["--allow_version_labels_for_unavailable_models=true", *self.flags]
        command += ["--file_system_poll_wait_seconds=0.2", "--grpc_max_threads=32"]
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, encoding="utf-8")

    def wait_until_ready(self):
        line = self.process.stdout.readline()
        assert re.match("mien serve is ready", line), self.log.read_text(encoding="utf-8")[-3000:]

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        if self.process:
            self.process.communicate()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of 24 MB."""
    if os.geteuid() or not sys.platform.startswith("linux"):
        pytest.skip("only root on Linux can mount the small disk that is filled here")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, encoding="utf-8", check=False
    )
    if mounted.returncode:
        pytest.skip(f"the small disk that is filled here cannot be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="session")
def fill():
    """Return a function that fills a disk up to its last `left` bytes with a file, and returns the file."""

    def up(disk, left):
        filler = disk / "filler"
        filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))
        return filler

    return up


@pytest.fixture(scope="session")
def make_site(tiny_model):
    """Return a function that creates a site without servers in a folder."""
    return lambda folder: Site(folder, tiny_model)


@pytest.fixture(scope="module")
def start_site(tmp_path_factory, tiny_model):
    """Return a function that creates a site with servers, in a new or given folder; they end with the file's tests."""
    sites = []

    def start(count, folder=None, flags=()):
        sites.append(Site(folder or tmp_path_factory.mktemp("site"), tiny_model))
        return sites[-1].start(count, *flags)

    yield start
    for site in sites:
        site.stop()


class Load:
    """Callers that send requests continuously, two for `stable` and one for `canary`; every answer is checked.

    Each result is checked twice: its numbers must be those of the version that it names, and that version must be one
    that the label named at some moment of the call. Without a canary, a request for `canary` gets the stable version.
    """

    def __init__(self, addresses):
        usual: dict[str, Any] = {"timeout": 30, "emotion_version": "stable", "keypoint_version": "stable"}
        self._clients = {"stable": Client(addresses, **usual), "canary": Client(addresses, canary=1.0, **usual)}
        self.images = np.random.default_rng(1).integers(0, 256, (16, SIDE, SIDE), np.uint8)
        self.models = {1: (1, False)}  # version -> mark and whether it is contrary
        self.named = {"stable": {1}, "canary": {1}}
        self.failures = []
        self.wrong = []
        self.seen = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        callers = enumerate(["stable", "stable", "canary"])
        self._threads = [threading.Thread(target=self._run, args=(label, seed)) for seed, label in callers]

    @contextlib.contextmanager
    def moving_to(self, *, stable, canary=None):
        """Expect these versions after the block; within it, the previous ones may answer, too."""
        after = {"stable": {stable}, "canary": {stable if canary is None else canary}}
        with self._lock:
            either = set.union(*self.named.values(), *after.values())
            # Loading or removing a canary must not change the answers of `stable`.
            self.named = {"stable": self.named["stable"] | after["stable"], "canary": either}
        yield
        with self._lock:
            self.named = after

    def _run(self, label, seed):
        random = np.random.default_rng(seed)
        while not self._stop.is_set():
            with self._lock:
                named = self.named[label]
            images = self.images[random.integers(0, len(self.images), int(random.integers(1, 4)))]
            try:
                analysis = self._clients[label].analyze(images)
            except MienError as error:
                self.failures.append(str(error))
                continue
            with self._lock:
                named = named | self.named[label]
            version = analysis.versions["emotion"]
            self.seen.append((label, version))
            if version not in named:
                self.wrong.append(f"version {version} answered when {label} named {sorted(named)}")
            mark, contrary = self.models[version]
            if not np.allclose(analysis.probabilities, answers("emotion", images, mark, contrary=contrary), atol=1e-6):
                self.wrong.append(f"the answer is not that of version {version}")
            if not np.allclose(analysis.keypoints, answers("keypoints", images, 1), atol=1e-4):
                self.wrong.append("the key points are not those of version 1")
            time.sleep(0.08)

    def until_seen(self, label, version, timeout_s=60):
        """Wait until a call that ends from now on was answered by a version."""
        start, give_up = len(self.seen), time.monotonic() + timeout_s
        while (label, version) not in self.seen[start:]:
            assert time.monotonic() < give_up, f"version {version} never answered"
            time.sleep(0.02)

    def __enter__(self):
        for client in self._clients.values():
            client.wait_ready(60)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for client in self._clients.values():
            client.close()


@pytest.fixture(scope="session")
def load():
    return Load


class ApiServer(ThreadingHTTPServer):
    """A stand-in of the Kubernetes API with one ConfigMap, resource versions, field owners and server-side apply."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ApiHandler)
        self.data = {"models.config": "", "other": "of somebody else"}
        self.owners = {"models.config": "kubectl-client-side-apply", "other": "kubectl-client-side-apply"}
        self.version = 100
        self.applied = []
        self.says = None
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.before_apply = lambda: None

    def change(self, text):
        """Change the ConfigMap as another client would."""
        self.data["models.config"] = text
        self.version += 1


class ApiHandler(BaseHTTPRequestHandler):
    server: ApiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, self.config_map()) if self.is_ours() else None

    def do_PATCH(self):
        body = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_ours():
            return
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        manager, owners = query["fieldManager"], self.server.owners
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        assert (body["apiVersion"], body["kind"], body["metadata"]["name"]) == ("v1", "ConfigMap", "mien-models")
        self.server.before_apply()
        if body["metadata"]["resourceVersion"] != str(self.server.version):
            self.fail(409, "Operation cannot be fulfilled: the object has been modified")
            return
        taken = [key for key in body["data"] if owners.get(key, manager) != manager]
        if taken and query.get("force") != "true":
            self.fail(409, f"Apply failed with 1 conflict: conflict with {owners[taken[0]]!r}")
            return
        for key in [key for key, owner in owners.items() if owner == manager and key not in body["data"]]:
            del owners[key], self.server.data[key]
        self.server.data |= body["data"]
        owners |= dict.fromkeys(body["data"], manager)
        self.server.version += 1
        self.server.applied += [text for key, text in body["data"].items() if key == "models.config"]
        self.answer(200, self.config_map())

    def config_map(self):
        metadata = {"name": "mien-models", "namespace": "mien", "resourceVersion": str(self.server.version)}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": self.server.data}

    def is_ours(self):
        """Return whether the request is valid; answer it with an error if not."""
        if self.server.says:
            self.answer(*self.server.says)
        elif self.headers["Authorization"] != "Bearer nothing secret":
            self.fail(401, "Unauthorized")
        elif urlsplit(self.path).path != "/api/v1/namespaces/mien/configmaps/mien-models":
            self.fail(404, "not found")
        else:
            return True
        return False

    def fail(self, status, message):
        self.answer(status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message})

    def answer(self, status, document):
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def write_kubeconfig():
    return kubeconfig


def kubeconfig(path, server, token="nothing secret"):
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                "clusters": [{"name": "here", "cluster": {"server": server}}],
                "users": [{"name": "me", "user": {"token": token}}],
            }
        ),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def kubernetes_api(tmp_path, monkeypatch):
    server = ApiServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", server.url)))
    yield server
    server.shutdown()
    server.server_close()
