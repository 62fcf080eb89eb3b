"""With `hedge`, a request that takes unusually long is sent a second time."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client import Client, ConfigurationError
from mien_client._calls.call import Call
from mien_client._calls.latencies import KEPT, NEEDED, Latencies

from tests.waiting import until


@pytest.fixture(autouse=True)
def _adopted(backend):
    """No call asks for a label that is missing, which would be one more request."""
    backend.adopt()


def asked_for_emotions(backend):
    return sum(model == "emotion" for model, *_ in backend.asked)


@pytest.fixture
def warm(address, backend):
    """Yield a client that knows how long answers take."""
    with Client(address, hedge=0.9, timeout=20) as client:
        client.analyze(backend.faces(1))
        for _ in range(NEEDED):
            client._latencies.note(0.02)
        backend.asked.clear()
        backend.answered.clear()
        yield client


def test_the_answer_that_arrives_first_is_used(warm, backend):
    images, slow, released = backend.faces(2), [True], threading.Event()

    def one_is_slow(model, version):
        if model == "emotion" and slow and slow.pop():
            released.wait(60)

    backend.before_answer = one_is_slow
    analysis = warm.analyze(images)
    np.testing.assert_allclose(analysis.probabilities, backend.values("emotion", 1, images), atol=1e-6)
    assert asked_for_emotions(backend) == 2
    assert sum(model == "emotion" for model, *_ in backend.answered) == 1
    released.set()


def test_a_single_server_gets_at_most_one_further_request(warm, backend):
    def answer_after_two(model, version):
        if model == "emotion":
            until(lambda: asked_for_emotions(backend) > 1, timeout_s=30)
            time.sleep(0.3)  # A third would come now.

    backend.before_answer = answer_after_two
    warm.analyze(backend.faces(1))
    assert asked_for_emotions(backend) == 2


def test_waiting_for_the_answers_takes_no_processor_time(warm, backend, monkeypatch):
    pause, pauses = Call.pause, []

    def note(call):
        pauses.append(pause(call))
        return pauses[-1]

    monkeypatch.setattr(Call, "pause", note)
    backend.delays["emotion"] = 0.5
    warm.analyze(backend.faces(1))
    assert len(pauses) < 10


def test_without_retry_budget_no_request_is_hedged(warm, backend):
    while warm._retries.take():
        pass
    backend.delays["emotion"] = 0.3
    warm.analyze(backend.faces(1))
    assert asked_for_emotions(backend) == 1


def test_requests_are_hedged_only_if_the_client_enables_it(client, backend):
    for _ in range(NEEDED):
        client.analyze(backend.faces(1))
    backend.asked.clear()
    backend.delays["emotion"] = 0.3
    client.analyze(backend.faces(1))
    assert len(backend.asked) == 2


@pytest.mark.parametrize("wrong", [0, 0.4, 1, "0.9", float("nan")])
def test_an_invalid_share_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="to below 1 for hedge, such as"):
        Client("localhost:8500", hedge=wrong)


@given(st.lists(st.floats(0, 10), max_size=KEPT + 50), st.floats(0.5, 0.99))
def test_the_quantile_is_of_the_latest_answers(seconds, share):
    latencies = Latencies()
    for each in seconds:
        latencies.note(each)
    latest = seconds[-KEPT:]
    quantile = latencies.quantile(share)
    if len(latest) < NEEDED:
        assert quantile is None
    else:
        assert sum(each <= quantile for each in latest) >= share * len(latest)
        assert sum(each < quantile for each in latest) <= share * len(latest)
