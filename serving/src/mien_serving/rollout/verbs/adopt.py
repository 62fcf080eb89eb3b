"""``adopt``: label the version that is served now as stable, before the first rollout."""

from __future__ import annotations

from mien_client.contract import STABLE_LABEL

from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.fleet.survey import Views
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import ChangeRequest
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.verbs.change import change


@only_rollout_errors()
def adopt(request: ChangeRequest, progress: Progress) -> Plan:
    """Label the version that is served now ``stable``.

    Raises:
        RolloutError: No server was changed, or not all of them; the text says what is in force.
    """
    model = request.model
    return change(
        request,
        progress,
        verb="adopt",
        doing=f"adopt {model}",
        plan_of=lambda config, views, _: plan_adopt(model, config.desired(model), views),
    )


def plan_adopt(model: str, desired: Desired, views: Views, without: int = -1) -> Plan:
    """Plan to label what is served now ``stable``, and to keep it loaded whatever else appears in the repository.

    Args:
        model: The model.
        desired: What is desired of it.
        views: What the servers have of it.
        without: A version that is not to become stable.

    Raises:
        RolloutError: No version is available on every server.
    """
    if STABLE_LABEL in desired.labels and desired.versions is not None:
        return Plan(model, desired, desired)
    everywhere = set.intersection(*(view.available() for view in views.values()))
    if desired.versions is not None:
        everywhere &= desired.versions
    if everywhere and STABLE_LABEL not in desired.labels and not everywhere - {without}:
        raise RolloutError(
            f"Version {without} of {model} is the only one that is served, so it cannot be tried beside a stable one; "
            f"to make it stable, run `mien rollout adopt {model}`"
        )
    everywhere -= {without}
    stable = desired.labels.get(STABLE_LABEL, max(everywhere, default=None))
    if stable is None:
        states = "; ".join(
            f"{address} has {', '.join(f'{version} {state}' for version, state in view.versions.items())}"
            for address, view in views.items()
        )
        raise RolloutError(f"No version of {model} is AVAILABLE on every server: {states}. Repair that first")
    versions = desired.versions if desired.versions is not None else frozenset(everywhere)
    return Plan(
        model,
        desired,
        Desired(versions | {stable}, {**desired.labels, STABLE_LABEL: stable}),
        (
            f"Until now the servers chose the version of {model}; from now on version {stable} is stable until another "
            "one is promoted. The Python client asks for the label stable by itself. Other callers must name it, "
            "because requests without a label go to the highest loaded version, which may be a canary.",
        ),
    )
