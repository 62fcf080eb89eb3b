"""`canary="auto"`: the share of the calls that ask for the canary is the one that operators have set."""

import contextlib
import gc
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from mien_client import Answer, AsyncClient, Client, ConfigurationError, MockTransport, _gateway_source, _shares
from mien_client.split import Split, asks_canary, caller_place

from tests import waiting

STABLE, CANARY = {"emotion": 1, "keypoints": 1}, {"emotion": 2, "keypoints": 2}


until = partial(waiting.until, timeout_s=30)


def followers():
    return [thread for thread in threading.enumerate() if thread.name == "mien-split"]


class File:
    """The split in a file."""

    def __init__(self, path):
        self.split = path
        self.set(emotion=0, keypoints=0)

    def set(self, **percents):
        aside = self.split.with_name("aside")
        aside.write_text(Split(percents).text(), encoding="utf-8")
        aside.replace(self.split)


class Gateway:
    """A stand-in for a gateway on a real socket, which answers with a split and which tests can make fail."""

    def __init__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"gateway": self}))
        self.server.daemon_threads = True
        self.split = f"http://127.0.0.1:{self.server.server_port}"
        self.headers = {}
        self.answer = None
        self.set(emotion=0, keypoints=0)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def set(self, **percents):
        models = {model: {"versions": [], "canary_percent": percent} for model, percent in percents.items()}
        self.document = json.dumps({"models": models, "servers": []}).encode()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    gateway: Gateway
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        assert self.path == "/v1/models"
        self.gateway.headers = dict(self.headers)
        status, headers, body = self.gateway.answer or (200, {}, self.gateway.document)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def unhurried(monkeypatch):
    """Wait for the split for as long as a busy machine needs to tell it."""
    monkeypatch.setattr(_shares, "FIRST_SECONDS", 30)
    monkeypatch.setattr(_gateway_source, "_ANSWER_SECONDS", 30)


@pytest.fixture
def gateway(unhurried):
    gateway = Gateway()
    yield gateway
    gateway.stop()


@pytest.fixture(params=["file", "gateway"])
def operators(request, tmp_path, unhurried):
    """Yield where operators set the split."""
    return request.getfixturevalue("gateway") if request.param == "gateway" else File(tmp_path / "split.json")


@pytest.fixture
def rollout(backend):
    """Version 2 of both models is a canary beside version 1."""
    backend.versions = {"emotion": {1, 2}, "keypoints": {1, 2}}
    backend.labels = {(model, label): v for model in backend.versions for label, v in [("stable", 1), ("canary", 2)]}
    return backend


@pytest.fixture(params=["grpc", "aio", "rest"])
def open_client(request, rollout, awaited):
    address = request.getfixturevalue("rest_address" if request.param == "rest" else "grpc_address")
    kind = awaited if request.param == "aio" else Client
    return lambda operators, **options: kind(address, timeout=10, canary="auto", split=operators.split, **options)


def test_the_first_call_follows_the_split(open_client, operators, rollout):
    operators.set(emotion=100, keypoints=100)
    with open_client(operators) as client:
        assert client.analyze(rollout.faces(1)).versions == CANARY


def test_a_change_takes_effect_without_a_failed_call(open_client, operators, rollout):
    with open_client(operators) as client:
        assert client.analyze(rollout.faces(1), key="a").versions == STABLE
        for percent, versions in ((100, CANARY), (0, STABLE), (100, CANARY)):
            operators.set(emotion=percent, keypoints=percent)
            until(lambda versions=versions: client.analyze(rollout.faces(1), key="a").versions == versions)


def test_each_model_has_a_share_of_its_own(open_client, operators, rollout):
    operators.set(emotion=100)
    with open_client(operators) as client:
        assert client.analyze(rollout.faces(1)).versions == {"emotion": 2, "keypoints": 1}


def test_a_caller_stays_on_its_side_and_a_larger_share_only_adds_callers(open_client, operators, rollout):
    keys = range(40)

    def on_canary():
        return {key for key in keys if client.analyze(rollout.faces(1), key=key).versions == CANARY}

    with open_client(operators) as client:
        before: set[int] = set()
        for percent in (30, 60, 100):
            operators.set(emotion=percent, keypoints=percent)
            expected = {key for key in keys if asks_canary(caller_place(key), percent / 100)}
            until(lambda expected=expected: on_canary() == expected)
            assert before < expected
            before = expected
    assert before == set(keys)


def test_a_model_whose_canary_is_gone_is_asked_as_usual(open_client, operators, rollout):
    del rollout.labels["emotion", "canary"]
    operators.set(emotion=100, keypoints=100)
    with open_client(operators) as client:
        assert client.analyze(rollout.faces(1)).versions == {"emotion": 1, "keypoints": 2}


def test_a_version_that_a_call_names_comes_first(open_client, operators, rollout):
    operators.set(emotion=100, keypoints=100)
    with open_client(operators) as client:
        assert client.analyze(rollout.faces(1), emotion_version=1).versions == {"emotion": 1, "keypoints": 2}


def test_nothing_follows_once_the_client_is_closed(open_client, operators, rollout):
    before = set(followers())
    with open_client(operators) as client:
        client.analyze(rollout.faces(1))
        assert set(followers()) - before  # Not >: one of an earlier client may just have ended.
    until(lambda: set(followers()) <= before)


def test_a_client_that_nobody_closes_is_collected_with_its_follower(operators):
    before = set(followers())
    client = Client("localhost:1", canary="auto", split=operators.split)
    assert set(followers()) - before
    del client
    gc.collect()
    until(lambda: set(followers()) <= before)


