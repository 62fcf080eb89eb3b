"""``mien analyze``: the emotions and key points of the faces in picture files."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mien_client._exceptions import PictureError
from mien_client.cli import Command, CommandError
from mien_client.contract import IMAGE_SIZE, KEYPOINTS, OTHER_THRESHOLD

if TYPE_CHECKING:
    from mien_client._face import Face
    from mien_client.pictures import FaceCrop, Picture

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg")
_ENDINGS_TOLD = f"{', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}"


class Result(NamedTuple):
    """One face: its file, its number in the file (from 1), the part of the picture, and the models' result."""

    file: str
    number: int
    crop: FaceCrop
    face: Face


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="PNG, JPEG, WebP, GIF, BMP or TIFF file, or - for standard input; "
        "a picture of 48x48 pixels is one face; in larger pictures, faces are searched for",
    )
    parser.add_argument(
        "--server",
        metavar="ADDRESS",
        default="localhost:8500",
        help="the address of the server: host:port for gRPC, http://host:port for REST (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=30.0,
        help="time limit for the answers to all faces (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--picture",
        metavar="OUT",
        type=Path,
        help=f"write a picture of the faces with their key points and probabilities; the name ends in {_ENDINGS_TOLD}",
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.picture:
        _check_output(arguments.picture)
    try:
        import numpy as np

        from mien_client._client import Client
        from mien_client.pictures import find_faces

        if arguments.picture:
            from mien_client import _drawing
    except ImportError as error:
        hint = "" if "pip install" in str(error) else ": pip install 'mien-client[pictures]'"
        raise CommandError(f"{error}{hint}") from None

    crops: list[tuple[str, int, FaceCrop]] = []
    errors: list[tuple[str, str]] = []
    for file in arguments.files:
        try:
            found = find_faces(_read(file))
            crops += [(file, number, crop) for number, crop in enumerate(found, start=1)]
            if not found:
                errors.append((file, f"No face was found in {file}"))
        except PictureError as error:
            errors.append((file, str(error)))
    for _, sentence in errors:
        sys.stderr.write(f"mien analyze: {sentence}\n")

    images = np.array([crop.image for _, _, crop in crops], np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    with Client(arguments.server, timeout=arguments.timeout) as client:
        started = time.perf_counter()
        analysis = client.analyze(images)
        seconds = time.perf_counter() - started
    results = [Result(*where, face) for where, face in zip(crops, analysis, strict=True)]

    facts = {"server": arguments.server, "versions": dict(analysis.versions), "seconds": round(seconds, 6)}
    if arguments.json:
        told = facts | {
            "faces": [_document(result) for result in results],
            "errors": [{"file": file, "error": sentence} for file, sentence in errors],
        }
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    elif results:
        sys.stdout.write(_table(results, facts))
    if arguments.picture and results:
        try:
            _drawing.draw_faces(
                [(f"{Path(r.file).name}  ·  face {r.number}", r.crop, r.face) for r in results], arguments.picture
            )
        except OSError as error:
            raise CommandError(f"{arguments.picture} cannot be written: {error.strerror}") from None
        if len(results) > _drawing.MOST_FACES:
            sys.stderr.write(f"mien analyze: {arguments.picture} shows only the first {_drawing.MOST_FACES} faces\n")
    return 1 if errors else 0


def _check_output(path: Path) -> None:
    if path.suffix.lower() not in _ENDINGS:
        raise CommandError(f"{path} cannot be written: expected a name that ends in {_ENDINGS_TOLD}")
    if not path.parent.is_dir():
        raise CommandError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise CommandError(f"{path} cannot be written: it is a folder")


def _read(file: str) -> Picture:
    from mien_client.pictures import MAX_FILE_BYTES, read_picture

    if file != "-":
        return read_picture(file)
    content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise PictureError(f"Standard input is too large: at most {MAX_FILE_BYTES:,} bytes are read")
    try:
        return read_picture(content)
    except PictureError as error:
        raise PictureError(f"Standard input: {error}") from None


def _table(results: list[Result], facts: dict[str, Any]) -> str:
    rows = [("FILE", "FACE", "EMOTION", "CONFIDENCE", "OTHER")]
    rows += [(r.file, str(r.number), *_shown(r.face)) for r in results]
    if not any(row[4] for row in rows[1:]):
        rows = [(*row[:4], "") for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{file:<{widths[0]}}  {number:>{widths[1]}}  {emotion:<{widths[2]}}  {confidence:>{widths[3]}}"
        f"  {other:>{widths[4]}}".rstrip()
        + "\n"
        for file, number, emotion, confidence, other in rows
    ]
    versions = " and ".join(f"{model} version {version}" for model, version in facts["versions"].items())
    count = "1 face" if len(results) == 1 else f"{len(results)} faces"
    return f"{''.join(lines)}\n{count} read by {versions} at {facts['server']} in {facts['seconds'] * 1000:.1f} ms\n"


def _shown(face: Face) -> tuple[str, str, str]:
    """Return a face's emotion, its confidence and the probability of none of the five, as the table shows them."""
    if face.other is None:
        return face.emotion, f"{face.confidence:.1%}", ""
    if face.other >= OTHER_THRESHOLD:
        return "none of the five", "", f"{face.other:.1%}"
    return face.emotion, f"{face.confidence:.1%}", f"{face.other:.1%}"


def _document(result: Result) -> dict[str, Any]:
    in_crop = result.face.keypoints.tolist()
    in_picture = result.crop.to_picture(result.face.keypoints).tolist()
    return {
        "file": result.file,
        "face": result.number,
        "crop": {
            "left": result.crop.left,
            "top": result.crop.top,
            "side": result.crop.side,
            "angle": result.crop.angle,
        },
        "score": round(result.crop.score, 4),
        "emotion": result.face.emotion,
        "confidence": result.face.confidence,
        "probabilities": result.face.probabilities,
        "other": result.face.other,
        "keypoints": {
            name: {"crop": crop, "picture": picture}
            for name, crop, picture in zip(KEYPOINTS, in_crop, in_picture, strict=True)
        },
    }


COMMAND = Command("name the emotion and place the key points of the faces in picture files", _add_arguments, _run)
