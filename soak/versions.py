"""Write the versions that are served: tiny models, whose answers tell the image and the version.

python -m soak.versions FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from soak.deployment import MODELS, VERSIONS
from tests.tiny_models import write_version


def write_versions(folder: Path) -> None:
    """Write each version of each model; the mark of its answers is its number."""
    for model in MODELS:
        for version in VERSIONS:
            (folder / model).mkdir(parents=True, exist_ok=True)
            write_version(folder / model / str(version), model, version)


if __name__ == "__main__":
    write_versions(Path(sys.argv[1]))
