"""From a trained network to a version in the model repository: a SavedModel of raw images, checked and described.

A version appears whole or not at all: it is written aside, loaded back, compared with the network, synced to disk, and
only then renamed to its number.
"""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from mien_client import contract, protos
from mien_client.reading import parse_json, read_file, sha256
from mien_client.writing import flush_to_disk, write_json
from numpy.typing import NDArray

from mien_training.encoded import read_encoded
from mien_training.errors import ExportError
from mien_training.prediction import freeze, inference
from mien_training.runs import WEIGHTS, Run

MAX_DIFFERENCE = 1e-5
WARMUP_BATCHES = (1, 4)
"""Faces in the warm-up requests. A graph is prepared by its first run, whatever its size; large requests would only
take the processors from those that the version before still answers."""

_SIDE = contract.IMAGE_SIZE
_FIVE = len(contract.EMOTIONS)


def published(run: Run, repository: Path) -> Path | None:
    """Find the newest version that is this run already, exported by the same versions of Mien, TensorFlow and Keras.

    Args:
        run: The trained network.
        repository: The folder of all models.

    Returns:
        The version's folder, or `None`.
    """
    wanted = _origin(run)
    try:
        numbers = sorted(int(path.name) for path in (repository / run.model).iterdir() if path.name.isdecimal())
    except OSError:
        return None  # nothing can be read there; whether it can be written, `export` finds out
    for number in reversed(numbers):
        folder = repository / run.model / str(number)
        found = _read_manifest(folder)
        # Manifests did not always have the sum of the weights; the exact metrics and seconds tell runs apart, too.
        if all(found.get(key, value if key == "weights_sha256" else None) == value for key, value in wanted.items()):
            return folder
    return None


def export(run: Run, repository: Path, say: Callable[[str], None], sign: Callable[[Path], None] | None = None) -> Path:
    """Publish a run's network as the next version of its model.

    Args:
        run: The trained network.
        repository: The folder of all models; made if it is not there.
        say: Told what is being done, in a few words.
        sign: Signs the version in a folder; it raises an error if it cannot. `None` leaves the version unsigned.

    Returns:
        The new version's folder, ``repository/<model>/<version>``.

    Raises:
        ExportError: The SavedModel's answers differ from the network's, or the disk refused.
    """
    base = repository / run.model
    made = [folder for folder in (base, repository) if not folder.exists()]
    aside: Path | None = None
    try:
        base.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".export-", dir=base))
        aside.chmod(0o755)  # mkdtemp's 0700 would hide the version from a server that runs as another user
        network = run.load()
        say(f"{run.model}: writing the SavedModel")
        _write_saved_model(network, run.model, aside)
        _write_warmup(run.model, aside)
        _write_golden(network, run.model, aside)
        _copy_card(run, aside)
        say(f"{run.model}: loading it back and comparing")
        difference = _compare(network, run.model, aside)
        if not difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"the SavedModel's answers differ from the {run.model} network's by {difference:.2g}, "
                f"more than {MAX_DIFFERENCE:.0e}; nothing was published"
            )
        write_json(aside / contract.MANIFEST, _manifest(run, aside, difference))
        if sign:
            sign(aside)
        for path in (*aside.rglob("*"), aside):
            flush_to_disk(path)
        return _publish(aside, base)
    except BaseException as error:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # not empty: somebody else has published meanwhile
                folder.rmdir()
        if isinstance(error, OSError):
            raise ExportError(f"{repository} cannot be written: {error.strerror or error}") from None
        raise


def _write_saved_model(network: keras.Model, model: str, folder: Path) -> None:
    many_bytes = tf.TensorSpec([None], tf.string, name=contract.IMAGE_BYTES_INPUT)
    many_images = tf.TensorSpec([None, _SIDE, _SIDE], tf.uint8, name=contract.IMAGES_INPUT)
    frozen = freeze(network)

    def answer(images: Any) -> dict[str, Any]:
        # Some of TensorFlow's operations fail on no images at all: those get one, and its answer is dropped.
        count = tf.shape(images)[0]
        none = tf.cast(tf.equal(count, 0), tf.int32)
        outputs = frozen(tf.concat([images, tf.zeros([none, _SIDE, _SIDE], tf.uint8)], axis=0))[0][:count]
        if model == contract.KEYPOINT_MODEL:
            return {contract.KEYPOINTS_OUTPUT: outputs}
        probabilities = tf.nn.softmax(outputs[:, :_FIVE])
        names = tf.constant(contract.EMOTIONS)
        answers = {
            contract.PROBABILITIES_OUTPUT: probabilities,
            contract.LABEL_OUTPUT: tf.gather(names, tf.argmax(probabilities, axis=1)),
        }
        if outputs.shape[1] > _FIVE:
            answers[contract.OTHER_OUTPUT] = tf.reduce_sum(tf.nn.softmax(outputs)[:, _FIVE:], axis=1)
        return answers

    module = tf.Module()
    signatures = {
        contract.SIGNATURE_DEFAULT: tf.function(lambda images: answer(images), [many_images]),
        contract.SIGNATURE_RAW: tf.function(lambda image_bytes: answer(_from_raw(image_bytes)), [many_bytes]),
        contract.SIGNATURE_ENCODED: tf.function(lambda image_bytes: answer(read_encoded(image_bytes)), [many_bytes]),
    }
    tf.saved_model.save(module, str(folder), signatures)


