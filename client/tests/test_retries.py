"""Which requests are retried, how often, and when they are not."""

import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client import (
    BadRequestError,
    Client,
    ConfigurationError,
    DeadlineExceededError,
    InvalidImageError,
    MienError,
    ServerError,
    UnavailableError,
)
from mien_client._calls.halves import Half
from mien_client._calls.retries import BUDGET, FIRST_PAUSE, LONGEST_PAUSE, Retries


@pytest.fixture(autouse=True)
def _adopted(backend):
    backend.adopt()


def asked(backend, model):
    return sum(name == model for name, *_ in backend.asked)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_a_temporary_failure_is_retried(client, backend, failure, code):
    images = backend.faces(3)
    backend.hiccups["emotion"] = [failure(code, "queue full")] * 2
    np.testing.assert_allclose(client.analyze(images).probabilities, backend.values("emotion", 1, images), atol=1e-6)
    assert (asked(backend, "emotion"), asked(backend, "keypoints")) == (3, 1)


def test_a_temporary_failure_of_one_chunk_repeats_only_that_chunk(client, backend, failure):
    images = backend.faces(256 * 4)
    client.analyze(images[:1])
    backend.asked.clear()
    backend.hiccups["keypoints"] = [failure("UNAVAILABLE", "gone")]
    np.testing.assert_allclose(client.analyze(images).keypoints, backend.values("keypoints", 1, images), atol=1e-5)
    assert (asked(backend, "emotion"), asked(backend, "keypoints")) == (4, 5)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "INTERNAL", "UNAUTHENTICATED", "DEADLINE_EXCEEDED"])
def test_a_permanent_failure_is_not_retried(client, backend, failure, code):
    backend.failures["emotion"] = failure(code, "no")
    with pytest.raises(MienError) as caught:
        client.analyze(backend.faces(1))
    assert asked(backend, "emotion") == 1
    assert caught.value.attempts == 1


def test_a_message_over_a_size_limit_is_sent_once(client, backend, failure):
    backend.failures["emotion"] = failure("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 8)")
    with pytest.raises(BadRequestError):
        client.analyze(backend.faces(1))
    assert asked(backend, "emotion") == 1


def test_an_error_has_the_number_of_attempts(client, backend, failure):
    backend.failures["keypoints"] = failure("UNAVAILABLE", "down for good")
    with pytest.raises(UnavailableError, match="down for good") as caught:
        client.analyze(backend.faces(1))
    assert caught.value.attempts == asked(backend, "keypoints") == 5


def test_an_error_before_the_first_request_has_no_attempts(client):
    with pytest.raises(InvalidImageError) as caught:
        client.analyze([1, 2])
    assert caught.value.attempts == 0


def test_the_last_failure_is_raised(client, backend, failure):
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", "queue full"), failure("INTERNAL", "broken")]
    with pytest.raises(ServerError, match="broken") as caught:
        client.analyze(backend.faces(1))
    assert caught.value.attempts == 2


def test_retries_can_be_switched_off(address, backend, failure):
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", "queue full")]
    with Client(address, max_attempts=1) as client:
        with pytest.raises(UnavailableError) as caught:
            client.analyze(backend.faces(1))
        assert caught.value.attempts == 1
        client.analyze(backend.faces(1))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3", None])
def test_an_invalid_number_of_attempts_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="Expected a positive integer for max_attempts, got"):
        Client("localhost:8500", max_attempts=wrong)


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_server_that_comes_back_is_found_again(scheme, backend):
    """First no server listens; then one closes every connection; the client has tried both."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        seen = threading.Event()

        def open_late():
            time.sleep(0.1)
            listener.listen()
            connection, _ = listener.accept()
            seen.set()
            connection.close()

        thread = threading.Thread(target=open_late, daemon=True)
        thread.start()
        client = Client(f"{scheme}127.0.0.1:{listener.getsockname()[1]}", timeout=2.5, max_attempts=50)
        with client, pytest.raises(MienError) as caught:
            client.analyze(backend.faces(1))
        assert seen.is_set()
        assert caught.value.attempts > 1


def test_all_attempts_share_the_deadline_of_the_call(address, backend, failure):
    """Each attempt takes a third of the deadline, so there are at most three, and the last one is cut short."""
    backend.delays["emotion"] = 0.3
    backend.failures["emotion"] = failure("UNAVAILABLE", "slow and broken")
    client = Client(address, timeout=0.8, max_attempts=1000)
    with client, pytest.raises((UnavailableError, DeadlineExceededError)) as caught:
        client.analyze(backend.faces(1))
    assert 1 <= caught.value.attempts <= 3


def test_the_deadline_is_for_all_chunks_together(client, backend):
    backend.delays["keypoints"] = 0.2
    with pytest.raises(DeadlineExceededError, match=r"within 0.5 s"):
        client.analyze(backend.faces(256 * 40), timeout=0.5)


def test_when_one_model_has_failed_the_other_is_not_sent_again(client, backend, failure, monkeypatch):
    known, failed, find = threading.Event(), Half.failed, backend.find

    def note(half, request, error):
        failed(half, request, error)
        known.set()

    def wait(model, *selection):
        assert model == "emotion" or known.wait(10)
        return find(model, *selection)

    monkeypatch.setattr(Half, "failed", note)
    monkeypatch.setattr(backend, "find", wait)
    backend.failures = {"emotion": failure("INTERNAL", "broken"), "keypoints": failure("UNAVAILABLE", "too")}
    with pytest.raises(ServerError) as caught:
        client.analyze(backend.faces(1))
    assert asked(backend, "keypoints") == 1
    assert "too" in caught.value.__notes__[0]


def test_without_retry_budget_requests_are_not_retried(client, backend, failure):
    """Once the budget is spent, a failing server gets one request for each call and model, and no more."""
    backend.failures = dict.fromkeys(("emotion", "keypoints"), failure("UNAVAILABLE", "overloaded"))
    while client._retries.take():
        pass
    for _ in range(10):
        with pytest.raises(UnavailableError):
            client.analyze(backend.faces(1))
    assert len(backend.asked) == 20


def test_status_requests_are_retried(client, backend, failure, monkeypatch):
    status, failures = backend.status, [failure("UNAVAILABLE", "starting")]

    def hiccup(model):
        if failures:
            raise failures.pop()
        return status(model)

    monkeypatch.setattr(backend, "status", hiccup)
    assert set(client.status()) == {"emotion", "keypoints"}


def test_the_budget_is_earned_back_by_answers():
    retries = Retries(5)
    assert sum(retries.take() for _ in range(1000)) == BUDGET
    for _ in range(50):
        retries.answered()
    assert sum(retries.take() for _ in range(1000)) in (9, 10)  # 50 times a fifth, in binary


@given(st.integers(1, 60))
def test_pauses_grow_up_to_a_limit_and_are_random(attempts):
    retries, error = Retries(1000), UnavailableError("")
    pauses = [retries.pause(attempts, error, remaining=60) for _ in range(20)]
    assert max(pauses) <= min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempts - 1))
    assert len(set(pauses)) > 1


def test_no_pause_ends_after_the_deadline():
    assert Retries(5).pause(1, UnavailableError(""), remaining=0) is None


def test_a_closed_client_does_not_retry():
    retries = Retries(5)
    retries.close()
    assert retries.pause(1, UnavailableError(""), remaining=60) is None
