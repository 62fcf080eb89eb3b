"""Software bills of materials, CycloneDX 1.6: what each distribution brings with it, and what is in each image.

    python .ci/sbom.py dist                                           # mien-client.cdx.json and so on in dist/
    python .ci/sbom.py dist --image mien-gateway=mien-gateway:0.2.0   # the Debian packages of a built image, too

Versions and hashes are those that the locks pin for Linux on x86-64. Which package needs which, and their licences, are
read from the installed packages. Of an image of somebody else's, such as tensorflow-serving=tensorflow/serving:2.20.0,
only the Debian packages are listed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "deploy" / "docker"
DISTRIBUTIONS = ("mien-client", "mien-gateway", "mien-serving", "mien-training")
IMAGES = {
    "mien-gateway": (DOCKER / "gateway.Dockerfile", DOCKER / "gateway.lock"),
    "mien-serving": (DOCKER / "Dockerfile", DOCKER / "requirements.lock"),
}
PLATFORM = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
IN_IMAGE = PLATFORM | {"python_version": "3.11", "python_full_version": "3.11.0"}

Bill = dict[str, Any]


def pinned(lock: Path, environment: dict[str, str]) -> dict[str, Bill]:
    """Return what a lock pins, as components by the names of the packages.

    Args:
        lock: The lock.
        environment: The markers of the platform; those that are missing are of the Python that runs this.
    """
    entries = []
    for entry in lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if entry and not entry.startswith((" ", "#")):
            marker = Requirement(entry.partition(" --hash")[0]).marker
            if marker is None or marker.evaluate(dict(environment)):
                entries.append(entry)
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), "requirements", "-", "--output-reproducible"]
    text = "\n".join(entries)
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=True)  # noqa: S603
    found = json.loads(done.stdout)["components"]
    return {str(canonicalize_name(one["name"])): described(one) for one in found}


def described(component: Bill) -> Bill:
    """Return a package with its licence, under its own name in the bill."""
    component["bom-ref"] = component["purl"]
    component.pop("description", None)  # Of a lock's entry it is the entry itself.
    try:
        facts = metadata.metadata(component["name"])
    except metadata.PackageNotFoundError:  # It is for an image only, such as tensorflow-cpu.
        return component
    named = {"licenses": [{"expression": facts["License-Expression"]}]} if "License-Expression" in facts else {}
    return component | named


def ours(name: str) -> Bill:
    """Return one of our own distributions as a component."""
    version = metadata.version(name)
    return described({"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"})


def needs(name: str, extras: Iterable[str]) -> dict[str, set[str]]:
    """Return what a distribution needs with these extras, and what those need: each name with its direct needs."""
    edges: dict[str, set[str]] = {name: set()}
    todo, done = [(name, frozenset(extras))], set()
    while todo:
        package, chosen = todo.pop()
        for requirement in map(Requirement, metadata.requires(package) or ()):
            environments = [{**PLATFORM, "extra": extra} for extra in ("", *chosen)]
            if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
                continue
            other = canonicalize_name(requirement.name)
            edges[package] |= {other} - {package}
            edges.setdefault(other, set())
            step = (other, frozenset(requirement.extras))
            if step not in done:
                done.add(step)
                todo.append(step)
    return edges


def bill(root: Bill, contents: list[Bill], edges: dict[str, set[str]]) -> Bill:
    """Return a bill.

    Args:
        root: What the bill is of.
        contents: What is in it.
        edges: Which reference, of the root or of something in it, needs which.
    """
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": sorted(contents, key=lambda one: str(one["bom-ref"])),
        "dependencies": [{"ref": ref, "dependsOn": sorted(others)} for ref, others in sorted(edges.items())],
    }


def of_distribution(name: str, locked: dict[str, Bill]) -> Bill:
    """Return the bill of a distribution with all its extras; what only extras need is optional.

    Args:
        name: The distribution.
        locked: What requirements.lock pins.
    """
    edges = needs(name, metadata.metadata(name).get_all("Provides-Extra") or ())
    required = needs(name, ())
    contents = [
        (ours(other) if other in DISTRIBUTIONS else locked[other])
        | {"scope": "required" if other in required else "optional"}
        for other in edges.keys() - {name}
    ]
    root = ours(name)
    refs = {str(canonicalize_name(one["name"])): one["bom-ref"] for one in [root, *contents]}
    return bill(root, contents, {refs[one]: {refs[other] for other in needed} for one, needed in edges.items()})


def of_image(name: str, image: str | None) -> Bill:
    """Return the bill of an image.

    Args:
        name: What it is called.
        image: What Docker knows it by, for its Debian packages; None omits them.
    """
    contents = []
    if name in IMAGES:
        dockerfile, lock = IMAGES[name]
        builders = re.findall(r"uninstall --yes --quiet (.+)", dockerfile.read_text(encoding="utf-8"))[0].split()
        contents = [one for package, one in pinned(lock, IN_IMAGE).items() if package not in builders]
        contents += [ours("mien-client"), ours(name)]
    if image:
        contents += debian_packages(["docker", "run", "--rm", "--network=none", "--entrypoint=", image])
    root = {"type": "container", "name": f"{name}-image", "bom-ref": f"{name}-image"}
    if name in IMAGES:
        root["version"] = metadata.version(name)
    return bill(root, contents, {root["bom-ref"]: {one["bom-ref"] for one in contents}})


def debian_packages(shell: list[str]) -> list[Bill]:
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
    found = []
    for line in listed.splitlines():
        name, version, architecture = line.split()
        url = f"pkg:deb/{names['ID']}/{name}@{version.replace('+', '%2B')}?arch={architecture}&distro={distribution}"
        found.append({"type": "library", "name": name, "version": version, "purl": url, "bom-ref": url})
    return found


def main() -> int:
    """Write the bills; return 1 if one does not match CycloneDX's schema."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--image", action="append", default=[], metavar="NAME=IMAGE", help="an image that Docker has")
    options = parser.parse_args()
    if options.image and not shutil.which("docker"):
        parser.error("--image needs docker")
    built = dict(one.split("=", 1) for one in options.image)
    locked = pinned(ROOT / "requirements.lock", PLATFORM)
    bills = {name: of_distribution(name, locked) for name in DISTRIBUTIONS}
    bills |= {f"{name}-image": of_image(name, built.get(name)) for name in IMAGES.keys() | built.keys()}
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, document in sorted(bills.items()):
        text = json.dumps(document, indent=1)
        if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
            sys.stderr.write(f"the bill of {name} is not valid: {problem}\n")
            return 1
        path = options.folder / f"{name}.cdx.json"
        path.write_text(f"{text}\n", encoding="utf-8")
        sys.stdout.write(f"{path}: {len(document['components'])} components\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed: {error.stderr.strip()}")
