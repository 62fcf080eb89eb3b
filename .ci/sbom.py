"""A software bill of materials, CycloneDX 1.6, of the image of the local model server.

    python .ci/sbom.py OUT.json            # the Python packages that deploy/docker/requirements.lock pins for it
    python .ci/sbom.py OUT.json --image mien-serving         # and the Debian packages in an image that has been built

Of an image of somebody else's, such as tensorflow/serving, `--only-image` tells the Debian packages alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "deploy" / "docker" / "requirements.lock"
IN_THE_IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}


def locked() -> str:
    """Return the lock without the packages that the image leaves out."""
    kept = []
    for entry in LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if entry and not entry.startswith((" ", "#")):
            marker = Requirement(entry.partition(" --hash")[0]).marker
            if marker is None or marker.evaluate(dict(IN_THE_IMAGE)):
                kept.append(entry)
    return "\n".join(kept)


def python_packages() -> dict[str, Any]:
    """Return the bill of the Python packages."""
    program = Path(sys.executable).with_name("cyclonedx-py")
    command = [
        str(program),
        "requirements",
        "-",
        "--pyproject",
        str(ROOT / "serving" / "pyproject.toml"),
        "--output-reproducible",
    ]
    done = subprocess.run(command, input=locked(), capture_output=True, encoding="utf-8", check=True)  # noqa: S603
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def debian_packages(shell: list[str]) -> list[dict[str, str]]:
    """Return the packages that dpkg lists, as components.

    Args:
        shell: What comes before the command: nothing for this machine, `docker run …` for an image.
    """
    query = [*shell, "cat", "/etc/os-release"]
    release = subprocess.run(query, capture_output=True, encoding="utf-8", check=True).stdout  # noqa: S603
    names = dict(line.replace('"', "").split("=", 1) for line in release.splitlines() if "=" in line)
    query = [*shell, "dpkg-query", "--show", "--showformat=${Package} ${Version} ${Architecture}\n"]
    listed = subprocess.run(query, capture_output=True, encoding="utf-8", check=True).stdout  # noqa: S603
    distribution = f"{names['ID']}-{names.get('VERSION_ID', '')}"
    components = []
    for line in listed.splitlines():
        name, version, architecture = line.split()
        url = f"pkg:deb/{names['ID']}/{name}@{version.replace('+', '%2B')}?arch={architecture}&distro={distribution}"
        components.append({"type": "library", "name": name, "version": version, "purl": url, "bom-ref": url})
    return components


def main() -> int:
    """Write the bill; return 1 if it does not match CycloneDX's schema."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--image", help="an image that Docker has")
    parser.add_argument("--only-image", action="store_true", help="without the Python packages of our lock")
    options = parser.parse_args()
    bill = python_packages()
    if options.only_image:
        bill["components"], bill["dependencies"] = [], []
        bill["metadata"]["component"] = {"type": "container", "name": options.image, "bom-ref": "root-component"}
    if options.image:
        if not shutil.which("docker"):
            parser.error("--image needs docker")
        bill["components"] += debian_packages(
            ["docker", "run", "--rm", "--network=none", "--entrypoint=", options.image]
        )
    text = json.dumps(bill, indent=1)
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.stderr.write(f"the bill is not valid: {problem}\n")
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(f"{text}\n", encoding="utf-8")
    sys.stdout.write(f"{options.out}: {len(bill['components'])} components\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed: {error.stderr.strip()}")
