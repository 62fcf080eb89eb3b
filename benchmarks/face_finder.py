"""Which faces `find_faces` finds: free portraits, scaled, tilted, turned, darkened, and put into other pictures.

Prints a table: how many of the faces of each kind are found, how many of the finds are not faces, by how many degrees
in the median a found face is not upright, and the processor time a picture. The portraits are those of `examples/`;
what they are put into is noise and two photographs of scikit-learn's. Pictures without a face are these, and what is
left of the portraits without the heads. With --data, real faces of many people are put into pictures, too: those of the
files that the networks are trained from.

The pictures are the same in every run, so two versions of the finder can be compared.

Run: python -m benchmarks.face_finder [--repeats 4] [--data data] [--faces 200] [--picture found.png]
"""

import argparse
import csv
import gzip
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mien_client.pictures import FaceCrop, Picture, find_faces, read_picture
from sklearn.datasets import load_sample_image

EXAMPLES = Path(__file__).parent.parent / "examples"


class Face(NamedTuple):
    """A picture of a face: where its middle is, the side of the square around it, and the tilt of its eyes' line."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    middle: tuple[float, float]
    side: float
    tilt: float | None


class Kind(NamedTuple):
    """What is done to a face, and the picture that it is put into."""

    side: int = 120  # of the face in the picture, in pixels
    tilt: float = 0  # in degrees
    turn: float = 0  # to the side, in degrees, as if the head were a cylinder
    light: float = 1  # what all values are multiplied by
    shade: float = 1  # what the face's values are multiplied by
    blur: float = 0  # the standard deviation, in sides of the face
    size: tuple[int, int] = (600, 800)  # height and width of the picture


HEAD = 0.75  # the radius of the cylinder, in sides of the face
LARGE = (3000, 4000)
KINDS = {
    "face of 120 pixels": Kind(),
    "30 pixels": Kind(side=30),
    "60 pixels, large picture": Kind(side=60, size=LARGE),
    "120 pixels, large picture": Kind(side=120, size=LARGE),
    "400 pixels, large picture": Kind(side=400, size=LARGE),
    "1,700 pixels, large picture": Kind(side=1700, size=LARGE),
    "tilted by 15°": Kind(tilt=15),
    "tilted by 30°": Kind(tilt=30),
    "tilted by 45°": Kind(tilt=45),
    "tilted by 60°": Kind(tilt=60),
    "tilted by 90°": Kind(tilt=90),
    "upside down": Kind(tilt=180),
    "200 pixels tilted by 30°, large picture": Kind(side=200, tilt=30, size=LARGE),
    "turned by 20°": Kind(turn=20),
    "turned by 40°": Kind(turn=40),
    "turned by 40° and tilted by 30°": Kind(turn=40, tilt=30),
    "a fifth as bright": Kind(light=0.2),
    "a twentieth as bright": Kind(light=0.05),
    "dark and tilted by 30°": Kind(light=0.2, tilt=30),
    "in the shade": Kind(shade=0.2),
    "blurred": Kind(blur=0.04),
}
CROWD = [(80 + 20 * (number % 3), (-25, 0, 15, 40)[number % 4]) for number in range(12)]  # side and tilt
PEOPLE = {
    "as they are": Kind(side=100),
    "tilted by 30°": Kind(side=100, tilt=30),
    "a fifth as bright": Kind(side=100, light=0.2),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4, help="pictures of each kind and portrait (default: 4)")
    parser.add_argument("--data", type=Path, help="folder with fer2013/fer2013.csv.gz and facial_keypoints/…")
    parser.add_argument("--faces", type=int, default=200, help="of each file of --data (default: 200)")
    parser.add_argument("--picture", type=Path, help="write one picture of each kind with what was found in it")
    arguments = parser.parse_args()
    table = Table()
    for number, (name, kind) in enumerate(KINDS.items()):
        for repeat, (which, face) in itertools.product(range(arguments.repeats), enumerate(portraits())):
            random = np.random.default_rng([number, which, repeat])
            table.measure(name, *compose([face], [kind._replace(tilt=kind.tilt * (-1) ** repeat)], random))
        table.show(name)
    for repeat in range(arguments.repeats):
        faces = list(itertools.islice(itertools.cycle(portraits()), len(CROWD)))
        kinds = [Kind(side=side, tilt=tilt, size=(1200, 1600)) for side, tilt in CROWD]
        table.measure("twelve faces", *compose(faces, kinds, np.random.default_rng([99, repeat])))
    table.show("twelve faces")
    for face in portraits():
        table.measure("cut close", *cut_close(face))
    table.show("cut close")
    without = {"noise": noises(2 * arguments.repeats), "photographs": photographs(), "no heads": bodies()}
    for name, pictures in without.items():
        for pixels in pictures:
            table.measure(f"without a face: {name}", pixels, [])
        table.show(f"without a face: {name}")
    if arguments.data:
        for file, read in {"fer2013": emotion_faces, "facial_keypoints": keypoint_faces}.items():
            for name, kind in PEOPLE.items():
                for number, face in enumerate(read(arguments.data, arguments.faces)):
                    random = np.random.default_rng([number, kind.side])
                    table.measure(f"{file}, {name}", *compose([face], [kind], random))
                table.show(f"{file}, {name}")
    if arguments.picture:
        table.draw(arguments.picture)


class Place(NamedTuple):
    """Where a face is in a picture."""

    middle: tuple[float, float]
    side: float
    tilt: float | None


class Table:
    """What was measured, by kind of picture."""

    def __init__(self) -> None:
        self._counts: dict[str, list[float]] = {}  # pictures, faces, found, wrong, seconds
        self._errors: dict[str, list[float]] = {}
        self._drawn: dict[str, np.ndarray] = {}
        sys.stdout.write(f"{'':<42}{'faces':>6}{'found':>6}{'wrong':>6}{'degrees':>9}{'s a picture':>12}\n")

    def measure(self, name: str, pixels: np.ndarray, places: list[Place]) -> None:
        """Find the faces in a picture, uint8 [H, W, 3], and compare them with those that are in it."""
        picture = Picture(pixels, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)))
        started = time.process_time()
        crops = find_faces(picture)
        seconds = time.process_time() - started
        counts = self._counts.setdefault(name, [0] * 5)
        errors = self._errors.setdefault(name, [])
        found = 0
        unexplained = list(crops)
        for place in places:
            hits = [crop for crop in unexplained if is_at(crop, place)]
            unexplained = [crop for crop in unexplained if crop not in hits[:1]]
            found += bool(hits)
            if hits and place.tilt is not None:
                errors.append(abs((hits[0].angle - place.tilt + 180) % 360 - 180))
        for column, value in enumerate((1, len(places), found, len(unexplained), seconds)):
            counts[column] += value
        if name not in self._drawn or len(unexplained) or found < len(places):
            self._drawn[name] = drawn(name, pixels, crops)

    def show(self, name: str) -> None:
        """Write one line of the table."""
        pictures, faces, found, wrong, seconds = self._counts[name]
        degrees = f"{np.median(self._errors[name]):.1f}" if self._errors[name] else ""
        sys.stdout.write(f"{name:<42}{faces:>6}{found:>6}{wrong:>6}{degrees:>9}{seconds / pictures:>12.2f}\n")
        sys.stdout.flush()

    def draw(self, path: Path) -> None:
        """Write one picture of each kind, preferably one with a mistake, with a square around each find."""
        tiles = list(self._drawn.values())
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 5)
        rows = [np.hstack(tiles[start : start + 5]) for start in range(0, len(tiles), 5)]
        cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def is_at(crop: FaceCrop, place: Place) -> bool:
    """Whether a crop is around a face, rather than somewhere else or of another size."""
    x, y = crop.left + crop.side / 2, crop.top + crop.side / 2
    near = np.hypot(x - place.middle[0], y - place.middle[1]) < 0.3 * place.side
    return bool(near and 0.6 < crop.side / place.side < 1.7)


def drawn(name: str, pixels: np.ndarray, crops: list[FaceCrop]) -> np.ndarray:
    """Draw the squares of finds on a small copy of a picture, uint8 [300, 400, 3]."""
    scale = min(400 / pixels.shape[1], 300 / pixels.shape[0])
    canvas = np.zeros((300, 400, 3), np.uint8)
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:300, :400]
    canvas[: small.shape[0], : small.shape[1]] = small
    for crop in crops:
        middle = ((crop.left + crop.side / 2) * scale, (crop.top + crop.side / 2) * scale)
        corners = cv2.boxPoints((middle, (crop.side * scale, crop.side * scale), crop.angle))
        cv2.polylines(canvas, [corners.round().astype(np.int32)], isClosed=True, color=(0, 255, 0), thickness=2)
        top = tuple(((corners[1] + corners[2]) / 2).round().astype(int).tolist())  # of the head
        cv2.circle(canvas, top, 4, (255, 0, 0), -1)
    cv2.putText(canvas, name.replace("°", ""), (5, 290), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1)
    return canvas


def portraits() -> list[Face]:
    """Read the portraits of `examples/`."""
    return [
        Face(read_picture(EXAMPLES / "astronaut.jpg").colour, (164.5, 115.5), 104, 0.0),
        Face(read_picture(EXAMPLES / "admiral.jpg").colour, (207.0, 226.0), 268, 0.0),
    ]


def emotion_faces(data: Path, count: int) -> Iterator[Face]:
    """Read the last faces of fer2013, which no network was trained with; what their tilt is, is not known."""
    with gzip.open(data / "fer2013" / "fer2013.csv.gz", "rt", encoding="utf-8") as file:
        rows = [row["pixels"] for row in csv.DictReader(file) if row["Usage"] == "PublicTest"][-count:]
    for row in rows:
        grey = np.array(row.split(), np.uint8).reshape(48, 48)
        yield Face(np.repeat(grey[..., None], 3, axis=2), (23.5, 23.5), 48, None)


def keypoint_faces(data: Path, count: int) -> Iterator[Face]:
    """Read faces of facial_keypoints, evenly spread; they are often turned to the side."""
    with gzip.open(data / "facial_keypoints" / "training.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:: max(1, len(rows) // count)][:count]:
        grey = np.array(row["Image"].split(), np.uint8).reshape(96, 96)
        across, down = (
            float(row[f"left_eye_center_{axis}"]) - float(row[f"right_eye_center_{axis}"]) for axis in ("x", "y")
        )
        yield Face(np.repeat(grey[..., None], 3, axis=2), (47.5, 47.5), 96, float(np.degrees(np.arctan2(down, across))))


def noise(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Draw noise with structures of every size, as pictures have, uint8 [height, width, 3]."""
    total = np.zeros((height, width, 3), np.float32)
    size = 2
    while size < max(height, width):
        grid = random.normal(0, size**0.7, (height // size + 1, width // size + 1, 3)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        size *= 2
    return np.asarray(cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def noises(count: int) -> Iterator[np.ndarray]:
    """Draw pictures of noise."""
    for number in range(count):
        yield noise(600, 800, np.random.default_rng([98, number]))


def photographs() -> Iterator[np.ndarray]:
    """Return photographs without a face, at three sizes."""
    for name, width in itertools.product(("china.jpg", "flower.jpg"), (320, 640, 1920)):
        pixels = load_sample_image(name)
        yield cv2.resize(pixels, (width, pixels.shape[0] * width // pixels.shape[1]), interpolation=cv2.INTER_AREA)


def bodies() -> Iterator[np.ndarray]:
    """Cut off what is below the face and what is beside it."""
    for face in portraits():
        x, y = face.middle
        yield face.pixels[int(y + 0.6 * face.side) :]
        yield face.pixels[:, int(x + 0.7 * face.side) :]
        yield face.pixels[:, : int(x - 0.7 * face.side)]


def cut_close(face: Face) -> tuple[np.ndarray, list[Place]]:
    """Cut the square of a face out, so that there is nothing around it."""
    left, top = (int(middle - face.side / 2) for middle in face.middle)
    side = int(face.side)
    pixels = np.ascontiguousarray(face.pixels[top : top + side, left : left + side])
    return pixels, [Place((side / 2, side / 2), side, face.tilt)]


def compose(faces: list[Face], kinds: list[Kind], random: np.random.Generator) -> tuple[np.ndarray, list[Place]]:
    """Put faces into a picture: noise or a photograph.

    Args:
        faces: The faces.
        kinds: What is done to each; the picture is as the first says.
        random: Where the picture and the places come from.

    Returns:
        The picture, uint8 [H, W, 3], and where the faces are in it.
    """
    height, width = kinds[0].size
    if random.random() < 0.5:
        pixels = noise(height, width, random)
    else:
        pixels = cv2.resize(load_sample_image(("china.jpg", "flower.jpg")[random.integers(2)]), (width, height))
    places: list[Place] = []
    for face, kind in zip(faces, kinds, strict=True):
        radius = 0.8 * kind.side  # of the disc around the face that is shown
        while True:
            middle = (random.uniform(radius, width - radius), random.uniform(radius, height - radius))
            if all(np.hypot(*np.subtract(middle, place.middle)) > radius + 0.8 * place.side for place in places):
                break
        paste(pixels, face, kind, middle)
        moved, tilt = HEAD * kind.side * np.sin(np.radians(kind.turn)), np.radians(kind.tilt)  # by the turn
        there = (middle[0] + moved * np.cos(tilt), middle[1] - moved * np.sin(tilt))
        places.append(Place(there, kind.side, None if face.tilt is None else face.tilt - kind.tilt))
    return (pixels * kinds[0].light).astype(np.uint8), places


def paste(pixels: np.ndarray, face: Face, kind: Kind, middle: tuple[float, float]) -> None:
    """Put a face into a picture at a place, in a disc with a soft edge."""
    scale = kind.side / face.side
    # Smaller by area first, so that no detail finer than a pixel is left to alias.
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    shown = cv2.resize(face.pixels, None, fx=scale, fy=scale, interpolation=interpolation)
    if kind.blur:
        shown = cv2.GaussianBlur(shown, (0, 0), kind.blur * kind.side)
    size = 2 * int(0.9 * kind.side)
    turn, tilt = np.radians(kind.turn), np.radians(kind.tilt)
    across, down = np.meshgrid(np.arange(size) - size / 2, np.arange(size) - size / 2)
    x = across * np.cos(tilt) - down * np.sin(tilt)  # tilted counter-clockwise, as seen
    y = across * np.sin(tilt) + down * np.cos(tilt)
    if turn:
        head = HEAD * kind.side
        x = head * np.sin(np.clip(np.arcsin(np.clip(x / head, -1, 1)) - turn, -np.pi / 2, np.pi / 2))
    source = np.array((x + face.middle[0] * scale, y + face.middle[1] * scale), np.float32)
    cut = cv2.remap(shown, source[0], source[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * kind.shade
    share = np.clip((0.8 * kind.side - np.hypot(across, down)) / (0.1 * kind.side), 0, 1)[..., None]
    left, top = (round(place - size / 2) for place in middle)
    rows, columns = np.arange(top, top + size), np.arange(left, left + size)
    inside_y, inside_x = (rows >= 0) & (rows < pixels.shape[0]), (columns >= 0) & (columns < pixels.shape[1])
    where = np.ix_(rows[inside_y], columns[inside_x])
    cut, share = cut[np.ix_(inside_y, inside_x)], share[np.ix_(inside_y, inside_x)]
    pixels[where] = (pixels[where] * (1 - share) + cut * share).astype(np.uint8)


if __name__ == "__main__":
    main()
