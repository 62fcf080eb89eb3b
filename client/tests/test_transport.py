"""`Client(transport=…)`: answers from a function, and transports of one's own, without a server."""

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mien_client import (
    Answer,
    AsyncClient,
    Client,
    ConfigurationError,
    DeadlineExceededError,
    MockTransport,
    ServerError,
    Transport,
    UnavailableError,
    UnexpectedResponseError,
    VersionNotFoundError,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)
DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "testing.md"


def answer(request):
    """Answer with numbers that differ between images."""
    brightness = request.images.mean(axis=(1, 2)).astype(np.float32) / 255
    if request.model == "emotion":
        return Answer(np.stack([brightness, 1 - brightness, *[brightness * 0] * 3], axis=1), version=3)
    return Answer(np.tile(brightness[:, np.newaxis, np.newaxis], (1, 15, 2)), version=4)


def is_right(analysis, images=IMAGES):
    brightness = images.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(analysis.probabilities[:, 0], brightness, rtol=1e-6)
    np.testing.assert_allclose(analysis.keypoints[:, 7, 1], brightness, rtol=1e-6)
    return True


@pytest.mark.parametrize("number", range(4))
def test_the_snippets_of_the_docs_page_run_as_pasted(number):
    snippet = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)[number]
    names: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(snippet, DOCS.name, "exec"), names)
    for name, value in list(names.items()):
        if name.startswith("test_"):
            value()


def test_the_docs_page_has_these_snippets_only():
    assert DOCS.read_text(encoding="utf-8").count("```python\n") == 4


def test_answers_come_from_a_function():
    with Client(transport=MockTransport(answer)) as client:
        analysis = client.analyze(IMAGES)
        assert is_right(analysis)
        assert analysis.versions == {"emotion": 3, "keypoints": 4}
        assert len(list(client.analyze_iter(IMAGES, batch_size=2))) == 3
        client.wait_ready(timeout=5)
        assert client.status() == {"emotion": (), "keypoints": ()}
        assert repr(client) == "<Client of mock>"


def test_an_async_client_takes_answers_from_a_function():
    async def ask():
        async with AsyncClient(transport=MockTransport(answer)) as client:
            await client.wait_ready(timeout=5)
            return await client.analyze(IMAGES)

    assert is_right(asyncio.run(ask()))


def test_the_request_says_what_the_client_asks_for():
    seen = []

    def record(request):
        seen.append(request)
        return answer(request)

    with Client(transport=MockTransport(record), emotion_version=3, keypoint_version="canary", timeout=7) as client:
        client.analyze(IMAGES[0])
    emotion, keypoints = sorted(seen, key=lambda request: request.model)
    assert (emotion.model, emotion.target.version, emotion.output) == ("emotion", 3, "probabilities")
    assert (keypoints.model, keypoints.target.label, keypoints.output) == ("keypoints", "canary", "keypoints")
    np.testing.assert_array_equal(emotion.images, IMAGES[:1])
    assert 0 < emotion.deadline.remaining() <= emotion.deadline.timeout == 7


def test_both_models_are_asked_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)

    def meet(request):
        meeting.wait()
        return answer(request)

    with Client(transport=MockTransport(meet)) as client:
        assert is_right(client.analyze(IMAGES))


def test_failures_of_the_function_are_retried_as_those_of_a_server():
    attempts = []

    def fail_once(request):
        attempts.append(request.model)
        if attempts.count(request.model) == 1:
            raise UnavailableError("not yet")
        return answer(request)

    with Client(transport=MockTransport(fail_once, endpoint="mock:1")) as client:
        assert is_right(client.analyze(IMAGES))
    assert sorted(attempts) == ["emotion"] * 2 + ["keypoints"] * 2


def test_an_error_names_the_mock_transport():
    def fail(request):
        raise ServerError("broken")

    with Client(transport=MockTransport(fail, endpoint="mock:1")) as client, pytest.raises(ServerError) as caught:
        client.analyze(IMAGES)
    assert (caught.value.endpoint, caught.value.model, caught.value.attempts) == ("mock:1", "emotion", 1)


def test_a_label_that_is_missing_leads_to_the_newest_version():
    def without_labels(request):
        if request.target.label:
            raise VersionNotFoundError("no such label", label=request.target.label)
        return answer(request)

    with Client(transport=MockTransport(without_labels)) as client:
        assert is_right(client.analyze(IMAGES))


def test_a_slow_answer_exceeds_the_deadline():
    with Client(transport=MockTransport(lambda request: time.sleep(2)), timeout=0.2) as client:
        with pytest.raises(DeadlineExceededError, match="mock gave no answer"):
            client.analyze(IMAGES)
        with pytest.raises(UnavailableError, match="not ready after 1 s"):
            client.wait_ready(timeout=1)


def test_answers_are_checked_as_those_of_a_server():
    client = Client(transport=MockTransport(lambda request: Answer([[1.0]], version=1)))
    with client, pytest.raises(UnexpectedResponseError, match=r"at mock has an output .* of shape"):
        client.analyze(IMAGES)


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_a_mistake_in_the_function_reaches_the_caller(make):
    def ask(function):
        client = make(transport=MockTransport(function))
        return client.analyze(IMAGES) if make is Client else asyncio.run(client.analyze(IMAGES))

    with pytest.raises(ZeroDivisionError):
        ask(lambda request: 1 / 0)
    with pytest.raises(TypeError, match="Expected an Answer from the function of a MockTransport, got NoneType"):
        ask(lambda request: None)


def test_several_transports_are_several_servers():
    def down(request):
        raise UnavailableError("down")

    with Client(transport=[MockTransport(down), MockTransport(answer)], max_attempts=2) as client:
        for _ in range(4):
            assert is_right(client.analyze(IMAGES))


class Pool(Transport):
    """A minimal transport of a user."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(4)
        self.closed = False

    def predict(self, request):
        return self.pool.submit(answer, request)

    def close(self):
        self.closed = True
        self.pool.shutdown()


def test_one_method_makes_a_transport_and_the_client_closes_it():
    transport = Pool()
    many = np.tile(IMAGES, (300, 1, 1))  # four requests
    with Client(transport=transport) as client:
        assert is_right(client.analyze(many), many)
        assert repr(client) == "<Client of the server>"
        assert not transport.closed
    assert transport.closed


def test_a_transport_needs_predict():
    with pytest.raises(TypeError, match="predict"):
        Transport()  # type: ignore[abstract]


def test_a_real_transport_can_be_watched(address, backend):
    class Watched(Transport):
        def __init__(self, transport):
            self.transport, self.count = transport, 0

        def predict(self, request):
            self.count += 1
            return self.transport.predict(request)

    with Client(address) as inner:
        watched = Watched(inner._replicas.transports[0])
        images = backend.faces(2)
        with Client(transport=watched, emotion_version="latest", keypoint_version="latest") as client:
            np.testing.assert_allclose(
                client.analyze(images).keypoints, backend.values("keypoints", 1, images), atol=1e-5
            )
    assert watched.count == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Expected an address such as 'localhost:8500', or a transport, got neither"),
        ({"address": "localhost:8500", "transport": MockTransport(answer)}, "got both"),
        ({"transport": MockTransport(answer), "tls": True}, "tls, .* do not go with transport"),
        ({"transport": []}, "at least one transport, got an empty list"),
        ({"transport": [answer]}, "Expected a Transport, got function"),
    ],
)
@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_an_address_or_a_transport_is_needed(make, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**arguments)
