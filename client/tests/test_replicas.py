"""Several servers: calls take turns, and one that dies, freezes or lacks a model fails none."""

import concurrent.futures
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
    UnavailableError,
    _replicas,
)
from mien_client._replicas import FIRST_REST, LONGEST_REST, Replicas

CALLERS = 6


class Load:
    """Callers that ask all the time; every call's answers are compared with what they must be."""

    def __init__(self, client, backend):
        self.client = client
        self.images = backend.faces(40)
        self.probabilities = backend.values("emotion", 1, self.images)
        self.keypoints = backend.values("keypoints", 1, self.images)
        self.stop = threading.Event()
        self.calls = 0

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(CALLERS)
        self.callers = [self.pool.submit(self.call, seed) for seed in range(CALLERS)]
        return self

    def call(self, seed):
        random = np.random.default_rng(seed)
        results = 0
        while not self.stop.is_set():
            chosen = random.integers(0, 40, random.integers(1, 5))
            analysis = self.client.analyze(self.images[chosen])
            np.testing.assert_allclose(analysis.probabilities, self.probabilities[chosen], atol=1e-6)
            np.testing.assert_allclose(analysis.keypoints, self.keypoints[chosen], atol=1e-5)
            results += 1
        return results

    def __exit__(self, *error):
        self.stop.set()
        self.pool.shutdown()
        self.results = [caller.result() for caller in self.callers]


@pytest.fixture(params=["grpc", "rest"])
def client_of_three(request, processes):
    with Client([process.addresses[request.param] for process in processes], timeout=20) as client:
        client.wait_ready(10)
        yield client


def test_killing_and_restarting_a_replica_under_load_loses_no_call(client_of_three, processes, backend):
    with Load(client_of_three, backend) as load:
        time.sleep(0.3)
        processes[1].kill()
        time.sleep(0.3)
        processes[1].start()
        time.sleep(0.5)
    assert all(load.results)


def test_freezing_a_replica_under_load_loses_no_call(client_of_three, processes, backend):
    with Load(client_of_three, backend) as load:
        time.sleep(0.3)
        processes[2].send(signal.SIGSTOP)
        try:
            time.sleep(1.5)
        finally:
            processes[2].send(signal.SIGCONT)
        time.sleep(0.2)
    assert all(load.results)


def test_a_name_that_stands_for_several_servers(processes, backend):
    """gRPC's own list of addresses takes the way that a name in the DNS takes."""
    ports = ",".join(process.addresses["grpc"] for process in processes)
    with Client(f"ipv4:{ports}", timeout=20) as client, Load(client, backend) as load:
        time.sleep(0.3)
        processes[0].kill()
        time.sleep(0.3)
        processes[0].start()
        time.sleep(0.3)
    assert all(load.results)


def test_a_name_in_the_dns(grpc_address, backend):
    with Client(f"dns:///localhost:{grpc_address.rpartition(':')[2]}", timeout=10) as client:
        assert len(client.analyze(backend.faces(2))) == 2


def test_calls_take_turns(replicas):
    with Client(replicas.addresses) as client:
        for _ in range(9):
            client.analyze(replicas.backends[0].faces(1))
    assert replicas.asked() == [6, 6, 6]


def test_all_requests_of_a_call_go_to_one_server(replicas):
    """Servers get new versions one after the other, and the answers of a call must be of one."""
    for version, backend in enumerate(replicas.backends, start=1):
        backend.versions = {"emotion": {version}, "keypoints": {version}}
    with Client(replicas.addresses, timeout=60) as client:
        for version in (1, 2, 3):
            analysis = client.analyze(replicas.backends[0].faces(256 * 5))
            assert analysis.versions == {"emotion": version, "keypoints": version}
    assert replicas.asked() == [10, 10, 10]


