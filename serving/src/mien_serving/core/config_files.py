"""Configuration files: protobuf messages in text form."""

from __future__ import annotations

import codecs
import re
from importlib import resources
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from mien_client.protos import message_class
from mien_client.reading import read_file

from mien_serving.core.status import Code, StatusError, invalid_argument

_STRING_OR_COMMENT: Final = re.compile(r"""\#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_TYPOGRAPHIC_QUOTE: Final = re.compile("[\u00ab\u00bb\u2018-\u201f\u2039\u203a\u2033\u2036\uff02]")
_UNUSUAL_SPACE: Final = re.compile(r"[^\S \t\r\n\v\f]")


def _descriptors() -> descriptor_pool.DescriptorPool:
    """Return a pool of its own, since the default one may hold TensorFlow Serving's own messages of the same names."""
    files = resources.files(__package__).joinpath("config_messages.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(files).file:
        pool.Add(file)
    return pool


_POOL: Final = _descriptors()


def read_message(path: Path, name: str) -> Any:
    """Read a message of ``config_messages.proto``.

    Args:
        path: The file.
        name: The message, such as ``BatchingParameters``.

    Raises:
        StatusError: The file cannot be read, or is not such a message.
    """
    message = message_class(_POOL.FindMessageTypeByName(f"tensorflow.serving.{name}"))()
    return parse_file(path, message, _POOL)


def parse_file(path: Path, message: Any, pool: descriptor_pool.DescriptorPool) -> Any:
    """Fill a message from a file, and return it.

    Args:
        path: The file.
        message: An empty message.
        pool: Where the message's descriptor is.

    Raises:
        StatusError: The file cannot be read, or is not such a message.
    """
    try:
        text = decode(read_file(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StatusError(Code.NOT_FOUND, f"{path}; {reason}") from error
    try:
        return parse_text(text, message, pool)
    except text_format.ParseError as error:
        raise invalid_argument(
            f"Invalid protobuf file: '{path}'; Error parsing text-format {message.DESCRIPTOR.full_name}: {error}"
        ) from error
    except ValueError as error:
        raise invalid_argument(f"Invalid protobuf file: '{path}'; {error}") from error


def decode(content: bytes) -> str:
    """Return the text of a configuration file.

    Raises:
        ValueError: The file is not UTF-8; the message says what it is and what to do.
    """
    try:
        return content.decode()
    except UnicodeDecodeError:
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise ValueError(
            "it is not UTF-8 text but UTF-16; save it as UTF-8" if is_utf16 else "it is not UTF-8 text"
        ) from None


def parse_text(text: str, message: Any, pool: descriptor_pool.DescriptorPool) -> Any:
    """Fill a message from text, and return it.

    Raises:
        ParseError: The text is not such a message.
        ValueError: The text contains characters that an editor has inserted, or is nested too deeply; the message says
            what and where.
    """
    if mistake := _editors_mistake(text):
        raise ValueError(mistake)
    try:
        return text_format.Parse(text, message, descriptor_pool=pool)
    except text_format.ParseError as error:
        line = error.GetLine() or 0
        if line and (found := _TYPOGRAPHIC_QUOTE.search(text.split("\n")[line - 1])):
            raise ValueError(_quotation_marks(line, found[0])) from error
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _editors_mistake(text: str) -> str:
    """Return which invisible or typographic character an editor has inserted, and where; empty if none."""
    if text.startswith("\ufeff"):
        return "it begins with a byte order mark; save it as UTF-8 without one"
    bare = _STRING_OR_COMMENT.sub("", text)  # Neither spans lines.
    found = _TYPOGRAPHIC_QUOTE.search(bare) or _UNUSUAL_SPACE.search(bare)
    if not found:
        return ""
    line, character = bare.count("\n", 0, found.start()) + 1, found[0]
    if character.isspace():
        return f"line {line} has an unusual space (U+{ord(character):04X}); write a plain one"
    return _quotation_marks(line, character)


def _quotation_marks(line: int, character: str) -> str:
    return f'line {line} has typographic quotation marks ({character}); write straight ones (")'
