"""Ask in every way: the Python client over gRPC and REST, with and without asyncio, the gateway, and by the edge."""

from __future__ import annotations

import io
import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import requests
import websockets.sync.client
from mien_client import Analysis, AsyncClient, Client, MienError
from mien_client.contract import CANARY_LABEL, EMOTIONS, KEYPOINTS, STABLE_LABEL
from numpy.typing import NDArray
from PIL import Image

from soak.images import image

ATTEMPTS: Final = 6
"""How often a caller without our client asks, each time another address, before it gives up."""
_TRY_S: Final = 4.0
"""Seconds after which such a caller asks elsewhere."""


class CallFailed(Exception):
    """A call failed after all attempts.

    Attributes:
        retryable: Whether the error says that the same call may succeed a moment later.
    """

    def __init__(self, text: str, *, retryable: bool) -> None:
        super().__init__(text)
        self.retryable = retryable


@dataclass(frozen=True)
class Answer:
    """What one image was answered.

    Attributes:
        versions: The version of each model that answered.
        probabilities: float32 [5].
        keypoints: float32 [15, 2], pixels.
        labels: By which label each model was asked, if that was said.
    """

    versions: dict[str, int]
    probabilities: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    labels: dict[str, str]


Ask = Callable[[Sequence[int]], list[Answer]]
"""Ask about the images with these numbers; raise `MienError` or `CallFailed`."""


def answers_of(analysis: Analysis, label: str) -> list[Answer]:
    """Return the answers in a result of the client."""
    labels = dict.fromkeys(analysis.versions, label)
    pairs = zip(analysis.probabilities, analysis.keypoints, strict=True)
    return [Answer(dict(analysis.versions), *pair, labels) for pair in pairs]


def by_client(client: Client, label: str = STABLE_LABEL) -> Ask:
    """Ask with the Python client, all images in one call."""

    def ask(numbers: Sequence[int]) -> list[Answer]:
        return answers_of(client.analyze(np.stack([image(number) for number in numbers])), label)

    return ask


def by_iterating(client: Client) -> Ask:
    """Ask with the Python client, in batches of two that are under way at the same time."""

    def ask(numbers: Sequence[int]) -> list[Answer]:
        found = []
        for face in client.analyze_iter(map(image, numbers), batch_size=2):
            probabilities = np.array(list(face.probabilities.values()), np.float32)
            labels = dict.fromkeys(face.versions, STABLE_LABEL)
            found.append(Answer(dict(face.versions), probabilities, face.keypoints, labels))
        return found

    return ask


def by_http(addresses: Sequence[str], ca_file: Path | None = None, key: str = "") -> Ask:
    """Ask gateways as a program without our client would: repeat what is retryable, each time at the next address."""
    sessions = [requests.Session() for _ in addresses]
    for session in sessions:
        session.trust_env = False
        session.verify = str(ca_file) if ca_file else True
        session.headers.update({"x-api-key": key} if key else {})

    def ask_once(numbers: Sequence[int], at: int) -> list[Answer]:
        crops = b"".join(image(number).tobytes() for number in numbers)
        body, kind = (_png(numbers[0]), "image/png") if len(numbers) == 1 else (crops, "application/octet-stream")
        try:
            response = sessions[at].post(
                f"{addresses[at]}/v1/analyze", body, headers={"content-type": kind}, timeout=_TRY_S
            )
            document = response.json()
        except (OSError, ValueError) as error:  # Connections that break, and answers that are cut off.
            raise CallFailed(f"{type(error).__name__} at {addresses[at]}: {error}", retryable=True) from None
        if response.status_code != requests.codes.ok:
            text = f"{response.status_code} at {addresses[at]}: {json.dumps(document)}"
            raise CallFailed(text, retryable=bool(document.get("retryable")))
        return _answers(document)

    return _repeated(ask_once, len(addresses))