class TestAGatewayThat:
    def test_does_not_answer_at_first_leaves_callers_on_stable(self, rollout, rest_address, caplog):
        with Client(rest_address, canary="auto", split="http://127.0.0.1:1") as client:
            assert client.analyze(rollout.faces(1)).versions == STABLE
            assert client.analyze(rollout.faces(1)).versions == STABLE
        [output] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert output.startswith("http://127.0.0.1:1 does not tell the traffic split: ")

    def test_is_silent_delays_no_call_beyond_its_timeout(self, rollout, rest_address):
        with contextlib.closing(_listening()) as silent:
            split = f"http://127.0.0.1:{silent.getsockname()[1]}"
            with Client(rest_address, canary="auto", split=split, timeout=20) as client:
                assert client.analyze(rollout.faces(1)).versions == STABLE

    @pytest.mark.parametrize(
        "answer",
        [
            (500, {}, b"oops"),
            (401, {}, b'{"detail": "no key"}'),
            (302, {"Location": "/elsewhere"}, b""),
            (200, {}, b"<html>"),
            (200, {}, b"[]"),
            (200, {}, b'{"models": []}'),
            (200, {}, b'{"models": {"emotion": 5}}'),
            (200, {}, b'{"models": {"emotion": {"canary_percent": 101}}}'),
            (200, {}, b"[" * 100_000),
            (200, {}, b" " * (5 * 2**20)),
            (200, {"Content-Encoding": "gzip"}, b"not gzip"),
        ],
    )
    def test_answers_badly_leaves_the_split_as_it_was(self, gateway, rollout, rest_address, caplog, answer):
        caplog.set_level(logging.INFO, "mien_client")
        gateway.set(emotion=100, keypoints=100)
        with Client(rest_address, canary="auto", split=gateway.split) as client:
            assert client.analyze(rollout.faces(1)).versions == CANARY
            gateway.answer = answer
            until(lambda: len(caplog.records) == 1)
            assert "does not tell the traffic split: " in caplog.text
            assert "Its last one stays in force" in caplog.text
            assert client.analyze(rollout.faces(1)).versions == CANARY
            gateway.answer = None
            gateway.set(emotion=0, keypoints=0)
            until(lambda: client.analyze(rollout.faces(1)).versions == STABLE)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]

    def test_asks_for_a_key_gets_the_client_s(self, gateway, rollout, rest_address):
        with Client(
            rest_address,
            canary="auto",
            split=gateway.split,
            token="that-nobody-sees",
            api_key="that-nobody-sees-either",
        ) as client:
            client.analyze(rollout.faces(1))
        assert gateway.headers["authorization"] == "Bearer that-nobody-sees"
        assert gateway.headers["x-api-key"] == "that-nobody-sees-either"

    def test_has_models_without_a_split_sends_nobody_to_a_canary(self, gateway, rollout, rest_address):
        gateway.document = b'{"models": {"emotion": {"canary_percent": null}, "keypoints": {}}}'
        with Client(rest_address, canary="auto", split=gateway.split) as client:
            assert client.analyze(rollout.faces(1)).versions == STABLE


def _listening():
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


FORKED = r"""
import os, sys, signal, time
import numpy as np
from mien_client import Client

signal.alarm(100)  # Ends a process that hangs.
address, split = sys.argv[1:]
image = np.zeros((48, 48), np.uint8)
client = Client(address, canary="auto", split=split)

def version():
    return client.analyze(image).versions["emotion"]

def until(wanted):
    while version() != wanted:
        time.sleep(0.02)

until(1)
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        signal.alarm(60)
        first = version()
        os.write(1, b"forked\n")  # A line as a whole: two children write to one pipe.
        until(2)
        os._exit(0 if first == 1 else 1)
    children.append(child)
until(2)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_forked_children_follow_the_split_too(request, operators, rollout, kind):
    address = request.getfixturevalue(f"{kind}_address")
    command = [sys.executable, "-c", FORKED, address, str(operators.split)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "forked\n"
        operators.set(emotion=100, keypoints=100)
        assert process.stdout.read() == "[0, 0]\n"
    assert process.returncode == 0


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"canary": "auto"}, "because canary is 'auto'; got neither"),
        ({"canary": "auto", "split": "gateway:8080"}, "or the path of a split.json, for split, got 'gateway:8080'"),
        ({"canary": "auto", "split": "http://gateway:8080/v1"}, "got a path or a query"),
        ({"canary": "auto", "split": "http://somebody:secret@gateway"}, "use token or api_key instead"),
        ({"canary": "auto", "split": "http://gateway", "tls": True}, "Expected an https:// address"),
        ({"canary": 0.1, "split": "split.json"}, "Expected canary='auto' with split, got canary=0.1"),
        ({"split": "split.json"}, "Expected canary='auto' with split"),
        ({"canary": "automatic"}, "Expected a number from 0 to 1, or 'auto', for canary, got 'automatic'"),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, options, problem):
    before = set(followers())
    with pytest.raises(ConfigurationError, match=problem) as raised:
        kind("localhost:8500", **options)
    assert "secret" not in str(raised.value)
    assert set(followers()) <= before


def test_a_transport_of_ones_own_is_split_too(tmp_path):
    def answer(request):
        version = 2 if request.target.label == "canary" else 1
        shape = (1, 5) if request.model == "emotion" else (1, 15, 2)
        return Answer(np.full(shape, 0.2), version)

    operators = File(tmp_path / "split.json")
    operators.set(emotion=100)
    client = Client(transport=MockTransport(answer), canary="auto", split=operators.split)
    assert client.analyze(np.zeros((48, 48), np.uint8)).versions == {"emotion": 2, "keypoints": 1}
    client.close()
