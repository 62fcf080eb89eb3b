"""``abort``: remove the canary."""

from __future__ import annotations

from collections.abc import Iterable

from mien_client.contract import CANARY_LABEL

from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import ChangeRequest
from mien_serving.rollout.state import history
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.state.journal import Entry
from mien_serving.rollout.verbs.change import change


@only_rollout_errors()
def abort(request: ChangeRequest, progress: Progress) -> Plan:
    """Remove the canary, also if some servers do not answer.

    Raises:
        RolloutError: No server was changed, or not all of them; the text says what is in force.
    """
    model = request.model
    return change(
        request,
        progress,
        verb="abort",
        doing=f"abort {model}",
        plan_of=lambda config, _, journal: plan_abort(model, config.desired(model), journal.entries(model)),
        forward_only=True,
    )


def plan_abort(model: str, desired: Desired, entries: Iterable[Entry]) -> Plan:
    """Plan to unlabel and unload the canary, or one whose rollout was begun and not finished.

    Args:
        model: The model.
        desired: What is desired of it.
        entries: Its entries in the journal.

    Raises:
        RolloutError: There can be no canary.
    """
    if desired.versions is None:
        raise RolloutError(f"{model} has no canary: the servers choose which versions they load")
    labels = {label: version for label, version in desired.labels.items() if label != CANARY_LABEL}
    going = {version for label, version in desired.labels.items() if label == CANARY_LABEL}
    begun = history.unfinished(entries)
    if begun and begun["verb"] in ("canary", "abort"):
        going |= set(begun["after"]["versions"]) ^ set(begun["before"]["versions"] or ())
    gone = frozenset(going - set(labels.values()))
    notes = () if going else (f"{model} has no canary.",)
    return Plan(model, desired, Desired(desired.versions - gone, labels), notes, gone)
