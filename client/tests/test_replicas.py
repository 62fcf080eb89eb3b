"""Calls go to several servers in turn; a server that dies, freezes or lacks a model fails no call."""

import concurrent.futures
import itertools
import signal
import threading
import time

import numpy as np
import pytest
from mien_client import (
    BadRequestError,
    Client,
    ConfigurationError,
    DeadlineExceededError,
    ModelNotFoundError,
    Transport,
    UnavailableError,
)
from mien_client._calls import call as calls
from mien_client._calls import replicas as client_replicas
from mien_client._calls.replicas import FIRST_REST, LONGEST_REST, Replicas

CALLERS = 5


def numbered(numbers):
    """Return faces whose numbers can be computed from the answers of either model."""
    images = np.zeros((len(numbers), 48, 48), np.uint8)
    images[:, :2, :3] = [[tuple(number.to_bytes(3))] for number in numbers]
    images[:, 0, 3] = 255
    return images


def numbers_of(face):
    """Return the number of a face as the emotion model saw it, and as the key point model did."""
    *digits, all_of_it, _ = face.probabilities.values()
    by_emotion = np.array(digits) / all_of_it * 256 - 1  # Version 1 adds 1 to each pixel.
    by_keypoints = (face.keypoints.ravel()[:3] - 1) / 47 * 255
    return tuple(int.from_bytes(digits.round().astype(np.uint8)) for digits in (by_emotion, by_keypoints))


class Load:
    """Callers and one stream that send requests continuously; each face is sent once, and all results are kept."""

    def __init__(self, client):
        self.client = client
        self.numbers = itertools.count()
        self.sent = []
        self.results = []
        self.stop = threading.Event()

    def next_numbers(self, count):
        numbers = [next(self.numbers) for _ in range(count)]
        self.sent += numbers
        return numbers

    def call(self):
        while not self.stop.is_set():
            self.results += map(numbers_of, self.client.analyze(numbered(self.next_numbers(3))))
            time.sleep(0.005)  # The servers need processors too.

    def stream(self):
        def images():
            while not self.stop.is_set():
                yield numbered(self.next_numbers(1))[0]
                time.sleep(0.002)

        self.results += map(numbers_of, self.client.analyze_iter(images(), batch_size=2, max_in_flight=2))

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(CALLERS + 1)
        self.callers = [self.pool.submit(self.call) for _ in range(CALLERS)] + [self.pool.submit(self.stream)]
        self.more()
        return self

    def more(self, count=200):
        """Wait for more results."""
        enough, end = len(self.results) + count, time.monotonic() + 60
        while len(self.results) < enough:
            assert time.monotonic() < end
            assert not any(caller.done() and caller.exception() for caller in self.callers)
            time.sleep(0.01)

    def all_up(self):
        """Wait until the client asks all servers again."""
        end = time.monotonic() + 60
        while any(replica.down for replica in self.client._replicas._replicas):
            assert time.monotonic() < end
            time.sleep(0.01)

    def __exit__(self, *error):
        self.stop.set()
        self.pool.shutdown()
        for caller in self.callers:
            caller.result()
        assert sorted(self.results) == [(number, number) for number in sorted(self.sent)]


@pytest.mark.parametrize("kind", ["grpc", "aio", "rest"])
def test_no_result_is_lost_or_doubled_while_replicas_die_freeze_and_come_back(kind, processes, awaited):
    first, second, third = processes
    addresses = [process.addresses["rest" if kind == "rest" else "grpc"] for process in processes]
    with (awaited if kind == "aio" else Client)(addresses, timeout=60) as client:
        client.wait_ready(30)
        with Load(client) as load:
            first.kill()
            load.more()
            second.send(signal.SIGSTOP)
            try:
                load.more()
                first.start()
            finally:
                second.send(signal.SIGCONT)
            load.all_up()
            third.kill()
            load.more()
            third.start()
            load.all_up()
            load.more()


def test_a_name_that_stands_for_several_servers(processes):
    """A list of addresses in gRPC's own syntax is resolved as a DNS name is."""
    ports = ",".join(process.addresses["grpc"] for process in processes)
    with Client(f"ipv4:{ports}", timeout=60) as client, Load(client) as load:
        processes[0].kill()
        load.more()
        processes[0].start()
        load.more()


def test_a_name_in_the_dns(grpc_address, backend):
    with Client(f"dns:///localhost:{grpc_address.rpartition(':')[2]}", timeout=10) as client:
        assert len(client.analyze(backend.faces(2))) == 2


