"""The graph behind ``serving_encoded``: PNG and JPEG files of one upright face crop to the images of the networks.

Every picture is checked by its header before it is decoded. A picture that cannot be read rightly fails the request
with a sentence. The client's ``read_picture`` reads the same pictures to the same grey values.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from mien_client import contract
from numpy.typing import NDArray

MAX_SIDE = 2048
"""Pixels of the longer side."""

MAX_SCANS = 100
"""Scans of a progressive JPEG, each of which costs a pass over the whole picture; encoders write about ten."""

MAX_SEGMENTS = 1000
"""Segments of a file that are searched for its EXIF data."""

_SIDE = contract.IMAGE_SIZE
_IMAGE = tf.TensorSpec([_SIDE, _SIDE], tf.uint8)
_PNG = list(b"\x89PNG\r\n\x1a\n")
_JPEG = list(b"\xff\xd8\xff")
_ORIENTATION = 0x0112  # EXIF's tag
_SHORT = 3  # TIFF's type of two bytes


def read_encoded(image_bytes: Any) -> Any:
    """Decode face crops.

    Args:
        image_bytes: Strings [N], each a PNG or JPEG file.

    Returns:
        uint8 [N, 48, 48].
    """
    # A PNG's signature and first chunk: 8 bytes, then length, name, 13 bytes of data and checksum.
    head = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=33), tf.int32)
    is_png = tf.reduce_all(head[:, :8] == _PNG, axis=1)
    is_jpeg = tf.reduce_all(head[:, :3] == _JPEG, axis=1)
    is_empty = tf.equal(tf.strings.length(image_bytes), 0)
    checks = [
        _check(~is_empty, "A picture is empty"),
        _check(is_empty | is_png | is_jpeg, "A picture is not a PNG or JPEG file"),
        _check(is_jpeg | _contain(image_bytes, "IEND"), "A picture is a truncated PNG file"),
    ]
    with tf.control_dependencies(checks):
        image_bytes = tf.identity(image_bytes)
    png_shapes = tf.stack([_number(head[:, 20:24]), _number(head[:, 16:20]), tf.ones_like(head[:, 0])], axis=1)
    shapes = tf.cond(
        tf.reduce_any(is_jpeg),
        lambda: tf.where(is_jpeg[:, None], _jpeg_shapes(image_bytes, is_jpeg), png_shapes),
        lambda: png_shapes,
    )
    with tf.control_dependencies(_check_sizes(shapes[:, 0], shapes[:, 1])):
        image_bytes = tf.identity(image_bytes)
    bit_depth, colour_type, inks = head[:, 24], head[:, 25], shapes[:, 2]
    has_16_bits = is_png & tf.equal(bit_depth, 16)
    is_deep = has_16_bits | is_png & ((colour_type >= 4) | _contain(image_bytes, "tRNS"))
    is_colour = is_png & (colour_type >= 2) | tf.equal(inks, 4)
    kinds = tf.where(is_deep, 2, tf.where(is_colour, 1, 0))
    images = tf.switch_case(  # To choose for each picture takes as long as to decode it; most batches are of one kind.
        tf.where(tf.reduce_any(kinds > 0), 2, tf.where(tf.reduce_all(shapes[:, :2] == _SIDE), 0, 1)),
        [
            lambda: tf.map_fn(
                lambda one: tf.ensure_shape(_grey(one)[..., 0], _IMAGE.shape), image_bytes, fn_output_signature=_IMAGE
            ),
            lambda: tf.map_fn(lambda one: _small(_grey(one)), image_bytes, fn_output_signature=_IMAGE),
            lambda: tf.map_fn(
                lambda picture: _small(
                    tf.switch_case(
                        picture[1],
                        [
                            lambda: _grey(picture[0]),
                            lambda: _grey_of_colour(picture[0]),
                            lambda: _grey_of_deep(picture[0], picture[2]),
                        ],
                    )
                ),
                (image_bytes, kinds, has_16_bits),
                fn_output_signature=_IMAGE,
            ),
        ],
    )
    has_exif = _contain(image_bytes, r"Exif\x00\x00|eXIf|Raw profile type exif|tiff:Orientation")
    return tf.cond(tf.reduce_any(has_exif), lambda: _turn(images, image_bytes, is_png), lambda: images)


def _check(condition: Any, *sentence: Any) -> Any:
    """Fail with a sentence unless the condition holds for all pictures."""
    return tf.raw_ops.Assert(condition=tf.reduce_all(condition), data=[tf.strings.join(sentence)])


def _check_sizes(heights: Any, widths: Any) -> list[Any]:
    longer, shorter = tf.maximum(heights, widths), tf.minimum(heights, widths)
    # Negative: a number beyond 31 bits.
    return [
        _check((longer <= MAX_SIDE) & (shorter >= 0), f"A picture has more than {MAX_SIDE} pixels a side"),
        _check(
            (4 * longer <= 5 * shorter) | (longer > MAX_SIDE),
            "A picture is far from square: send one upright face crop, whose longer side is at most a quarter longer "
            "than its shorter side",
        ),
    ]


def _contain(strings: Any, pattern: str) -> Any:
    return tf.strings.regex_full_match(strings, rf"\C*(?:{pattern})\C*")  # \C is any byte


def _number(digits: Any, *, little_endian: Any = False) -> Any:
    """Bytes [..., K], K at most 4, to the whole numbers int32 [...] that they write."""
    places = [256**place for place in range(digits.shape[-1])]
    return tf.reduce_sum(tf.cast(digits, tf.int32) * tf.where(little_endian, places, places[::-1]), axis=-1)


def _small(grey: Any) -> Any:
    """Scale uint8 [H, W, 1] to uint8 [48, 48]."""
    return tf.cast(tf.round(tf.image.resize(grey, [_SIDE, _SIDE], method="area")[..., 0]), tf.uint8)


def _jpeg_shapes(image_bytes: Any, is_jpeg: Any) -> Any:
    """Height, width and channels of JPEG files, int32 [N, 3], from their headers; zeros for other files."""
    last_bytes = tf.strings.substr(tf.strings.join(["\0\0", image_bytes]), -2, 2)
    is_suspect = is_jpeg & ((tf.strings.length(image_bytes) > 2**14) | (last_bytes != b"\xff\xd9"))
    suspects = tf.boolean_mask(image_bytes, is_suspect)
    checked = tf.map_fn(_check_markers, suspects, fn_output_signature=tf.TensorSpec([], tf.bool))
    with tf.control_dependencies([checked]):
        image_bytes = tf.identity(image_bytes)
    return tf.map_fn(
        lambda picture: tf.cond(
            picture[1], lambda: tf.image.extract_jpeg_shape(picture[0]), lambda: tf.zeros([3], tf.int32)
        ),
        (image_bytes, is_jpeg),
        fn_output_signature=tf.TensorSpec([3], tf.int32),
    )


def _check_markers(one: Any) -> Any:
    # A marker is a byte 255 and a byte of its own, which the data of a scan cannot hold side by side.
    content = tf.io.decode_raw(one, tf.uint8)
    marker = tf.where(content[:-1] == 255, content[1:], 0)
    scans, ends = tf.where(marker == 0xDA)[:, 0], tf.where(marker == 0xD9)[:, 0]
    checks = [
        _check(tf.reduce_max(ends) > tf.reduce_max(scans), "A picture is a truncated JPEG file"),
        _check(tf.size(scans) <= MAX_SCANS, f"A picture is a JPEG file of more than {MAX_SCANS} scans"),
    ]
    with tf.control_dependencies(checks):
        return tf.constant(True)


def _grey(one: Any) -> Any:
    return tf.io.decode_image(one, channels=1, expand_animations=False)


def _grey_of_colour(one: Any) -> Any:
    """Decode a PNG in colour, or a JPEG of four inks, which becomes RGB first.

    ``channels=1`` would fail for the inks, and weigh the colours of a PNG that states its gamma by their light.
    """
    colour = tf.cast(tf.io.decode_image(one, channels=3, expand_animations=False), tf.int32)
    # In the whole numbers of libpng.
    grey = tf.bitwise.right_shift(tf.reduce_sum(colour * [9797, 19234, 3737], axis=-1, keepdims=True), 15)
    return tf.cast(grey, tf.uint8)


def _grey_of_deep(one: Any, has_16_bits: Any) -> Any:
    """Decode a PNG of 16 bits or with transparency: scaled by its range, and shown on white."""
    picture = tf.io.decode_png(one, channels=4, dtype=tf.uint16)
    red, green, blue, alpha = (tf.cast(picture[..., channel], tf.float32) for channel in range(4))
    brightest = tf.maximum(tf.reduce_max(red), tf.maximum(tf.reduce_max(green), tf.reduce_max(blue)))
    ranges = tf.constant([255.0, 1023.0, 4095.0, 16383.0, 65535.0])
    white = tf.where(has_16_bits, tf.reduce_min(tf.boolean_mask(ranges, ranges >= brightest)), 65535.0)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue) * (255 / white)
    opaque = alpha / 65535
    return tf.cast(tf.round(grey * opaque + 255 * (1 - opaque)), tf.uint8)[..., None]


def _upright_orders() -> NDArray[np.int32]:
    """Where each pixel of an upright 48x48 image comes from, int32 [9, 2304], for EXIF orientations 0 (none) to 8."""
    stored = np.arange(_SIDE**2, dtype=np.int32).reshape(_SIDE, _SIDE)
    half_turn = stored[::-1, ::-1]
    upright = [
        *(stored, stored, stored[:, ::-1], half_turn, stored[::-1]),
        *(stored.T, np.rot90(stored, -1), half_turn.T, np.rot90(stored)),
    ]
    return np.stack([order.reshape(-1) for order in upright])


def _turn(images: Any, image_bytes: Any, is_png: Any) -> Any:
    """Turn images uint8 [N, 48, 48] upright, as their files' EXIF data says."""
    # Pillow, and so the client, reads these too; here they are refused unless the EXIF data has an orientation.
    elsewhere = _contain(image_bytes, r"Raw profile type exif|tiff:Orientation(?:=\"|>)[2-8]")
    has_exif = _contain(image_bytes, r"Exif\x00\x00|eXIf")
    orientations = tf.map_fn(
        lambda picture: tf.cond(picture[2], lambda: _exif_orientation(picture[0], picture[1]), lambda: 0),
        (image_bytes, is_png, has_exif),
        fn_output_signature=tf.int32,
    )
    readable = (orientations > 0) | ~elsewhere & tf.equal(orientations, 0)
    check = _check(readable, "A picture states its orientation where it is not read: turn it upright and save it anew")
    with tf.control_dependencies([check]):
        orientations = tf.where(orientations <= 8, orientations, 0)
    order = tf.gather(tf.constant(_upright_orders()), orientations)
    upright = tf.gather(tf.reshape(images, [-1, _SIDE**2]), order, batch_dims=1)
    return tf.reshape(upright, [-1, _SIDE, _SIDE])


