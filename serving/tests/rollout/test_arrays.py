"""Files of arrays are read, or refused with a sentence, however they are damaged."""

import io
import zipfile

import numpy as np
import pytest
from mien_serving.rollout.arrays import read_arrays

IMAGES = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)


def array_file(array=IMAGES):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(content, name="images.npy"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def encrypted(content):
    data = bytearray(zipped(content))
    for header, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data[data.index(header) + offset] |= 1
    return bytes(data)


def test_the_wanted_arrays_are_read_and_all_are_listed():
    found, names = read_arrays(io.BytesIO(zipped(array_file())), ("images", "labels"), 1000)
    np.testing.assert_array_equal(found.pop("images"), IMAGES)
    assert (found, names) == ({}, ["images"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\3\4" + bytes(99),
        zipped(array_file().replace(b"}", b"(")),  # The header is an unfinished expression,
        zipped(array_file().replace(b"(3, 2, 2)", b"('x', ) *")),  # or not a literal.
        zipped(array_file().replace(b"|u1", b"|O8")),
        zipped(array_file(np.array([{}], object))),
        zipped(array_file()[:-1]),
        zipped(b"text"),
        encrypted(array_file()),
        zipped(array_file()).replace(b"PK\1\2\x14\3\x14\0\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x0e\0"),  # LZMA, it says.
        zipped(array_file(np.zeros(2000, np.uint8))),
    ],
)
def test_anything_else_is_refused_with_a_reason(content):
    with pytest.raises(ValueError, match=r"\w"):
        read_arrays(io.BytesIO(content), ("images",), 1000)
