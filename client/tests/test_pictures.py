"""From files to faces: every kind of PNG and JPEG is read, faces are found, and points find their way back."""

import contextlib
import io
from unittest import mock

import cv2
import matplotlib.cbook
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mien_client import PictureError, pictures
from mien_client.pictures import Picture, find_faces, read_picture
from PIL import Image

ORIENTATION = 0x0112
PORTRAIT = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)  # 512 x 600, one face
FACE = (150, 103, 225)  # Roughly where the face is in it: left, top, side.


@pytest.fixture(scope="module")
def portrait():
    return read_picture(PORTRAIT)


def save(path, image, **options):
    image.save(path, **options)
    return path


def gradient(mode="L"):
    return Image.fromarray(np.tile(np.arange(0, 256, 4, np.uint8), (40, 1))).convert(mode)


def assert_is_gradient(picture, tolerance=0):
    expected = np.tile(np.arange(0, 256, 4), (40, 1))
    assert picture.grey.dtype == picture.colour.dtype == np.uint8
    assert np.abs(picture.grey - expected).max() <= tolerance
    assert np.abs(picture.colour - expected[..., None]).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_png_of_every_mode(tmp_path, mode):
    assert_is_gradient(read_picture(save(tmp_path / "a.png", gradient(mode))))


def test_16_bit_png(tmp_path):
    values = np.tile(np.arange(0, 256, 4, np.uint16) * 257, (40, 1))
    assert_is_gradient(read_picture(save(tmp_path / "a.png", Image.fromarray(values))))


def test_1_bit_png(tmp_path):
    picture = read_picture(save(tmp_path / "a.png", gradient().convert("1", dither=Image.Dither.NONE)))
    assert set(picture.grey.ravel()) == {0, 255}


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_of_every_mode(tmp_path, mode):
    assert_is_gradient(read_picture(save(tmp_path / "a.jpg", gradient(mode), quality=100)), tolerance=3)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.new("RGBA", (50, 50), (255, 0, 0, 0)), {}),
        (Image.new("LA", (50, 50), (99, 0)), {}),
        (gradient("P"), {"transparency": bytes(256)}),
        (Image.new("RGB", (50, 50), (1, 2, 3)), {"transparency": (1, 2, 3)}),
    ],
    ids=["alpha channel", "grey with alpha channel", "palette", "one colour"],
)
def test_what_is_transparent_is_white(tmp_path, image, options):
    assert (read_picture(save(tmp_path / "a.png", image, **options)).colour == 255).all()


def test_colour_becomes_grey_as_the_eye_sees_it(tmp_path):
    picture = read_picture(save(tmp_path / "a.png", Image.new("RGB", (50, 50), (255, 0, 0))))
    assert picture.grey[0, 0] == 76


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_turned_picture_is_turned_back(tmp_path, orientation, suffix):
    upright = np.zeros((40, 60), np.uint8)
    upright[:20, :30] = 255
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(turned.copy()), exif=exif, quality=100)
    assert np.abs(read_picture(path).grey.astype(int) - upright).max() < 20


def test_the_name_of_the_file_does_not_matter(tmp_path):
    assert_is_gradient(read_picture(save(tmp_path / "photo", gradient(), format="PNG")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_bytes_and_images_of_pil_are_read_as_their_file_is(tmp_path, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path / "a", gradient("RGB"), format=kind, exif=exif)
    expected = read_picture(path)
    for source in (path.read_bytes(), Image.open(path), str(path)):
        picture = read_picture(source)
        np.testing.assert_array_equal(picture.colour, expected.colour)
        np.testing.assert_array_equal(picture.grey, expected.grey)


def test_images_of_pil_may_come_from_elsewhere():
    assert_is_gradient(read_picture(gradient()))
    assert_is_gradient(read_picture(Image.fromarray(np.tile(np.arange(0, 256, 4, np.int32) * 257, (40, 1)))))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"", "the picture is no PNG or JPEG picture"),
        (b"GIF89a", "the picture is no PNG or JPEG picture"),
        (np.zeros((9, 9), np.uint8), "a ndarray is no picture: give the path of a file, the bytes of one, or an image"),
        (None, "a NoneType is no picture"),
    ],
)
def test_sources_that_are_none(source, told):
    with pytest.raises(PictureError, match=told):
        read_picture(source)


def test_bytes_that_are_damaged():
    with pytest.raises(PictureError, match="the picture is damaged"):
        read_picture(encoded("PNG")[:100])


def encoded(kind):
    buffer = io.BytesIO()
    gradient("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no PNG or JPEG picture"),
        (b"hello", "is no PNG or JPEG picture"),
        (encoded("GIF"), "is no PNG or JPEG picture"),
        (encoded("PNG")[:100], "is damaged"),
        (encoded("JPEG")[:-200], "is damaged"),
        (b"\x89PNG\r\n\x1a\n", "is"),
    ],
)
def test_what_is_no_picture_is_told_in_one_sentence(tmp_path, content, told):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError) as caught:
        read_picture(tmp_path / "a.png")
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'} {told}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PictureError, match="cannot be read: No such file"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match="cannot be read: Is a directory"):
        read_picture(tmp_path)


