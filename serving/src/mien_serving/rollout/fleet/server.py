"""One server: what it has, and the call that makes it take a new configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError
from mien_client import protos
from mien_client.security import Security, channel_credentials

from mien_serving.core.unlabelled import COUNT_HEADER, SECONDS_HEADER

if TYPE_CHECKING:
    import numpy as np
    from mien_client.transports import Answer, Target
    from numpy.typing import NDArray

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"

_LONGEST: Final = 200

_OPTIONS: Final = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    # After a lost connection gRPC waits before it connects again, by default up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class FleetError(Exception):
    """A server did not answer, or refused. The text is a clause that can follow the server's address."""


@dataclass(frozen=True)
class VersionState:
    """The state of a version on one server, and the error that ended it, if one did."""

    state: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.state} ({self.error})" if self.error else self.state


@dataclass(frozen=True)
class View:
    """What one server has of one model.

    Attributes:
        error: Why nothing is known; empty if the server answered.
        versions: The state of each version that it knows.
        labels: The version that each label names, of the labels that were asked about.
        unlabelled: Number of requests that named neither a version nor a label since the model has the label
            ``stable``, and the seconds for which they were counted; None if the server does not count them.
    """

    error: str = ""
    versions: Mapping[int, VersionState] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    unlabelled: tuple[int, float] | None = None

    def available(self) -> set[int]:
        """Return the versions that answer requests."""
        return {version for version, state in self.versions.items() if state.state == AVAILABLE}

    def held(self) -> set[int]:
        """Return the versions that are loaded, being loaded, or being unloaded."""
        return {version for version, state in self.versions.items() if state.state != END}


class Server:
    """One server, called over gRPC.

    Args:
        address: ``host:port``, as it is shown.
        security: How to connect.
        host: The name in the server's certificate, if the address is an IP address that this name resolved to.
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
        """Return what the server has of a model; if it does not answer, a view with an error.

        Args:
            model: The model's name.
            labels: The labels to resolve.
            timeout: Seconds for each call.
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
        except FleetError as error:
            return View(str(error))

    def reload(self, config: Any, timeout: float) -> None:
        """Make the server take a ``ModelServerConfig``.

        Raises:
            FleetError: It refused, or did not answer in time.
        """
        answer = self._ask(
            "ModelService", "HandleReloadConfigRequest", protos.ReloadConfigRequest(config=config), timeout
        )
        if answer.status.error_code:
            raise FleetError(f"refuses: {answer.status.error_message}")

    def predict(self, target: Target, images: NDArray[np.uint8], output: str, timeout: float) -> Answer:
        """Ask a model about images, and return one of its outputs.

        Args:
            target: The model, with its version or label.
            images: uint8 [N, 48, 48].
            output: The name of the output.
            timeout: Seconds for the call.

        Raises:
            FleetError: The server did not answer, or refused.
            MienError: The answer is not valid.
        """
        from mien_client.transports.grpc_messages import predict_request, read_answer  # This imports NumPy.

        request = predict_request(target, images, output)
        response, _ = self._call("PredictionService", "Predict", request, timeout)
        return read_answer(response, output, self.address, target)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _ask(self, service: str, name: str, request: Any, timeout: float) -> Any:
        return self._call(service, name, request.SerializeToString(), timeout)[0]

    def _call(self, service: str, name: str, request: bytes, timeout: float) -> tuple[Any, Mapping[str, Any]]:
        """Return the response and its trailing metadata."""
        method = protos.POOL.FindServiceByName(f"tensorflow.serving.{service}").methods_by_name[name]
        # The response is parsed here, because gRPC would log a traceback for an invalid one.
        method_call: Any = self._channel.unary_unary(f"/tensorflow.serving.{service}/{name}")
        try:
            response, call = method_call.with_call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error.code(), error.details() or "", timeout) from None
        try:
            answer = getattr(protos, method.output_type.name).FromString(response)
        except DecodeError:
            raise FleetError(f"gave an answer that is not a {method.output_type.name}") from None
        return answer, dict(call.trailing_metadata() or ())


def _unlabelled(metadata: Mapping[str, Any]) -> tuple[int, float] | None:
    """Return what a server reports about requests without a version or label, if it counts them."""
    try:
        return int(metadata[COUNT_HEADER]), float(metadata[SECONDS_HEADER])
    except (KeyError, ValueError):
        return None


def _state(number: int) -> str:
    """Return the name of a version's state; a newer server may have others."""
    known = protos.ModelVersionStatus.State
    return str(known.Name(number)) if number in known.values() else f"state {number}"


def reason(message: str) -> str:
    """Return the cause of an error on one line; TensorFlow puts it after a paragraph of suggestions."""
    words = " ".join(message.rpartition("Original error:")[2].split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


class _NotFound(FleetError):
    """The server has no such model or label."""


def _failure(code: grpc.StatusCode, details: str, timeout: float) -> FleetError:
    words = details.strip().partition("\n")[0]
    match code:
        case grpc.StatusCode.NOT_FOUND:
            return _NotFound(words)
        case grpc.StatusCode.INVALID_ARGUMENT if "version label" in words:
            return _NotFound(words)
        case grpc.StatusCode.UNAVAILABLE:
            return FleetError("cannot be reached")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return FleetError(f"did not answer within {timeout:g} s")
        case _:
            return FleetError(f"answers {code.name}: {words}")
