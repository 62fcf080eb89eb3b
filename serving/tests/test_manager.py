"""The manager makes aspired versions available, and unloads no version before its successor is available."""

import os
import sys
import threading
import time
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mien_serving.core.manager import Manager, ManagerOptions
from mien_serving.core.servable_state import ServableId, State
from mien_serving.core.status import Code, StatusError
from mien_serving.core.version_policy import Action, Snapshot, next_action

from tests import waiting

AVAILABLE, LOADING, START, END = State.AVAILABLE, State.LOADING, State.START, State.END


class Loaded:
    """Stands for a loaded SavedModel, which the manager only closes."""

    def __init__(self, version, on_close=lambda version: None):
        self.version = version
        self.closed = False
        self._on_close = on_close

    def close(self):
        self._on_close(self.version)
        self.closed = True


def manager_of(load=lambda servable_id, path: Loaded(servable_id.version), **options):
    return Manager(load, ManagerOptions(**{"max_num_load_retries": 0, "load_retry_interval_s": 0.001, **options}))


def states(manager, name="m"):
    return {version: state.state for version, state in manager.states(name).items()}


def aspire(manager, *versions):
    manager.set_aspired_versions("m", dict.fromkeys(versions))


until = partial(waiting.until, timeout_s=20, pause_s=0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives threads priorities of their own")
def test_versions_load_at_a_lower_priority_while_another_is_served():
    niceness = {}

    def load(servable_id, path):
        niceness[servable_id.version] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return Loaded(servable_id.version)

    manager = manager_of(load)
    for version in (1, 2):
        aspire(manager, version)
        until(lambda version=version: states(manager).get(version) is AVAILABLE)
    mine = os.getpriority(os.PRIO_PROCESS, os.getpid())
    assert niceness == {1: mine, 2: max(mine, 10)}


class TestPolicy:
    """The availability-preserving policy, as TensorFlow Serving's tests for it have it."""

    @pytest.mark.parametrize(
        ("versions", "action"),
        [
            ([], None),
            ([(1, True, START)], (Action.LOAD, 1)),
            ([(1, True, START), (2, True, START)], (Action.LOAD, 2)),
            ([(1, False, AVAILABLE), (2, True, START)], (Action.LOAD, 2)),
            ([(1, False, AVAILABLE), (2, True, LOADING)], None),
            ([(1, False, AVAILABLE), (2, True, AVAILABLE)], (Action.UNLOAD, 1)),
            ([(1, False, AVAILABLE), (2, True, END)], None),
            ([(1, False, AVAILABLE), (2, False, AVAILABLE), (3, True, LOADING)], (Action.UNLOAD, 1)),
            ([(1, False, AVAILABLE)], (Action.UNLOAD, 1)),
            ([(1, True, AVAILABLE), (2, True, AVAILABLE)], None),
            ([(1, False, AVAILABLE), (2, True, AVAILABLE), (3, True, START)], (Action.UNLOAD, 1)),
        ],
    )
    def test_next_action(self, versions, action):
        assert next_action([Snapshot(*version) for version in versions]) == action


@settings(max_examples=50)
@given(st.lists(st.sets(st.integers(1, 5)), min_size=1, max_size=6))
def test_aspired_versions_become_available_without_a_gap(steps):
    unavailable_at_close: list[Any] = []
    aspired: set[int] = set()

    def on_close(version):
        if aspired and AVAILABLE not in states(manager).values():
            unavailable_at_close.append(version)

    manager = manager_of(lambda servable_id, path: Loaded(servable_id.version, on_close))
    for aspired in steps:
        aspire(manager, *aspired)
        until(lambda: {v for v, s in states(manager).items() if s is not END} == aspired)  # noqa: B023
        until(lambda: all(states(manager)[v] is AVAILABLE for v in aspired))  # noqa: B023
    assert not unavailable_at_close


def test_a_request_gets_the_latest_version_or_the_one_it_names():
    manager = manager_of()
    aspire(manager, 1, 2)
    manager.wait_until_available(["m"], "servable(s)")
    until(lambda: states(manager) == {2: AVAILABLE, 1: AVAILABLE})
    with manager.handle("m") as (servable_id, servable):
        assert (servable_id, servable.version) == (ServableId("m", 2), 2)
    with manager.handle("m", 1) as (servable_id, _):
        assert servable_id.version == 1


@pytest.mark.parametrize(("version", "request_text"), [(None, "Latest(m)"), (9, "Specific(m, 9)")])
def test_a_request_for_an_unavailable_version_is_an_error(version, request_text):
    with pytest.raises(StatusError) as error, manager_of().handle("m", version):
        pass
    assert error.value.code is Code.NOT_FOUND
    assert error.value.message == f"Servable not found for request: {request_text}"


def test_a_version_is_closed_when_its_last_request_has_ended():
    manager = manager_of()
    aspire(manager, 1)
    manager.wait_until_available(["m"], "servable(s)")
    with manager.handle("m") as (_, first), manager.handle("m"):
        aspire(manager, 2)
        until(lambda: states(manager) == {2: AVAILABLE, 1: State.UNLOADING})
        with manager.handle("m") as (servable_id, _):
            assert servable_id.version == 2
        assert not first.closed
    until(lambda: states(manager) == {2: AVAILABLE, 1: END})
    assert first.closed


def test_a_failed_load_is_retried():
    attempts: list[Any] = []

    def load(servable_id, path):
        attempts.append(servable_id)
        if len(attempts) < 3:
            raise StatusError(Code.UNAVAILABLE, "not yet")
        return Loaded(servable_id.version)

    manager = manager_of(load, max_num_load_retries=2)
    aspire(manager, 1)
    manager.wait_until_available(["m"], "servable(s)")
    assert len(attempts) == 3


def test_a_version_that_cannot_be_loaded_ends_with_the_error_and_the_old_one_stays():
    def load(servable_id, path):
        if servable_id.version == 2:
            raise StatusError(Code.DATA_LOSS, "torn")
        return Loaded(servable_id.version)

    manager = manager_of(load, max_num_load_retries=1)
    aspire(manager, 1)
    manager.wait_until_available(["m"], "servable(s)")
    aspire(manager, 2)
    until(lambda: states(manager) == {2: END, 1: AVAILABLE})
    assert manager.states("m")[2].error.code is Code.DATA_LOSS
    aspire(manager, 3)
    until(lambda: states(manager) == {3: AVAILABLE, 2: END, 1: END})


def test_an_unexpected_exception_of_a_loader_ends_the_version():
    def load(servable_id, path):
        raise ZeroDivisionError("oops")

    manager = manager_of(load)
    aspire(manager, 1)
    until(lambda: states(manager) == {1: END})
    assert str(manager.states("m")[1].error) == "INTERNAL: ZeroDivisionError: oops"


class TestLoadThreads:
    """A broken version, of the model `broken`, beside a good one, of `good`; as measured on TensorFlow Serving."""

    def manager_of(self, attempts, **options):
        def load(servable_id, path):
            attempts.append(servable_id.name)
            if servable_id.name == "broken":
                raise StatusError(Code.DATA_LOSS, "torn")
            return Loaded(servable_id.version)

        return manager_of(load, **{"max_num_load_retries": 3, "load_retry_interval_s": 0.2, **options})

    def held_pauses(self, manager, monkeypatch):
        """Make the pauses between attempts last until the test lets them end.

        Returns:
            An event that is set when the first one has begun, and the event that lets them end.
        """
        begun, may_end, wait = threading.Event(), threading.Event(), manager._stopping.wait

        def held(seconds):
            begun.set()
            assert may_end.wait(20)
            return wait(seconds)

        monkeypatch.setattr(manager._stopping, "wait", held)
        return begun, may_end

    def test_without_load_threads_nothing_else_happens_until_a_broken_version_has_used_up_its_attempts(self):
        attempts: list[Any] = []
        manager = self.manager_of(attempts)
        manager.set_aspired_versions("old", {1: None})
        manager.wait_until_available(["old"], "servable(s)")
        manager.set_aspired_versions("broken", {2: None})
        until(lambda: "broken" in attempts)
        manager.set_aspired_versions("good", {1: None})
        manager.set_aspired_versions("old", {})
        while states(manager, "broken") != {2: END}:
            # Such a server does not even know that there is a version to load: its status has no such model.
            assert states(manager, "good") == {} or states(manager, "broken") == {2: END}
            assert states(manager, "old") == {1: AVAILABLE} or states(manager, "broken") == {2: END}
            time.sleep(0.01)
        until(lambda: states(manager, "good") == {1: AVAILABLE} and states(manager, "old") == {1: END})
        assert attempts == ["old", "broken", "broken", "broken", "broken", "good"]

    def test_without_load_threads_a_broken_version_is_tried_to_the_end_also_when_it_is_taken_back(self):
        attempts: list[Any] = []
        manager = self.manager_of(attempts)
        manager.set_aspired_versions("broken", {2: None})
        until(lambda: attempts)
        manager.set_aspired_versions("broken", {})
        until(lambda: states(manager, "broken") == {2: END})
        assert len(attempts) == 4

    def test_a_broken_version_occupies_its_load_thread_also_between_attempts(self, monkeypatch):
        attempts: list[Any] = []
        manager = self.manager_of(attempts, num_load_threads=1)
        begun, may_end = self.held_pauses(manager, monkeypatch)
        manager.set_aspired_versions("broken", {2: None})
        assert begun.wait(20)
        manager.set_aspired_versions("good", {1: None})
        until(lambda: states(manager, "good") == {1: START})
        may_end.set()
        until(lambda: states(manager, "good") == {1: AVAILABLE})
        assert attempts == ["broken", "broken", "broken", "broken", "good"]

    def test_with_another_load_thread_good_versions_load_meanwhile(self):
        attempts: list[Any] = []
        manager = self.manager_of(attempts, num_load_threads=2, load_retry_interval_s=3600)
        manager.set_aspired_versions("broken", {2: None})
        until(lambda: attempts)
        manager.set_aspired_versions("good", {1: None})
        manager.wait_until_available(["good"], "servable(s)")
        assert states(manager, "broken") == {2: LOADING}

    def test_with_load_threads_a_version_that_is_taken_back_between_attempts_ends_after_the_next_one(self, monkeypatch):
        attempts: list[Any] = []
        manager = self.manager_of(attempts, num_load_threads=1)
        begun, may_end = self.held_pauses(manager, monkeypatch)
        manager.set_aspired_versions("broken", {2: None})
        assert begun.wait(20)
        manager.set_aspired_versions("broken", {})
        manager.set_aspired_versions("good", {1: None})
        until(lambda: states(manager, "good") == {1: START})  # What was set before it has been read by then, too.
        may_end.set()
        until(lambda: states(manager, "broken") == {2: END})
        assert attempts.count("broken") == 2

    def test_at_start_up_versions_load_at_the_same_time_and_all_attempts_of_broken_ones_are_waited_for(
        self, monkeypatch
    ):
        attempts: list[Any] = []
        manager = self.manager_of(attempts)
        begun, may_end = self.held_pauses(manager, monkeypatch)
        with manager.initial_load():
            manager.set_aspired_versions("broken", {2: None})
            assert begun.wait(20)
            manager.set_aspired_versions("good", {1: None})
            manager.wait_until_available(["good"], "servable(s)")
            assert states(manager, "broken") == {2: LOADING}
            may_end.set()
        assert states(manager, "broken") == {2: END}
        assert attempts.count("broken") == 4

    def test_a_start_that_fails_waits_for_all_attempts_too(self):
        attempts: list[Any] = []
        manager = self.manager_of(attempts)

        def start():
            with manager.initial_load():
                manager.set_aspired_versions("broken", {2: None})
                until(lambda: attempts)
                raise StatusError(Code.UNKNOWN, "1 servable(s) did not become available")

        with pytest.raises(StatusError):
            start()
        assert len(attempts) == 4

    @pytest.mark.parametrize("threads", [0, 1])
    def test_stopping_does_not_wait_for_the_next_attempt(self, threads):
        attempts: list[Any] = []
        manager = self.manager_of(attempts, num_load_threads=threads, load_retry_interval_s=3600)
        manager.set_aspired_versions("broken", {2: None})
        until(lambda: attempts)
        manager.stop()
        assert states(manager, "broken") == {2: END}


def test_a_version_that_is_taken_back_before_its_turn_is_never_loaded():
    go, loaded = threading.Event(), []

    def load(servable_id, path):
        loaded.append(servable_id.version)
        go.wait(20)
        return Loaded(servable_id.version)

    manager = manager_of(load)
    aspire(manager, 1, 2)
    until(lambda: loaded == [2])
    aspire(manager, 2)
    go.set()
    until(lambda: states(manager) == {2: AVAILABLE, 1: END})
    assert loaded == [2]
    manager.stop()


def test_waiting_for_models_reports_which_failed_and_why():
    def load(servable_id, path):
        raise StatusError(Code.NOT_FOUND, "no such model")

    manager = manager_of(load)
    aspire(manager, 3)
    with pytest.raises(StatusError) as error:
        manager.wait_until_available(["m"], "servable(s)")
    assert str(error.value) == (
        "UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: m version: 3} due to error: NOT_FOUND: no such model}, }"
    )


def test_by_default_versions_load_one_after_the_other():
    loading, most = set(), []

    def load(servable_id, path):
        loading.add(servable_id)
        most.append(len(loading))
        time.sleep(0.01)
        loading.remove(servable_id)
        return Loaded(servable_id.version)

    manager = manager_of(load)
    aspire(manager, 1, 2, 3)
    until(lambda: set(states(manager).values()) == {AVAILABLE})
    assert max(most) == 1


def test_stopping_unloads_everything_after_the_requests_in_flight():
    manager = manager_of()
    aspire(manager, 1)
    manager.wait_until_available(["m"], "servable(s)")
    stopping = threading.Thread(target=manager.stop)
    with manager.handle("m") as (_, servable):
        stopping.start()
        until(lambda: states(manager) == {1: State.UNLOADING})
        assert not servable.closed
    stopping.join(timeout=20)
    assert servable.closed
    assert states(manager) == {1: END}
