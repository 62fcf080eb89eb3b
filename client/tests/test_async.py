"""`AsyncClient` in event loops. Everything else is covered by the tests that run with every kind of client."""

import asyncio
import inspect
import subprocess
import sys
import threading

import numpy as np
import pytest
from mien_client import AsyncClient, Client, UnavailableError


def test_both_clients_take_the_same_arguments():
    def arguments(function):
        return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]

    assert arguments(AsyncClient) == arguments(Client)
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            assert arguments(getattr(AsyncClient, name)) == arguments(method)


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


def test_cancelling_a_call_cancels_its_requests(grpc_address, backend):
    backend.adopt()
    cancelled = threading.Event()
    backend.before_answer = lambda model, version: cancelled.wait(60)

    async def ask():
        async with AsyncClient(grpc_address) as client:
            call = asyncio.create_task(client.analyze(backend.faces(256 * 20)))
            while len(backend.asked) < 2:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(asyncio.all_tasks()) == 1
            cancelled.set()
            await asyncio.sleep(0.4)

    asyncio.run(ask())
    assert len(backend.asked) == 2


def test_closing_the_client_ends_a_running_call(grpc_address, backend):
    closed = threading.Event()
    backend.before_answer = lambda model, version: closed.wait(60)

    async def ask():
        client = AsyncClient(grpc_address)
        call = asyncio.create_task(client.analyze(backend.faces(1)))
        while not backend.asked:
            await asyncio.sleep(0.01)
        await client.close()
        closed.set()
        with pytest.raises(UnavailableError, match="closed"):
            await call
        with pytest.raises(RuntimeError, match="closed"):
            await client.analyze(backend.faces(1))

    asyncio.run(ask())


def test_rest_works_under_asyncio_too(rest_address, backend):
    images = backend.faces(256 * 3)
    backend.versions["emotion"] = {1, 4}

    async def ask():
        async with AsyncClient(rest_address) as client:
            await client.wait_ready(timeout=5)
            return await asyncio.gather(client.analyze(images), client.status())

    analysis, status = asyncio.run(ask())
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", 1, images), atol=1e-5)
    assert [version.version for version in status["emotion"]] == [4, 1]


def test_a_client_can_be_made_outside_of_a_loop(grpc_address, backend):
    client = AsyncClient(grpc_address)
    assert repr(client) == f"<AsyncClient of {grpc_address}>"

    async def ask():
        async with client:
            return await client.analyze(backend.faces(2))

    assert len(asyncio.run(ask())) == 2


def test_a_client_may_be_used_in_several_loops(grpc_address, backend):
    client = AsyncClient(grpc_address)
    images = backend.faces(2)

    async def ask():
        return await client.analyze(images)

    for _ in range(2):
        np.testing.assert_allclose(asyncio.run(ask()).keypoints, backend.values("keypoints", 1, images), atol=1e-5)


def test_the_client_without_asyncio_does_not_load_it():
    code = "import sys; from mien_client import Client; assert 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
