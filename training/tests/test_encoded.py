"""What `serving_encoded` reads: the same pictures as the client, to the same greys, or a sentence."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from mien_client.pictures import read_picture
from mien_training.encoded import read_encoded
from PIL import Image

ORIENTATION = 0x0112
COLOUR = np.stack(
    [np.add.outer(np.arange(48) * 3, np.arange(48) * 2), np.tile(np.arange(48) * 5, (48, 1)), np.full((48, 48), 90)],
    axis=-1,
).astype(np.uint8)
GREY = np.asarray(Image.fromarray(COLOUR).convert("L"))
NOISE = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)

read = tf.function(read_encoded, [tf.TensorSpec([None], tf.string)])


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def read_before(image_bytes):
    """Read pictures as version 1 of the shipped models does."""

    def decode(one):
        grey = tf.io.decode_image(one, channels=1, expand_animations=False)
        return tf.cast(tf.round(tf.image.resize(grey, [48, 48], method="area")[..., 0]), tf.uint8)

    return tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec([48, 48], tf.uint8))


def save(image, kind="PNG", **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png, kind, data):
    return png[:33] + chunk(kind, data) + png[33:]


def png_of_size(width, height):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def sixteen_bits(channels, colour_type, white=65535):
    """A PNG of 16 bits per channel; channels [48, 48, K] from 0 to 255."""
    rows = np.rint(channels * (white / 255)).astype(">u2").reshape(48, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 48, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def with_alpha(image):
    image.putalpha(Image.fromarray(np.tile(np.arange(0, 240, 5).astype(np.uint8), (48, 1))))
    return image


def refused(*pictures):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read(list(pictures))
    return str(caught.value)


ORDINARY = {
    "grey PNG": save(GREY),
    "colour PNG": save(COLOUR),
    "grey JPEG": save(GREY, "JPEG"),
    "colour JPEG": save(COLOUR, "JPEG"),
    "progressive JPEG": save(COLOUR, "JPEG", progressive=True),
    "grey PNG of noise": save(NOISE),
    "large grey PNG": save(np.kron(NOISE, np.ones((3, 3), np.uint8))),
    "large colour JPEG": save(np.kron(COLOUR, np.ones((5, 4, 1), np.uint8)), "JPEG"),
    "small grey PNG": save(GREY[:20, :20]),
    "palette PNG": save(Image.fromarray(COLOUR).quantize(64)),
    "1-bit PNG": save(Image.fromarray(NOISE).convert("1")),
    "PNG with EXIF": save(GREY, exif=exif(1)),
    "JPEG with EXIF": save(GREY, "JPEG", exif=exif(1)),
}

UNUSUAL = {
    "grey alpha PNG": save(with_alpha(Image.fromarray(GREY))),
    "colour alpha PNG": save(with_alpha(Image.fromarray(COLOUR))),
    "palette PNG with transparency": save(Image.fromarray(COLOUR).quantize(16), transparency=bytes(range(0, 256, 16))),
    "grey PNG with a transparent value": save(GREY, transparency=int(GREY[20, 20])),
    "16-bit grey PNG": sixteen_bits(GREY, 0),
    "16-bit grey PNG of 8 bits": sixteen_bits(GREY / GREY.max() * 255, 0, 255),
    "16-bit grey PNG of 12 bits": sixteen_bits(GREY / GREY.max() * 255, 0, 4095),
    "16-bit colour PNG": sixteen_bits(COLOUR, 2),
    "PNG that states its gamma": with_chunk(save(COLOUR), b"gAMA", struct.pack(">I", 45455)),
    "PNG that states its colours": with_chunk(save(COLOUR), b"sRGB", b"\0"),
    "CMYK JPEG": save(Image.fromarray(COLOUR).convert("CMYK"), "JPEG", quality=95),
    "JPEG stored as RGB": save(COLOUR, "JPEG", quality=95, keep_rgb=True),
    "JPEG with bytes after its end": save(COLOUR, "JPEG") + b"\0\0",
    "MPO": save(COLOUR, "MPO", save_all=True, append_images=[Image.new("RGB", (48, 48))]),
    "PNG with XMP of an upright picture": with_chunk(save(GREY), b"tEXt", b'a\0tiff:Orientation="1"'),
    **{f"JPEG turned {n}": save(GREY, "JPEG", exif=exif(n), quality=95) for n in range(2, 9)},
    **{f"PNG turned {n}": save(GREY, exif=exif(n)) for n in range(2, 9)},
    "JPEG of big-endian EXIF": save(
        GREY, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0", quality=95
    ),
    "JPEG of an unknown orientation": save(GREY, "JPEG", exif=exif(9)),
    "JPEG with EXIF and no orientation": save(GREY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "JPEG with EXIF after other segments": save(GREY, "JPEG", exif=exif(6), comment=b"x" * 300, quality=95),
    "PNG with EXIF after its pixels": save(GREY)[:-12] + chunk(b"eXIf", exif(3).tobytes()[6:]) + save(GREY)[-12:],
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_pictures_are_read_as_before_to_the_last_digit(name):
    np.testing.assert_array_equal(read([ORDINARY[name]]), read_before([ORDINARY[name]]))


@pytest.mark.parametrize("name", ORDINARY | UNUSUAL)
def test_the_client_reads_the_same_greys(name):
    content = (ORDINARY | UNUSUAL)[name]
    grey = read_picture(content).grey
    expected = tf.image.resize(grey[..., None], [48, 48], method="area")[..., 0].numpy()
    difference = np.abs(read([content])[0].numpy() - expected)
    assert difference.max() <= (8 if "JPEG" in name or "MPO" in name else 1.5)
    assert difference.mean() < 1.5


def test_pictures_of_one_batch_do_not_mix():
    pictures = list((ORDINARY | UNUSUAL).values())
    np.testing.assert_array_equal(read(pictures), np.concatenate([read([picture]) for picture in pictures]))


def test_no_pictures_give_an_empty_result():
    assert read(tf.constant([], tf.string)).shape == (0, 48, 48)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "TIFF"])
def test_other_formats_are_refused(kind):
    assert "A picture is not a PNG or JPEG file" in refused(save(GREY, kind))


def test_an_empty_picture_is_refused():
    assert "A picture is empty" in refused(save(GREY), b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_truncated_picture_is_refused(kind, part):
    content = save(NOISE, kind, exif=exif(1))
    assert f"A picture is a truncated {kind} file" in refused(content[: int(len(content) * part)])


def test_a_truncated_jpeg_is_refused_though_its_thumbnail_is_whole():
    thumbnail = save(GREY, "JPEG")
    content = save(NOISE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    assert read([content]).shape == (1, 48, 48)
    assert "A picture is a truncated JPEG file" in refused(content[:-100])


@pytest.mark.parametrize(
    ("width", "height"), [(2049, 2048), (2048, 2049), (13200, 13200), (2**31 - 1, 2**31 - 1), (2**32 - 1, 50)]
)
def test_a_large_png_is_refused_by_its_header(width, height):
    assert "A picture has more than 2048 pixels a side" in refused(png_of_size(width, height))


def test_a_large_jpeg_is_refused_by_its_header():
    content = save(np.zeros((1039, 1051), np.uint8), "JPEG").replace(struct.pack(">HH", 1039, 1051), b"\x80\0\x80\0")
    assert "A picture has more than 2048 pixels a side" in refused(content)


def test_a_picture_of_the_largest_size_is_read():
    assert read([save(Image.new("L", (2048, 2048), 7), "JPEG")])[0, 0, 0] == 7


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    ("width", "height", "fine"), [(60, 48, True), (48, 60, True), (61, 48, False), (48, 61, False)]
)
def test_a_picture_far_from_square_is_refused(kind, width, height, fine):
    content = save(Image.new("L", (width, height)), kind)
    if fine:
        assert read([content]).shape == (1, 48, 48)
    else:
        assert "A picture is far from square: send one upright face crop" in refused(content)


def test_a_jpeg_of_endless_scans_is_refused():
    content = save(GREY, "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    assert "A picture is a JPEG file of more than 100 scans" in refused(content[:-2] + scan * 1000 + content[-2:])


@pytest.mark.parametrize(
    "content",
    [
        with_chunk(save(GREY), b"tEXt", b'XML:com.adobe.xmp\0<a tiff:Orientation="6"/>'),
        with_chunk(save(GREY), b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n2\n4949")),
        save(GREY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\1\0\0\0\6\0\0\0\0\0\0\0"),
    ],
    ids=["XMP", "raw profile", "a text"],
)
def test_an_orientation_that_cannot_be_read_is_refused(content):
    assert "A picture states its orientation where it is not read" in refused(content)


@pytest.mark.parametrize("name", ["PNG turned 6", "JPEG turned 6"])
@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_picture_is_read_or_an_error(name, data):
    content = bytearray(UNUSUAL[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(200, len(content) - 1)))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(tf.errors.InvalidArgumentError):  # Nothing else may be raised.
        assert read([bytes(content)]).shape == (1, 48, 48)
