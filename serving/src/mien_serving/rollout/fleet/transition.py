"""The one safe order in which the desired state of a model changes, whichever verb changes it.

1. Load: ``models.config`` keeps old and new versions, every server takes it and reports the new ones as AVAILABLE.
2. Label: ``models.config`` moves the labels, every server takes it and resolves the labels to the right versions.
3. Unload: ``models.config`` keeps the new versions only, every server takes it and unloads the others.

TensorFlow Serving refuses a whole configuration if one label names a version that is not loaded. A server that polls
the file must therefore never see such a label, which is why the file is written twice. For the same reason, in the
first step every server is told to keep the labels and versions that it has now: a server that was away while others
changed could otherwise never take another configuration. A step whose result is already there is passed quickly, so
running a verb again finishes what an earlier run began.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from mien_client.contract import STABLE_LABEL

from mien_serving.core.unlabelled import NOTICED_S
from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.fleet.fleet import Fleet
from mien_serving.rollout.fleet.server import END, LOADING, FleetError, View, reason
from mien_serving.rollout.fleet.survey import Survey
from mien_serving.rollout.loading.trial import Trial
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.wording import versions

_POLL_S: Final = 0.25

_TELL_S: Final = 3.0
"""Seconds after which the operator is told what is waited for."""

_SUSPECT_S: Final = 5.0
"""Seconds after which a version that is still LOADING may be one whose loading the server retries."""

_LATE_S: Final = 12.0
"""Seconds to wait for the error of a version that was removed: a server reports it after its next attempt."""

_GRACE_S: Final = 1.0
"""Seconds for which a server may still report how the last attempt to load a version ended."""


class TransitionError(RolloutError):
    """A step could not be completed. The text is a sentence without its full stop.

    Attributes:
        step: ``load``, ``label`` or ``unload``.
    """

    def __init__(self, step: str, text: str) -> None:
        super().__init__(text)
        self.step = step


class Transition:
    """Carries out a plan.

    Args:
        config: ``models.config`` before the change.
        fleet: The servers.
        survey: What they have, and which of them cannot take part.
        wait_s: Seconds that loading or unloading may take.
        say: Called with a sentence after each step.
        skip_failing: Whether to continue without servers that do not answer or fail, as long as one is left.
        trial: Finds out why servers do not load a version.

    Attributes:
        config: ``models.config`` as it is now.
        left_out: The servers that were left out, with the reason.
        loading: The versions that a server took long to load.
    """

    def __init__(
        self,
        config: ModelsConfig,
        fleet: Fleet,
        survey: Survey,
        *,
        wait_s: float,
        say: Callable[[str], None],
        skip_failing: bool = False,
        trial: Trial | None = None,
    ) -> None:
        self.config = config
        self._trial = trial
        self.loading: set[int] = set()
        self.left_out = dict(survey.unfit)
        self._before = config
        self._views = survey.views
        self._fleet = fleet
        self._wait_s = wait_s
        self._say = say
        self._skip_failing = skip_failing

    def run(self, plan: Plan) -> None:
        """Carry out a plan; if no server can take part, in ``models.config`` only.

        Raises:
            TransitionError: A step could not be completed. The file and the servers are as that step left them.
            RolloutError: ``models.config`` could not be written.
        """
        if len(self.left_out) == len(self._fleet):
            # Servers that crash while they load a version never answer; they need the file when they start again.
            self._write(plan.model, plan.kept, plan.after.labels)
            return
        both = plan.kept | (plan.before.versions or frozenset())
        if both != plan.before.versions:
            self._write(plan.model, both, plan.before.labels)
            self._say(f"models.config keeps {versions(both)} loaded")
        self._reload("load", lambda address: self._beside(plan.model, both, self._views[address]))
        self._wait("load", plan.model, lambda view: _not_loaded(view, plan.kept), explain=plan.kept)
        self._say(f"{self._servers()} {versions(plan.kept)} AVAILABLE")
        self._write(plan.model, both, plan.after.labels)
        self._reload("label")
        labels = plan.before.labels.keys() | plan.after.labels.keys()
        self._wait("label", plan.model, lambda view: _mislabelled(view, labels, plan.after.labels), labels)
        named = ", ".join(f"{label} {version}" for label, version in sorted(plan.after.labels.items(), reverse=True))
        self._say(f"{self._servers()} the labels {named}" if named else f"{self._servers()} no labels")
        if STABLE_LABEL in plan.after.labels and STABLE_LABEL not in plan.before.labels:
            self._say(f"waiting {NOTICED_S:g} s, until clients have noticed the label {STABLE_LABEL}")
            time.sleep(NOTICED_S)
        if plan.unloaded:
            if both != plan.kept:
                self._write(plan.model, plan.kept, plan.after.labels)
                self._reload("unload")
            self._wait("unload", plan.model, lambda view: _still_held(view, plan.unloaded))
            self._say(f"{self._servers()} unloaded {versions(plan.unloaded)}")

    def revert(self, model: str, to: Desired) -> dict[str, FleetError]:
        """Restore what was desired before, on every server; return the errors of those that did not take it."""
        if to.versions is None or to == self._before.desired(model):
            self._put(self._before)
        else:
            self._write(model, to.versions, to.labels)
        return self._fleet.reload(lambda _: self.config.message)

    def late_errors(self, model: str) -> str:
        """Return why the versions that servers took long to load cannot be loaded, reported once told to stop."""
        give_up = time.monotonic() + _LATE_S
        while self.loading and time.monotonic() < give_up:
            views = self._fleet.view(model, (), self.left_out)
            errors = {
                address: f"version {version} cannot be loaded: {view.versions[version].error}"
                for address, view in views.items()
                for version in self.loading & view.versions.keys()
                if view.versions[version].error
            }
            if errors:
                return f"; {_sentence(errors)}"
            if not any(self.loading & view.held() for view in views.values()):
                break
            time.sleep(_POLL_S)
        return ""

    def what_servers_have(self, plan: Plan) -> str:
        """Return what every server has of the model now; servers that have the same are grouped."""
        labels = plan.before.labels.keys() | plan.after.labels.keys()
        views = self._fleet.view(plan.model, labels)
        return _sentence({address: _described(view) for address, view in views.items()})

    def _beside(self, model: str, added: Collection[int], view: View) -> Any:
        """Return the configuration that adds versions to what a server has, and moves no label."""
        available = view.available()
        labels = {label: version for label, version in view.labels.items() if version in available}
        return self.config.message_with(model, {*added, *available}, labels)

    def _write(self, model: str, loaded: Collection[int], labels: Mapping[str, int]) -> None:
        if self.config.desired(model) != Desired(frozenset(loaded), labels):
            self._put(self.config.with_desired(model, loaded, labels))

    def _put(self, config: ModelsConfig) -> None:
        config.write(self.config)
        self.config = config

    def _reload(self, step: str, config_for: Callable[[str], Any] | None = None) -> None:
        refused = self._fleet.reload(config_for or (lambda _: self.config.message), self.left_out)
        self._settle(step, {address: str(error) for address, error in refused.items()})

    def _wait(
        self,
        step: str,
        model: str,
        problem: Callable[[View], str],
        labels: Collection[str] = (),
        explain: Collection[int] = (),
    ) -> None:
        """Wait until no server has a problem; a problem that begins with ``!`` is final.

        Args:
            step: The step that waits.
            model: The model.
            problem: Returns what is wrong with what a server has; empty if nothing is.
            labels: The labels to resolve.
            explain: Versions that are being loaded, to be explained if that takes long.
        """
        started, told = time.monotonic(), False
        while True:
            problems = {}
            for address, view in self._fleet.view(model, labels, self.left_out).items():
                if found := view.error or problem(view):
                    problems[address] = f"!{found}" if view.error and self._skip_failing else found
            if not problems:
                return
            waited = time.monotonic() - started
            if explain and waited >= _TELL_S:
                problems |= self._explained(model, explain, problems, waited)
            final = {address: found[1:] for address, found in problems.items() if found.startswith("!")}
            problems = {address: found.removeprefix("!") for address, found in problems.items()}
            if final and waited >= _GRACE_S:
                self._settle(step, final)
            elif waited >= self._wait_s:
                self._settle(step, problems, f"after {self._wait_s:g} s, ")
            elif waited >= _TELL_S and not told:
                told = True
                self._say(f"waiting: {_sentence(problems)}")
            time.sleep(_POLL_S)

    def _explained(
        self, model: str, wanted: Collection[int], problems: Mapping[str, str], waited: float
    ) -> dict[str, str]:
        """Return why servers do not load versions, by their addresses."""
        explained: dict[str, str] = {}
        views = self._fleet.views(dict.fromkeys(self.config.models, ()))
        for address, problem in problems.items():
            if problem.startswith("!"):
                continue
            loading = {
                (name, version)
                for name, of_model in views.items()
                for version, state in of_model[address].versions.items()
                if state.state == LOADING
            }
            missing = sorted(set(wanted) - views[model][address].available())
            begun = [version for version in missing if (model, version) in loading]
            self.loading |= set(begun)
            if missing and loading and not begun:
                explained[address] = _busy(missing[0], sorted(loading))
            elif begun and waited >= _SUSPECT_S and self._trial and (found := self._trial.problem(begun[0])):
                explained[address] = (
                    f"!version {begun[0]} is LOADING, and cannot be loaded here either: {reason(found)}"
                )
        return explained

    def _settle(self, step: str, problems: Mapping[str, str], when: str = "") -> None:
        """Raise an error if there are problems; or leave these servers out, if that is allowed and others remain."""
        if problems:
            if not self._skip_failing or len({*self.left_out, *problems}) == len(self._fleet):
                raise TransitionError(step, f"{when}{_sentence(problems)}")
            self.left_out.update(problems)

    def _servers(self) -> str:
        count = len(self._fleet) - len(self.left_out)
        return f"{count} of {len(self._fleet)} servers have" if len(self._fleet) > 1 else "the server has"


def _not_loaded(view: View, wanted: Collection[int]) -> str:
    for version in sorted(wanted):
        state = view.versions.get(version)
        if state is None:
            return f"version {version} is not in the server's repository"
        if state.state == END and state.error:
            return f"!version {version} cannot be loaded: {state.error}"
        if version not in view.available():
            return f"version {version} is {state}"
    return ""


def _busy(version: int, loading: Sequence[tuple[str, int]]) -> str:
    """Return why the loading of a version has not begun."""
    others = " and ".join(f"version {other} of {name}" for name, other in loading)
    return (
        f"version {version} waits, as the server is loading {others}: if that fails, it is retried for minutes, and "
        "nothing else is loaded meanwhile, unless the server runs with --num_load_threads=2"
    )


def _described(view: View) -> str:
    """Return what a server has, without errors."""
    if view.error:
        return view.error
    versions = [f"{v} {s.state}" for v, s in sorted(view.versions.items()) if s.state != END or s.error]
    labels = [f"{label} {version}" for label, version in sorted(view.labels.items(), reverse=True)]
    return f"{', '.join(versions) or 'no version'}; {', '.join(labels) or 'no labels'}"


def _mislabelled(view: View, labels: Collection[str], wanted: Mapping[str, int]) -> str:
    for label in sorted(labels):
        if view.labels.get(label) != wanted.get(label):
            return f"label {label} names {view.labels.get(label, 'no version')}, expected {wanted.get(label, 'none')}"
    return ""


def _still_held(view: View, unwanted: Collection[int]) -> str:
    held = sorted(view.held() & set(unwanted))
    return f"version {held[0]} is still {view.versions[held[0]]}" if held else ""


def _sentence(problems: Mapping[str, str]) -> str:
    by_problem: dict[str, list[str]] = {}
    for address, problem in problems.items():
        by_problem.setdefault(problem, []).append(address)
    return "; ".join(f"on {', '.join(addresses)}: {problem}" for problem, addresses in by_problem.items())