def _exif_orientation(one: Any, is_png: Any) -> Any:
    """Return the orientation in a file's EXIF data, 0 if there is none, or -1 if it cannot be read."""
    length = tf.strings.length(one)
    content = tf.concat([tf.io.decode_raw(one, tf.uint8), tf.zeros([16], tf.uint8)], axis=0)

    def look(position: Any, _start: Any) -> tuple[Any, Any]:
        """Go on to the next segment of the file, or to the EXIF data of this one."""
        segment = tf.ensure_shape(content[position : position + 10], [10])
        size, found, last = tf.cond(
            is_png,
            lambda: (
                _number(segment[:4]) + 12,
                tf.reduce_all(segment[4:8] == list(b"eXIf")),
                tf.reduce_all(segment[4:8] == list(b"IEND")),
            ),
            lambda: (
                _number(segment[2:4]) + 2,
                tf.reduce_all(segment[:2] == [0xFF, 0xE1]) & tf.reduce_all(segment[4:] == list(b"Exif\0\0")),
                (segment[1] == 0xDA) | (segment[0] != 0xFF),
            ),
        )
        start = tf.where(found, position + tf.where(is_png, 8, 10), -1)
        is_inside = (size > 0) & (size < length - position)
        return tf.where(last | ~is_inside, length, position + size), start

    _, start = tf.while_loop(
        lambda position, start: (start < 0) & (position < length),
        look,
        (tf.where(is_png, 8, 2), tf.constant(-1)),
        maximum_iterations=MAX_SEGMENTS,
    )
    return tf.cond(start < 0, lambda: -1, lambda: _tiff_orientation(content[tf.maximum(start, 0) :]))


