"""All distributions have one version, one licence and metadata that package indexes accept."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import mien_client
import mien_gateway
import mien_serving
import mien_training
import pytest
from trove_classifiers import classifiers

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = ("client", "gateway", "serving", "training")


def test_every_package_and_the_program_report_the_same_version(mien):
    version = mien_client.__version__
    assert mien_gateway.__version__ == mien_serving.__version__ == mien_training.__version__ == version
    assert {metadata.version(f"mien-{name}") for name in DISTRIBUTIONS} == {version}
    assert mien("--version").stdout == f"mien {version}\n"


def test_the_changelog_describes_the_version():
    assert f"\n## {mien_client.__version__} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_wheel_carries_the_version_the_licence_and_its_metadata(name, tmp_path):
    for other in ("client", name):
        shutil.copytree(
            ROOT / other, tmp_path / other, ignore=shutil.ignore_patterns("tests", "__pycache__"), dirs_exist_ok=True
        )
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=tmp_path / name, check=True, capture_output=True)
    [wheel] = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        folder = f"mien_{name}-{mien_client.__version__}.dist-info"
        described = message_from_bytes(archive.read(f"{folder}/METADATA"))
        assert archive.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert f"mien_{name}/py.typed" in archive.namelist()
    assert described["Version"] == mien_client.__version__
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Author"] == "The Mien authors"
    assert described["Keywords"]
    assert set(described.get_all("Classifier")) <= classifiers


def test_the_stack_has_one_version_source():
    for name in DISTRIBUTIONS:
        project = tomllib.loads((ROOT / name / "pyproject.toml").read_text(encoding="utf-8"))
        assert project["project"]["dynamic"] == ["version"]
        source = ROOT / name / project["tool"]["hatch"]["version"]["path"]
        assert source.resolve() == ROOT / "client" / "src" / "mien_client" / "_version.py"
