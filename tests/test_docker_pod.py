"""The pod of deploy/k8s/overlays/production, played by Docker: its containers, commands, locks and volumes.

The image of the local model server stands in for tensorflow/serving, and moto's server for S3.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
from functools import partial
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml
from mien_client import Client

from tests import waiting

ROOT = Path(__file__).parent.parent
MODELS_CONFIG = ROOT / "deploy" / "k8s" / "models.config"
IMAGE = "mien-serving:test"

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]


def run(*command, check=True):
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image():
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    if run("docker", "image", "ls", "-q", IMAGE) == "":
        pytest.skip(f"{IMAGE} has not been built, which tests/test_docker.py does")
    return IMAGE


@pytest.fixture(scope="module")
def manifests(image):
    found = yaml.safe_load_all(run("kubectl", "kustomize", "deploy/k8s/overlays/production"))
    return {(one["kind"], re.sub("-[a-z0-9]{10}$", "", one["metadata"]["name"])): one for one in found}


@pytest.fixture(scope="module")
def storage(published):
    """Serve a bucket with version 1 of both models; return the variables that name it."""
    command = [sys.executable, "-u", "-m", "moto.server", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8") as server:
        lines = iter(server.stdout.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r"Running on (http://127\S+)", line)))
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        variables = {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", "MODELS_URL": "s3://mien-models/models"}
        variables |= {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "nothing secret"}
        os.environ.update(variables)
        boto3.client("s3").create_bucket(Bucket="mien-models")
        run(Path(sys.executable).with_name("mien"), "repository", "sync", published, variables["MODELS_URL"])
        yield variables
        for name in variables:
            del os.environ[name]
        server.kill()


class Pod:
    """Starts the containers of the pod as its manifest says."""

    def __init__(self, manifests, image, folder, storage):
        self.image, self.storage, self.names = image, storage, []
        self.spec = manifests["Deployment", "mien-serving"]["spec"]["template"]["spec"]
        self.volumes = {"models": folder / "models"}
        for volume in self.spec["volumes"]:
            if "configMap" in volume:
                self.volumes[volume["name"]] = folder / volume["name"]
                name = re.sub("-[a-z0-9]{10}$", "", volume["configMap"]["name"])
                (folder / volume["name"]).mkdir()
                created = {"models.config": MODELS_CONFIG.read_text(encoding="utf-8")}  # By hand, as README.md says.
                files = created if name == "mien-models" else manifests["ConfigMap", name]["data"]
                for file, text in files.items():
                    (folder / volume["name"] / file).write_text(text, encoding="utf-8")
        self.volumes["models"].mkdir()
        os.chown(self.volumes["models"], -1, self.spec["securityContext"]["fsGroup"])
        self.volumes["models"].chmod(0o2775)  # As Kubernetes does for fsGroup.

    def container(self, name):
        [found] = [one for one in [*self.spec["initContainers"], *self.spec["containers"]] if one["name"] == name]
        return found

    def start(self, name, *options, wait=False):
        container, security = self.container(name), self.spec["securityContext"]
        locks = container["securityContext"]
        command = ["docker", "run", *options, f"--user={security['runAsUser']}:{security['runAsGroup']}"]
        command += [f"--cap-drop={one}" for one in locks["capabilities"]["drop"]]
        command += ["--read-only"] if locks["readOnlyRootFilesystem"] else []
        command += [] if locks["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]
        command += [f"--memory={container['resources']['limits']['memory'].removesuffix('i').lower()}"]
        values = {one["name"]: one["value"] for one in container.get("env", [])}
        values |= self.storage if "envFrom" in container else {}
        command += [f"--env={key}={value}" for key, value in values.items()]
        for mount in container["volumeMounts"]:
            if mount["name"] == "tmp":
                command += [f"--tmpfs={mount['mountPath']}:size=64m"]
            else:
                mode = "ro" if mount.get("readOnly") else "rw"
                command += [f"--volume={self.volumes[mount['name']]}:{mount['mountPath']}:{mode}"]
        program, *arguments = [
            re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], text)
            for text in [*container["command"], *container.get("args", [])]
        ]
        command += [f"--entrypoint={program}"]
        if wait:
            return run(*command, "--rm", self.image, *arguments)
        self.names.append(f"mien-pod-{uuid.uuid4().hex[:8]}")
        run(*command, "--detach", f"--name={self.names[-1]}", self.image, *arguments)
        return self.names[-1]

    def ready(self, name):
        probe = self.container("serving")["readinessProbe"]["exec"]["command"]
        return subprocess.run(["docker", "exec", name, *probe], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def pod(manifests, image, tmp_path_factory, storage):
    folder = tmp_path_factory.mktemp("pod")
    folder.chmod(0o755)
    made = Pod(manifests, image, folder, storage)
    yield made
    for name in made.names:
        run("docker", "rm", "--force", name, check=False)


until = partial(waiting.until, timeout_s=120, pause_s=0.2)


def test_a_pod_fetches_serves_follows_the_bucket_and_ends(pod, published, mien, tmp_path):
    output = pod.start("repository", "--network=host", wait=True)
    assert "2 fetched" in output

    server = pod.start("serving", "--publish=127.0.0.1::8500")
    assert not pod.ready(server)  # Its ports are not even open.
    until(lambda: pod.ready(server))
    faces = np.zeros((2, 48, 48), np.uint8)
    with Client(run("docker", "port", server, "8500").splitlines()[0]) as client:
        assert client.analyze(faces).versions == {"emotion": 1, "keypoints": 1}

        newer = shutil.copytree(published, tmp_path / "models")
        for model in ("emotion", "keypoints"):
            shutil.copytree(newer / model / "1", newer / model / "2")
        assert mien("repository", "sync", newer, pod.storage["MODELS_URL"]).returncode == 0
        pod.start("repository-updates", "--network=host")
        until(lambda: client.analyze(faces).versions == {"emotion": 2, "keypoints": 2})

    for name in pod.names:
        run("docker", "stop", "--time=50", name)
        state = json.loads(run("docker", "inspect", "--format={{json .State}}", name))
        assert state["ExitCode"] in (0, 143), state  # 137 is SIGKILL.
