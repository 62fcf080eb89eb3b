"""``apply``: make the servers agree with ``models.config``."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.fleet.survey import Views, missing_base_paths
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import ApplyRequest
from mien_serving.rollout.state import history
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.state.journal import Entry, Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.verbs.change import change, check_versions_are_chosen


@only_rollout_errors()
def apply(request: ApplyRequest, progress: Progress) -> None:
    """Make the servers agree with ``models.config``, for one model or all of them.

    Raises:
        RolloutError: A server was not changed; the text says what is in force.
    """
    config = ModelsConfig.read(request.deployment.config)
    for problem in missing_base_paths(config, request.deployment.repository):
        raise RolloutError(f"Nothing was changed: {problem}")
    for model in [request.model] if request.model else config.models:
        if config.desired(model).versions is None and not request.model:
            progress.say(f"{model}: the servers choose which versions they load, so there is nothing to apply")
            continue
        change(
            replace(request, model=model),
            progress,
            verb="apply",
            doing=f"apply {model}",
            plan_of=functools.partial(_plan, model),
        )


def _plan(model: str, config: ModelsConfig, views: Views, journal: Journal) -> Plan:
    return plan_apply(model, config.desired(model), views, journal.entries(model))


def plan_apply(model: str, desired: Desired, views: Views, entries: Iterable[Entry]) -> Plan:
    """Plan to make the servers agree with what is desired.

    Args:
        model: The model.
        desired: What is desired of it.
        views: What the servers have of it.
        entries: Its entries in the journal.

    Raises:
        RolloutError: The servers choose which versions they load.
    """
    check_versions_are_chosen(model, desired)
    assert desired.versions is not None
    held = frozenset(version for view in views.values() for version in view.held())
    begun = history.unfinished(entries)
    notes = (
        (f"`{begun['verb']}`, begun by {begun['who']}, is not finished by this: run that verb again.",) if begun else ()
    )
    return Plan(model, desired, desired, notes, held - desired.versions)
