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

if typing.TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

POOL = descriptor_pool.DescriptorPool()
"""All descriptors; ``POOL.FindServiceByName`` finds the services too."""

_full_names: dict[str, str] = {}
_kept: set[type[Message]] = set()


def _load() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(__package__).joinpath("protos.binpb").read_bytes()
    )
    for file in files.file:
        POOL.Add(file)
        names = [message.name for message in file.message_type] + [enum.name for enum in file.enum_type]
        _full_names.update({name: f"{file.package}.{name}" for name in names})


_load()


def message_class(descriptor: Descriptor) -> type[Message]:
    """Build the class of a message, and keep it, with the classes of the messages in its fields, for ever.

    Protobuf itself keeps a class only while something uses it. A thread that asks for one while the garbage collector
    takes it apart for another thread gets what is left of it, and the process crashes.
    """
    message = message_factory.GetMessageClass(descriptor)
    if message not in _kept:
        _kept.add(message)
        for field in descriptor.fields:
            if field.message_type is not None:
                message_class(field.message_type)
    return message


def __getattr__(name: str) -> typing.Any:
    """Build a class when it is first needed: most programs need few of the two hundred."""
    full_name = _full_names.get(name)
    if full_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: typing.Any
    try:
        value = message_class(POOL.FindMessageTypeByName(full_name))
    except KeyError:
        value = enum_type_wrapper.EnumTypeWrapper(POOL.FindEnumTypeByName(full_name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_full_names})
