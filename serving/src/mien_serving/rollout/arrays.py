"""Files of NumPy arrays (``.npz``) that others may have written."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np
from mien_client.reading import MEBIBYTE
from numpy.typing import NDArray


def read_arrays(stream: BinaryIO, names: Collection[str], limit: int) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read arrays from a file. Pickled ones are refused.

    Args:
        stream: The file.
        names: The arrays that are wanted.
        limit: Maximum size of the whole file, unpacked, in bytes.

    Returns:
        The arrays of these names that the file has, and the names of all its arrays.

    Raises:
        ValueError: It is not such a file, or is too large. The text is a clause that says why.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            size = sum(entry.file_size for entry in archive.infolist())  # No entry can unpack to more.
        if size > limit:
            raise ValueError(f"it has {size / MEBIBYTE:,.0f} MiB unpacked, at most {limit / MEBIBYTE:,g} are read")
        stream.seek(0)
        with np.load(stream) as arrays:
            found = {name: arrays[name] for name in names if name in arrays.files}
            if strange := next((name for name, array in found.items() if not isinstance(array, np.ndarray)), None):
                raise ValueError(f"its {strange} is not an array")
            return found, list(arrays.files)
    except Exception as error:
        # NumPy reads the header of an array as a Python literal, and zipfile knows many formats: a damaged file makes
        # them raise errors of almost any class, such as those of tokenize, zlib and lzma.
        raise ValueError(str(error) or "it is damaged") from None
