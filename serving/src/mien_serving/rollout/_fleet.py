"""The servers: what they have, and the call that makes them read a new configuration."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError
from mien_client import protos
from mien_client.cli import CommandError
from mien_client.security import Security, channel_credentials, security

from mien_serving.core.unlabelled import COUNT_HEADER, SECONDS_HEADER

if TYPE_CHECKING:
    import numpy as np
    from mien_client.transports import Answer, Target
    from numpy.typing import NDArray

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"

_AT_ONCE: Final = 16
"""Servers that are asked at the same time."""

_LONGEST: Final = 200

_OPTIONS: Final = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    # After a lost connection gRPC waits before it tries again, by default up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

T = TypeVar("T")


class ServerError(Exception):
    """A server did not answer, or said no; the text is a clause without its name."""


@dataclass(frozen=True)
class VersionState:
    """Where a version is in its life on one server, and why it ended if not because it was asked to."""

    state: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.state} ({self.error})" if self.error else self.state


@dataclass(frozen=True)
class View:
    """What one server has of one model.

    Attributes:
        error: Why nothing is known; empty if it answered.
        versions: The state of each version it knows.
        labels: The version that each label leads to, of those that were asked about.
        unlabelled: How many requests named neither a version nor a label since the model has the label ``stable``, and
            for how many seconds they were counted; None if the server does not count them.
    """

    error: str = ""
    versions: Mapping[int, VersionState] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    unlabelled: tuple[int, float] | None = None

    def available(self) -> set[int]:
        """The versions that can be asked."""
        return {version for version, state in self.versions.items() if state.state == AVAILABLE}

    def held(self) -> set[int]:
        """The versions that are loaded, or are on the way there or back."""
        return {version for version, state in self.versions.items() if state.state != END}


class Server:
    """One server, asked over gRPC.

    Args:
        address: ``host:port``, as it is shown.
        security: How to connect.
        host: The name in its certificate, if the address is a number that this name stands for.
    """

    def __init__(self, address: str, security: Security, host: str = "") -> None:
        self.address = address
        self._metadata = security.headers
        options: list[tuple[str, Any]] = [*_OPTIONS]
        if security.tls:
            if host:
                options.append(("grpc.ssl_target_name_override", host))
            self._channel = grpc.secure_channel(address, channel_credentials(security), options=options)
        else:
            self._channel = grpc.insecure_channel(address, options=options)

    def view(self, model: str, labels: Collection[str], timeout: float) -> View:
        """Asks what the server has of a model; a server that does not answer has nothing.

        Args:
            model: Its name.
            labels: Those to find out about.
            timeout: Seconds for each question.
        """
        spec = protos.ModelSpec(name=model)
        try:
            try:
                request = protos.GetModelStatusRequest(model_spec=spec)
                answer, told = self._call("ModelService", "GetModelStatus", request.SerializeToString(), timeout)
            except _NotFound:
                return View()
            versions = {
                status.version: VersionState(_state(status.state), reason(status.status.error_message))
                for status in answer.model_version_status
            }
            found = {}
            for label in labels:
                question = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
                question.model_spec.name, question.model_spec.version_label = model, label
                try:
                    metadata = self._ask("PredictionService", "GetModelMetadata", question, timeout)
                except _NotFound:
                    continue
                found[label] = metadata.model_spec.version.value
            return View("", versions, found, _unlabelled(told))
        except ServerError as error:
            return View(str(error))

    def reload(self, config: Any, timeout: float) -> None:
        """Makes the server take a ``ModelServerConfig``.

        Raises:
            ServerError: It did not, or did not say so in time.
        """
        answer = self._ask(
            "ModelService", "HandleReloadConfigRequest", protos.ReloadConfigRequest(config=config), timeout
        )
        if answer.status.error_code:
            raise ServerError(f"refuses: {answer.status.error_message}")

    def predict(self, target: Target, images: NDArray[np.uint8], output: str, timeout: float) -> Answer:
        """Asks a model about images, uint8 [n, 48, 48], for one of its outputs.

        Raises:
            ServerError: The server did not answer, or said no.
            MienError: It answered something else.
        """
        from mien_client.transports.grpc_messages import predict_request, read_answer  # With all of NumPy.

        request = predict_request(target, images, output)
        response, _ = self._call("PredictionService", "Predict", request, timeout)
        return read_answer(response, output, self.address, target)

    def close(self) -> None:
        """Gives the connection back."""
        self._channel.close()

    def _ask(self, service: str, name: str, request: Any, timeout: float) -> Any:
        return self._call(service, name, request.SerializeToString(), timeout)[0]

    def _call(self, service: str, name: str, request: bytes, timeout: float) -> tuple[Any, Mapping[str, Any]]:
        """Return the response, and the metadata that came after it."""
        method = protos.POOL.FindServiceByName(f"tensorflow.serving.{service}").methods_by_name[name]
        # Parsed here: gRPC would log a traceback about a response that is not one.
        method_call: Any = self._channel.unary_unary(f"/tensorflow.serving.{service}/{name}")
        try:
            response, call = method_call.with_call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error.code(), error.details() or "", timeout) from None
        try:
            answer = getattr(protos, method.output_type.name).FromString(response)
        except DecodeError:
            raise ServerError(f"answers something else than a {method.output_type.name}") from None
        return answer, dict(call.trailing_metadata() or ())


def _unlabelled(metadata: Mapping[str, Any]) -> tuple[int, float] | None:
    """What a server says of requests that name neither a version nor a label, if it counts them."""
    try:
        return int(metadata[COUNT_HEADER]), float(metadata[SECONDS_HEADER])
    except (KeyError, ValueError):
        return None


def _state(number: int) -> str:
    """The name of a version's state; servers may know states that we do not."""
    known = protos.ModelVersionStatus.State
    return str(known.Name(number)) if number in known.values() else f"state {number}"


