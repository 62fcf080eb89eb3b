"""Write the descriptors and the type stubs of `mien_client.protos`.

``src/mien_client/protos.binpb`` holds the descriptors of TensorFlow Serving's messages and services, taken from the
installed tensorflow-serving-api, whose version is pinned to the server's. ``src/mien_client/protos.pyi`` holds the
stubs, which protoc writes. Running this again with the same versions changes nothing. It needs TensorFlow, which
tensorflow-serving-api imports, and grpcio-tools, which contains protoc.

    python client/tools/make_protos.py
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import descriptor, descriptor_pb2, descriptor_pool

ROOTS = (
    "tensorflow_serving/apis/prediction_service",
    "tensorflow_serving/apis/model_service",
    "tensorflow_serving/apis/get_model_metadata",
    "tensorflow_serving/apis/model_management",
    "tensorflow_serving/apis/prediction_log",
    "tensorflow_serving/config/model_server_config",
    "tensorflow_serving/config/file_system_storage_path_source",
    "tensorflow_serving/config/platform_config",
    "tensorflow/core/protobuf/meta_graph",
)
PACKAGE = Path(__file__).parents[1] / "src" / "mien_client"
DESCRIPTORS = PACKAGE / "protos.binpb"
STUBS = PACKAGE / "protos.pyi"

_HEADER = '''"""Type stubs of `mien_client.protos`, written by ``client/tools/make_protos.py``."""

# mypy: disable-error-code="type-arg"
from google.protobuf import descriptor_pool as _descriptor_pool
'''
_BESIDE_THE_CLASSES = """POOL: _descriptor_pool.DescriptorPool

def message_class(descriptor: _descriptor.Descriptor) -> type[_message.Message]: ...
"""


def closure(roots: tuple[str, ...]) -> dict[str, descriptor.FileDescriptor]:
    """Return the files that ``roots`` name and all that they import, each after those that it imports."""
    files: dict[str, descriptor.FileDescriptor] = {}

    def visit(file: descriptor.FileDescriptor) -> None:
        if file.name not in files:
            for imported in file.dependencies:
                visit(imported)
            files[file.name] = file

    for root in roots:
        # An old protoc wrote the two service modules, and today's protobuf fails half-way through importing them. By
        # then their descriptors are in the pool, which is all that is needed.
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"{root.replace('/', '.')}_pb2")
        visit(descriptor_pool.Default().FindFileByName(f"{root}.proto"))
    return files


def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors of all files.

    Raises:
        SystemExit: Two messages have the same simple name.
    """
    files = closure(ROOTS)
    names = collections.Counter(
        name for file in files.values() for name in (*file.message_types_by_name, *file.enum_types_by_name)
    )
    if ambiguous := [name for name, count in names.items() if count > 1]:
        sys.exit(f"Expected unique message names, found several messages called {', '.join(ambiguous)}")
    result = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(result.file.add())
    return result


def stubs(files: descriptor_pb2.FileDescriptorSet) -> str:
    """Return the text of the stubs.

    protoc writes one stub file for each proto file. Here all messages are in one module under their simple names, so
    protoc is given one file with all of them. Google's own messages (``Any``, ``Int64Value``) stay those of protobuf.
    """
    googles = [file for file in files.file if file.package == "google.protobuf"]
    ours = [file for file in files.file if file.package != "google.protobuf"]
    merged = descriptor_pb2.FileDescriptorProto(name="protos.proto", syntax="proto3")
    merged.dependency.extend(file.name for file in googles)
    for file in ours:
        merged.message_type.extend(file.message_type)
        merged.enum_type.extend(file.enum_type)
    packages = sorted({file.package for file in ours}, key=len, reverse=True)
    _flatten(merged.message_type, re.compile(rf"^\.(?:{'|'.join(map(re.escape, packages))})\."))
    text = _stubs_by_protoc(descriptor_pb2.FileDescriptorSet(file=[*googles, merged]))
    # The values of an enum are found in its class only: `DataType.DT_FLOAT`, not `DT_FLOAT`.
    enums = "|".join(enum.name for enum in merged.enum_type)
    text = re.sub(rf"^\w+: (?:{enums})\n", "", text, flags=re.M)
    text = text.replace("DESCRIPTOR: _descriptor.FileDescriptor\n", _BESIDE_THE_CLASSES, 1)
    names = ((f"_{Path(file.name).stem}_pb2", message.name) for file in googles for message in file.message_type)
    return f"{_HEADER}{text}\n" + "".join(f"{name} = {module}.{name}\n" for module, name in names)


def _flatten(messages: Iterable[descriptor_pb2.DescriptorProto], package: re.Pattern[str]) -> None:
    for message in messages:
        for field in message.field:
            if field.HasField("type_name"):
                field.type_name = package.sub(".", field.type_name)
        _flatten(message.nested_type, package)


def _stubs_by_protoc(files: descriptor_pb2.FileDescriptorSet) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "protos.binpb").write_bytes(files.SerializeToString())
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={folder / 'protos.binpb'}"]
        subprocess.run([*command, f"--pyi_out={folder}", "protos.proto"], check=True)  # noqa: S603
        return (folder / "protos_pb2.pyi").read_text(encoding="utf-8")


if __name__ == "__main__":
    made = descriptor_set()
    DESCRIPTORS.write_bytes(made.SerializeToString(deterministic=True))
    STUBS.write_text(stubs(made), encoding="utf-8")
