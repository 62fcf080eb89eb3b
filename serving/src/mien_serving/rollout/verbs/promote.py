"""``promote``: make the canary stable."""

from __future__ import annotations

from collections.abc import Iterable

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.fleet.survey import Views
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import PromoteRequest
from mien_serving.rollout.state import history
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.state.journal import Entry, Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.verbs.change import FINISHES, already_moved, change


@only_rollout_errors()
def promote(request: PromoteRequest, progress: Progress) -> Plan:
    """Make the canary stable.

    Raises:
        RolloutError: No server was changed, or not all of them; the text says what is in force.
    """
    model = request.model
    if request.force and not request.why:
        raise RolloutError("--force requires --why TEXT, which explains it in the journal")

    def plan(config: ModelsConfig, _: Views, journal: Journal) -> Plan:
        return plan_promote(model, config.desired(model), journal.entries(model), force=request.force)

    done = change(request, progress, verb="promote", doing=f"promote {model}", plan_of=plan)
    if not request.dry_run:
        journal = Journal(request.deployment.repository)
        before = history.stable_before(journal.entries(model), done.after.labels[STABLE_LABEL])
        if before and before[0] in done.kept:
            progress.say(
                f"To go back at once: mien rollout rollback {model}; version {before[0]} stays loaded.\n"
                f"When you are sure: mien rollout retire {model} {before[0]}."
            )
    return done


def plan_promote(model: str, desired: Desired, entries: Iterable[Entry], *, force: bool) -> Plan:
    """Plan to make the canary stable; the previous version stays loaded, so that a rollback takes no time.

    Args:
        model: The model.
        desired: What is desired of it.
        entries: Its entries in the journal.
        force: Whether the canary need not have passed a comparison.

    Raises:
        RolloutError: There is no canary, or it has not passed its comparison.
    """
    target = desired.labels.get(CANARY_LABEL)
    if target is None:
        begun = history.unfinished(entries)
        if begun and begun["verb"] == "promote" and begun["after"]["labels"] == dict(desired.labels):
            return Plan(model, desired, desired, (FINISHES,))
        done = history.last_move(entries, desired.labels.get(STABLE_LABEL))
        if done and done["verb"] == "promote":
            return Plan(model, desired, desired, (f"{already_moved(done)}; running it again is safe.",))
        raise RolloutError(
            f"{model} has no canary to promote ({desired}); run `mien rollout canary {model} VERSION` to try a version"
        )
    stable = desired.labels.get(STABLE_LABEL)
    if not force:
        check_compared(model, stable, target, entries)
    labels = {label: version for label, version in desired.labels.items() if label != CANARY_LABEL}
    notes = ("Forced: no passing comparison is required.",) if force else ()
    return Plan(model, desired, Desired(desired.versions, {**labels, STABLE_LABEL: target}), notes)


def check_compared(model: str, stable: int | None, target: int, entries: Iterable[Entry]) -> None:
    """Raise an error unless the last comparison of exactly these two versions passed.

    Raises:
        RolloutError: There was no such comparison, or it failed.
    """
    compared = None
    for entry in entries:
        if entry["verb"] == "compare" and entry.get("stable") == stable and entry.get("canary") == target:
            compared = entry
    hint = f"run `mien rollout compare {model} --data FILE`, or add --force and --why"
    if compared is None:
        raise RolloutError(f"Versions {stable} and {target} of {model} were never compared: {hint}")
    if not compared.get("passed"):
        failed = ", ".join(compared.get("failed_gates", ())) or "its gates"
        raise RolloutError(f"Version {target} of {model} failed {failed} when it was compared with {stable}: {hint}")
