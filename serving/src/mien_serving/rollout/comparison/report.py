"""The HTML report of a comparison: one file without scripts that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np
from mien_client.contract import EMOTIONS, IMAGE_SIZE, KEYPOINTS
from numpy.typing import NDArray

from mien_serving.rollout.comparison.answers import Side
from mien_serving.rollout.comparison.faces import Faces

_MOST_FACES: Final = 40
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .9rem .2rem 0; text-align: left }
td { border-top: 1px solid #ddd; font-variant-numeric: tabular-nums } .failed { color: #b00020; font-weight: 600 }
.passed { color: #17692b } figure { display: inline-block; margin: 0 1rem 1rem 0; width: 9rem; font-size: 12px }
.table { overflow-x: auto } h1, p { overflow-wrap: anywhere }
img, svg { width: 9rem; height: 9rem; image-rendering: pixelated; display: block }
.stable { fill: none; stroke: #1f77ff; stroke-width: .4 } .canary { fill: #e00030 }
"""


def page(document: Mapping[str, Any], faces: Faces, stable: Side, canary: Side) -> str:
    """Return the report as an HTML page.

    Args:
        document: The comparison, as `Comparison.document` returns it.
        faces: The faces that were asked about.
        stable: What the stable version answered.
        canary: What the canary answered.
    """
    title = f"{document['model']}: canary {document['canary']} beside stable {document['stable']}"
    verdict = "passed" if document["passed"] else "failed"
    gates = [
        (gate["name"], f"{gate['figure']:.4g}", f"{gate['limit']:g}", "passed" if gate["passed"] else "failed")
        for gate in document["gates"]
    ]
    figures = [(name.replace("_", " "), f"{value:.4g}") for name, value in document["figures"].items()]
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<h1>{escape(title)}</h1><p class="{verdict}">{verdict.capitalize()} on {document["faces"]} faces of '
        f"{escape(document['source'])}.</p>",
        *(f"<p>{escape(note)}</p>" for note in document["notes"]),
        "<h2>Gates</h2>",
        _table(("gate", "figure", "limit", ""), gates),
        "<h2>Figures</h2>",
        _table(("figure", "value"), figures),
    ]
    if document["errors"]:
        parts += ["<h2>Errors</h2>", _table(("error",), [(error,) for error in document["errors"]])]
    if faces.truth is not None and stable.answers.ndim == 2:
        parts += ["<h2>Accuracy by emotion</h2>", _accuracies(faces.truth, stable, canary)]
    differences = _confusion if stable.answers.ndim == 2 else _distances
    parts += ["<h2>Differences</h2>", differences(stable, canary)]
    return "\n".join([*parts, "<h2>Faces with the largest drift</h2>", *_greatest(faces, stable, canary)]) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{f' class={cell}' if cell in ('passed', 'failed') else ''}>{escape(cell)}</{tag}>" for cell in cells
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<div class=table><table><tr>{row(header, 'th')}</tr>{body}</table></div>"


def _accuracies(truth: NDArray[Any], stable: Side, canary: Side) -> str:
    both = stable.answered & canary.answered
    rows = []
    for index, name in enumerate(EMOTIONS):
        chosen = both & (truth == index)
        if chosen.any():
            right = [(side.answers[chosen].argmax(axis=1) == index).mean() for side in (stable, canary)]
            rows.append((name, str(chosen.sum()), *(f"{share:.3f}" for share in right)))
    return _table(("labelled", "faces", "stable", "canary"), rows)


def _confusion(stable: Side, canary: Side) -> str:
    both = stable.answered & canary.answered
    one, other = stable.answers[both].argmax(axis=1), canary.answers[both].argmax(axis=1)
    counts = np.zeros((len(EMOTIONS), len(EMOTIONS)), int)
    np.add.at(counts, (one, other), 1)
    rows = [(f"stable: {name}", *map(str, counts[index])) for index, name in enumerate(EMOTIONS)]
    return _table(("", *(f"canary: {name}" for name in EMOTIONS)), rows)


def _distances(stable: Side, canary: Side) -> str:
    both = stable.answered & canary.answered
    if not both.any():
        return ""
    distance = np.linalg.norm(stable.answers[both] - canary.answers[both], axis=-1)
    rows = [
        (name, f"{of_point.mean():.2f}", f"{of_point.max():.2f}")
        for name, of_point in zip(KEYPOINTS, distance.T, strict=True)
    ]
    return _table(("point", "mean distance in px", "largest"), rows)


def _greatest(faces: Faces, stable: Side, canary: Side) -> Iterable[str]:
    emotions = stable.answers.ndim == 2
    apart = stable.answers - canary.answers
    drift = np.abs(apart).mean(axis=1) if emotions else np.linalg.norm(apart, axis=-1).mean(axis=1)
    order = [index for index in np.argsort(-np.nan_to_num(drift, nan=-1.0)) if drift[index] > 0]
    if order and not emotions:
        yield "<p>Rings: stable. Dots: canary.</p>"
    for index in order[:_MOST_FACES]:
        draw = _emotions if emotions else _points
        yield f"<figure>{draw(faces, stable, canary, index)}</figure>"


def _source(faces: Faces, index: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(faces.images[index])).decode()}"


def _emotions(faces: Faces, stable: Side, canary: Side, index: int) -> str:
    said = [f'<img alt="face {index}" src="{_source(faces, index)}">']
    for side in (stable, canary):
        answer = side.answers[index]
        said.append(f"{side.label}: {EMOTIONS[int(answer.argmax())]} {answer.max():.0%}<br>")
    if faces.truth is not None:
        said.append(f"labelled {EMOTIONS[int(faces.truth[index])]}")
    return "".join(said)


def _points(faces: Faces, stable: Side, canary: Side, index: int) -> str:
    """Draw a face with the key points of both: stable as rings, canary as dots. Pixel centres are whole numbers."""
    dots = []
    for side, style in ((stable, "stable"), (canary, "canary")):
        dots += [f'<circle class={style} cx="{x:.2f}" cy="{y:.2f}" r="0.9"/>' for x, y in side.answers[index]]
    apart = np.linalg.norm(stable.answers[index] - canary.answers[index], axis=-1).mean()
    return (
        f'<svg viewBox="-0.5 -0.5 {IMAGE_SIZE} {IMAGE_SIZE}"><image href="{_source(faces, index)}" x="-0.5" y="-0.5" '
        f'width="{IMAGE_SIZE}" height="{IMAGE_SIZE}"/>{"".join(dots)}</svg>{apart:.2f} px apart'
    )


def png(image: NDArray[np.uint8]) -> bytes:
    """Return a grey image, uint8 [height, width], as a PNG file."""
    height, width = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
