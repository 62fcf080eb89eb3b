"""TensorFlow Serving's message classes under their simple names, without TensorFlow.

``from mien_client.protos import PredictRequest`` imports the class of ``tensorflow.serving.PredictRequest``; enums,
such as ``DataType``, are protobuf's enum wrappers. ``tools/make_protos.py`` generates their descriptors,
``protos.binpb``, and their types, ``protos.pyi``, from the official packages.

The classes are built in a descriptor pool of their own, because the official classes register the same names in the
default pool. So both sets can be used in one process; a message of one set becomes one of the other through its bytes.
"""

from __future__ import annotations

import typing
from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

POOL = descriptor_pool.DescriptorPool()
"""All descriptors; ``POOL.FindServiceByName`` finds the services too."""

_full_names: dict[str, str] = {}


def _load() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(__package__).joinpath("protos.binpb").read_bytes()
    )
    for file in files.file:
        POOL.Add(file)
        names = [message.name for message in file.message_type] + [enum.name for enum in file.enum_type]
        _full_names.update({name: f"{file.package}.{name}" for name in names})


_load()


def __getattr__(name: str) -> typing.Any:
    """Build a class when it is first needed: most programs need few of the two hundred."""
    full_name = _full_names.get(name)
    if full_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: typing.Any
    try:
        value = message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))
    except KeyError:
        value = enum_type_wrapper.EnumTypeWrapper(POOL.FindEnumTypeByName(full_name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_full_names})
