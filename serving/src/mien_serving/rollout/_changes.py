"""The verbs that change what is served: each plans, and carries its plan out or takes it back."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from mien_client.cli import CommandError

from mien_serving.rollout import _plan, _repository
from mien_serving.rollout._fleet import Fleet
from mien_serving.rollout._journal import Action, Entry, Journal, stable_before, unfinished
from mien_serving.rollout._lock import locked
from mien_serving.rollout._models_config import CANARY, STABLE, Desired, ModelsConfig
from mien_serving.rollout._plan import Views
from mien_serving.rollout._transition import Plan, Transition, TransitionError
from mien_serving.rollout._trial import Trial


def say(text: str) -> None:
    """Tells a person what has been done, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def lock_path(repository: Path) -> Path:
    """The lock that changes hold; it lies next to the repository."""
    repository = repository.absolute()
    return repository.with_name(f"{repository.name}.lock")


def canary(arguments: argparse.Namespace) -> int:
    """Tries a version beside the stable one."""
    model, version = arguments.model, arguments.version

    def plan(config: ModelsConfig, views: Views, _: Journal) -> Plan:
        folder, move = config.folder(model, arguments.repository), arguments.move_unlabelled
        return _plan.canary(model, version, config.desired(model), views, folder, move_unlabelled=move)

    def adopted(config: ModelsConfig, views: Views, journal: Journal) -> Plan:
        plan(config, views, journal)  # What it refuses is refused before anything is changed.
        return _plan.adopt(model, config.desired(model), views, without=version)

    desired = ModelsConfig.read(arguments.config).desired(model)
    if not arguments.dry_run and (desired.versions is None or STABLE not in desired.labels):
        # Clients must know what is stable before there is anything else.
        change(arguments, "adopt", f"adopt {model}", adopted)
    change(arguments, "canary", f"canary {model} {version}", plan, move_unlabelled=arguments.move_unlabelled)
    if not arguments.dry_run:
        say(
            f"Version {version} answers who asks for it: by the label {CANARY}, or with Client(…, canary=SHARE).\n"
            f"Next: mien rollout compare {model} --data FILE, then mien rollout promote {model}; "
            f"or mien rollout abort {model}."
        )
    return 0


def promote(arguments: argparse.Namespace) -> int:
    """Makes the canary stable."""
    model = arguments.model
    if arguments.force and not arguments.why:
        raise CommandError("--force needs --why TEXT, for whoever reads the journal later")

    def plan(config: ModelsConfig, _: Views, journal: Journal) -> Plan:
        return _plan.promote(model, config.desired(model), journal.entries(model), force=arguments.force)

    done = change(arguments, "promote", f"promote {model}", plan)
    if not arguments.dry_run:
        before = stable_before(Journal(arguments.repository).entries(model), done.after.labels[STABLE])
        if before and before[0] in done.kept:
            say(
                f"Back: mien rollout rollback {model}, at once, as version {before[0]} stays loaded.\n"
                f"When you are sure: mien rollout retire {model} {before[0]}."
            )
    return 0


def abort(arguments: argparse.Namespace) -> int:
    """Takes the canary back."""
    model = arguments.model
    change(
        arguments,
        "abort",
        f"abort {model}",
        lambda config, _, journal: _plan.abort(model, config.desired(model), journal.entries(model)),
        onwards=True,
    )
    return 0


def rollback(arguments: argparse.Namespace) -> int:
    """Makes the version before stable again, whatever state the servers are in."""
    model = arguments.model

    def plan(config: ModelsConfig, _: Views, journal: Journal) -> Plan:
        folder = config.folder(model, arguments.repository)
        entries = journal.entries(model)
        return _plan.rollback(model, arguments.to, config.desired(model), entries, folder, force=arguments.force)

    change(arguments, "rollback", f"rollback {model}", plan, onwards=True)
    return 0


