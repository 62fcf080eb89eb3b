"""The programs that load a version start fast: they import TensorFlow, but not Keras."""

import subprocess
import sys

CODE = """
import sys
from importlib.util import find_spec
from pathlib import Path
from mien_serving.rollout.loading.trial import _reason
print(_reason(Path(sys.argv[1])))
print("tensorflow" in sys.modules, "keras" in sys.modules, find_spec("keras") is not None)
"""


def test_keras_is_not_imported_and_can_be_afterwards(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path], capture_output=True, encoding="utf-8", check=True, timeout=250
    )
    reason, imported = done.stdout.splitlines()
    assert reason.startswith("Could not find SavedModel")
    assert imported == "True False True"
