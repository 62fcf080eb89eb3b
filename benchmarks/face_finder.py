"""Which faces `find_faces` finds: the free portraits of `examples/`, scaled, turned, darkened and put into pictures.

Prints a table: how many of the faces in each kind of picture are found, how many of what is found are not faces, and
the processor time a picture. Pictures without a face are noise, and the portraits without their heads.

Run: python -m benchmarks.face_finder [--repeats 4]
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from mien_client.pictures import FaceCrop, Picture, find_faces, read_picture

EXAMPLES = Path(__file__).parent.parent / "examples"
# Where the face is in each portrait: its middle and the side of the square around it.
FACES = {"astronaut.jpg": (164.5, 115.5, 104), "admiral.jpg": (207.0, 226.0, 268)}
KINDS = {  # side of the face in pixels, tilt in degrees, brightness, size of the picture
    "face of 30 pixels": (30, 0, 1.0, (600, 800)),
    "face of 60 pixels, large picture": (60, 0, 1.0, (3000, 4000)),
    "face of 120 pixels, large picture": (120, 0, 1.0, (3000, 4000)),
    "face of 200 pixels, large picture": (200, 0, 1.0, (3000, 4000)),
    "face of 120 pixels": (120, 0, 1.0, (600, 800)),
    "the same, tilted by 15°": (120, 15, 1.0, (600, 800)),
    "the same, tilted by 30°": (120, 30, 1.0, (600, 800)),
    "the same, tilted by 45°": (120, 45, 1.0, (600, 800)),
    "the same, a fifth as bright": (120, 0, 0.2, (600, 800)),
    "the same, dark and tilted by 30°": (120, 30, 0.2, (600, 800)),
    "face of 200 pixels tilted by 30°, large picture": (200, 30, 1.0, (3000, 4000)),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4, help="pictures of each kind and portrait (default: 4)")
    repeats = parser.parse_args().repeats
    random = np.random.default_rng(0)
    sys.stdout.write(f"{'pictures':<50}{'faces':>6}{'found':>6}{'wrong':>6}{'s a picture':>12}\n")
    for kind, (side, tilt, brightness, size) in KINDS.items():
        faces = found = wrong = 0
        seconds = 0.0
        for name in FACES:
            for repeat in range(repeats):
                grey, middle = compose(name, side, tilt * (-1) ** repeat, brightness, size, random)
                crops, took = timed(grey)
                hits = [is_face(crop, middle, side) for crop in crops]
                faces, found, wrong, seconds = faces + 1, found + any(hits), wrong + hits.count(False), seconds + took
        show(kind, faces, found, wrong, seconds / faces)
    for kind, pictures in (("noise", noises(random, 2 * repeats)), ("the portraits without their heads", bodies())):
        results = [timed(grey) for grey in pictures]
        show(kind, 0, 0, sum(len(crops) for crops, _ in results), sum(took for _, took in results) / len(results))


def timed(grey: np.ndarray) -> tuple[list[FaceCrop], float]:
    """Find the faces in grey values, uint8 [H, W], and measure the processor time in seconds."""
    picture = Picture(np.repeat(grey[..., None], 3, axis=2), grey)
    started = time.process_time()
    crops = find_faces(picture)
    return crops, time.process_time() - started


def show(kind: str, faces: int, found: int, wrong: int, seconds: float) -> None:
    """Write one line of the table."""
    sys.stdout.write(f"{kind:<50}{faces:>6}{found:>6}{wrong:>6}{seconds:>12.2f}\n")
    sys.stdout.flush()


def is_face(crop: FaceCrop, middle: tuple[float, float], side: int) -> bool:
    """Whether a crop is around the face, rather than somewhere else or of another size."""
    x, y = crop.left + crop.side / 2, crop.top + crop.side / 2
    return bool(np.hypot(x - middle[0], y - middle[1]) < 0.3 * side and 0.6 < crop.side / side < 1.7)


def noise(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Draw noise with structures of every size, as pictures have, uint8 [height, width]."""
    total = np.zeros((height, width), np.float32)
    size = 2
    while size < max(height, width):
        grid = random.normal(0, size**0.7, (height // size + 1, width // size + 1)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        size *= 2
    return np.asarray(cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def noises(random: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Draw pictures of noise."""
    for _ in range(count):
        yield noise(600, 800, random)


def bodies() -> Iterator[np.ndarray]:
    """Cut off what is below the face and what is beside it."""
    for name, (x, y, side) in FACES.items():
        grey = read_picture(EXAMPLES / name).grey
        yield grey[int(y + 0.6 * side) :]
        yield grey[:, int(x + 0.7 * side) :]
        yield grey[:, : int(x - 0.7 * side)]


def compose(
    name: str, side: int, tilt: float, brightness: float, size: tuple[int, int], random: np.random.Generator
) -> tuple[np.ndarray, tuple[float, float]]:
    """Put a portrait into noise.

    Args:
        name: The portrait.
        side: Side of the face in the picture, in pixels.
        tilt: How far it is turned, in degrees.
        brightness: What all values are multiplied by.
        size: Height and width of the picture.
        random: Where the place and the noise come from.

    Returns:
        The picture, uint8 [H, W], and the middle of the face in it.
    """
    grey = read_picture(EXAMPLES / name).grey
    x, y, face = FACES[name]
    scale = side / face
    # Smaller by area first, so that no detail finer than a pixel is left to alias.
    shrunk = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    radius = 0.8 * side  # of the disc around the face that is shown
    height, width = size
    middle = (random.uniform(radius, width - radius), random.uniform(radius, height - radius))
    matrix = cv2.getRotationMatrix2D((x * scale, y * scale), tilt, 1)
    matrix[:, 2] += np.array(middle) - (x * scale, y * scale)
    turned = cv2.warpAffine(shrunk, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(columns - middle[0], rows - middle[1])
    share = np.clip((radius - distance) / (0.1 * side), 0, 1)
    mixed = noise(height, width, random) * (1 - share) + turned * share
    return (mixed * brightness).astype(np.uint8), middle


if __name__ == "__main__":
    main()
