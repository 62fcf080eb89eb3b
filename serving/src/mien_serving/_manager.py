"""The manager: makes the aspired versions so, without ever letting an available model go away in between."""

from __future__ import annotations

import enum
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from mien_serving._options import ManagerOptions
from mien_serving._status import Code, StatusError

logger = logging.getLogger(__name__)

_NICENESS: Final = 10


class Loadable(Protocol):
    """What the manager needs to know of a servable."""

    def close(self) -> None:
        """Frees everything; called once, when no request holds the servable any more."""


S = TypeVar("S", bound=Loadable)


class State(enum.IntEnum):
    """Where a version is in its life, by the numbers of ``ModelVersionStatus.State``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class ServableId:
    """One version of one model."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


@dataclass(frozen=True)
class ServableState:
    """What is known of a version; kept after it has ended.

    Attributes:
        state: Where it is in its life.
        error: Why it ended, if not because it was asked to.
        sequence: Grows with every change of any version's state.
    """

    state: State
    error: StatusError | None
    sequence: int


@dataclass(frozen=True)
class Snapshot:
    """What the version policy is told of one version."""

    version: int
    aspired: bool
    state: State


class Action(enum.Enum):
    """What the version policy can ask for."""

    LOAD = enum.auto()
    UNLOAD = enum.auto()


def next_action(versions: Sequence[Snapshot]) -> tuple[Action, int] | None:
    """TensorFlow Serving's availability-preserving policy: what to do next for one model, if anything.

    The last available version is unloaded only once an aspired one is available (or none is aspired), so that
    requests never find the model gone; the price is the memory of both for a moment.
    """
    aspired = [version for version in versions if version.aspired]
    leftover = [version.version for version in versions if not version.aspired and version.state is State.AVAILABLE]
    replaced = not aspired or any(version.state is State.AVAILABLE for version in aspired)
    if leftover and (replaced or len(leftover) > 1):
        return Action.UNLOAD, min(leftover)
    new = [version.version for version in aspired if version.state is State.START]
    return (Action.LOAD, max(new)) if new else None


@dataclass
class _Harness(Generic[S]):
    """One version under management."""

    id: ServableId
    path: Path
    state: State = State.START
    aspired: bool = True
    servable: S | None = None
    in_flight: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)


