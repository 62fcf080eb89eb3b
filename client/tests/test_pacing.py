"""When a server's queue is full, clients send less at a time, and every call is answered."""

import collections
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client import BadRequestError, Client, DeadlineExceededError, UnavailableError
from mien_client._calls.pacing import LONGEST_PAUSE, SMALLEST_REQUEST, Pacer, Turn

from tests.waiting import until

FULL = "The batch scheduling queue to which this task was submitted is full; currently 8 tasks enqueued"


class Queue:
    """A queue in front of each model that takes a number of faces and refuses requests that do not fit."""

    def __init__(self, backend, failure, size, code="UNAVAILABLE", seconds=0.002):
        self.predict, self.failure, self.size, self.code, self.seconds = backend.predict, failure, size, code, seconds
        self.lock, self.workers = threading.Lock(), collections.defaultdict(threading.Lock)
        self.faces: collections.Counter[str] = collections.Counter()
        self.refused = []
        self.answered: collections.Counter[tuple[str, bytes]] = collections.Counter()
        backend.predict = self

    def __call__(self, model, version, label, images):
        with self.lock:
            worker = self.workers[model]
            if self.faces[model] + len(images) > self.size:
                self.refused.append(len(images))
                raise self.failure(self.code, FULL if self.code == "UNAVAILABLE" else "Server Threadpool Exhausted")
            self.faces[model] += len(images)
        try:
            with worker:
                time.sleep(self.seconds)
                self.answered.update((model, image.tobytes()) for image in images)
                return self.predict(model, version, label, images)
        finally:
            with self.lock:
                self.faces[model] -= len(images)


@pytest.fixture(autouse=True)
def _adopted(backend):
    backend.adopt()


def assert_right(analysis, backend, images):
    np.testing.assert_allclose(analysis.probabilities, backend.values("emotion", 1, images), atol=1e-6)
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", 1, images), atol=1e-5)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
@pytest.mark.parametrize("size", [1024, 100])
def test_many_large_calls_are_answered_and_no_face_is_computed_twice(client, backend, failure, code, size):
    """A queue of 100 faces refuses a request of 256 faces, which is then sent in parts."""
    queue = Queue(backend, failure, size, code)
    images = [backend.faces(600, seed=caller) for caller in range(6)]
    with ThreadPoolExecutor(6) as pool:
        analyses = list(pool.map(lambda faces: client.analyze(faces, timeout=60), images))
    for analysis, faces in zip(analyses, images, strict=True):
        assert_right(analysis, backend, faces)
    assert set(queue.answered.values()) == {1}
    assert len(queue.answered) == 2 * 6 * 600


def test_one_large_call_over_a_small_queue(client, backend, failure):
    queue = Queue(backend, failure, 40)
    images = backend.faces(300)
    assert_right(client.analyze(images, timeout=60), backend, images)
    assert set(queue.answered.values()) == {1}


def test_a_server_that_stays_full_gets_few_requests(client, backend, failure):
    queue = Queue(backend, failure, 0)

    def ask(caller):
        with pytest.raises((UnavailableError, DeadlineExceededError)) as caught:
            client.analyze(backend.faces(600, seed=caller), timeout=2)
        return caught.value

    with ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(ask, range(8)))
    assert all(error.retryable for error in errors)
    assert any("is full" in str(error) and error.attempts for error in errors)
    # Each call finds the server full with its first two requests; then one at a time asks, after growing pauses.
    assert len(queue.refused) <= 8 * 2 + 20
    assert min(queue.refused) <= 64
    assert sum(size > 64 for size in queue.refused) <= 8 * 2 + 2  # What is asked later is small.


def test_without_retries_the_refusal_is_raised(address, backend, failure):
    Queue(backend, failure, 10)
    with (
        Client(address, max_attempts=1, timeout=10) as client,
        pytest.raises(UnavailableError, match="is full") as caught,
    ):
        client.analyze(backend.faces(11))
    assert caught.value.attempts == 1


def test_refusals_do_not_use_up_the_attempts(client, backend, failure):
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", FULL)] * 7
    assert_right(client.analyze(backend.faces(3), timeout=60), backend, backend.faces(3))
    assert [model for model, *_ in backend.asked].count("emotion") == 8


def test_another_failure_between_refusals_is_raised(client, backend, failure):
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", FULL), failure("INVALID_ARGUMENT", "no")]
    with pytest.raises(BadRequestError, match="refused the request") as caught:
        client.analyze(backend.faces(3))
    assert caught.value.attempts == 2


def test_a_request_that_a_full_server_refuses_is_sent_to_another(replicas, failure):
    replicas.adopt()
    Queue(replicas.backends[0], failure, 0)
    images = replicas.backends[0].faces(300)
    with Client(replicas.addresses, timeout=30) as client:
        for _ in range(6):
            assert_right(client.analyze(images), replicas.backends[1], images)


def test_closing_the_client_ends_a_call_that_waits_for_room(client, backend, failure):
    queue = Queue(backend, failure, 0)

    def close():
        until(lambda: len(queue.refused) > 3)  # After two for each model the call has waited, and waits again.
        client.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(UnavailableError):
        client.analyze(backend.faces(3), timeout=60)
    closer.join()


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def nobody():
    pass


def test_without_a_refusal_no_request_waits(clock):
    pacer = Pacer()
    assert [pacer.take(Turn(nobody), 256) for _ in range(100)] == [256] * 100


def test_after_a_refused_burst_the_limit_is_what_was_accepted(clock):
    pacer, turn = Pacer(), Turn(nobody)
    for _ in range(100):
        pacer.take(turn, 256)
    sent_at = clock[0]
    clock[0] += 1
    for _ in range(92):
        pacer.refused(256, sent_at)
    clock[0] += LONGEST_PAUSE
    assert pacer.take(turn, 256) == 0  # Eight requests are on their way still.
    pacer.answered(256)
    assert pacer.take(turn, 256) == 256
    assert pacer.take(turn, 256) == 0


def test_older_calls_take_precedence(clock):
    woken = []
    older, younger = Turn(lambda: woken.append("older")), Turn(lambda: woken.append("younger"))
    pacer = Pacer()
    pacer.take(older, 256)
    pacer.refused(256, clock[0])
    clock[0] += LONGEST_PAUSE
    assert pacer.take(younger, 256) == 128
    assert pacer.take(younger, 256) == 0
    assert pacer.take(older, 256) == 0
    pacer.answered(128)
    assert woken[-1] == "older"
    assert pacer.take(younger, 256) == 0
    assert pacer.take(older, 256) == 128
    pacer.leave(younger)


@given(st.lists(st.tuples(st.sampled_from(["answer", "refusal", "end"]), st.integers(1, 256)), max_size=60))
def test_there_is_always_room_for_one_request_after_a_pause(events):
    pacer, turn = Pacer(), Turn(nobody)
    for event, wanted in events:
        pacer._resume_at = 0
        count = pacer.take(turn, wanted)
        assert min(wanted, SMALLEST_REQUEST) <= count <= wanted
        if event == "answer":
            pacer.answered(count)
        elif event == "refusal":
            pacer.refused(count, time.monotonic())
        else:
            pacer.ended(count)
