"""``compare``: ask stable and canary about the same faces, and judge the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from mien_serving.repository.manifest import read_manifest
from mien_serving.rollout.comparison import report
from mien_serving.rollout.comparison.answers import Side, ask
from mien_serving.rollout.comparison.faces import Faces, Reading, read_data, read_recorded
from mien_serving.rollout.comparison.figures import Gate, judge, measure
from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.fleet.fleet import Fleet
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import CompareRequest
from mien_serving.rollout.state.journal import DONE, Journal
from mien_serving.rollout.state.models_config import ModelsConfig


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        model: The model.
        faces: The faces that were asked about.
        stable: What the stable version answered.
        canary: What the canary answered.
        figures: What was measured; see `measure`.
        gates: How the figures were judged.
    """

    model: str
    faces: Faces
    stable: Side
    canary: Side
    figures: Mapping[str, float]
    gates: list[Gate]

    @property
    def failed_gates(self) -> list[str]:
        """The names of the gates that failed."""
        return [gate.name for gate in self.gates if not gate.passed]

    @property
    def passed(self) -> bool:
        """Whether all gates passed."""
        return not self.failed_gates

    def document(self) -> dict[str, Any]:
        """Return the comparison without faces and answers, for JSON."""
        return {
            "model": self.model,
            "stable": self.stable.version,
            "canary": self.canary.version,
            "faces": len(self.faces.images),
            "source": self.faces.source,
            "notes": self.faces.notes,
            "figures": dict(self.figures),
            "gates": [asdict(gate) for gate in self.gates],
            "passed": self.passed,
            "errors": sorted({*self.stable.errors, *self.canary.errors}),
        }


@only_rollout_errors()
def compare(request: CompareRequest, progress: Progress) -> Comparison:
    """Compare stable and canary; note the result in the journal, and write the report if one is asked for.

    Raises:
        RolloutError: There is nothing to compare, or a server does not answer.
    """
    where, model = request.deployment, request.model
    config = ModelsConfig.read(where.config)
    desired = config.desired(model)
    labels = desired.labels
    folder = config.folder(model, where.repository)
    if STABLE_LABEL not in labels or CANARY_LABEL not in labels:
        raise RolloutError(
            f"{model} has no canary to compare ({desired}); run `mien rollout canary {model} VERSION` first"
        )
    versions = [labels[name] for name in (STABLE_LABEL, CANARY_LABEL)]
    faces = _read(request, {version: read_manifest(folder / str(version)) for version in versions})
    faces = faces.spread(request.limit)
    with Fleet(where.servers, where.timeout_s) as fleet:
        _check_labels(fleet, model, labels)
        stable, canary = ask(fleet.servers, model, labels, faces, where.timeout_s, progress)
    figures = measure(stable, canary, faces.truth)
    comparison = Comparison(model, faces, stable, canary, figures, judge(figures, request.limits))
    document = comparison.document()
    noted = {name: document[name] for name in ("stable", "canary", "faces", "source", "passed", "figures", "gates")}
    Journal(where.repository).append("compare", model, DONE, **noted, failed_gates=comparison.failed_gates)
    if request.report:
        page = report.page(document, faces, stable, canary)
        try:
            request.report.write_text(page, encoding="utf-8")
        except OSError as error:
            raise RolloutError(f"{request.report} cannot be written: {error.strerror}") from None
    return comparison


def _read(request: CompareRequest, manifests: Mapping[int, Mapping[str, Any]]) -> Faces:
    """Read the faces; of a key-point file, those that the last of the versions was not trained on."""
    if request.recorded:
        return read_recorded(request.recorded, request.model)
    if not request.data:
        raise RolloutError("Expected a file of faces: --data or --recorded")
    reading = Reading(request.seven_labels, request.groups, request.skip_bad_rows)
    for manifest in manifests.values():
        recipe = manifest.get("config")
        share, seed = (recipe.get(key) for key in ("validation", "seed")) if isinstance(recipe, dict) else (None, None)
        if isinstance(share, float) and 0 < share < 1 and isinstance(seed, int) and 0 <= seed < 1 << 32:
            reading = replace(reading, share=share, seed=seed)
    faces = read_data(request.data, request.model, reading)
    for version, manifest in manifests.items():
        if faces.split and isinstance(split := manifest.get("split"), str) and split != faces.split:
            faces.notes.append(
                f"Version {version} was trained with another split ({split}), so it may have seen some of these faces."
            )
    return faces


def _check_labels(fleet: Fleet, model: str, labels: Mapping[str, int]) -> None:
    """Raise an error if a server does not answer, or resolves a label to another version."""
    problems = []
    for address, view in fleet.view(model, (STABLE_LABEL, CANARY_LABEL)).items():
        wrong = [label for label in (STABLE_LABEL, CANARY_LABEL) if view.labels.get(label) != labels[label]]
        if view.error:
            problems.append(f"{address} {view.error}")
        elif wrong:
            has = view.labels.get(wrong[0], "no version")
            problems.append(f"label {wrong[0]} names {has} on {address}, expected {labels[wrong[0]]}")
    if problems:
        raise RolloutError(
            f"Nothing was compared: {'; '.join(problems)}. Start or repair it (mien rollout apply {model}), or "
            "leave it out of --servers"
        )