class Manager(Generic[S]):
    """Loads and unloads versions until what is available is what is aspired.

    Nothing polls: every change (new aspirations, a load that ended, a version unloaded) asks the policy what to do
    next. Loads and unloads run in threads of their own, which give way to those that answer requests. A version is
    unloaded in two steps: from the moment it stops being available no new request gets it, and it is closed when the
    last request that holds it has let go.

    Args:
        load: Loads the version in a folder; raises `StatusError`. Called from several threads.
        options: How versions are loaded.
    """

    def __init__(self, load: Callable[[ServableId, Path], S], options: ManagerOptions) -> None:
        self._load = load
        self._options = options
        self._load_slots = threading.Semaphore(max(options.num_load_threads, 1))
        self._changed = threading.Condition()
        self._harnesses: dict[str, dict[int, _Harness[S]]] = {}
        self._aspired: dict[str, Mapping[int, Path]] = {}
        self._states: dict[str, dict[int, ServableState]] = {}
        self._sequence = itertools.count(1)

    def set_aspired_versions(self, name: str, versions: Mapping[int, Path]) -> None:
        """States every version of a model that ought to be loaded; all others are thereby to be unloaded."""
        with self._changed:
            self._aspired[name] = versions
            self._advance(name)

    @contextmanager
    def handle(self, name: str, version: int | None = None) -> Iterator[tuple[ServableId, S]]:
        """Holds one available version, which is not unloaded before the block ends.

        Args:
            name: The model.
            version: Which version; the highest available one if None.

        Raises:
            StatusError: NOT_FOUND, there is no such version, or it is not available.
        """
        with self._changed:
            available = {
                number: harness
                for number, harness in self._harnesses.get(name, {}).items()
                if harness.state is State.AVAILABLE
            }
            harness = available.get(max(available, default=-1) if version is None else version)
            if harness is None or harness.servable is None:
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {request}")
            harness.in_flight += 1
        try:
            yield harness.id, harness.servable
        finally:
            with self._changed:
                harness.in_flight -= 1
                if not harness.in_flight and harness.state is State.UNLOADING:
                    self._changed.notify_all()

    def states(self, name: str) -> Mapping[int, ServableState]:
        """The last state of every version of a model that was ever managed, the highest version first."""
        with self._changed:
            return dict(sorted(self._states.get(name, {}).items(), reverse=True))

    def sequence(self) -> int:
        """A number that every later change of state exceeds."""
        with self._changed:
            return next(self._sequence)

    def wait_until_available(self, names: Collection[str], noun: str, since: int = 0) -> None:
        """Waits until each model has a version available.

        Args:
            names: The models.
            noun: What the error calls them.
            since: Only states that came after this `sequence` count.

        Raises:
            StatusError: UNKNOWN, with the reasons, if a model's version ended instead.
        """
        with self._changed:
            while None in (settled := {name: self._settled(name, since) for name in sorted(names)}).values():
                self._changed.wait()
            failed = [(id_, state) for id_, state in filter(None, settled.values()) if state.state is State.END]
        if failed:
            reasons = "".join(
                f"{{{id_}{f' due to error: {state.error}' if state.error else ''}}}, " for id_, state in failed
            )
            raise StatusError(Code.UNKNOWN, f"{len(failed)} {noun} did not become available: {{{reasons}}}")

    def stop(self) -> None:
        """Unloads everything and waits until it is unloaded."""
        with self._changed:
            for name in self._harnesses:
                self._aspired[name] = {}
                self._advance(name)
            self._changed.wait_for(lambda: not any(self._harnesses.values()))

    def _settled(self, name: str, since: int) -> tuple[ServableId, ServableState] | None:
        """The highest version of a model that is available or has ended, if any."""
        for version, state in sorted(self._states.get(name, {}).items(), reverse=True):
            if state.sequence > since and state.state in (State.AVAILABLE, State.END):
                return ServableId(name, version), state
        return None

    def _advance(self, name: str) -> None:
        """Brings one model's versions in line with the aspired ones and starts what the policy asks for."""
        aspired, harnesses = self._aspired[name], self._harnesses.setdefault(name, {})
        for version, harness in list(harnesses.items()):
            harness.aspired = version in aspired
            if harness.aspired:
                harness.cancelled.clear()
            else:
                harness.cancelled.set()
            if harness.state is State.END and not harness.aspired:
                del harnesses[version]
        for version, path in aspired.items():
            if version not in harnesses:
                harnesses[version] = _Harness(ServableId(name, version), path)
                self._publish(harnesses[version], State.START)
        while action := next_action([Snapshot(h.id.version, h.aspired, h.state) for h in harnesses.values()]):
            what, version = action
            harness = harnesses[version]
            self._publish(harness, State.LOADING if what is Action.LOAD else State.UNLOADING)
            work = self._load_version if what is Action.LOAD else self._unload_version
            threading.Thread(target=work, args=(harness,), name=f"{what.name} {harness.id}", daemon=True).start()
        self._changed.notify_all()

    def _publish(self, harness: _Harness[S], state: State, error: StatusError | None = None) -> None:
        harness.state = state
        self._states.setdefault(harness.id.name, {})[harness.id.version] = ServableState(
            state, error, next(self._sequence)
        )
        logger.info("Servable version %s: %s%s", harness.id, state.name, f", {error}" if error else "")

    def _load_version(self, harness: _Harness[S]) -> None:
        # The first load makes TensorFlow's own threads, which keep the priority they are made with.
        with self._changed:
            states = {other.state for harnesses in self._harnesses.values() for other in harnesses.values()}
        if State.AVAILABLE in states:
            _give_way()
        servable, error = self._try_to_load(harness)
        with self._changed:
            harness.servable = servable
            self._publish(harness, State.END if error else State.AVAILABLE, error)
            self._advance(harness.id.name)

    def _try_to_load(self, harness: _Harness[S]) -> tuple[S | None, StatusError | None]:
        error = StatusError(Code.CANCELLED, "Load cancelled before we could try to load.")
        for attempt in range(self._options.max_num_load_retries + 1):
            if attempt and harness.cancelled.wait(max(self._options.load_retry_interval_s, 0)):
                break
            with self._load_slots:
                if harness.cancelled.is_set():
                    break
                try:
                    return self._load(harness.id, harness.path), None
                except StatusError as caught:
                    error = caught
                    logger.warning("Servable version %s: load failure: %s", harness.id, error)
                except Exception as caught:
                    error = StatusError(Code.INTERNAL, f"{type(caught).__name__}: {caught}")
                    logger.exception("Servable version %s: load failure", harness.id)
        return None, error

    def _unload_version(self, harness: _Harness[S]) -> None:
        _give_way()
        with self._changed:
            self._changed.wait_for(lambda: not harness.in_flight)
            servable, harness.servable = harness.servable, None
        if servable is not None:
            servable.close()
        del servable
        with self._changed:
            del self._harnesses[harness.id.name][harness.id.version]
            self._publish(harness, State.END)
            self._advance(harness.id.name)


def _give_way() -> None:
    """Leaves the processors to other threads that want them; only Linux gives threads priorities of their own."""
    if sys.platform == "linux":
        niceness = max(os.getpriority(os.PRIO_PROCESS, os.getpid()), _NICENESS)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