def retire(arguments: argparse.Namespace) -> int:
    """Unloads versions, and deletes them if that is asked for."""
    model, versions = arguments.model, arguments.versions

    def plan(config: ModelsConfig, views: Views, journal: Journal) -> Plan:
        folder = config.folder(model, arguments.repository)
        if arguments.delete:
            _repository.check_deletable(folder, versions)
        return _plan.retire(model, versions, config.desired(model), views, folder, journal.entries(model))

    done = change(
        arguments,
        "retire",
        f"retire {model} {' '.join(map(str, versions))}",
        plan,
        last=functools.partial(_delete, arguments) if arguments.delete else None,
    )
    if arguments.dry_run and arguments.delete:
        folder = ModelsConfig.read(arguments.config).folder(model, arguments.repository)
        there = [
            str(_repository.version_folder(folder, version))
            for version in _repository.versions(folder)
            if version in done.gone
        ]
        say(f"  then delete {', '.join(there) or 'nothing'}")
    return 0


def _delete(arguments: argparse.Namespace, config: ModelsConfig) -> None:
    folder = config.folder(arguments.model, arguments.repository)
    for version in arguments.versions:
        if path := _repository.remove_version(folder, version):
            say(f"  {path} is deleted")


def adopt(arguments: argparse.Namespace) -> int:
    """Names what is served now stable."""
    model = arguments.model
    change(
        arguments, "adopt", f"adopt {model}", lambda config, views, _: _plan.adopt(model, config.desired(model), views)
    )
    return 0


def apply(arguments: argparse.Namespace) -> int:
    """Makes the servers agree with models.config."""
    config = ModelsConfig.read(arguments.config)
    for problem in _plan.missing_base_paths(config, arguments.repository):
        raise CommandError(f"nothing was changed: {problem}")
    for model in [arguments.model] if arguments.model else config.models:
        if config.desired(model).versions is None and not arguments.model:
            say(f"{model}: the servers choose which versions they load; there is nothing to apply")
            continue
        one = argparse.Namespace(**{**vars(arguments), "model": model})
        change(one, "apply", f"apply {model}", functools.partial(_apply, model))
    return 0


def _apply(model: str, config: ModelsConfig, views: Views, journal: Journal) -> Plan:
    return _plan.apply(model, config.desired(model), views, journal.entries(model))


def change(
    arguments: argparse.Namespace,
    verb: str,
    doing: str,
    plan_of: Callable[[ModelsConfig, Views, Journal], Plan],
    *,
    onwards: bool = False,
    last: Callable[[ModelsConfig], None] | None = None,
    move_unlabelled: bool = False,
) -> Plan:
    """Plans under the lock, and carries the plan out, or prints it.

    Args:
        arguments: Of the verb.
        verb: As the journal calls it.
        doing: As the lock calls it.
        plan_of: Makes the plan.
        onwards: Whether to go on without servers that cannot, and never back.
        last: What is done at the end, before the journal says that all is done.
        move_unlabelled: Noted in the journal, for whoever has to run the verb again.

    Returns:
        The plan.

    Raises:
        CommandError: It could not be carried out. The sentence says what is in force and how to go on.
    """
    journal = Journal(arguments.repository)
    guard = contextlib.nullcontext() if arguments.dry_run else locked(lock_path(arguments.repository), doing)
    with contextlib.ExitStack() as stack:
        stack.enter_context(guard)
        fleet = stack.enter_context(Fleet(arguments.servers, arguments.timeout))
        config = ModelsConfig.read(arguments.config)
        survey = _plan.survey(config, fleet, arguments.repository, arguments.model, strict=not onwards)
        plan = plan_of(config, survey.views, journal)
        # What cannot be written is noticed before anything is.
        config.with_desired(plan.model, plan.kept, plan.after.labels)
        say(f"{plan.model}: {plan.before}  ->  {plan.after}")
        missing = _plan.left_out(journal.entries(plan.model), arguments.servers)
        for note in (*plan.notes, *(f"! {address} {reason}." for address, reason in missing.items())):
            say(f"  {note}")
        if journal.skipped:
            say(f"  {journal.damage()}.")
        if arguments.dry_run:
            for number, step in enumerate(plan.steps(len(fleet)), start=1):
                say(f"  {number}. {step}")
            return plan
        fallback = _fallback(journal.entries(plan.model), verb, plan)
        facts = {"before": plan.before.document(), "after": plan.after.document(), "why": arguments.why}
        facts |= {"servers": arguments.servers}
        facts |= {"left_out": [*missing]} if missing else {}
        facts |= {"gone": sorted(plan.gone)} if plan.gone else {}
        facts |= {"delete": True} if last else {}
        facts |= {"move_unlabelled": True} if move_unlabelled else {}
        action = journal.begin(verb, plan.model, **facts)
        trial = stack.enter_context(Trial(config.folder(plan.model, arguments.repository)))
        transition = Transition(
            config,
            fleet,
            survey,
            patience_s=arguments.wait,
            say=lambda text: say(f"  {text}"),
            onwards=onwards,
            trial=trial,
        )
        try:
            transition.run(plan)
            onwards = True  # What is left to do cannot be taken back.
            if last:
                last(transition.config)
        except (TransitionError, CommandError, KeyboardInterrupt) as error:
            _stop(error, action, plan, transition, fallback, onwards=onwards)
        say(f"In force: {plan.model} {plan.after}.")
        action.done(**({"without": transition.left_out} if transition.left_out else {}))
        if transition.left_out:
            told = "; ".join(f"{address}: {reason}" for address, reason in transition.left_out.items())
            raise CommandError(
                f"done, but not on {told}. A server that restarts reads models.config; if one comes back otherwise, "
                f"run `mien rollout apply {plan.model}`"
            )
    return plan


