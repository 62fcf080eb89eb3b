"""The client works where TensorFlow is not installed, and loads nothing that it does not need."""

import subprocess
import sys

import pytest

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_serving"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", timeout=60, check=True
    ).stdout


def test_calls_are_answered_without_tensorflow(address, backend):
    code = """
import numpy, mien_client.protos, mien_client.pictures
from mien_client import Client
with Client(sys.argv[1]) as client:
    client.wait_ready(10)
    print(client.analyze(numpy.zeros((2, 48, 48), "uint8")).versions)
"""
    assert run(BLOCK + code, address) == "{'emotion': 1, 'keypoints': 1}\n"


@pytest.mark.parametrize(
    ("code", "unneeded"),
    [
        ("import mien_client.cli, mien_client.contract", ["numpy", "grpc", "requests", "google.protobuf"]),
        ("import mien_client.protos", ["numpy", "grpc", "requests"]),
        ("from mien_client import Client, Analysis", ["grpc", "requests", "google.protobuf", "cv2", "PIL"]),
        ("from mien_client import Client; Client('localhost:8500').close()", ["requests", "cv2", "PIL"]),
        ("from mien_client import Client; Client('http://localhost:8501').close()", ["grpc", "google.protobuf"]),
        ("from mien_client._analyze_command import COMMAND", ["numpy", "grpc", "requests", "cv2", "PIL", "matplotlib"]),
    ],
)
def test_only_what_is_needed_is_imported(code, unneeded):
    loaded = run(f"import sys\n{code}\nprint(*sys.modules)").split()
    assert not set(unneeded) & set(loaded)


def test_every_public_name_is_there():
    code = "import mien_client\nfor name in mien_client.__all__: getattr(mien_client, name)\nprint(*dir(mien_client))"
    assert {"Client", "Face", "MienError"} <= set(run(code).split())


def test_an_unknown_name_is_an_attribute_error():
    import mien_client

    with pytest.raises(AttributeError, match="Cleint"):
        mien_client.Cleint  # noqa: B018
