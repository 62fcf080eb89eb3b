"""Change what is served: plan under the lock, and carry the plan out or revert it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from typing import Final, NoReturn

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from mien_serving.repository.errors import RepositoryError
from mien_serving.repository.lock import lock_path, locked
from mien_serving.rollout.errors import RolloutError, RolloutInterrupted
from mien_serving.rollout.fleet.fleet import Fleet
from mien_serving.rollout.fleet.survey import Views, survey
from mien_serving.rollout.fleet.transition import Transition, TransitionError
from mien_serving.rollout.loading.trial import Trial
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import ChangeRequest
from mien_serving.rollout.state import history
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.state.journal import Action, Entry, Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.state.split_store import EndOfShare

FINISHES: Final = "This finishes an earlier run that was interrupted."


def change(
    request: ChangeRequest,
    progress: Progress,
    *,
    verb: str,
    doing: str,
    plan_of: Callable[[ModelsConfig, Views, Journal], Plan],
    forward_only: bool = False,
    finally_delete: Callable[[ModelsConfig], None] | None = None,
    move_unlabelled: bool = False,
) -> Plan:
    """Plan under the lock, and carry the plan out, or report it.

    Args:
        request: What is asked for.
        progress: Receives the plan, and what was done.
        verb: The verb, for the journal.
        doing: What is done, for the lock.
        plan_of: Makes the plan.
        forward_only: Whether to continue without servers that do not answer, and never to revert.
        finally_delete: Deletes versions at the end, before the journal notes that all is done.
        move_unlabelled: Noted in the journal, for whoever has to run the verb again.

    Returns:
        The plan.

    Raises:
        RolloutError: The plan could not be carried out. The text says what is in force and how to continue.
    """
    where = request.deployment
    journal = Journal(where.repository)
    guard = contextlib.nullcontext() if request.dry_run else locked(lock_path(where.repository), doing)
    with contextlib.ExitStack() as stack:
        stack.enter_context(guard)
        fleet = stack.enter_context(Fleet(where.servers, where.timeout_s))
        config = ModelsConfig.read(where.config)
        surveyed = survey(config, fleet, where.repository, request.model, strict=not forward_only)
        plan = plan_of(config, surveyed.views, journal)
        # A models.config that cannot be edited is noticed before anything is changed.
        config.with_desired(plan.model, plan.kept, plan.after.labels)
        share = EndOfShare(where.config, plan)
        progress.say(f"{plan.model}: {plan.before}  ->  {plan.after}")
        missing = left_out(journal.entries(plan.model), where.servers)
        for note in (*plan.notes, *share.notes, *(f"! {address} {reason}." for address, reason in missing.items())):
            progress.say(f"  {note}")
        if journal.skipped:
            progress.say(f"  {journal.damage()}.")
        if request.dry_run:
            for number, step in enumerate(plan.steps(len(fleet)), start=1):
                progress.say(f"  {number}. {step}")
            return plan
        fallback = _fallback(journal.entries(plan.model), verb, plan)
        facts: dict[str, object] = {
            "before": plan.before.document(),
            "after": plan.after.document(),
            "why": request.why,
        }
        facts |= {"servers": [*where.servers]}
        facts |= {"left_out": [*missing]} if missing else {}
        facts |= {"gone": sorted(plan.gone)} if plan.gone else {}
        facts |= {"percent": {"before": share.percent, "after": 0}} if share.percent else {}
        facts |= {"delete": True} if finally_delete else {}
        facts |= {"move_unlabelled": True} if move_unlabelled else {}
        action = journal.begin(verb, plan.model, **facts)
        trial = stack.enter_context(Trial(config.folder(plan.model, where.repository)))
        transition = Transition(
            config,
            fleet,
            surveyed,
            wait_s=request.wait_s,
            say=lambda text: progress.say(f"  {text}"),
            skip_failing=forward_only,
            trial=trial,
        )
        try:
            share.end(promoted=False)
            transition.run(plan)
            forward_only = True  # What is left to do cannot be reverted.
            share.end(promoted=True)
            if finally_delete:
                finally_delete(transition.config)
        except (RolloutError, RepositoryError, KeyboardInterrupt) as error:
            _stop(error, action, plan, transition, fallback, forward_only=forward_only)
        progress.say(f"In force: {plan.model} {plan.after}.")
        action.done(**({"without": transition.left_out} if transition.left_out else {}))
        if transition.left_out:
            failed = "; ".join(f"{address}: {reason}" for address, reason in transition.left_out.items())
            raise RolloutError(
                f"Done, but not on {failed}. A server that restarts reads models.config; for one that comes back "
                f"without a restart, run `mien rollout apply {plan.model}`"
            )
    return plan


def left_out(entries: Iterable[Entry], servers: Collection[str]) -> dict[str, str]:
    """Return the servers that took part in the last change of a model and are not named now, with a clause on each."""
    last = history.last_fleet(entries)
    if last is None:
        return {}
    text = (
        f"took part in `{last['verb']}` at {last['time'][:19]} but is not among --servers, so it is not changed; "
        f"add it, or, if it is gone for good, run `mien rollout apply {last['model']}`"
    )
    return {address: text for address in last["servers"] if address not in servers}


def check_versions_are_chosen(model: str, desired: Desired) -> None:
    """Raise an error if the servers choose which versions of a model they load.

    Raises:
        RolloutError: They do.
    """
    if desired.versions is None:
        raise RolloutError(
            f"The servers choose which versions of {model} they load; run `mien rollout adopt {model}` first"
        )


def already_moved(done: Entry) -> str:
    """Return that another operator, or the same command, has made a change already."""
    before, after = (done[side]["labels"].get(STABLE_LABEL) for side in ("before", "after"))
    return f"{done['who']} moved stable from {before} to {after} at {done['time'][:19]} already"


def _stop(
    error: BaseException, action: Action, plan: Plan, transition: Transition, fallback: Desired, *, forward_only: bool
) -> NoReturn:
    """Revert what can be reverted, and raise an error that says what is in force."""
    interrupted = isinstance(error, KeyboardInterrupt)
    why = "Interrupted" if interrupted else _capitalized(str(error))
    same = fallback == plan.after
    forward = forward_only or interrupted or same or (isinstance(error, TransitionError) and error.step == "unload")
    if not forward:
        try:
            refused = transition.revert(plan.model, fallback)
            why += transition.late_errors(plan.model)
        except RolloutError as another:
            forward, why = True, f"{why}; and {another}"
        else:
            _note(action, detail=why, in_force=fallback.document())
            also = "".join(f"; {address} did not revert it, as it {reason}" for address, reason in refused.items())
            raise RolloutError(
                f"{why}. Reverted{also}. In force: {plan.model} {fallback}. Repair that, then run the same command "
                "again"
            ) from None
    now = transition.config.desired(plan.model)
    _note(action, detail=why, in_force=now.document(), resume=True)
    text = f"{why}. In force by models.config: {plan.model} {now}"
    if interrupted:
        raise RolloutInterrupted(f"{text}. Run the same command again to finish") from None
    have = transition.what_servers_have(plan)
    if same:
        raise RolloutError(
            f"{why}. models.config says {now}, but servers have {have}. Run the same command again"
        ) from None
    raise RolloutError(f"{text}; servers have {have}. Run the same command again to finish") from None


def _capitalized(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _fallback(entries: Iterable[Entry], verb: str, plan: Plan) -> Desired:
    """Return what to revert to: where the change began, also if a process that died has begun it."""
    begun = history.unfinished(entries)
    if not begun or begun["verb"] != verb or begun["after"] != plan.after.document():
        return plan.before
    if begun["before"]["versions"] is None:
        labels = {label: version for label, version in plan.after.labels.items() if label != CANARY_LABEL}
        return Desired(plan.kept - ({plan.after.labels.get(CANARY_LABEL)} - set(labels.values())), labels)
    return Desired.from_document(begun["before"])


def _note(action: Action, **facts: object) -> None:
    with contextlib.suppress(RolloutError):  # A full disk must not hide what went wrong first.
        action.failed(**facts)