def _stop(
    error: BaseException, action: Action, plan: Plan, transition: Transition, fallback: Desired, *, onwards: bool
) -> None:
    """Takes back what can be, and says what is in force."""
    interrupted = isinstance(error, KeyboardInterrupt)
    why = "interrupted" if interrupted else str(error)
    nowhere = fallback == plan.after
    forward = onwards or interrupted or nowhere or (isinstance(error, TransitionError) and error.step == "unload")
    if not forward:
        try:
            refused = transition.take_back(plan.model, fallback)
            why += transition.late_errors(plan.model)
        except CommandError as another:
            forward, why = True, f"{why}; and {another}"
        else:
            _note(action, detail=why, in_force=fallback.document())
            also = "".join(f"; {address} did not take it back, as it {reason}" for address, reason in refused.items())
            raise CommandError(
                f"{why}. Taken back{also}. In force: {plan.model} {fallback}. Mend that, then run the same again"
            ) from None
    now = transition.config.desired(plan.model)
    _note(action, detail=why, in_force=now.document(), resume=True)
    text = f"{why}. In force by models.config: {plan.model} {now}"
    if interrupted:
        sys.stderr.write(f"mien rollout: {text}. Run the same again to finish\n")
        raise error
    have = transition.what_servers_have(plan)
    if nowhere:
        raise CommandError(f"{why}. models.config says {now}, but servers have {have}. Run the same again") from None
    raise CommandError(f"{text}; servers have {have}. Run the same again to finish") from None


def _fallback(entries: Iterable[Entry], verb: str, plan: Plan) -> Desired:
    """Where to go back to: to where it began, also if it was begun by a process that died half-way."""
    begun = unfinished(entries)
    if not begun or begun["verb"] != verb or begun["after"] != plan.after.document():
        return plan.before
    if begun["before"]["versions"] is None:
        labels = {label: version for label, version in plan.after.labels.items() if label != CANARY}
        return Desired(plan.kept - ({plan.after.labels.get(CANARY)} - set(labels.values())), labels)
    return Desired.read(begun["before"])


def _note(action: Action, **facts: object) -> None:
    with contextlib.suppress(CommandError):  # A full disk must not hide what went wrong first.
        action.failed(**facts)
