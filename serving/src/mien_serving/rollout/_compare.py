"""Stable and canary, asked about the same faces: how often they agree, which is better, and which is slower."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from mien_client import MienError
from mien_client.cli import CommandError
from mien_client.contract import EMOTION_MODEL, EMOTIONS, KEYPOINTS, KEYPOINTS_OUTPUT, PROBABILITIES_OUTPUT
from mien_client.transports import Target
from numpy.typing import NDArray

from mien_serving.rollout._faces import Faces, Reading, read_data, read_recorded
from mien_serving.rollout._fleet import Fleet, Server, ServerError
from mien_serving.rollout._journal import DONE, Journal
from mien_serving.rollout._models_config import CANARY, STABLE, ModelsConfig
from mien_serving.rollout._repository import manifest
from mien_serving.rollout._status import table

NEAR: Final = 0.1
"""Two places of a key point agree if they are no further apart than this share of the distance of the eyes."""

_P99: Final = "p99 ratio"
_WARM_UP: Final = 5
_GIVE_UP: Final = 6
"""After so many failures in a row a server is asked no more: each may have taken the whole of --timeout."""

_EYES: Final = (KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center"))


@dataclass
class Side:
    """What one label answered.

    Attributes:
        label: ``stable`` or ``canary``.
        version: The version that it names.
        answers: float32 [N, 5] or [N, 15, 2]; NaN where there was no answer.
        seconds: float [N], the time of each request.
        errors: Why requests failed, each once.
    """

    label: str
    version: int
    answers: NDArray[np.float32]
    seconds: NDArray[np.float64]
    errors: list[str] = field(default_factory=list)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which faces were answered: bool [N]."""
        missing: NDArray[np.int64] = np.isnan(self.answers).sum(axis=tuple(range(1, self.answers.ndim)))
        return np.asarray(missing == 0)


@dataclass(frozen=True)
class Gate:
    """A condition on one figure."""

    name: str
    figure: float
    limit: float
    passed: bool