def by_stream(addresses: Sequence[str]) -> Ask:
    """Ask gateways over WebSockets: each image is a frame, and each frame has exactly one answer."""
    connection: list[websockets.sync.client.ClientConnection] = []
    sent: list[int] = [0]

    def ask_once(numbers: Sequence[int], at: int) -> list[Answer]:
        try:
            if not connection:
                connection.append(websockets.sync.client.connect(addresses[at], open_timeout=_TRY_S, proxy=None))
                sent[0] = 0
            found = []
            for number in numbers:
                connection[0].send(_png(number))
                document = json.loads(connection[0].recv(timeout=_TRY_S))
                if "faces" not in document:
                    raise CallFailed(json.dumps(document), retryable=bool(document.get("retryable")))
                if document["frame"] != sent[0]:
                    raise CallFailed(f"frame {sent[0]} got the answer of {document['frame']}", retryable=False)
                sent[0] += 1
                found += _answers(document)
        except (OSError, websockets.exceptions.WebSocketException, CallFailed) as error:
            while connection:
                connection.pop().close_socket()
            if isinstance(error, CallFailed):
                raise
            raise CallFailed(f"{type(error).__name__}: {error}", retryable=True) from None
        return found

    return _repeated(ask_once, len(addresses))


def _repeated(ask_once: Callable[[Sequence[int], int], list[Answer]], addresses: int) -> Ask:
    """Ask at one address after the other, beginning with the first, the second and so on in turn."""
    turn = itertools.count()

    def ask(numbers: Sequence[int]) -> list[Answer]:
        first = next(turn)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return ask_once(numbers, (first + attempt) % addresses)
            except CallFailed as error:
                if attempt == ATTEMPTS or not error.retryable:
                    raise
                time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311
        raise AssertionError

    return ask


def _answers(document: dict[str, Any]) -> list[Answer]:
    found = []
    for face in document["faces"]:
        points = np.array([[face["keypoints"][name][axis] for axis in "xy"] for name in KEYPOINTS], np.float32)
        probabilities = np.array([face["probabilities"][name] for name in EMOTIONS], np.float32)
        found.append(Answer(face["versions"], probabilities, points, document["labels"]))
    return found


def _png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image(number)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@dataclass(frozen=True)
class Places:
    """Where callers ask.

    Attributes:
        grpc: Each server over gRPC.
        rest: Each server over REST.
        name: A name that stands for all servers, over gRPC.
        gateways: Each gateway.
        edges: ``host:port`` of each edge.
        ca_file: The authority that vouches for the edges.
        key: The API key for the edges.
    """

    grpc: list[str]
    rest: list[str]
    name: str
    gateways: list[str]
    edges: list[str]
    ca_file: str
    key: str


def all_ways(places: Places) -> dict[str, Ask]:
    """Return every way to ask that does not need asyncio."""
    ways = {
        "gRPC": by_client(Client(places.grpc)),
        "gRPC canary": by_client(Client(places.grpc, canary=1.0), CANARY_LABEL),
        "gRPC batches": by_iterating(Client(places.grpc)),
        "REST": by_client(Client(places.rest)),
        "gateway": by_http(places.gateways),
        "stream": by_stream([f"{url.replace('http', 'ws', 1)}/v1/stream" for url in places.gateways]),
    }
    if places.edges:
        secure: dict[str, Any] = {"ca_file": places.ca_file, "api_key": places.key}
        urls = [f"https://{edge}" for edge in places.edges]
        ways["edge gRPC"] = by_client(Client(places.edges, **secure))
        ways["edge REST"] = by_client(Client(urls, **secure))
        ways["edge gateway"] = by_http(urls, Path(places.ca_file), places.key)
    return ways


def async_client(places: Places) -> AsyncClient:
    """Return a client for asyncio that asks by the name of all servers."""
    return AsyncClient(places.name)


def is_retryable(error: Exception) -> bool:
    """Return whether an error says that the same call may succeed a moment later."""
    return isinstance(error, (MienError, CallFailed)) and error.retryable