@pytest.mark.usefixtures("patient")
def test_calls_go_to_the_servers_in_turn(replicas):
    replicas.adopt()
    with Client(replicas.addresses) as client:
        for _ in range(9):
            client.analyze(replicas.backends[0].faces(1))
    assert replicas.asked() == [6, 6, 6]


def test_all_requests_of_a_call_go_to_one_server(replicas, monkeypatch):
    """Servers get new versions one after the other, and all answers of a call must be of the same version."""
    monkeypatch.setattr(calls, "PATIENCE_SECONDS", 60)
    for version, backend in enumerate(replicas.backends, start=1):
        backend.versions = {"emotion": {version}, "keypoints": {version}}
    replicas.adopt()
    with Client(replicas.addresses, timeout=60) as client:
        for version in (1, 2, 3):
            analysis = client.analyze(replicas.backends[0].faces(256 * 5))
            assert analysis.versions == {"emotion": version, "keypoints": version}
    assert replicas.asked() == [10, 10, 10]


@pytest.mark.usefixtures("patient")
def test_a_request_for_a_version_that_a_server_lacks_goes_to_another(replicas):
    replicas.backends[2].versions = {"emotion": {1, 7}, "keypoints": {1}}
    with Client(replicas.addresses, max_attempts=1) as client:
        for _ in range(3):
            assert client.analyze(replicas.backends[0].faces(1), emotion_version=7).versions["emotion"] == 7


@pytest.mark.usefixtures("patient")
def test_requests_to_a_server_without_models_go_to_another(replicas):
    replicas.adopt()
    first = replicas.backends[0]
    first.versions = {}

    def asked_by_callers():
        return [count for *_, count in first.asked].count(2)  # Probes have one face.

    with Client(replicas.addresses) as client:
        for _ in range(6):
            client.analyze(first.faces(2))
        assert asked_by_callers() <= 2  # Once it has said so it is left alone...
        first.versions = {"emotion": {1}, "keypoints": {1}}
        asked, end = asked_by_callers(), time.monotonic() + 20
        while asked_by_callers() == asked and time.monotonic() < end:
            client.analyze(first.faces(2))
            time.sleep(0.02)
    assert asked_by_callers() > asked  # ... until it has them.


@pytest.mark.usefixtures("patient")
def test_a_version_that_no_server_has_is_an_error(replicas):
    for backend in replicas.backends:
        del backend.versions["emotion"]
    with Client(replicas.addresses) as client:
        with pytest.raises(ModelNotFoundError) as caught:
            client.analyze(backend.faces(1))
        assert caught.value.endpoint in replicas.addresses
        assert caught.value.attempts == 3


@pytest.mark.usefixtures("patient")
def test_an_invalid_request_is_not_sent_to_another_server(replicas, failure):
    for backend in replicas.backends:
        backend.failures["emotion"] = failure("INVALID_ARGUMENT", "no")
    replicas.adopt()
    with Client(replicas.addresses) as client, pytest.raises(BadRequestError):
        client.analyze(backend.faces(1))
    assert sum(model == "emotion" for backend in replicas.backends for model, *_ in backend.asked) == 1


def test_when_all_are_down_all_are_asked(replicas, failure):
    for backend in replicas.backends:
        backend.failures["keypoints"] = failure("UNAVAILABLE", "down")
    with Client(replicas.addresses) as client:
        with pytest.raises(UnavailableError, match="down"):
            client.analyze(backend.faces(1))
        assert all(replicas.asked())
        for backend in replicas.backends:
            backend.failures.clear()
        client.analyze(backend.faces(1))


def test_a_server_that_does_not_answer_delays_no_call(replicas, monkeypatch):
    """After a second the request goes to another server too, and the first answer counts."""
    monkeypatch.setattr(client_replicas, "FIRST_REST", 60)
    replicas.adopt()
    thawed = threading.Event()
    replicas.backends[0].before_answer = lambda model, version: thawed.wait(60)
    images = replicas.backends[0].faces(2)
    try:
        with Client(replicas.addresses, timeout=20) as client:
            analysis = client.analyze(images)
            expected = replicas.backends[1].values("emotion", 1, images)
            np.testing.assert_allclose(analysis.probabilities, expected, atol=1e-6)
            for _ in range(6):
                client.analyze(images)
        assert replicas.asked()[0] == 2  # It was left alone after that.
        assert replicas.backends[0].answered == []
    finally:
        thawed.set()


