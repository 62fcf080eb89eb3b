"""Connections that make no progress are closed, together with their unfinished requests."""

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest
from mien_serving.model_servers.options import RestOptions
from mien_serving.model_servers.rest import http_server
from mien_serving.model_servers.rest.front import RestFront
from mien_serving.model_servers.rest.routes import HttpAnswer

HEAD = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
CLOSED_FOR_STALLING = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Api:
    """Answers every request with a number of bytes, once its gate is open."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.size = 1

    def answer(self, request):
        assert self.gate.wait(60)
        return HttpAnswer(200, b"x" * self.size)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
    monkeypatch.setattr(http_server, "STALLED_S", 0.3)
    monkeypatch.setattr(http_server, "KEEP_ALIVE_S", 0.6)


@pytest.fixture
def api():
    api = Api()
    yield api
    api.gate.set()


def with_connection(api, use):
    """Runs a coroutine function with the reader and writer of a new connection to a server of its own."""

    async def run():
        front = RestFront(api, RestOptions(port=0, threads=2))
        port = front.bind()
        await front.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await asyncio.wait_for(use(reader, writer), 60)
        finally:
            writer.close()
            await front.stop(0)

    return asyncio.run(run())


@pytest.mark.parametrize("sent", [b"G", HEAD[:20], HEAD[:-2], HEAD, HEAD + b"123456789"])
def test_a_request_that_is_never_finished_is_closed(api, sent):
    async def use(reader, writer):
        writer.write(sent)
        return await reader.read()

    assert with_connection(api, use) == CLOSED_FOR_STALLING


def test_a_connection_without_a_request_is_closed(api):
    async def use(reader, writer):
        return await reader.read()

    assert with_connection(api, use) == b""


def test_a_connection_that_waits_for_another_request_is_closed(api):
    async def use(reader, writer):
        writer.write(HEAD + b"1234567890")
        return await reader.read()

    assert with_connection(api, use).endswith(b"\r\n\r\nx")


@pytest.mark.parametrize("sent", [b"POST /", HEAD, HEAD + b"1"])
def test_single_bytes_do_not_keep_a_connection_open(api, sent):
    async def use(reader, writer):
        writer.write(sent)
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"E" if sent == b"POST /" else b"")
            await asyncio.sleep(0.05)
        try:
            return await answer
        except ConnectionError:  # What was dripped after the connection was closed.
            return CLOSED_FOR_STALLING

    assert with_connection(api, use) == CLOSED_FOR_STALLING


def test_a_large_body_that_makes_progress_may_take_its_time(api, monkeypatch):
    monkeypatch.setattr(http_server, "STALLED_S", 1)
    chunk, chunks = bytes(1 << 16), 150

    async def use(reader, writer):
        writer.write(HEAD.replace(b"10", b"%d" % (len(chunk) * chunks)))
        for _ in range(chunks):
            writer.write(chunk)
            await asyncio.sleep(0.01)
        return await reader.readuntil(b"x")

    assert with_connection(api, use).startswith(b"HTTP/1.1 200 ")


def test_a_request_that_takes_long_to_answer_is_not_closed_whatever_comes_after_it(api):
    async def use(reader, writer):
        api.gate.clear()
        writer.write(HEAD + b"1234567890" + HEAD[:20])
        await asyncio.sleep(1)
        api.gate.set()
        return await reader.read()

    answered = with_connection(api, use)
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert answered.endswith(CLOSED_FOR_STALLING)


def test_an_answer_that_is_not_read_is_dropped(api):
    async def use(reader, writer):
        api.size = 50 << 20
        writer.transport.pause_reading()
        writer.write(HEAD + b"1234567890")
        began = time.monotonic()
        while time.monotonic() - began < 30:
            await asyncio.sleep(0.1)
            if not open_connections():
                break
        else:
            pytest.fail("the connection stays open")
        with contextlib.suppress(ConnectionError):
            writer.transport.resume_reading()
            assert len(await reader.read()) < api.size

    connections: list[Any] = []
    made = http_server.HttpProtocol.connection_made

    def connection_made(self, transport):
        connections.append(self)
        made(self, transport)

    def open_connections():
        return [one for one in connections if not one.transport.is_closing()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server.HttpProtocol, "connection_made", connection_made)
        with_connection(api, use)
