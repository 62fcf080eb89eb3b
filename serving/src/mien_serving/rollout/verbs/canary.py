"""``canary``: load a version beside the stable one, and label it canary."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from mien_serving.repository.layout import check_version
from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.fleet.survey import Views
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import CanaryRequest
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.state.journal import Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.verbs.adopt import plan_adopt
from mien_serving.rollout.verbs.change import change
from mien_serving.rollout.wording import duration

_ENOUGH_S: Final = 60.0
"""Seconds for which a server must have counted requests without a label before a count of zero means anything."""


@only_rollout_errors()
def canary(request: CanaryRequest, progress: Progress) -> Plan:
    """Try a version beside the stable one.

    Raises:
        RolloutError: No server was changed, or not all of them; the text says what is in force.
    """
    model, version, deployment = request.model, request.version, request.deployment

    def plan(config: ModelsConfig, views: Views, _: Journal) -> Plan:
        folder, move = config.folder(model, deployment.repository), request.move_unlabelled
        return plan_canary(model, version, config.desired(model), views, folder, move_unlabelled=move)

    def adopted(config: ModelsConfig, views: Views, journal: Journal) -> Plan:
        plan(config, views, journal)  # Whatever is wrong with it is reported before anything is changed.
        return plan_adopt(model, config.desired(model), views, without=version)

    desired = ModelsConfig.read(deployment.config).desired(model)
    if not request.dry_run and (desired.versions is None or STABLE_LABEL not in desired.labels):
        # Clients must know which version is stable before there is another one.
        change(request, progress, verb="adopt", doing=f"adopt {model}", plan_of=adopted)
    done = change(
        request,
        progress,
        verb="canary",
        doing=f"canary {model} {version}",
        plan_of=plan,
        move_unlabelled=request.move_unlabelled,
    )
    if not request.dry_run:
        progress.say(
            f"Version {version} answers requests for the label {CANARY_LABEL}, as Client(…, canary=SHARE) sends them.\n"
            f"Next: mien rollout compare {model} --data FILE, then mien rollout shift {model} PERCENT, which sends it "
            f"a share of all calls, and mien rollout promote {model}; or mien rollout abort {model}."
        )
    return done


def plan_canary(
    model: str, version: int, desired: Desired, views: Views, folder: Path, *, move_unlabelled: bool = False
) -> Plan:
    """Plan to load a version beside the stable one and to label it ``canary``.

    Args:
        model: The model.
        version: The version to try.
        desired: What is desired of the model.
        views: What the servers have of it.
        folder: Its folder in the repository.
        move_unlabelled: Whether callers that name neither a version nor a label may move to the canary.

    Raises:
        RolloutError: The version cannot be tried, or such callers would move.
        RepositoryError: The version is not in the repository.
    """
    check_version(folder, version)
    other = desired.labels.get(CANARY_LABEL, version)
    if other != version:
        raise RolloutError(
            f"Version {other} of {model} is the canary already; run `mien rollout promote {model}` to make it stable, "
            f"or `mien rollout abort {model}` to remove it"
        )
    if desired.labels.get(STABLE_LABEL) == version:
        raise RolloutError(f"Version {version} of {model} is stable already; name another version")
    adopted = plan_adopt(model, desired, views, without=version)
    assert adopted.after.versions is not None
    after = Desired(adopted.after.versions | {version}, {**adopted.after.labels, CANARY_LABEL: version})
    notes = _unlabelled_callers(version, views, move=move_unlabelled)
    return Plan(model, desired, after, (*notes, *adopted.notes))


def _unlabelled_callers(version: int, views: Views, *, move: bool) -> tuple[str, ...]:
    """Return notes on the callers that name neither a version nor a label: they get the highest loaded version.

    Raises:
        RolloutError: There are such callers, and they must not move.
    """
    below = {address: view for address, view in views.items() if version > max(view.available(), default=-1)}
    if not below:
        return ()
    text = f"ALL callers that name neither a version nor a label move to version {version} as soon as it is loaded"
    counted = {address: view.unlabelled for address, view in below.items() if view.unlabelled}
    shortest = min((seconds for _, seconds in counted.values()), default=0.0)
    if seen := {address: requests for address, (requests, _) in counted.items() if requests}:
        span = duration(max(counted[address][1] for address in seen))
        text += f": {sum(seen.values()):,} such requests in the last {span} on {', '.join(seen)}"
        if not move:
            raise RolloutError(
                f"Nothing was changed: {text}. Have them ask for the label {STABLE_LABEL}, as the Python client does "
                "by itself, or move them with --move-unlabelled"
            )
        return (f"{text}.",)
    if uncounted := below.keys() - counted.keys():
        servers = ", ".join(sorted(uncounted))
        return (f"{text}. TensorFlow Serving does not count such requests, so {servers} may have some.",)
    if shortest < _ENOUGH_S:
        return (f"{text}. There were none in the {shortest:.0f} s for which the servers have counted them.",)
    return (f"In the last {duration(shortest)} all callers named a label or a version, so none moves by itself.",)
