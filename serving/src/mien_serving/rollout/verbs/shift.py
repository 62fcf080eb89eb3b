"""``shift``: set the share of a model's calls that its canary answers."""

from __future__ import annotations

import contextlib
from typing import Final

from mien_client.contract import CANARY_LABEL
from mien_client.split import Split, is_percentage

from mien_serving.repository.lock import lock_path, locked
from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.fleet.fleet import Fleet
from mien_serving.rollout.fleet.survey import survey
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import ShiftRequest
from mien_serving.rollout.state.configmap import ConfigMap
from mien_serving.rollout.state.journal import Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.state.split_store import SplitStore
from mien_serving.rollout.verbs.change import left_out

_SOON: Final = "Gateways, and clients with canary='auto', follow within two seconds."
_LATER: Final = "Gateways follow as soon as Kubernetes has updated their files, which may take a minute or two."


@only_rollout_errors()
def shift(request: ShiftRequest, progress: Progress) -> Split:
    """Set the canary's share of the calls.

    The share becomes larger only if every server can answer for the canary. It becomes smaller whatever state the
    servers are in: they are not asked.

    Returns:
        The split that is in force; with ``dry_run``, the one that would be.

    Raises:
        RolloutError: The share was not changed.
    """
    model, percent, where = request.model, request.percent, request.deployment
    if not is_percentage(percent):
        raise RolloutError(f"Expected a percentage from 0 to 100, got {percent:g}")
    doing = f"shift {model} {percent:g}"
    with contextlib.nullcontext() if request.dry_run else locked(lock_path(where.repository), doing):
        config, store = ModelsConfig.read(where.config), SplitStore(where.config)
        canary = _canary(config, model)
        split = store.read()
        before = split.percent(model)
        journal = Journal(where.repository)
        missing: dict[str, str] = {}
        if percent > before:
            _check_servers(request, config, canary)
            missing = left_out(journal.entries(model), where.servers)
        progress.say(f"{model}: version {canary}, the canary, gets {before:g}%  ->  {percent:g}% of the calls")
        for note in (store.damage, *(f"! {address} {reason}" for address, reason in missing.items())):
            if note:
                progress.say(f"  {note}.")
        changed = split.with_percent(model, percent)
        if request.dry_run:
            return changed
        facts = {"canary": canary, "percent": {"before": before, "after": changed.percent(model)}}
        action = journal.begin("shift", model, why=request.why, **facts)
        if percent == before and not store.damage:
            changed = split
        else:
            try:
                store.write(changed)
            except RolloutError as error:
                with contextlib.suppress(RolloutError):  # A full disk must not hide what went wrong first.
                    action.failed(detail=str(error))
                raise
        action.done()
    progress.say(_LATER if isinstance(where.config, ConfigMap) else _SOON)
    return changed


def _canary(config: ModelsConfig, model: str) -> int:
    """Return the version that is a model's canary.

    Raises:
        RolloutError: The model has no canary.
    """
    desired = config.desired(model)
    if CANARY_LABEL not in desired.labels:
        raise RolloutError(
            f"{model} has no canary ({desired}); run `mien rollout canary {model} VERSION` before you send it calls"
        )
    return desired.labels[CANARY_LABEL]


def _check_servers(request: ShiftRequest, config: ModelsConfig, canary: int) -> None:
    """Check that every server answers for the canary; a caller who meets one that does not would change sides.

    Raises:
        RolloutError: A server does not.
    """
    where, model = request.deployment, request.model
    with Fleet(where.servers, where.timeout_s) as fleet:
        views = survey(config, fleet, where.repository, model).views
    for address, view in views.items():
        labelled = view.labels.get(CANARY_LABEL)
        if labelled != canary:
            raise RolloutError(
                f"Nothing was changed: {address} has label {CANARY_LABEL} on {labelled or 'no version'}, expected "
                f"{canary}; run `mien rollout apply {model}` first"
            )