def test_a_server_that_lacks_the_version_passes_the_request_on(replicas):
    replicas.backends[2].versions = {"emotion": {1, 7}, "keypoints": {1}}
    with Client(replicas.addresses, max_attempts=1) as client:
        for _ in range(3):
            assert client.analyze(replicas.backends[0].faces(1), emotion_version=7).versions["emotion"] == 7


def test_a_server_that_has_no_models_yet_passes_requests_on(replicas):
    replicas.backends[0].versions = {}
    with Client(replicas.addresses) as client:
        for _ in range(6):
            client.analyze(replicas.backends[0].faces(1))
        assert replicas.asked()[0] <= 2  # Once it has said so it is left alone...
        replicas.backends[0].versions = {"emotion": {1}, "keypoints": {1}}
        asked, end = replicas.asked()[0], time.monotonic() + 20
        while replicas.asked()[0] == asked and time.monotonic() < end:
            client.analyze(replicas.backends[0].faces(1))
            time.sleep(0.02)
    assert replicas.asked()[0] > asked  # ... until it has them.


def test_what_no_server_has_is_an_error(replicas):
    for backend in replicas.backends:
        del backend.versions["emotion"]
    with Client(replicas.addresses) as client:
        with pytest.raises(ModelNotFoundError) as caught:
            client.analyze(backend.faces(1))
        assert caught.value.endpoint in replicas.addresses
        assert caught.value.attempts == 3


def test_a_bad_request_is_not_passed_on(replicas, failure):
    for backend in replicas.backends:
        backend.failures["emotion"] = failure("INVALID_ARGUMENT", "no")
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


def test_a_server_that_does_not_answer_holds_nobody_up(replicas, monkeypatch):
    """After a second the request goes to another server too, and the first answer counts."""
    monkeypatch.setattr(_replicas, "FIRST_REST", 60)
    replicas.backends[0].delays["emotion"] = 2.5
    images = replicas.backends[0].faces(2)
    with Client(replicas.addresses, timeout=2) as client:
        analysis = client.analyze(images)
        np.testing.assert_allclose(analysis.probabilities, replicas.backends[1].values("emotion", 1, images), atol=1e-6)
        for _ in range(6):
            client.analyze(images)
    assert replicas.asked()[0] == 2  # It was left alone after that.
    assert len(replicas.backends[0].answered) == 1


def test_when_nobody_answers_it_is_the_deadline(replicas):
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
        with pytest.raises(UnavailableError, match=r"not ready after 0.2 s") as caught:
            client.wait_ready(0.2)
        assert all(address in str(caught.value) for address in replicas.addresses)


def test_status_comes_from_one_that_answers(replicas, monkeypatch, failure):
    def broken(model):
        raise failure("UNAVAILABLE", "down")

    monkeypatch.setattr(replicas.backends[0], "status", broken)
    with Client(replicas.addresses) as client:
        for _ in range(3):
            assert set(client.status()) == {"emotion", "keypoints"}


def test_addresses_that_are_none_are_refused():
    with pytest.raises(ConfigurationError, match="no address in the list"):
        Client([])
    with pytest.raises(ConfigurationError, match="'nowhere' names no port"):
        Client(["localhost:8500", "nowhere"])


class Somebody:
    def __init__(self, endpoint):
        self.endpoint = endpoint


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


def test_rests_grow_up_to_a_limit(clock):
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


def test_an_answer_from_before_a_failure_proves_nothing(clock):
    replicas = Replicas([Somebody("a"), Somebody("b")])
    first = replicas.pick()
    replicas.failed(first, UnavailableError(""))
    replicas.answered(first, sent_at=clock[0] - 1)
    assert first.down
    replicas.answered(first, sent_at=clock[0] + 1)
    assert not first.down


def test_a_slow_answer_is_not_silence(clock):
    replicas = Replicas([Somebody("a"), Somebody("b")])
    first = replicas.pick()
    clock[0] += 5
    replicas.answered(first)
    replicas.silent(first, since=clock[0] - 1)
    assert not first.down
    replicas.silent(first, since=clock[0] + 1)
    assert first.down
