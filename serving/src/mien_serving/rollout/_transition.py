"""The one safe order in which a model's desired state changes, whatever verb asks for it.

1. Load: ``models.config`` keeps old and new versions, every server takes it, every server says AVAILABLE.
2. Label: ``models.config`` moves the labels, every server takes it, every server gives the labels' versions.
3. Unload: ``models.config`` keeps the new versions only, every server takes it, no server holds the others.

TensorFlow Serving refuses a configuration, as a whole, that moves a label to a version that is not loaded. So a server
that polls the file must never see such a label, which is why the file is written twice; and in the first step every
server is told the labels, and to keep the versions, that it has, whatever they are: one that was away while others
changed would otherwise never take another configuration. A step that is already so is passed over quickly, so that
running a verb again finishes what was begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mien_serving.core.unlabelled import NOTICED_S
from mien_serving.rollout._fleet import END, LOADING, Fleet, ServerError, View, reason
from mien_serving.rollout._models_config import STABLE, Desired, ModelsConfig
from mien_serving.rollout._trial import Trial

_POLL_S: Final = 0.25

_TELL_S: Final = 3.0
"""After how long a person wants to know what is waited for."""

_SUSPECT_S: Final = 5.0
"""After how long a version that is still LOADING may be one that the server tries again and again."""

_LATE_S: Final = 12.0
"""For how long to wait for the error of a version that was taken back: a server tells it after its next attempt."""

_GRACE_S: Final = 1.0
"""For how long a server may still tell how the last attempt to load a version ended."""


@dataclass(frozen=True)
class Plan:
    """What a verb wants to be so.

    Attributes:
        model: Of which model.
        before: What was desired.
        after: What is to be desired.
        notes: What people should know before they agree.
        gone: Versions that no server may hold at the end, besides those that ``after`` lets go.
    """

    model: str
    before: Desired
    after: Desired
    notes: tuple[str, ...] = ()
    gone: frozenset[int] = field(default_factory=frozenset)

    @property
    def kept(self) -> frozenset[int]:
        """The versions that are loaded at the end."""
        assert self.after.versions is not None
        return self.after.versions

    @property
    def unloaded(self) -> frozenset[int]:
        """The versions that are not loaded at the end."""
        return (self.gone | (self.before.versions or frozenset())) - self.kept

    def steps(self, servers: int) -> list[str]:
        """Returns what is going to be done, for people to read."""
        everywhere = "the server" if servers == 1 else f"all {servers} servers"
        new, labels = sorted(self.kept - (self.before.versions or frozenset())), self.after.labels
        steps = []
        if self.before.versions is None:
            steps.append(f"models.config: keep {_versions(self.kept)} loaded, instead of whichever is the latest")
        elif new:
            steps.append(f"models.config: load {_versions(new)} beside {_versions(self.before.versions)}")
        steps.append(f"{everywhere}: reload, and wait until {_versions(self.kept)} can be asked")
        for label in sorted(self.before.labels.keys() | labels.keys(), reverse=True):
            old, now = self.before.labels.get(label), labels.get(label)
            if old != now:
                came = f", until now {old}" if old is not None else ""
                steps.append(
                    f"models.config and {everywhere}: "
                    + (f"label {label} names {now}{came}" if now is not None else f"no label {label}{came}")
                )
        if self.unloaded:
            steps.append(f"models.config and {everywhere}: unload {_versions(self.unloaded)}")
        return steps


@dataclass(frozen=True)
class Survey:
    """What the servers have of a model, before anything is changed.

    Attributes:
        views: What each has, by address.
        unfit: Those that cannot take a new configuration now, with the reason.
    """

    views: Mapping[str, View]
    unfit: Mapping[str, str] = field(default_factory=dict)


class TransitionError(Exception):
    """A step did not come to its end; the text is a sentence without its full stop.

    Attributes:
        step: ``load``, ``label`` or ``unload``.
    """

    def __init__(self, step: str, text: str) -> None:
        super().__init__(text)
        self.step = step


class Transition:
    """Makes a plan so.

    Args:
        config: The file as it is.
        fleet: The servers.
        survey: What they have, and which of them cannot take part.
        patience_s: How long loading or unloading may take.
        say: Told what has been done.
        onwards: Whether to go on without servers that do not answer or cannot do it, as long as one can.
        trial: Finds out why servers do not load a version.

    Attributes:
        config: The file as it is now.
        left_out: The servers that had to be left out, with the reason.
        loading: The versions that a server took long to load.
    """

    def __init__(
        self,
        config: ModelsConfig,
        fleet: Fleet,
        survey: Survey,
        *,
        patience_s: float,
        say: Callable[[str], None],
        onwards: bool = False,
        trial: Trial | None = None,
    ) -> None:
        self.config = config
        self._trial = trial
        self.loading: set[int] = set()
        self.left_out = dict(survey.unfit)
        self._before = config
        self._views = survey.views
        self._fleet = fleet
        self._patience_s = patience_s
        self._say = say
        self._onwards = onwards

    def run(self, plan: Plan) -> None:
        """Makes the plan so; onwards, and where no server answers, in models.config only.

        Raises:
            TransitionError: A step did not come to its end. The file and the servers are as that step left them.
            CommandError: A file could not be written.
        """
        if len(self.left_out) == len(self._fleet):
            # Servers that crash because of what they load never answer; they need the file when they start again.
            self._write(plan.model, plan.kept, plan.after.labels)
            return
        both = plan.kept | (plan.before.versions or frozenset())
        if both != plan.before.versions:
            self._write(plan.model, both, plan.before.labels)
            self._say(f"models.config keeps {_versions(both)} loaded")
        self._reload("load", lambda address: self._beside(plan.model, both, self._views[address]))
        self._wait("load", plan.model, lambda view: _not_loaded(view, plan.kept), explain=plan.kept)
        self._say(f"{self._servers()} {_versions(plan.kept)} AVAILABLE")
        self._write(plan.model, both, plan.after.labels)
        self._reload("label")
        labels = plan.before.labels.keys() | plan.after.labels.keys()
        self._wait("label", plan.model, lambda view: _mislabelled(view, labels, plan.after.labels), labels)
        named = ", ".join(f"{label} {version}" for label, version in sorted(plan.after.labels.items(), reverse=True))
        self._say(f"{self._servers()} the labels {named or 'taken away'}")
        if STABLE in plan.after.labels and STABLE not in plan.before.labels:
            self._say(f"waiting {NOTICED_S:g} s, until clients have noticed that there is a label {STABLE}")
            time.sleep(NOTICED_S)
        if plan.unloaded:
            if both != plan.kept:
                self._write(plan.model, plan.kept, plan.after.labels)
                self._reload("unload")
            self._wait("unload", plan.model, lambda view: _still_held(view, plan.unloaded))
            self._say(f"{self._servers()} unloaded {_versions(plan.unloaded)}")

    def take_back(self, model: str, to: Desired) -> dict[str, ServerError]:
        """Makes the file say what was desired before, and tells every server; returns those that did not take it."""
        if to.versions is None or to == self._before.desired(model):
            self._put(self._before)
        else:
            self._write(model, to.versions, to.labels)
        return self._fleet.reload(lambda _: self.config.message)

    def late_errors(self, model: str) -> str:
        """Return why versions that servers took long to load cannot be loaded, which they tell once they may stop."""
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
        """Return what every server has of the model now; servers that have the same are named together."""
        labels = plan.before.labels.keys() | plan.after.labels.keys()
        views = self._fleet.view(plan.model, labels)
        return _sentence({address: _described(view) for address, view in views.items()})

    def _beside(self, model: str, versions: Collection[int], view: View) -> Any:
        """The configuration that adds versions to what a server has, and moves nothing."""
        available = view.available()
        labels = {label: version for label, version in view.labels.items() if version in available}
        return self.config.message_with(model, {*versions, *available}, labels)

    def _write(self, model: str, versions: Collection[int], labels: Mapping[str, int]) -> None:
        if self.config.desired(model) != Desired(frozenset(versions), labels):
            self._put(self.config.with_desired(model, versions, labels))

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
        """Waits until no server has a problem; one that begins with a ``!`` does not go away by waiting.

        Args:
            step: Which one waits.
            model: Of which model.
            problem: Says what is wrong with what a server has, if anything.
            labels: Those to find out about.
            explain: Versions that ought to be loaded, of which more is said if that takes long.
        """
        started, told = time.monotonic(), False
        while True:
            problems = {}
            for address, view in self._fleet.view(model, labels, self.left_out).items():
                if found := view.error or problem(view):
                    problems[address] = f"!{found}" if view.error and self._onwards else found
            if not problems:
                return
            waited = time.monotonic() - started
            if explain and waited >= _TELL_S:
                problems |= self._explained(model, explain, problems, waited)
            hopeless = {address: found[1:] for address, found in problems.items() if found.startswith("!")}
            problems = {address: found.removeprefix("!") for address, found in problems.items()}
            if hopeless and waited >= _GRACE_S:
                self._settle(step, hopeless)
            elif waited >= self._patience_s:
                self._settle(step, problems, f"after {self._patience_s:g} s, ")
            elif waited >= _TELL_S and not told:
                told = True
                self._say(f"waiting: {_sentence(problems)}")
            time.sleep(_POLL_S)

    def _explained(
        self, model: str, versions: Collection[int], problems: Mapping[str, str], waited: float
    ) -> dict[str, str]:
        """Return more about servers that do not load what they ought to, by their addresses."""
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
            missing = sorted(set(versions) - views[model][address].available())
            wanted = [version for version in missing if (model, version) in loading]
            self.loading |= set(wanted)
            if missing and loading and not wanted:
                explained[address] = _busy(missing[0], sorted(loading))
            elif wanted and waited >= _SUSPECT_S and self._trial and (found := self._trial.problem(wanted[0])):
                explained[address] = f"!version {wanted[0]} is LOADING, and cannot be loaded here: {reason(found)}"
        return explained

    def _settle(self, step: str, problems: Mapping[str, str], when: str = "") -> None:
        """Stops here if there are problems; or leaves these servers out, if that is wanted and others remain."""
        if problems:
            if not self._onwards or len({*self.left_out, *problems}) == len(self._fleet):
                raise TransitionError(step, f"{when}{_sentence(problems)}")
            self.left_out.update(problems)

    def _servers(self) -> str:
        count = len(self._fleet) - len(self.left_out)
        return f"{count} of {len(self._fleet)} servers have" if len(self._fleet) > 1 else "the server has"


def _not_loaded(view: View, versions: Collection[int]) -> str:
    for version in sorted(versions):
        state = view.versions.get(version)
        if state is None:
            return f"version {version} is not found in the server's repository"
        if state.state == END and state.error:
            return f"!version {version} cannot be loaded: {state.error}"
        if version not in view.available():
            return f"version {version} is {state}"
    return ""


def _busy(version: int, loading: Sequence[tuple[str, int]]) -> str:
    """Why a version has not even begun to load."""
    others = " and ".join(f"version {other} of {name}" for name, other in loading)
    return (
        f"version {version} waits, as the server is busy loading {others}: if that is broken, it is tried again for "
        "minutes, and nothing else is loaded meanwhile, unless the server runs with --num_load_threads=2"
    )


def _described(view: View) -> str:
    """What a server has, but for the reasons."""
    if view.error:
        return view.error
    versions = [f"{v} {s.state}" for v, s in sorted(view.versions.items()) if s.state != END or s.error]
    labels = [f"{label} {version}" for label, version in sorted(view.labels.items(), reverse=True)]
    return f"{', '.join(versions) or 'no version'}; {', '.join(labels) or 'no labels'}"


def _mislabelled(view: View, labels: Collection[str], wanted: Mapping[str, int]) -> str:
    for label in sorted(labels):
        if view.labels.get(label) != wanted.get(label):
            return f"label {label} leads to {view.labels.get(label, 'no version')}, not {wanted.get(label, 'none')}"
    return ""


def _still_held(view: View, versions: Collection[int]) -> str:
    held = sorted(view.held() & set(versions))
    return f"version {held[0]} is still {view.versions[held[0]]}" if held else ""


def _sentence(problems: Mapping[str, str]) -> str:
    by_problem: dict[str, list[str]] = {}
    for address, problem in problems.items():
        by_problem.setdefault(problem, []).append(address)
    return "; ".join(f"on {', '.join(addresses)}: {problem}" for problem, addresses in by_problem.items())


def _versions(versions: Collection[int]) -> str:
    numbers = [str(version) for version in sorted(versions)]
    if len(numbers) == 1:
        return f"version {numbers[0]}"
    return f"versions {', '.join(numbers[:-1])} and {numbers[-1]}"
