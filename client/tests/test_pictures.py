"""Pictures of every kind are read, and files that are not pictures are refused with one sentence."""

import contextlib
import io
import os
import zlib
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mien_client import PictureError
from mien_client.pictures import MAX_FILE_BYTES, decoding, read_picture
from PIL import Image

ORIENTATION = 0x0112


def save(path, image, **options):
    image.save(path, **options)
    return path


def gradient(mode="L"):
    return Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (40, 1))).convert(mode)


def assert_is_gradient(picture, tolerance=0):
    expected = np.tile(np.arange(0, 256, 4), (40, 1))
    assert picture.grey.dtype == picture.colour.dtype == np.uint8
    assert np.abs(picture.grey - expected).max() <= tolerance
    assert np.abs(picture.colour - expected[..., None]).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_png_of_every_mode(tmp_path, mode):
    assert_is_gradient(read_picture(save(tmp_path / "a.png", gradient(mode))))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_its_range(tmp_path, kind, bits):
    values = np.rint(np.tile(np.arange(0, 256, 4), (40, 1)) / 252 * (2**bits - 1)).astype(np.uint16)
    picture = read_picture(save(tmp_path / "a", Image.fromarray(values), format=kind))
    np.testing.assert_array_equal(picture.grey[0], np.rint(values[0] * (255 / (2**bits - 1))))
    assert picture.grey.max() == 255


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    values = np.full((50, 50), 30000, np.uint16)
    values[0] = 65535
    path = save(tmp_path / "a.png", Image.fromarray(values), transparency=30000)
    assert (read_picture(path).grey == 255).all()


def sixteen_bit_colour(brightest):
    """Return a PNG of 16 bits per channel, which Pillow cannot write."""
    ramp = np.linspace(0, brightest, 64).round().astype(np.uint16)
    return cv2.imencode(".png", np.tile(ramp[:, None], (40, 1, 3)))[1].tobytes()


def test_16_bit_colour_png():
    picture = read_picture(sixteen_bit_colour(65535))
    assert np.abs(picture.grey[0] - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("brightest", [255, 1023, 4095, 16383])
def test_16_bit_colour_of_a_smaller_range_is_not_read_as_a_black_face(brightest):
    with pytest.raises(PictureError, match="The picture has 16 bits per channel, but no value above a quarter"):
        read_picture(sixteen_bit_colour(brightest))


def test_1_bit_png(tmp_path):
    picture = read_picture(save(tmp_path / "a.png", gradient().convert("1", dither=Image.Dither.NONE)))
    assert set(picture.grey.ravel()) == {0, 255}


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats(tmp_path, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert_is_gradient(read_picture(save(tmp_path / "a", gradient("RGB"), format=kind, **options)), tolerance=2)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_of_several(tmp_path, kind):
    black = Image.new("RGB", gradient().size)
    path = save(tmp_path / "a", gradient("RGB"), format=kind, save_all=True, append_images=[black], quality=100)
    assert_is_gradient(read_picture(path), tolerance=3)


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
def test_transparent_pixels_become_white(tmp_path, image, options):
    assert (read_picture(save(tmp_path / "a.png", image, **options)).colour == 255).all()


def test_colour_becomes_grey_as_the_eye_sees_it(tmp_path):
    picture = read_picture(save(tmp_path / "a.png", Image.new("RGB", (50, 50), (255, 0, 0))))
    assert picture.grey[0, 0] == 76


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_orientation_of_a_picture_is_corrected(tmp_path, orientation, suffix):
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


MODES = {  # how to get there from L
    **{mode: (mode,) for mode in ("L", "P", "RGB", "RGBA", "LA", "I", "F", "I;16", "RGBX", "CMYK", "YCbCr")},
    "LAB": ("RGB", "LAB"),
    "HSV": ("RGB", "HSV"),
    "PA": ("P", "PA"),
    "La": ("LA", "La"),
    "RGBa": ("RGBA", "RGBa"),
    "I;16L": ("I", "I;16L"),
    "I;16B": ("I", "I;16B"),
}


@pytest.mark.parametrize("mode", MODES)
def test_images_of_pil_of_every_mode(mode):
    image = gradient()
    for step in MODES[mode]:
        image = image.convert(step)
    assert image.mode == mode
    before = image.tobytes()
    assert_is_gradient(read_picture(image), tolerance=2)
    assert image.tobytes() == before  # The caller's image stays as it is.


@pytest.mark.parametrize(
    ("dtype", "white"),
    [(np.int32, 255), (np.int32, 65535), (np.float32, 1), (np.float32, 255), (np.float32, 65535)],
)
def test_grey_values_of_pil_are_scaled_by_their_range(dtype, white):
    values = np.tile(np.linspace(0, white, 64), (40, 1)).astype(dtype)
    np.testing.assert_allclose(read_picture(Image.fromarray(values)).grey[0], np.linspace(0, 255, 64), atol=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-1, 200]], np.int32), "has grey values from -1 to 200, expected a range from 0 to 65535"),
        (np.array([[0, 70000]], np.int32), "from 0 to 70000"),
        (np.array([[-0.5, 0.5]], np.float32), "from -0.5 to 0.5, expected a range from 0 to 1, 255 or 65535"),
        (np.array([[0, 1.02]], np.float32), "from 0 to 1.02"),
        (np.array([[0, np.nan]], np.float32), "nan"),
        (np.array([[0, np.inf]], np.float32), "inf"),
    ],
)
def test_grey_values_of_no_known_range_are_refused(values, message):
    with pytest.raises(PictureError, match=message):
        read_picture(Image.fromarray(values))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "The picture is empty"),
        (b"<svg/>", "The picture is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture"),
        (b"\0\0\0\x1cftypheic", "The picture is a HEIC, AVIF or video file: convert it to JPEG or PNG first"),
        (np.zeros((9, 9), np.uint8), "Expected the path of a picture, the bytes of a picture file or a PIL image, got"),
        (None, "got NoneType"),
        ("https://example.org/a.jpg", r"https://example.org/a.jpg is a URL, which is not fetched: download it first"),
        ("HTTP://example.org/a.jpg", "is a URL"),
        ("a\0b.png", "is not a valid file name"),
        (Image.new("L", (0, 40)), "The picture is empty: 0 × 40 pixels"),
    ],
)
def test_sources_that_are_not_pictures(source, message):
    with pytest.raises(PictureError, match=message):
        read_picture(source)


