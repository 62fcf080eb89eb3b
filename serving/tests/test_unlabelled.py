"""Requests that name neither a version nor a label are counted, for `mien rollout` and for Prometheus."""

import pytest
from mien_serving.core import unlabelled
from mien_serving.core.unlabelled import UnlabelledRequests


@pytest.fixture
def clock(monkeypatch):
    """The time of the counts, which stands still until it is set."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr("time.monotonic", lambda: Clock.now)
    return Clock


def test_are_counted_for_models_that_have_the_label_stable(clock):
    requests = UnlabelledRequests()
    requests.set_models(["emotion"])
    clock.now += 100
    for model in ("emotion", "emotion", "keypoints"):
        requests.add(model)
    assert requests.seen("emotion") == (2, 100 - unlabelled.NOTICED_S)
    assert requests.seen("keypoints") is None


def test_are_not_counted_until_clients_have_noticed_the_label(clock):
    requests = UnlabelledRequests()
    requests.set_models(["emotion"])
    requests.add("emotion")
    assert requests.seen("emotion") == (0, 0)


def test_continue_to_be_counted_when_another_configuration_is_read(clock):
    requests = UnlabelledRequests()
    requests.set_models(["emotion"])
    clock.now += 10
    requests.add("emotion")
    requests.set_models(["emotion", "keypoints"])
    assert requests.seen("emotion") == (1, 10 - unlabelled.NOTICED_S)
    requests.set_models(["keypoints"])
    requests.set_models(["emotion"])
    assert requests.seen("emotion") == (0, 0)
