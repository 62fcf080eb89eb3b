"""The message classes of the configuration files that clients never see, so that the client does not ship them.

They are declared here field by field, in a descriptor pool of their own, as TensorFlow Serving declares them in
``session_bundle_config.proto``, ``monitoring_config.proto`` and ``ssl_config.proto``. Only their text form is used, so
field numbers do not matter.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from mien_client.reading import read_file

from mien_serving.core.status import Code, StatusError, invalid_argument

_STRING_OR_COMMENT: Final = re.compile(r"""\#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_TYPOGRAPHIC_QUOTE: Final = re.compile("[\u00ab\u00bb\u2018-\u201f\u2039\u203a\u2033\u2036\uff02]")
_UNUSUAL_SPACE: Final = re.compile(r"[^\S \t\r\n\v\f]")

_WRAPPERS: Final = {"Int64Value", "StringValue", "BoolValue"}
_SCALARS: Final = {"string", "bool", "int64"}
_MESSAGES: Final = {
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
    "SSLConfig": {"server_key": "string", "server_cert": "string", "custom_ca": "string", "client_verify": "bool"},
}


def _declared() -> descriptor_pool.DescriptorPool:
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="config.proto", package="tensorflow.serving", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, declared) in enumerate(fields.items(), start=1):
            repeated, type_name = declared.startswith("repeated "), declared.removeprefix("repeated ")
            field = message.field.add(name=field_name, number=number)
            field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if type_name in _SCALARS:
                field.type = field_type.Type.Value(f"TYPE_{type_name.upper()}")
            else:
                field.type = field_type.TYPE_MESSAGE
                package = "google.protobuf" if type_name in _WRAPPERS else file.package
                field.type_name = f".{package}.{type_name}"
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return pool


_POOL: Final = _declared()


def read_message(path: Path, name: str) -> Any:
    """Reads one of the messages above from a file, in text form.

    Args:
        path: The file.
        name: Which message, such as ``BatchingParameters``.

    Raises:
        StatusError: The file cannot be read, or holds something else.
    """
    message = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"tensorflow.serving.{name}"))()
    return parse_file(path, message, _POOL)


def parse_file(path: Path, message: Any, pool: descriptor_pool.DescriptorPool) -> Any:
    """Fills any message from a file that holds its text form.

    Raises:
        StatusError: The file cannot be read, or holds something else.
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
        ValueError: It is not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError:
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise ValueError(
            "it is not UTF-8 text but UTF-16; save it as UTF-8" if is_utf16 else "it is not UTF-8 text"
        ) from None


def parse_text(text: str, message: Any, pool: descriptor_pool.DescriptorPool) -> Any:
    """Fills any message from its text form, and returns it.

    Raises:
        ParseError: The text is not that.
        ValueError: An editor or a stranger has left something in it; a clause says what and where.
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
    """What an editor has put into a file that people do not see, and servers do not read; empty if nothing."""
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
