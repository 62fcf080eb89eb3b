"""Whether a gateway calls itself ready."""

import asyncio
import os
import signal
from types import SimpleNamespace

import numpy as np
from mien_gateway import backend as backend_module
from mien_gateway.backend import MODELS, Backend
from mien_gateway.measures import Measures
from mien_gateway.settings import Settings
from mien_serving import LocalModelServer


async def ready_while_the_server_is_silent(server, clock):
    """Return whether a gateway is ready just after an answer, and a second later."""
    backend = Backend(Settings(servers=[server.grpc_address]), Measures())
    face, versions = np.zeros((1, 48, 48), np.uint8), dict.fromkeys(MODELS)
    try:
        await backend.analyze(face, versions=versions, key=None, timeout=60, partial=False)
        os.kill(server.pid, signal.SIGSTOP)
        at_once = await backend.is_ready()
        clock.monotonic = lambda: 1001.0
        return at_once, await backend.is_ready()
    finally:
        os.kill(server.pid, signal.SIGCONT)
        await backend.close()


def test_it_is_ready_while_callers_get_answers_even_if_no_server_says_that_it_is(published, root, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(backend_module, "time", clock)
    with LocalModelServer(root / "models.config", model_repository=published) as server:
        assert asyncio.run(ready_while_the_server_is_silent(server, clock)) == (True, False)
