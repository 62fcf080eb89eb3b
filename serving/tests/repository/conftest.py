"""The S3-compatible server of moto in a process of its own, and a connection to it that can be cut."""

import re
import socket
import subprocess
import sys
import threading
import uuid

import boto3
import pytest


@pytest.fixture(scope="session")
def storage_url():
    """The URL of the server."""
    pytest.importorskip("moto", reason="moto, the S3-compatible server, cannot be installed on this machine")
    command = [sys.executable, "-u", "-m", "moto.server", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8") as process:
        lines = iter(process.stdout.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r"Running on (http://127\S+)", line)))
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()  # It must be able to go on talking.
        yield url
        process.kill()


@pytest.fixture
def credentials(monkeypatch):
    """Credentials for the tests; those of this machine are hidden."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "nothing secret",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


class Storage:
    """A bucket of the server, accessed without the program that is tested."""

    def __init__(self, url):
        self.url = url
        self.bucket = f"models-{uuid.uuid4().hex}"
        self.place = f"s3://{self.bucket}/mien"
        self.client = boto3.client("s3", endpoint_url=url)
        self.client.create_bucket(Bucket=self.bucket)

    def stored(self):
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {entry["Key"].removeprefix("mien/") for entry in found}

    def put(self, key, data):
        self.client.put_object(Bucket=self.bucket, Key=f"mien/{key}", Body=data)

    def delete(self, key):
        self.client.delete_object(Bucket=self.bucket, Key=f"mien/{key}")

    def begun(self):
        return self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])


@pytest.fixture
def storage(storage_url, credentials):
    return Storage(storage_url)


class Wire:
    """A proxy to the server that stalls after a number of bytes in one direction, and sets an event."""

    def __init__(self, url, *, sent=None, received=None):
        self.limits = {"sent": sent, "received": received}
        self.passed = {"sent": 0, "received": 0}
        self.stalled = threading.Event()
        self._server = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._server)
            for source, target, way in ((near, far, "sent"), (far, near, "received")):
                threading.Thread(target=self._pass, args=(source, target, way), daemon=True).start()

    def _pass(self, source, target, way):
        try:
            while data := source.recv(1 << 16):
                self.passed[way] += len(data)
                if self.limits[way] is not None and self.passed[way] > self.limits[way]:
                    self.stalled.set()
                    return  # Both ends stay open: nothing more happens.
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self):
        self._listener.close()


@pytest.fixture
def wire(storage):
    wires = []

    def make(**limits):
        wires.append(Wire(storage.url, **limits))
        return wires[-1]

    yield make
    for made in wires:
        made.close()