def reason(message: str) -> str:
    """Why a version ended, on one line: TensorFlow puts the cause behind a paragraph of guesses."""
    words = " ".join(message.rpartition("Original error:")[2].split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


class _NotFound(ServerError):
    """The server has no such model or label."""


def _failure(code: grpc.StatusCode, details: str, timeout: float) -> ServerError:
    words = details.strip().partition("\n")[0]
    match code:
        case grpc.StatusCode.NOT_FOUND:
            return _NotFound(words)
        case grpc.StatusCode.INVALID_ARGUMENT if "version label" in words:
            return _NotFound(words)
        case grpc.StatusCode.UNAVAILABLE:
            return ServerError("cannot be reached")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServerError(f"gave no answer within {timeout:g} s")
        case _:
            return ServerError(f"answers {code.name}: {words}")


class Fleet:
    """All servers that serve the repository.

    Args:
        addresses: ``host:port`` each; a name that stands for several addresses is all of them.
        timeout: Seconds a server may take to answer a question.

    Raises:
        CommandError: An address cannot be meant, or its name is not known.
    """

    def __init__(self, addresses: Sequence[str], timeout: float) -> None:
        connection = security()
        found: dict[str, str] = {}
        for address in addresses:
            found.update(_resolved(address))
        self.servers = [Server(address, connection, host) for address, host in found.items()]
        self.timeout = timeout
        self._pool = ThreadPoolExecutor(min(len(self.servers), _AT_ONCE))

    def __len__(self) -> int:
        return len(self.servers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for server in self.servers:
            server.close()

    def view(self, model: str, labels: Collection[str] = (), without: Collection[str] = ()) -> dict[str, View]:
        """Asks every server what it has of a model; the answers by address.

        Args:
            model: Its name.
            labels: Those to find out about.
            without: Servers that are not asked.
        """
        return self._each(lambda server: server.view(model, labels, self.timeout), without)

    def views(self, wanted: Mapping[str, Collection[str]]) -> dict[str, dict[str, View]]:
        """Asks every server about several models; a server that gave no answer once is not waited for again.

        Args:
            wanted: The labels to find out about, by model.

        Returns:
            By model, the answers by address.
        """

        def all_of(server: Server) -> dict[str, View]:
            found: dict[str, View] = {}
            failed = None
            for model, labels in wanted.items():
                found[model] = failed or server.view(model, labels, self.timeout)
                failed = found[model] if found[model].error else None
            return found

        answers = self._each(all_of)
        return {model: {address: found[model] for address, found in answers.items()} for model in wanted}

    def reload(self, config_for: Callable[[str], Any], without: Collection[str] = ()) -> dict[str, ServerError]:
        """Makes every server take a configuration.

        Args:
            config_for: Makes the ``ModelServerConfig`` for the server with an address.
            without: Servers that are left as they are.

        Returns:
            Those that did not take it, by address, with the reason.
        """

        def one(server: Server) -> ServerError | None:
            try:
                server.reload(config_for(server.address), self.timeout)
            except ServerError as error:
                return error
            return None

        return {address: error for address, error in self._each(one, without).items() if error is not None}

    def _each(self, ask: Callable[[Server], T], without: Collection[str] = ()) -> dict[str, T]:
        servers = [server for server in self.servers if server.address not in without]
        return dict(zip([server.address for server in servers], self._pool.map(ask, servers), strict=True))


def _resolved(address: str) -> dict[str, str]:
    """Every address that a name stands for, each with the name if it is not that itself."""
    host, colon, port = address.removeprefix("dns:///").rpartition(":")
    if not colon or not port.isdecimal() or not host or "://" in address.removeprefix("dns:///"):
        raise CommandError(f"{address!r} is no address of a server's gRPC port: say something like localhost:8500")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(f"{host} is not known as the name of a server: {error.strerror or error}") from None
    # A machine with addresses of both kinds is one server, not two.
    family = socket.AF_INET if any(one[0] == socket.AF_INET for one in found) else socket.AF_INET6
    numbers = list(dict.fromkeys(str(one[4][0]) for one in found if one[0] == family))
    if len(numbers) == 1:
        return {f"{host}:{port}": ""}
    return {f"[{number}]:{port}" if ":" in number else f"{number}:{port}": host for number in sorted(numbers)}
