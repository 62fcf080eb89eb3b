"""Which servers are ready: probes, `Client.wait_ready` and `Client.status`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien_client._calls.flow import Flow, Wake, answered
from mien_client._calls.halves import Half, MissingLabels
from mien_client._calls.replicas import NAMED_SERVERS, PROBE_TIMEOUT, Replica, Replicas
from mien_client._calls.retries import Retries
from mien_client._calls.targets import preferences
from mien_client._exceptions import DeadlineExceededError, MienError, NotServedError, UnavailableError
from mien_client.contract import IMAGE_SIZE, KEYPOINTS_OUTPUT, PROBABILITIES_OUTPUT, STABLE_LABEL
from mien_client.transports.base import Deadline, Request, Target, Transport, VersionStatus

POLL_SECONDS = 0.1
"""Seconds between two looks at a server that is not ready."""

_BLACK_FACE = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)


class Health:
    """Find out about the servers of a client.

    Args:
        replicas: The client's servers.
        retries: The client's retries.
        targets: The emotion model and the key point model, each in the version that the client asks for.
    """

    def __init__(self, replicas: Replicas, retries: Retries, targets: tuple[Target, Target]) -> None:
        self._replicas = replicas
        self._retries = retries
        self._targets = targets

    def status(self, timeout: float, wake: Wake) -> Flow[dict[str, tuple[VersionStatus, ...]]]:
        """Ask a server for the states of the versions of both models; see `Client.status`.

        Args:
            timeout: The seconds that this may take.
            wake: Resumes the flow.
        """
        deadline = Deadline(timeout)
        statuses = {}
        for target in self._targets:
            statuses[target.model] = yield from self._status(target.model, deadline, wake)
        return statuses

    def ready(self, timeout: float, longest_look: float, wake: Wake) -> Flow[None]:
        """Wait until a server answers for both models; see `Client.wait_ready`.

        Args:
            timeout: The seconds that this may take.
            longest_look: The seconds in which a server must answer one request. Of several servers, one that is silent
                must not hold up the others.
            wake: Resumes the flow.
        """
        deadline = Deadline(timeout)
        if self._replicas.several:  # Behind a name, each look may meet another server.
            longest_look = (
                min(PROBE_TIMEOUT, timeout / (2 * NAMED_SERVERS)) if len(self._replicas) == 1 else PROBE_TIMEOUT
            )
        outputs = dict(zip(self._targets, (PROBABILITIES_OUTPUT, KEYPOINTS_OUTPUT), strict=True))
        unanswered = {transport: outputs.copy() for transport in self._replicas.transports}
        told: dict[str, Target] = {}
        while True:
            missing: dict[str, Target] = {}
            for transport, left in unanswered.items():
                for target, output in list(left.items()):
                    look = Deadline(max(POLL_SECONDS, min(longest_look, deadline.remaining())))
                    reason = yield from _why_not_ready(transport, target, output, look, wake)
                    if reason:
                        missing[reason] = target
                    else:
                        del left[target]
                if not left:
                    return
            if deadline.remaining() or not told:  # A look that was cut short says less than the one before.
                told = missing
            if deadline.remaining() <= POLL_SECONDS:
                raise self._not_ready(told, timeout)
            yield from _pause(POLL_SECONDS)

    def probe(self, replica: Replica, wake: Wake) -> Flow[None]:
        """Find out whether a server that was down answers a small request to both models again.

        Args:
            replica: The server. What comes of it goes to `Replicas.probed`.
            wake: Resumes the flow.
        """
        deadline = Deadline(PROBE_TIMEOUT)
        error: MienError | None = None
        for target, output in zip(self._targets, (PROBABILITIES_OUTPUT, KEYPOINTS_OUTPUT), strict=True):
            stable = Target(target.model, label=STABLE_LABEL)
            problem = yield from _predict_one(replica.transport, stable, output, deadline, wake)
            error = error or problem
        self._replicas.probed(replica, error)

    def _status(self, model: str, deadline: Deadline, wake: Wake) -> Flow[tuple[VersionStatus, ...]]:
        tried: list[Replica] = []
        while True:
            replica = self._replicas.pick(tried)
            tried.append(replica)
            try:
                return (yield from _statuses(replica.transport, model, deadline, wake))
            except MienError as error:
                self._replicas.failed(replica, error)
                error.attempts = len(tried)
                pause = self._retries.pause(len(tried), error, deadline.remaining())
                if pause is None:
                    raise
            yield from _pause(pause)

    def _not_ready(self, missing: dict[str, Target], timeout: float) -> UnavailableError:
        """Return the error for servers that are not ready in time; ``missing``: why, and which model is missing."""
        target = next(iter(missing.values()))
        return UnavailableError(
            f"{self._replicas.endpoint} is not ready after {timeout:g} s: {'; '.join(missing)}",
            endpoint=self._replicas.endpoint,
            model=target.model,
            version=target.version,
            label=target.label,
        )


def _pause(seconds: float) -> Flow[None]:
    deadline = Deadline(seconds)
    while deadline.remaining():  # A late answer to something else may wake the flow early.
        yield deadline.remaining()


def _statuses(transport: Transport, model: str, deadline: Deadline, wake: Wake) -> Flow[tuple[VersionStatus, ...]]:
    pending = transport.status(model, deadline)
    return (yield from answered(pending, Target(model), transport.endpoint, deadline, wake))


def _predict_one(
    transport: Transport, target: Target, output: str, deadline: Deadline, wake: Wake
) -> Flow[MienError | None]:
    """Ask a server about one black face; return why it did not answer well, or None."""
    half = Half(preferences(target), output, len(_BLACK_FACE), MissingLabels())
    while half.has_next():
        chunk = half.next_request()
        try:
            pending = transport.predict(Request(chunk.target, _BLACK_FACE, output, deadline))
            answer = yield from answered(pending, chunk.target, transport.endpoint, deadline, wake)
        except MienError as error:
            half.failed(chunk, error)
            continue
        if wrong := half.check(chunk, answer, transport.endpoint):
            half.failed(chunk, wrong)
        else:
            half.answered(chunk, answer)
    return half.error


def _why_not_ready(transport: Transport, target: Target, output: str, look: Deadline, wake: Wake) -> Flow[str]:
    """Return why a server cannot answer for a model now, or an empty string if it can.

    Raises:
        MienError: Waiting does not help.
    """
    error = yield from _predict_one(transport, target, output, look, wake)
    if error is None or error._overloaded:  # A server that is full has loaded its models.
        return ""
    if isinstance(error, NotServedError):
        try:
            statuses = yield from _statuses(transport, target.model, look, wake)
        except MienError:
            return str(error)
        return _states(Target(target.model, error.version, error.label), statuses)
    if isinstance(error, (UnavailableError, DeadlineExceededError)):
        return str(error)
    raise error


def _states(target: Target, versions: Sequence[VersionStatus]) -> str:
    """Return the states of a model's versions, none of which is the one that ``target`` names, as a clause."""
    states = (f"version {v.version} is {v.state}{v.error and f' ({v.error})'}" for v in versions)
    return f"{target}: {', '.join(states)}"
