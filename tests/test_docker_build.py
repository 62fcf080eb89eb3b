"""Two builds of an image are the same, to the byte. The gateway's, which is the smaller one, is built here."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def run(*command, **environment):
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env=os.environ | environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """What `.ci/images` prints, and its file, of each of two builds."""
    for program in ("buildah", "docker"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (.ci/docker-engine installs it on Debian)")
    folders = [tmp_path_factory.mktemp("build") for _ in range(2)]
    return [(run(ROOT / ".ci/images", folder, "mien-gateway"), folder / "mien-gateway.tar") for folder in folders]


def test_two_builds_of_an_image_are_the_same(builds):
    (printed, image), (again, second) = builds
    assert printed == again
    assert filecmp.cmp(image, second, shallow=False)


def test_docker_knows_the_image_by_the_digest_that_was_printed_and_it_runs(builds):
    name, digest = builds[0][0].split()
    run("docker", "load", "--quiet", "--input", builds[0][1])
    assert run("docker", "inspect", "--format={{.Id}}", name) == digest
    assert "usage: mien gateway" in run("docker", "run", "--rm", "--network=none", name, "--help")


def test_the_bill_of_the_image_names_the_packages_that_are_in_it(builds, tmp_path):
    run(sys.executable, ROOT / ".ci/sbom.py", tmp_path)
    bill = json.loads((tmp_path / "mien-gateway-image.cdx.json").read_text(encoding="utf-8"))
    code = "from importlib.metadata import distributions as d; print(*(f'{x.name.lower()}=={x.version}' for x in d()))"
    run("docker", "load", "--quiet", "--input", builds[0][1])
    inside = run("docker", "run", "--rm", "--network=none", "--entrypoint=python", builds[0][0].split()[0], "-c", code)
    packages = {name.replace("_", "-").replace(".", "-") for name in inside.split()}
    listed = {f"{one['name']}=={one['version']}" for one in bill["components"]}
    assert packages == {name.replace("_", "-").replace(".", "-") for name in listed}
