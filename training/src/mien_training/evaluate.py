"""How good a network's answers are: of a run, of the shipped weights, or of a running server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from mien_client.contract import EMOTION_MODEL, EMOTIONS
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mien_training import calibration, metrics, robustness
from mien_training.evaluate_emotion import EmotionAnswers, evaluate_emotion, five_of
from mien_training.evaluate_keypoints import evaluate_keypoints
from mien_training.evaluation import Evaluation
from mien_training.prediction import PREDICTION_BATCH, inference, predict
from mien_training.report import Table
from mien_training.runs import PRETRAINED, Run
from mien_training.splits import Faces


class Network(Protocol):
    """What can be asked: uint8 [N, 48, 48] to `EmotionAnswers` or key points float32 [N, 15, 2].

    Its `str` is its name, for people.
    """

    def __call__(self, images: NDArray[np.uint8], advance: Callable[[int], None]) -> Any:
        """Answer, and call `advance` with the number of faces of each batch."""


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how many of `total` faces are done: a bar on a terminal, elsewhere one line.

    Yields:
        A function to call with the number of faces of each batch that is done.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(what, highlight=False, markup=False, soft_wrap=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield partial(bar.advance, task)


class OfRun:
    """A run's network; see `Network`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._infer = inference(run.load())

    def __call__(self, images: NDArray[np.uint8], advance: Callable[[int], None]) -> Any:
        """Answer."""
        outputs = predict(self._infer, images, advance)
        if self._run.model != EMOTION_MODEL:
            return outputs
        probabilities = tf.nn.softmax(outputs[:, : len(EMOTIONS)]).numpy()
        other = calibration.other_probability(outputs) if outputs.shape[1] > len(EMOTIONS) else None
        return EmotionAnswers(probabilities, other)

    def __str__(self) -> str:
        shipped = self._run.folder == PRETRAINED / self._run.model
        return "shipped weights" if shipped else str(self._run.folder)


class OfServer:
    """A running server, asked through the client; see `Network`.

    Args:
        address: As `mien_client.Client` takes it.
        model: ``emotion`` or ``keypoints``.
    """

    def __init__(self, address: str, model: str) -> None:
        self._address, self._model = address, model
        self._versions: set[int] = set()

    def __call__(self, images: NDArray[np.uint8], advance: Callable[[int], None]) -> Any:
        """Answer.

        Raises:
            mien_client.MienError: The server could not be asked.
        """
        from mien_client import Client

        parts: list[Any] = []
        others: list[Any] = []
        with Client(self._address) as client:
            for start in range(0, len(images), PREDICTION_BATCH):
                analysis = client.analyze(images[start : start + PREDICTION_BATCH])
                advance(len(analysis.probabilities))
                parts.append(analysis.probabilities if self._model == EMOTION_MODEL else analysis.keypoints)
                others.append(analysis.other)
                self._versions.add(analysis.versions[self._model])
        answers = np.concatenate(parts)
        if self._model != EMOTION_MODEL:
            return answers
        return EmotionAnswers(answers, None if any(one is None for one in others) else np.concatenate(others))

    def __str__(self) -> str:
        if not self._versions:
            return self._address
        return f"{self._address}, version {', '.join(map(str, sorted(self._versions)))}"


def add_robustness(evaluation: Evaluation, model: str, faces: Faces, network: Network) -> None:
    """Measure the answers to changed faces too, and add them to an evaluation's numbers and tables."""
    name, shown = ("accuracy", ".4f") if model == EMOTION_MODEL else ("NME", ".2%")
    if model == EMOTION_MODEL:
        faces = five_of(faces)
    every = robustness.changes(faces)
    found = {}
    for number, (what, sets) in enumerate(every.items(), start=1):
        with progress(f"{network}: {what} ({number} of {len(every)})", len(sets) * len(faces)) as advance:
            found[what] = robustness.measure(sets, partial(network, advance=advance), SCORE[model])
    evaluation.metrics["robustness"] = found
    rows = [[what, format(value, shown)] for what, value in found.items()]
    evaluation.tables.append(Table("Changed faces", ["", name], rows))


EVALUATE: dict[str, Callable[[Faces, Any, str], Evaluation]] = {
    "emotion": evaluate_emotion,
    "keypoints": evaluate_keypoints,
}
SCORE: dict[str, Callable[[Faces, Any], float]] = {
    "emotion": lambda faces, answers: float(np.mean(answers.probabilities.argmax(axis=1) == faces.truth)),
    "keypoints": lambda faces, points: metrics.keypoint_metrics(faces.targets.astype(np.float32), points)["nme"],
}
