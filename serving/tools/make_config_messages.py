"""Write ``core/config_messages.binpb``, the descriptors of ``core/config_messages.proto``.

It needs grpcio-tools, which contains protoc. Running this again changes nothing.

    python serving/tools/make_config_messages.py
"""

from __future__ import annotations

import importlib.resources
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).parents[1] / "src" / "mien_serving" / "core" / "config_messages.proto"
DESCRIPTORS = PROTO.with_suffix(".binpb")


def descriptors() -> bytes:
    """Return the serialized ``FileDescriptorSet`` of the file and of what it imports."""
    google = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made.binpb")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO.parent}", f"--proto_path={google}"]
        command += ["--include_imports", f"--descriptor_set_out={made}", PROTO.name]
        subprocess.run(command, check=True)  # noqa: S603 -- protoc, with our own file
        return made.read_bytes()


if __name__ == "__main__":
    DESCRIPTORS.write_bytes(descriptors())
