"""A transport for tests of programs that use a client."""

from __future__ import annotations

from collections.abc import Callable

from mien_client._threads import in_thread
from mien_client.transports.base import Answer, Pending, Request, Transport


class MockTransport(Transport):
    """Answer requests from a function instead of a server.

    Args:
        answer: Takes a `Request` and returns an `Answer`, or raises an exception. Each request runs it in a thread of
            its own, and both models are asked at the same time; it may sleep to be a slow server.
        endpoint: The address in error messages.

    Example:
        >>> def answer(request):
        ...     count = len(request.images)
        ...     if request.model == "emotion":
        ...         return Answer(np.tile(np.float32([0, 0, 0, 1, 0]), (count, 1)), version=1)
        ...     return Answer(np.zeros((count, 15, 2), np.float32), version=1)
        >>> with Client(transport=MockTransport(answer)) as client:
        ...     client.analyze(images[0])[0].emotion
        'Happy'
    """

    def __init__(self, answer: Callable[[Request], Answer], *, endpoint: str = "mock") -> None:
        self.endpoint = endpoint
        self._answer = answer

    def predict(self, request: Request) -> Pending[Answer]:
        """Run the function in a thread."""
        return in_thread(self._run, request)

    def _run(self, request: Request) -> Answer:
        answer = self._answer(request)
        if not isinstance(answer, Answer):
            raise TypeError(f"Expected an Answer from the function of a MockTransport, got {type(answer).__name__}")
        return answer
