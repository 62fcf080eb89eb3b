"""A worker: reads pictures from its input until that ends, and writes what it finds in each.

The gateway starts it as ``python -m mien_gateway.pictures.worker OPTIONS``, where OPTIONS is a JSON object: the limits
on ``pixels`` and ``faces``, from how many pixels a picture is ``large``, whether this worker ``takes_large`` ones, and
the ``seconds`` of processor time that a picture may take.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from mien_client import PictureError
from mien_client.contract import IMAGE_SIZE
from mien_client.pictures import FaceCrop, Picture, find_faces, read_picture
from PIL import Image

from mien_gateway.pictures.frames import read_frame, write_frame

_MEMORY_BYTES: Final = 4 * 2**30
"""Address space of a worker. A picture of 64 megapixels takes a quarter of it."""

_LOWEST_PRIORITY: Final = 19

_ORPHAN_S: Final = 300
"""Seconds after which a worker ends by itself, if its gateway, which should have ended it, is gone."""


class Refused(Exception):
    """A picture that is not read, with the HTTP status that says why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def answer(request: dict[str, Any], content: bytes, options: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return the header and the content of the answer about one picture.

    Args:
        request: ``format``, the format that the picture must have, or null; and ``detect``.
        content: The picture's file.
        options: The worker's options.

    Returns:
        ``width``, ``height`` and ``faces``, with the pixels of all faces one after the other; or ``large``, if another
        worker is to read the picture; or ``status`` and ``detail``, if it is refused.
    """
    try:
        width, height = _check_header(content, request["format"], options["pixels"])
        if width * height >= options["large"] and not options["takes_large"]:
            return {"large": True}, b""
        crops, size = look(content, request["detect"])
        if len(crops) > options["faces"]:
            raise Refused(413, f"The picture shows {len(crops):,} faces; at most {options['faces']:,} are analysed")
    except Refused as error:
        return {"status": error.status, "detail": str(error)}, b""
    except PictureError as error:
        return {"status": 422, "detail": str(error)}, b""
    except MemoryError:
        return {"status": 422, "detail": "The picture needs too much memory to be decoded: send it smaller"}, b""
    faces = [_face(crop) for crop in crops]
    return {"width": size[0], "height": size[1], "faces": faces}, b"".join(crop.image.tobytes() for crop in crops)


def _check_header(content: bytes, expected: str | None, pixels: int) -> tuple[int, int]:
    """Return the width and height in a picture's header.

    Raises:
        Refused: The picture is of another format, or has too many pixels.
        PictureError: The header cannot be read.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            found, (width, height) = image.format, image.size
    except Exception:
        read_picture(content)  # It knows what is wrong.
        raise PictureError("The picture is damaged: its header cannot be read") from None
    if found not in FORMATS:
        raise Refused(415, f"Expected a JPEG, PNG, WebP, BMP or GIF picture, got {found}")
    if expected not in (None, found):
        raise Refused(415, f"The picture is {found}, but its content type says {expected}")
    if width * height > pixels:
        raise Refused(413, f"The picture has {width:,} × {height:,} pixels; at most {pixels:,} in all are read")
    return width, height


FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""The formats that are accepted, by Pillow's names."""


def look(content: bytes, detect: str) -> tuple[Sequence[FaceCrop], tuple[int, int]]:
    """Return the faces in a picture, and its width and height.

    Args:
        content: The picture's file.
        detect: ``never`` takes the picture as one face; ``always`` searches even in a picture of 48×48 pixels, which
            ``auto`` takes as a face.

    Raises:
        PictureError: The picture cannot be decoded.
    """
    picture = read_picture(content)
    height, width = picture.grey.shape
    if detect == "never":
        return [_whole(picture)], (width, height)
    if detect == "always" and (width, height) == (IMAGE_SIZE, IMAGE_SIZE):
        padded = Picture(np.pad(picture.colour, ((1, 1), (1, 1), (0, 0)), "edge"), np.pad(picture.grey, 1, "edge"))
        return [
            FaceCrop(crop.image, crop.colour, crop.left - 1, crop.top - 1, crop.side, crop.score, crop.angle)
            for crop in find_faces(padded)
        ], (width, height)
    return find_faces(picture), (width, height)


def _whole(picture: Picture) -> FaceCrop:
    """Return the largest square in the middle of a picture."""
    height, width = picture.grey.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.s_[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if side >= IMAGE_SIZE else cv2.INTER_LINEAR
    image = cv2.resize(picture.grey[square], (IMAGE_SIZE, IMAGE_SIZE), interpolation=interpolation)
    return FaceCrop(image, picture.colour[square], left=left, top=top, side=side)


def _face(crop: FaceCrop) -> dict[str, Any]:
    """Return where a face is, and the affine map from its 48×48 image to the picture: three rows of x and y."""
    origin, right, down = crop.to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    to_picture = [(right - origin).tolist(), (down - origin).tolist(), origin.tolist()]
    box = {"left": int(crop.left), "top": int(crop.top), "width": int(crop.side), "height": int(crop.side)}
    return {"box": box | {"angle": float(crop.angle)}, "to_picture": to_picture}


def main() -> None:
    """Read pictures until the input ends."""
    options = json.loads(sys.argv[1])
    if options["takes_large"]:
        os.nice(_LOWEST_PRIORITY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # A core dump would hold somebody's face.
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    Image.MAX_IMAGE_PIXELS = None  # Ours is checked instead.
    cv2.setNumThreads(1)
    find_faces(Picture(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)))  # Loads what it needs.
    # Libraries must not write into the frames.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    write_frame(output, {"ready": True})
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        # The default action of both ends the process, even inside a decoder.
        signal.setitimer(signal.ITIMER_PROF, options["seconds"])
        signal.alarm(_ORPHAN_S)
        header, content = answer(*frame, options)
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_frame(output, header, content)


if __name__ == "__main__":
    main()