def test_a_picture_that_would_fill_the_memory(tmp_path, monkeypatch, recwarn):
    path = save(tmp_path / "a.png", gradient())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 64 - 1)  # Pillow refuses twice as many, and warns before.
    assert_is_gradient(read_picture(path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match="is too large: more than 2,000 pixels"):
        read_picture(path)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_of_any_kind_is_a_picture_or_a_sentence(tmp_path, kind, data):
    content = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(PictureError):  # Nothing else may be raised.
        assert read_picture(tmp_path / "a").grey.dtype == np.uint8


def test_48x48_is_one_face_as_it_is():
    grey = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    [crop] = find_faces(Picture(np.stack([grey] * 3, axis=-1), grey))
    np.testing.assert_array_equal(crop.image, grey)
    points = np.array([[0.0, 0.0], [47.0, 12.5]])
    np.testing.assert_array_equal(crop.to_picture(points), points)


def test_a_face_is_found(portrait):
    [crop] = find_faces(portrait)
    assert crop.image.shape == (48, 48)
    assert crop.image.dtype == np.uint8
    assert crop.colour.shape == (crop.side, crop.side, 3)
    np.testing.assert_allclose((crop.left, crop.top, crop.side), FACE, atol=25)


@pytest.mark.parametrize("factor", [0.3, 4])
def test_a_face_is_found_in_pictures_of_any_size(portrait, factor):
    grey = cv2.resize(portrait.grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    [crop] = find_faces(Picture(np.stack([grey] * 3, axis=-1), grey))
    np.testing.assert_allclose(np.array([crop.left, crop.top, crop.side]) / factor, FACE, atol=25)


def test_a_face_is_found_in_the_dark_and_cut_close(portrait):
    left, top, side = FACE
    grey = portrait.grey[top : top + side, left : left + side] // 5
    [crop] = find_faces(Picture(np.stack([grey] * 3, axis=-1), grey))
    np.testing.assert_allclose((crop.left, crop.top, crop.side), (0, 0, side), atol=25)


def test_faces_come_from_left_to_right(portrait):
    grey = np.hstack([portrait.grey, portrait.grey])
    first, second = find_faces(Picture(np.stack([grey] * 3, axis=-1), grey))
    assert abs(second.left - first.left - 512) < 25


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (47, 48), (20, 20), (300, 200)])
def test_no_face(shape):
    grey = np.full(shape, 128, np.uint8)
    assert find_faces(Picture(np.stack([grey] * 3, axis=-1), grey)) == []


def crop_of(grey, box):
    with mock.patch.object(pictures, "_boxes", return_value=[box]):
        [crop] = find_faces(Picture(np.stack([grey] * 3, axis=-1), grey))
    return crop


@pytest.fixture
def crop_is_box(monkeypatch):
    monkeypatch.setattr(pictures, "FACE_CROP_SCALE", 1.0)
    monkeypatch.setattr(pictures, "FACE_CROP_DOWN", 0.0)


@settings(deadline=None)
@given(side=st.integers(10, 150), left=st.integers(0, 100), top=st.integers(0, 100))
def test_points_are_mapped_back_to_where_their_pixels_came_from(side, left, top):
    """On a ramp a pixel's value says in which column (or row) it lies, so the crop tells where its pixels were."""
    steepness = 255 // side
    pixels = np.arange(5, 43)  # Beyond these an enlarged crop has no neighbours to interpolate with.
    for axis, start in ((0, left), (1, top)):
        ramp = np.clip((np.arange(256) - start) * steepness, 0, 255).astype(np.uint8)
        grey = np.tile(ramp, (256, 1)) if axis == 0 else np.tile(ramp[:, None], (1, 256))
        crop = crop_of(grey, (left, top, side))
        came_from = start + crop.image.mean(axis=axis)[pixels] / steepness
        mapped = crop.to_picture(np.stack([pixels, pixels], axis=-1))[:, axis]
        np.testing.assert_allclose(mapped, came_from, atol=0.02 + 0.6 / steepness, rtol=0)


def test_points_keep_their_shape(crop_is_box):
    crop = crop_of(np.zeros((200, 200), np.uint8), (10, 20, 96))
    np.testing.assert_array_equal(crop.to_picture(np.array([0.0, 0.0])), [10.5, 20.5])
    assert crop.to_picture(np.zeros((2, 15, 2), np.float32)).shape == (2, 15, 2)


def test_a_crop_over_the_border_repeats_it(crop_is_box):
    grey = np.random.default_rng(1).integers(0, 256, (100, 100), np.uint8)
    crop = crop_of(grey, (-20, 60, 96))
    wide = np.pad(grey, 96, mode="edge")[96 + 60 : 96 + 60 + 96, 96 - 20 : 96 - 20 + 96]
    np.testing.assert_array_equal(crop.image, cv2.resize(wide, (48, 48), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(crop.colour[..., 0], wide)
    np.testing.assert_array_equal(crop.to_picture(np.array([0.0, 0.0])), [-19.5, 60.5])


@pytest.mark.parametrize(
    ("scale", "down", "expected"),
    [(1.0, 0.0, (40, 50, 60)), (1.5, 0.0, (25, 35, 90)), (1.0, 0.1, (40, 56, 60)), (0.8, -0.1, (46, 50, 48))],
)
def test_framing(monkeypatch, scale, down, expected):
    monkeypatch.setattr(pictures, "FACE_CROP_SCALE", scale)
    monkeypatch.setattr(pictures, "FACE_CROP_DOWN", down)
    crop = crop_of(np.zeros((200, 200), np.uint8), (40, 50, 60))
    assert (crop.left, crop.top, crop.side) == expected