def compare(arguments: argparse.Namespace) -> int:
    """Compares, prints, writes the report and the journal; the exit status is 1 if a gate failed."""
    config = ModelsConfig.read(arguments.config)
    model = arguments.model
    labels = config.desired(model).labels
    folder = config.folder(model, arguments.repository)
    if STABLE not in labels or CANARY not in labels:
        raise CommandError(
            f"{model} has no canary to compare ({config.desired(model)}): mien rollout canary {model} VERSION"
        )
    faces = _read(arguments, {labels[name]: manifest(folder / str(labels[name])) for name in (STABLE, CANARY)})
    faces = faces.spread(arguments.limit)
    with Fleet(arguments.servers, arguments.timeout) as fleet:
        _check_fit(fleet, model, labels)
        with _counter(len(faces.images)) as answered:
            stable, canary = _ask(fleet.servers, model, labels, faces, arguments.timeout, answered)
    figures = measure(stable, canary, faces.truth)
    gates = judge(figures, arguments)
    passed = all(gate.passed for gate in gates)
    failed = [gate.name for gate in gates if not gate.passed]
    document = {
        "model": model,
        "stable": stable.version,
        "canary": canary.version,
        "faces": len(faces.images),
        "source": faces.source,
        "notes": faces.notes,
        "figures": figures,
        "gates": [vars(gate) for gate in gates],
        "passed": passed,
        "errors": sorted({*stable.errors, *canary.errors}),
    }
    journal = {name: document[name] for name in ("stable", "canary", "faces", "source", "passed", "figures", "gates")}
    Journal(arguments.repository).append("compare", model, DONE, **journal, failed_gates=failed)
    if arguments.report:
        from mien_serving.rollout import _report

        try:
            arguments.report.write_text(_report.page(document, faces, stable, canary), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{arguments.report} cannot be written: {error.strerror}") from None
    if arguments.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return 0 if passed else 1
    sys.stdout.writelines(_render(document, gates))
    if arguments.report:
        sys.stdout.write(f"See {arguments.report}.\n")
    if passed:
        sys.stdout.write(f"Passed. Next: mien rollout promote {model}\n")
    else:
        sys.stdout.write(f"FAILED: {', '.join(failed)}. mien rollout abort {model} takes the canary back.\n")
        if failed == [_P99]:
            sys.stdout.write("p99 is the slowest face in a hundred: on busy servers, ask about more (--limit).\n")
    return 0 if passed else 1


def _read(arguments: argparse.Namespace, manifests: Mapping[int, Mapping[str, Any]]) -> Faces:
    """Reads the faces; of a key-point file, those that the last of the versions was not trained on."""
    if arguments.recorded:
        return read_recorded(arguments.recorded, arguments.model)
    reading = Reading(arguments.seven_labels, arguments.groups, arguments.skip_bad_rows)
    for told in manifests.values():
        recipe = told.get("config")
        share, seed = (recipe.get(key) for key in ("validation", "seed")) if isinstance(recipe, dict) else (None, None)
        if isinstance(share, float) and 0 < share < 1 and isinstance(seed, int) and 0 <= seed < 1 << 32:
            reading = replace(reading, share=share, seed=seed)
    faces = read_data(arguments.data, arguments.model, reading)
    for version, told in manifests.items():
        if faces.split and isinstance(split := told.get("split"), str) and split != faces.split:
            faces.notes.append(
                f"Version {version} was trained with another split ({split}): it may have seen some of these faces."
            )
    return faces


def _check_fit(fleet: Fleet, model: str, labels: Mapping[str, int]) -> None:
    """Refuses servers of which one does not give the labels' versions, or does not answer."""
    problems = []
    for address, view in fleet.view(model, (STABLE, CANARY)).items():
        wrong = [label for label in (STABLE, CANARY) if view.labels.get(label) != labels[label]]
        if view.error:
            problems.append(f"{address} {view.error}")
        elif wrong:
            problems.append(
                f"{address} gives {wrong[0]} to {view.labels.get(wrong[0], 'no version')}, not to {labels[wrong[0]]}"
            )
    if problems:
        raise CommandError(
            f"nothing was compared: {'; '.join(problems)}. Start or mend it (mien rollout apply {model}), or leave it "
            "out of --servers"
        )


@contextmanager
def _counter(count: int) -> Iterator[Callable[[], None]]:
    """Shows a person how many of the faces have been asked about; nothing where nobody watches."""
    done = itertools.count(1)

    def one_more() -> None:
        number = next(done)
        if number % 10 == 0 and sys.stderr.isatty():
            sys.stderr.write(f"\r{number} of {count} faces")
            sys.stderr.flush()

    try:
        yield one_more
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")


def _ask(
    servers: Sequence[Server],
    model: str,
    labels: Mapping[str, int],
    faces: Faces,
    timeout: float,
    answered: Callable[[], None],
) -> tuple[Side, Side]:
    """Asks both labels about every face, one request a face, at the same server, in turns who is first.

    One request is under way at each server, so that the times are of the models and not of a queue.
    """
    count = len(faces.images)
    shape = (count, len(EMOTIONS)) if model == EMOTION_MODEL else (count, len(KEYPOINTS), 2)
    sides = tuple(
        Side(label, labels[label], np.full(shape, np.nan, np.float32), np.full(count, np.nan))
        for label in (STABLE, CANARY)
    )

    def one(position: int) -> None:
        server, failures = servers[position], 0
        for _ in range(_WARM_UP):
            for side in sides:
                _request(server, model, side, faces.images[:1], -1, timeout)
        for index in range(position, count, len(servers)):
            order = sides if index % (2 * len(servers)) < len(servers) else sides[::-1]
            for side in order:
                there = _request(server, model, side, faces.images[index : index + 1], index, timeout)
                failures = 0 if there else failures + 1
            answered()
            if failures >= _GIVE_UP:
                return

    with ThreadPoolExecutor(min(len(servers), 16)) as pool:
        list(pool.map(one, range(len(servers))))
    return sides[0], sides[1]


def _request(server: Server, model: str, side: Side, images: NDArray[np.uint8], index: int, timeout: float) -> bool:
    """Asks one label about one face; the answer of face -1 is thrown away. Returns whether there was one."""
    output = PROBABILITIES_OUTPUT if model == EMOTION_MODEL else KEYPOINTS_OUTPUT
    started = time.perf_counter()
    try:
        answer = server.predict(Target(model, label=side.label), images, output, timeout)
        seconds = time.perf_counter() - started
        if answer.version != side.version:
            raise CommandError(
                f"{server.address} gives {side.label} to version {answer.version}, not to {side.version}; "
                f"mien rollout apply {model}"
            )
        if index >= 0 and answer.values.shape == (1, *side.answers.shape[1:]):
            side.answers[index], side.seconds[index] = answer.values[0], seconds
        elif index >= 0:
            side.errors.append(f"version {side.version} answers in the shape {answer.values.shape}")
    except (ServerError, MienError) as error:
        if index >= 0:
            side.errors.append(f"{server.address} {error}" if isinstance(error, ServerError) else str(error))
        return False
    return True


def measure(stable: Side, canary: Side, truth: NDArray[Any] | None) -> dict[str, float]:
    """Computes the figures from the faces that both have answered.

    Returns:
        ``errors`` of either side; ``agreement`` and ``drift`` (mean) and ``largest_drift``, in probability moved or in
        pixels; ``accuracy_stable``, ``accuracy_canary`` and ``accuracy_delta`` where there is truth, the share of right
        emotions, or of points no further off than a tenth of the distance of the eyes; times in ms and ``p99_ratio``.
    """
    both = stable.answered & canary.answered
    figures: dict[str, float] = {"errors_stable": len(stable.errors), "errors_canary": len(canary.errors)}
    if not both.any():
        return figures
    one, other = stable.answers[both], canary.answers[both]
    if one.ndim == 2:
        drift = np.abs(one - other).sum(axis=1) / 2
        figures["agreement"] = float((one.argmax(axis=1) == other.argmax(axis=1)).mean())
    else:
        distance = np.linalg.norm(one - other, axis=-1)
        drift = distance.mean(axis=1)
        figures["agreement"] = float((distance <= NEAR * _eyes(one)[:, None]).mean())
    figures |= {"drift": float(drift.mean()), "largest_drift": float(drift.max())}
    if truth is not None:
        right = [_accuracy(answers, truth[both]) for answers in (one, other)]
        if np.isfinite(right).all():
            figures |= {
                "accuracy_stable": right[0],
                "accuracy_canary": right[1],
                "accuracy_delta": right[1] - right[0],
            }
    for side in (stable, canary):
        for quantile in (50, 99):
            figures[f"p{quantile}_ms_{side.label}"] = float(np.percentile(side.seconds[both], quantile)) * 1000
    return figures | {"p99_ratio": figures["p99_ms_canary"] / figures["p99_ms_stable"]}


def _accuracy(answers: NDArray[np.float32], truth: NDArray[Any]) -> float:
    if answers.ndim == 2:
        return float((answers.argmax(axis=1) == truth).mean())
    distance, eyes = np.linalg.norm(answers - truth, axis=-1), _eyes(truth)[:, None]
    known = np.isfinite(distance) & np.isfinite(eyes)
    return float((distance <= NEAR * eyes)[known].mean()) if known.any() else float("nan")


def _eyes(points: NDArray[Any]) -> NDArray[Any]:
    """The distance of the eyes, in pixels: [N]."""
    distance: NDArray[Any] = np.linalg.norm(points[:, _EYES[0]] - points[:, _EYES[1]], axis=-1)
    return distance


def judge(figures: Mapping[str, float], limits: argparse.Namespace) -> list[Gate]:
    """Applies the gates. Without an answer nothing passes; without truth there is no gate on accuracy."""
    errors = figures["errors_canary"] + figures["errors_stable"]
    gates = [Gate("errors", errors, 0, errors == 0)]
    if "agreement" not in figures:
        return [*gates, Gate("agreement", 0.0, limits.min_agreement, passed=False)]
    agreement, ratio = figures["agreement"], figures["p99_ratio"]
    if "accuracy_delta" in figures:
        delta = figures["accuracy_delta"]
        gates.append(Gate("accuracy delta", delta, limits.min_accuracy_delta, delta >= limits.min_accuracy_delta))
    gates.append(Gate("agreement", agreement, limits.min_agreement, agreement >= limits.min_agreement))
    gates.append(Gate(_P99, ratio, limits.max_p99_ratio, ratio <= limits.max_p99_ratio))
    return gates


def _render(document: Mapping[str, Any], gates: Sequence[Gate]) -> list[str]:
    figures, model = document["figures"], document["model"]
    unit = "" if model == EMOTION_MODEL else " px"
    lines = [
        f"{model}: stable {document['stable']} and canary {document['canary']} on {document['faces']} faces of "
        f"{document['source']}\n"
    ]
    rows = [("", "STABLE", "CANARY")]
    for name, key, form in (
        ("accuracy", "accuracy", "{:.4f}"),
        ("p50", "p50_ms", "{:.1f} ms"),
        ("p99", "p99_ms", "{:.1f} ms"),
        ("errors", "errors", "{}"),
    ):
        if f"{key}_stable" in figures:
            rows.append((name, form.format(figures[f"{key}_stable"]), form.format(figures[f"{key}_canary"])))
    lines += table(rows)
    if "drift" in figures:
        lines.append(f"  drift {figures['drift']:.3g}{unit} on average, {figures['largest_drift']:.3g}{unit} at most\n")
    lines += [f"  ! {error}\n" for error in document["errors"][:5]]
    lines += [f"Note: {note}\n" for note in document["notes"][:5]]
    lines += table(
        [("GATE", "FIGURE", "LIMIT", "")]
        + [
            (gate.name, f"{gate.figure:.4g}", f"{gate.limit:g}", "passed" if gate.passed else "FAILED")
            for gate in gates
        ]
    )
    return lines
