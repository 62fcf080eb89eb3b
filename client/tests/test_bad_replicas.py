"""If one of several servers gives invalid answers, no call fails, and it is left out until its answers are valid."""

import time

import numpy as np
import pytest
from mien_client import AccessDeniedError, Client, ServerError, UnexpectedResponseError
from mien_client._calls import replicas as client_replicas

CALLS = 12

pytestmark = pytest.mark.usefixtures("patient")


def distorted(change):
    def spoil(backend, failure):
        backend.distortions = dict.fromkeys(("emotion", "keypoints"), change)

    return spoil


def replying(status, body):
    def spoil(backend, failure):
        backend.rest_reply = (status, body)

    return spoil


def garbled(reply):
    def spoil(backend, failure):
        backend.grpc_reply = reply

    return spoil


def failing(code):
    def spoil(backend, failure):
        backend.failures = dict.fromkeys(("emotion", "keypoints"), failure(code, "broken"))

    return spoil


def of_another_model(response):
    response.model_spec.name = "resnet"
    return response


ANY_TRANSPORT = {
    "wrong shape": distorted(lambda values: values[:, :1]),
    "infinities": distorted(lambda values: values + np.float32("inf")),
    "lacks the output": distorted(lambda values: None),
    "INTERNAL": failing("INTERNAL"),
    "UNAUTHENTICATED": failing("UNAUTHENTICATED"),
}
REST = {
    "status 302": replying(302, b""),
    "status 999": replying(999, b""),
    "status 404 of another server": replying(404, b"<h1>Nothing here</h1>"),
    "a list": replying(200, b"[]"),
    "not JSON": replying(200, b"hello"),
    "deep JSON": replying(200, b"[" * 100_000),
    "5,000 digits": replying(200, b'{"outputs": %s}' % (b"7" * 5000)),
}
GRPC = {
    "garbage": garbled(lambda response: b"\xff\xff\xff"),
    "an empty message": garbled(lambda response: b""),
    "another model": garbled(of_another_model),
}


@pytest.fixture(params=[*ANY_TRANSPORT, *REST, *GRPC])
def spoil(request, replicas):
    is_rest = replicas.addresses[0].startswith("http")
    if request.param in (GRPC if is_rest else REST):
        pytest.skip("for the other transport")
    return (ANY_TRANSPORT | REST | GRPC)[request.param]


def test_no_call_fails_and_the_bad_replica_is_left_out(replicas, spoil, failure, monkeypatch):
    monkeypatch.setattr(client_replicas, "FIRST_REST", 60)
    replicas.adopt()
    spoil(replicas.backends[0], failure)
    images = replicas.backends[0].faces(2)
    with Client(replicas.addresses, timeout=10) as client:
        for _ in range(CALLS):
            analysis = client.analyze(images)
            np.testing.assert_allclose(
                analysis.keypoints, replicas.backends[1].values("keypoints", 1, images), atol=1e-5
            )
        assert [replica.down for replica in client._replicas._replicas] == [True, False, False]
    assert len(replicas.backends[0].asked) <= 3


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_bad_replica_is_probed_with_a_small_prediction(replicas, awaited, kind):
    """Its metadata is always valid; it is used again only when its predictions are valid, too."""
    replicas.adopt()
    bad = replicas.backends[0]
    bad.distortions["keypoints"] = lambda values: values * np.float32("nan")
    with (awaited if kind == "async" else Client)(replicas.addresses, timeout=10) as client:

        def calls_until(done):
            end = time.monotonic() + 20
            while not done() and time.monotonic() < end:
                client.analyze(bad.faces(2))
                time.sleep(0.02)
            assert done()

        calls_until(lambda: ("keypoints", None, 1) in bad.asked or ("keypoints", 1, 1) in bad.asked)
        assert client._replicas._replicas[0].down
        asked_by_callers = [count for *_, count in bad.asked].count(2)
        bad.distortions.clear()
        calls_until(lambda: [count for *_, count in bad.asked].count(2) > asked_by_callers)
        assert not client._replicas._replicas[0].down


def test_when_all_answer_badly_the_call_fails_and_all_stay_up(replicas):
    replicas.adopt()
    for backend in replicas.backends:
        backend.distortions["emotion"] = lambda values: values[:, :4]
    with Client(replicas.addresses, timeout=10) as client:
        with pytest.raises(UnexpectedResponseError, match=r"shape \(1, 4\), not \(1, 5\)") as caught:
            client.analyze(backend.faces(1))
        assert not any(replica.down for replica in client._replicas._replicas)
    assert caught.value.attempts == 3


def test_partial_results_are_whole_when_another_server_answers(replicas):
    replicas.adopt()
    replicas.backends[0].distortions["emotion"] = lambda values: values * 3
    with Client(replicas.addresses, timeout=10) as client:
        for _ in range(3):
            assert not client.analyze(replicas.backends[0].faces(1), partial=True).errors


@pytest.mark.parametrize(("code", "kind"), [("INTERNAL", ServerError), ("PERMISSION_DENIED", AccessDeniedError)])
def test_the_only_server_is_asked_once(client, backend, failure, code, kind):
    backend.failures["emotion"] = failure(code, "broken")
    with pytest.raises(kind) as caught:
        client.analyze(backend.faces(1))
    assert caught.value.attempts == 1


def test_behind_a_name_the_request_is_sent_there_again(grpc_address, backend, failure):
    backend.hiccups["emotion"] = [failure("INTERNAL", "one of them is broken")]
    with Client(f"dns:///localhost:{grpc_address.rpartition(':')[2]}", timeout=10) as client:
        assert len(client.analyze(backend.faces(2))) == 2
