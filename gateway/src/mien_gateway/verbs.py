"""The verbs of `mien rollout`, where mien-serving is installed beside the gateway."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from mien_gateway.documents import Change, PromoteChange, RollbackChange, ShiftChange
from mien_gateway.problems import Problem
from mien_gateway.settings import Settings


class _Lines:
    """Keeps what a verb reports."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.extend(line.strip() for line in text.splitlines() if line.strip())

    def count(self, done: int, total: int) -> None:
        """Nobody watches."""


def run(verb: str, settings: Settings, operator: str, change: Change) -> dict[str, Any]:
    """Run a verb, and return a document of `documents.Outcome`. It may take minutes.

    Args:
        verb: ``shift``, ``promote``, ``rollback`` or ``abort``.
        settings: The gateway's settings.
        operator: Who asks, for the journal.
        change: What is asked for.

    Raises:
        Problem: The verb is not available here, or could not do what was asked.
    """
    if settings.config is None or settings.repository is None:
        raise Problem(
            501,
            "This gateway cannot change what is served: start it with --config FILE and --repository DIR",
            "NotAvailableError",
        )
    if importlib.util.find_spec("mien_serving") is None:
        raise Problem(
            501, "This gateway cannot change what is served: install mien-gateway[rollout]", "NotAvailableError"
        )
    from mien_serving.rollout.errors import RolloutError
    from mien_serving.rollout.requests import Deployment

    if getattr(change, "force", False) and not change.why:
        raise Problem(422, "Expected a reason in why, because force is true", "ConfigurationError")
    reason = f"{change.why} ({operator}, through the gateway)" if change.why else f"{operator}, through the gateway"
    common = {
        "deployment": Deployment(repository=settings.repository, config=settings.config, servers=settings.servers),
        "model": change.model,
        "why": reason,
        "dry_run": change.dry_run,
    }
    lines = _Lines()
    try:
        sentence = _VERBS[verb](change, common, lines)
    except RolloutError as error:
        raise Problem(409, str(error), "RolloutError", log=lines.lines) from None
    will, done = (sentence, None) if change.dry_run else (None, sentence)
    return {"will": will, "done": done, "log": lines.lines}


def _shift(change: Change, common: dict[str, Any], lines: _Lines) -> str:
    from mien_serving.rollout.requests import ShiftRequest
    from mien_serving.rollout.verbs.shift import shift

    assert isinstance(change, ShiftChange)
    shift(ShiftRequest(percent=change.percent, **common), lines)
    return f"The canary of {change.model} answers {change.percent:g} % of the calls."


def _promote(change: Change, common: dict[str, Any], lines: _Lines) -> str:
    from mien_serving.rollout.requests import PromoteRequest
    from mien_serving.rollout.verbs.promote import promote

    assert isinstance(change, PromoteChange)
    plan = promote(PromoteRequest(force=change.force, **common), lines)
    return _moved(change.model, plan)


def _rollback(change: Change, common: dict[str, Any], lines: _Lines) -> str:
    from mien_serving.rollout.requests import RollbackRequest
    from mien_serving.rollout.verbs.rollback import rollback

    assert isinstance(change, RollbackChange)
    plan = rollback(RollbackRequest(to=change.to, force=change.force, **common), lines)
    return _moved(change.model, plan)


def _abort(change: Change, common: dict[str, Any], lines: _Lines) -> str:
    from mien_serving.rollout.requests import ChangeRequest
    from mien_serving.rollout.verbs.abort import abort

    plan = abort(ChangeRequest(**common), lines)
    canary = plan.before.labels.get(CANARY_LABEL)
    if canary is None:
        return f"{change.model} has no canary; nothing changes."
    return f"The canary, version {canary} of {change.model}, is removed; the stable version answers all calls."


def _moved(model: str, plan: Any) -> str:
    """Return what a change of the stable version means for callers."""
    before, after = plan.before.labels.get(STABLE_LABEL), plan.after.labels.get(STABLE_LABEL)
    if before == after:
        return f"Version {after} of {model} is stable already; nothing changes for callers."
    instead = f", instead of version {before}" if before is not None else ""
    return f"Version {after} of {model} answers all callers{instead}."


_VERBS: dict[str, Callable[[Change, dict[str, Any], _Lines], str]] = {
    "shift": _shift,
    "promote": _promote,
    "rollback": _rollback,
    "abort": _abort,
}