def _tiff_orientation(content: Any) -> Any:
    """Return the orientation in the first directory of TIFF data, uint8 [K], K at least 16."""
    little_endian = content[0] == ord("I")
    room = tf.size(content) - 2
    directory = _number(tf.ensure_shape(content[4:8], [4]), little_endian=little_endian)
    directory = tf.where((directory >= 0) & (directory < room), directory, room)
    count = _number(tf.ensure_shape(content[directory : directory + 2], [2]), little_endian=little_endian)
    count = tf.minimum(count, (room - directory) // 12)
    entries = tf.reshape(content[directory + 2 : directory + 2 + 12 * count], [-1, 12])
    # Of an entry's twelve bytes: its tag, its type, and its value if that is a short number.
    columns = tf.where(little_endian, [1, 0, 3, 2, 9, 8], [0, 1, 2, 3, 8, 9])
    numbers = tf.cast(tf.gather(entries, columns, axis=1), tf.int32)
    tags, types, values = tf.unstack(numbers[:, ::2] * 256 + numbers[:, 1::2], axis=1)
    found = tf.where(tags == _ORIENTATION)[:, 0]
    return tf.cond(
        tf.equal(tf.size(found), 0),
        lambda: 0,
        lambda: tf.where(types[found[0]] == _SHORT, values[found[0]], -1),
    )
