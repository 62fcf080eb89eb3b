"""`AsyncClient`: what `Client` does over gRPC, in an event loop."""

import asyncio
import inspect
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from mien_client import (
    AsyncClient,
    BadRequestError,
    Client,
    ConfigurationError,
    DeadlineExceededError,
    MienError,
    ModelNotFoundError,
    ServerError,
    UnavailableError,
    VersionNotFoundError,
)


def asked(address, *arguments, **options):
    """Makes one call with a client of its own."""

    async def ask():
        async with AsyncClient(address, timeout=10) as client:
            return await client.analyze(*arguments, **options)

    return asyncio.run(ask())


def test_answers_are_those_of_the_client(grpc_address, backend):
    images = backend.faces(700)
    with Client(grpc_address) as client:
        expected = client.analyze(images)
    analysis = asked(grpc_address, images)
    np.testing.assert_array_equal(analysis.probabilities, expected.probabilities)
    np.testing.assert_array_equal(analysis.keypoints, expected.keypoints)
    assert analysis.versions == expected.versions


def test_both_clients_take_the_same_arguments():
    assert inspect.signature(AsyncClient) == inspect.signature(Client)
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(AsyncClient, name)).parameters == inspect.signature(method).parameters


def test_no_images_ask_nobody(grpc_address, backend):
    assert len(asked(grpc_address, backend.faces(0))) == 0
    assert backend.asked == []


def test_calls_run_at_the_same_time(grpc_address, backend):
    images = backend.faces(4)
    meeting = threading.Barrier(2 * len(images), timeout=10)  # Opens only when all requests are being worked on.
    backend.before_answer = lambda model, version: meeting.wait()

    async def ask():
        async with AsyncClient(grpc_address, timeout=10) as client:
            return await asyncio.gather(*(client.analyze(image) for image in images))

    analyses = asyncio.run(ask())
    np.testing.assert_allclose(
        [analysis.keypoints[0] for analysis in analyses], backend.values("keypoints", 1, images), atol=1e-5
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [("INVALID_ARGUMENT", BadRequestError), ("INTERNAL", ServerError), ("UNAVAILABLE", UnavailableError)],
)
def test_errors_are_those_of_the_client(grpc_address, backend, failure, code, kind):
    backend.failures["emotion"] = failure(code, "the reason")
    with pytest.raises(MienError) as expected, Client(grpc_address) as client:
        client.analyze(backend.faces(1))
    with pytest.raises(MienError) as caught:
        asked(grpc_address, backend.faces(1))
    assert type(caught.value) is kind
    assert str(caught.value) == str(expected.value)
    assert vars(caught.value) == vars(expected.value)


def test_what_is_not_served(grpc_address, backend):
    with pytest.raises(VersionNotFoundError):
        asked(grpc_address, backend.faces(1), emotion_version=9)
    del backend.versions["keypoints"]
    with pytest.raises(ModelNotFoundError):
        asked(grpc_address, backend.faces(1))


def test_a_hiccup_is_bridged(grpc_address, backend, failure):
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", "queue full")] * 2
    assert len(asked(grpc_address, backend.faces(1))) == 1


def test_the_deadline(grpc_address, backend):
    backend.delays["emotion"] = 1
    with pytest.raises(DeadlineExceededError, match=r"within 0.3 s"):
        asked(grpc_address, backend.faces(1), timeout=0.3)


def test_a_call_that_is_cancelled_takes_its_requests_with_it(grpc_address, backend):
    backend.delays = {"emotion": 0.3, "keypoints": 0.3}

    async def ask():
        async with AsyncClient(grpc_address) as client:
            call = asyncio.create_task(client.analyze(backend.faces(256 * 20)))
            while len(backend.asked) < 2:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(asyncio.all_tasks()) == 1
            await asyncio.sleep(0.4)

    asyncio.run(ask())
    assert len(backend.asked) == 2


def test_closing_the_client_ends_a_running_call(grpc_address, backend):
    backend.delays["emotion"] = 1

    async def ask():
        client = AsyncClient(grpc_address)
        call = asyncio.create_task(client.analyze(backend.faces(1)))
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(UnavailableError, match="closed"):
            await call
        with pytest.raises(RuntimeError, match="closed"):
            await client.analyze(backend.faces(1))

    asyncio.run(ask())


def test_ready_and_status(grpc_address, backend):
    async def ask():
        async with AsyncClient(grpc_address) as client:
            with pytest.raises(UnavailableError, match=r"not ready after 0.2 s: .*model 'keypoints'"):
                await client.wait_ready(0.2)
            asyncio.get_running_loop().call_later(0.1, backend.load, "keypoints", 1)
            await client.wait_ready(10)
            return await client.status()

    backend.versions["keypoints"] = set()
    status = asyncio.run(ask())
    assert [version.state for versions in status.values() for version in versions] == ["AVAILABLE"] * 2


def test_killing_and_freezing_replicas_under_load_loses_no_call(processes, backend):
    images = backend.faces(40)
    expected = backend.values("keypoints", 1, images)

    async def call_on(client, index, stop):
        calls = 0
        while not stop.is_set():
            index = (index * 7 + 1) % len(images)
            analysis = await client.analyze(images[index])
            np.testing.assert_allclose(analysis.keypoints[0], expected[index], atol=1e-5)
            calls += 1
        return calls

    async def ask():
        stop = asyncio.Event()
        async with AsyncClient([process.addresses["grpc"] for process in processes], timeout=20) as client:
            await client.wait_ready(10)
            callers = [asyncio.create_task(call_on(client, index, stop)) for index in range(6)]
            await asyncio.sleep(0.2)
            processes[0].send(signal.SIGSTOP)
            await asyncio.sleep(1.3)
            processes[1].kill()
            await asyncio.sleep(0.2)
            processes[0].send(signal.SIGCONT)
            await asyncio.to_thread(processes[1].start)
            await asyncio.sleep(0.2)
            stop.set()
            return await asyncio.gather(*callers)

    assert all(asyncio.run(ask()))


def test_a_server_that_was_down_comes_back(grpc_address, backend, failure):
    async def ask():
        async with AsyncClient([grpc_address, "127.0.0.1:1"], timeout=10) as client:
            for _ in range(4):
                await client.analyze(backend.faces(1))
                await asyncio.sleep(0.2)

    asyncio.run(ask())
    assert len(backend.asked) == 8


def test_rest_is_not_for_asyncio():
    with pytest.raises(ConfigurationError, match="AsyncClient speaks gRPC"):
        AsyncClient("http://localhost:8501")


def test_a_client_can_be_made_outside_of_a_loop(grpc_address, backend):
    client = AsyncClient(grpc_address)
    assert repr(client) == f"<AsyncClient of {grpc_address}>"

    async def ask():
        async with client:
            return await client.analyze(backend.faces(2))

    assert len(asyncio.run(ask())) == 2


def test_the_client_without_asyncio_does_not_load_it():
    code = "import sys; from mien_client import Client; assert 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
