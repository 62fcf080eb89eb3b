"""A pytest plugin, active wherever mien-serving is installed, with a fixture that serves models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from mien_serving import LocalModelServer


@pytest.fixture(scope="session")
def local_model_server() -> Iterator[Callable[..., LocalModelServer]]:
    """Return a function that starts a `LocalModelServer` with its arguments. All servers stop after the last test.

    Example:
        ```python
        @pytest.fixture(scope="session")
        def server(local_model_server):
            return local_model_server(models_config={"emotion": "models/emotion"})
        ```
    """
    with ExitStack() as servers:
        yield lambda *args, **kwargs: servers.enter_context(LocalModelServer(*args, **kwargs))