def _from_raw(image_bytes: Any) -> Any:
    """Strings [N] of 2,304 bytes each to uint8 [N, 48, 48]."""
    check = tf.debugging.assert_equal(
        tf.strings.length(image_bytes), _SIDE**2, f"every image must be {_SIDE**2} raw bytes, row by row"
    )
    with tf.control_dependencies([check]):
        pixels = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=_SIDE**2)
    return tf.reshape(pixels, [tf.shape(image_bytes)[0], _SIDE, _SIDE])


def _random_images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, _SIDE, _SIDE), np.uint8)


def _signature_inputs(images: NDArray[np.uint8]) -> dict[str, dict[str, Any]]:
    """Return the same images as each of the three signatures takes them."""
    encoded = [tf.io.encode_png(image[..., None]).numpy() for image in images]
    return {
        contract.SIGNATURE_DEFAULT: {contract.IMAGES_INPUT: tf.constant(images)},
        contract.SIGNATURE_RAW: {contract.IMAGE_BYTES_INPUT: tf.constant([image.tobytes() for image in images])},
        contract.SIGNATURE_ENCODED: {contract.IMAGE_BYTES_INPUT: tf.constant(encoded)},
    }


def _write_warmup(model: str, folder: Path) -> None:
    """Record requests that TensorFlow Serving replays before the version takes traffic."""
    file = folder / contract.WARMUP_REQUESTS
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for count in WARMUP_BATCHES:
            for signature, inputs in _signature_inputs(_random_images(count)).items():
                log = protos.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = model
                request.model_spec.signature_name = signature
                for name, tensor in inputs.items():
                    request.inputs[name].ParseFromString(tf.make_tensor_proto(tensor).SerializeToString())
                writer.write(log.SerializeToString())


def _answers(network: keras.Model, model: str, images: NDArray[np.uint8]) -> Any:
    """Return the network's own answers: probabilities float32 [N, 5], or key points float32 [N, 15, 2]."""
    outputs = inference(network)(images)
    return tf.nn.softmax(outputs[:, :_FIVE]) if model == contract.EMOTION_MODEL else outputs


def _copy_card(run: Run, folder: Path) -> None:
    """Add the run's model card, if somebody wrote one."""
    card = run.folder / Path(contract.MODEL_CARD).name
    if card.is_file():
        shutil.copyfile(card, folder / contract.MODEL_CARD)


def _write_golden(network: keras.Model, model: str, folder: Path) -> None:
    """Record images with the network's answers, so that any machine can tell whether it computes the same."""
    images = _random_images(8)
    answers = np.asarray(_answers(network, model, images), np.float32)
    np.savez(folder / contract.GOLDEN_ANSWERS, images=images, answers=answers)


def _compare(network: keras.Model, model: str, folder: Path) -> float:
    """Find the largest difference between the network's answers to random images and the SavedModel's.

    Numbers above one, such as pixels, are compared in proportion: float32 has seven digits, wherever they are.
    """
    images = _random_images(16)
    expected = _answers(network, model, images)
    output = contract.PROBABILITIES_OUTPUT if model == contract.EMOTION_MODEL else contract.KEYPOINTS_OUTPUT
    signatures = tf.saved_model.load(str(folder)).signatures
    answers = [signatures[name](**inputs)[output] for name, inputs in _signature_inputs(images).items()]
    scale = tf.maximum(tf.abs(expected), 1.0)
    return max(float(tf.reduce_max(tf.abs(answer - expected) / scale)) for answer in answers)


def _manifest(run: Run, folder: Path, difference: float) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "model": run.model,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "outputs": list(contract.EMOTIONS if run.model == contract.EMOTION_MODEL else contract.KEYPOINTS),
        **_origin(run),
        "largest_difference": difference,
        "sha256": {path.relative_to(folder).as_posix(): sha256(path, follow_links=False) for path in files},
    }


def _origin(run: Run) -> dict[str, Any]:
    """Return what a version is made from, and by what. Two with the same origin answer alike."""
    return {
        "trained_on": run.facts["source"],
        "split": run.facts["split"],
        "config": run.facts["config"],
        "metrics": run.metrics,
        "weights_sha256": sha256(run.folder / WEIGHTS, follow_links=True),
        "versions": {name: installed_version(name) for name in ("mien-training", "tensorflow", "keras")},
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read a version's manifest; empty if there is none that can be read."""
    try:
        manifest = parse_json(read_file(folder / contract.MANIFEST))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _publish(aside: Path, base: Path) -> Path:
    while True:
        taken = [int(path.name) for path in base.iterdir() if path.name.isdecimal()]
        version = base / str(max(taken, default=0) + 1)
        try:
            aside.rename(version)
        except OSError:
            if not version.exists():
                raise
            continue  # somebody published this number in the meantime
        flush_to_disk(base)
        return version