def test_when_no_server_answers_the_deadline_ends_the_call(replicas):
    for backend in replicas.backends:
        backend.delays["emotion"] = 2
    with Client(replicas.addresses, timeout=0.6) as client, pytest.raises(DeadlineExceededError, match=r"within 0.6 s"):
        client.analyze(backend.faces(1))


def test_ready_when_one_of_them_is(replicas):
    for backend in replicas.backends[:2]:
        backend.versions = {}
    with Client(replicas.addresses) as client:
        client.wait_ready(5)
        client.analyze(backend.faces(1))
        replicas.backends[2].versions = {"emotion": {1}}
        with pytest.raises(UnavailableError, match="not ready after 1 s") as caught:
            client.wait_ready(1)
        assert all(address in str(caught.value) for address in replicas.addresses)


def test_status_comes_from_one_that_answers(replicas, monkeypatch, failure):
    def broken(model):
        raise failure("UNAVAILABLE", "down")

    monkeypatch.setattr(replicas.backends[0], "status", broken)
    with Client(replicas.addresses) as client:
        for _ in range(3):
            assert set(client.status()) == {"emotion", "keypoints"}


def test_invalid_addresses_are_refused():
    with pytest.raises(ConfigurationError, match=r"at least one address such as .*, got an empty list"):
        Client([])
    with pytest.raises(ConfigurationError, match="got 'nowhere'"):
        Client(["localhost:8500", "nowhere"])


class Somebody(Transport):
    def __init__(self, endpoint):
        self.endpoint = endpoint

    def predict(self, request):
        raise NotImplementedError


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def picks(replicas, count):
    return [replicas.pick().transport.endpoint for _ in range(count)]


def test_a_replica_that_failed_rests_and_is_probed_before_it_is_asked_again(clock):
    replicas = Replicas([Somebody("a"), Somebody("b")])
    first = replicas.pick()
    replicas.failed(first, UnavailableError(""))
    assert picks(replicas, 4) == ["b"] * 4
    assert replicas.to_probe() == []
    clock[0] += FIRST_REST
    assert replicas.to_probe() == [first]
    assert replicas.to_probe() == []  # One probe is enough.
    assert picks(replicas, 4) == ["b"] * 4
    replicas.probed(first, None)
    assert sorted(picks(replicas, 4)) == ["a", "a", "b", "b"]


def test_pauses_of_a_failing_replica_grow_up_to_a_limit(clock):
    replicas = Replicas([Somebody("a"), Somebody("b")])
    first = replicas.pick()
    replicas.failed(first, UnavailableError(""))
    rests = []
    for _ in range(8):
        start = clock[0]
        while not replicas.to_probe():
            clock[0] += FIRST_REST / 2
        rests.append(clock[0] - start)
        replicas.probed(first, UnavailableError(""))
    assert rests[:3] == [FIRST_REST, FIRST_REST * 2, FIRST_REST * 4]
    assert rests[-1] == LONGEST_REST


def test_an_answer_to_a_request_from_before_the_failure_does_not_count(clock):
    replicas = Replicas([Somebody("a"), Somebody("b")])
    first = replicas.pick()
    replicas.failed(first, UnavailableError(""))
    replicas.answered(first, sent_at=clock[0] - 1)
    assert first.down
    replicas.answered(first, sent_at=clock[0] + 1)
    assert not first.down


def test_a_slow_answer_is_not_a_failure(clock):
    replicas = Replicas([Somebody("a"), Somebody("b")])
    first = replicas.pick()
    clock[0] += 5
    replicas.answered(first)
    replicas.silent(first, since=clock[0] - 1)
    assert not first.down
    replicas.silent(first, since=clock[0] + 1)
    assert first.down


def test_a_name_is_ready_although_one_of_its_servers_is_frozen(processes):
    """A request that meets the frozen server is not waited for until the end."""
    ports = ",".join(process.addresses["grpc"] for process in processes)
    with Client(f"ipv4:{ports}", timeout=30) as client:
        client.wait_ready(30)
        for _ in range(3):
            client.analyze(np.zeros((48, 48), np.uint8))  # A connection to each server is open.
        processes[1].send(signal.SIGSTOP)
        try:
            for _ in range(3):
                client.wait_ready(20)
        finally:
            processes[1].send(signal.SIGCONT)