def encoded(kind):
    buffer = io.BytesIO()
    gradient("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture"),
        (encoded("PNG")[:100], "is truncated: its end is missing"),
        (encoded("JPEG")[:-100], "is truncated: its end is missing"),
        (encoded("GIF")[:-100], "is truncated: its end is missing"),
        (encoded("BMP")[:-100], "is truncated: its end is missing"),
        (encoded("TIFF")[:-100], "is truncated"),
        (encoded("WEBP")[:-100], "is truncated or damaged"),
        (encoded("PNG")[:8], "is truncated or damaged: its header cannot be read"),
        (encoded("PNG").replace(b"IDAT", b"IDAT" + bytes(9)), "is damaged: "),
    ],
)
def test_a_file_that_is_not_a_whole_picture_is_described_in_one_sentence(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError) as caught:
        read_picture(tmp_path / "a.png")
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'} {message}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PictureError, match="cannot be read: No such file"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match="cannot be read: it is a folder, not a regular file"):
        read_picture(tmp_path)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for path, kind in (
        (tmp_path / "pipe.png", "named pipe"),
        (tmp_path / "zero.png", "device"),
        ("/dev/zero", "device"),
    ):
        with pytest.raises(PictureError, match=f"{path} cannot be read: it is a {kind}, not a regular file"):
            read_picture(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(PictureError, match="cannot be read: it is larger than 256 MiB"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize(("width", "height"), [(8193, 8192), (13200, 13200), (20000, 20000)])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(kind, width, height):
    """The file has no pixels, so a decoder would have failed."""
    small = io.BytesIO()
    Image.new("L", (1039, 1051)).save(small, kind)
    big = kind in ("PNG", "JPEG") or small.getvalue().startswith(b"MM")
    order: Literal["big", "little"] = "big" if big else "little"
    size = 4 if kind in ("PNG", "BMP") else 2
    content = small.getvalue()
    for before, after in ((1039, width), (1051, height)):
        content = content.replace(before.to_bytes(size, order), after.to_bytes(size, order))
    if kind == "PNG":
        content = content[:29] + zlib.crc32(content[12:29]).to_bytes(4, "big") + content[33:]
    with pytest.raises(PictureError, match=r"The picture is too large: .*67,108,864"):
        read_picture(content)


def test_a_picture_of_the_most_pixels_is_read(monkeypatch, recwarn):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 40 * 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 64 - 1)  # Pillow warns, and refuses twice as many.
    assert_is_gradient(read_picture(encoded("PNG")))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 40 * 64 - 1)
    with pytest.raises(PictureError, match="The picture is too large: 64 × 40 pixels, at most 2,559 in all are read"):
        read_picture(gradient())
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_with_one_sentence(tmp_path, kind, data):
    content = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(PictureError):  # Nothing else may be raised.
        assert read_picture(tmp_path / "a").grey.dtype == np.uint8
