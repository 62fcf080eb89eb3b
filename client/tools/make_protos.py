"""Writes src/mien_client/protos.binpb, the descriptors of TensorFlow Serving's messages and services.

They are taken from the installed tensorflow-serving-api, whose version is pinned to the server's. Running this again
with the same version changes nothing. It needs TensorFlow, which that package imports.

    python client/tools/make_protos.py
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import sys
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
OUTPUT = Path(__file__).parents[1] / "src" / "mien_client" / "protos.binpb"


def closure(roots: tuple[str, ...]) -> dict[str, descriptor.FileDescriptor]:
    """Returns the files that ``roots`` name and all they import, each after those it imports."""
    files: dict[str, descriptor.FileDescriptor] = {}

    def visit(file: descriptor.FileDescriptor) -> None:
        if file.name not in files:
            for imported in file.dependencies:
                visit(imported)
            files[file.name] = file

    for root in roots:
        # The two service modules were written by a protoc so old that today's protobuf refuses them half-way
        # through. By then their descriptors are in the pool, which is all that is wanted.
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"{root.replace('/', '.')}_pb2")
        visit(descriptor_pool.Default().FindFileByName(f"{root}.proto"))
    return files


def descriptor_set() -> bytes:
    """Returns the serialized ``FileDescriptorSet``."""
    files = closure(ROOTS)
    names = collections.Counter(
        name for file in files.values() for name in (*file.message_types_by_name, *file.enum_types_by_name)
    )
    if ambiguous := [name for name, count in names.items() if count > 1]:
        sys.exit(f"two messages share a simple name, which mien_client.protos cannot offer: {', '.join(ambiguous)}")
    result = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(result.file.add())
    return result.SerializeToString(deterministic=True)


if __name__ == "__main__":
    OUTPUT.write_bytes(descriptor_set())
