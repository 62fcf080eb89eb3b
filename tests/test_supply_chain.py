"""Supply chain checks of CI: `make secrets`, `make audit`, `make sbom`, and the tests that SECURITY.md names."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def run(command, **options):
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, **options)


def scan(file):
    """Scan one file as `make secrets` does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = re.search(r"^NO_SECRETS := (.*)$", makefile, re.M)[1]
    options = ["--exclude-files", r"requirements\.lock$", "--exclude-lines", known]
    return run([BIN / "detect-secrets-hook", *options, file])


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN RSA PRIVATE " + "KEY-----",
        "aws_key = 'AKIA" + "QYLPMN5HHHFPZAM2'",
        "password = '" + "correct-horse-battery'",
    ],
)
def test_a_secret_is_found(tmp_path, secret):
    file = tmp_path / "settings.py"
    file.write_text(f"{secret}\n", encoding="utf-8")
    found = scan(file)
    assert found.returncode == 1
    assert "settings.py:1" in found.stdout


def test_a_checksum_is_not_reported(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(f'{{"sha256": "{"4a0520b1" * 8}"}}\n', encoding="utf-8")
    assert scan(file).returncode == 0


@pytest.fixture
def audit(tmp_path):
    """Return a function that runs .ci/audit.py with a fake pip-audit, because the real one needs an online service."""

    def run_with(answer, *options):
        (tmp_path / "answer.json").write_text(answer, encoding="utf-8")
        stand_in = tmp_path / "pip-audit"
        stand_in.write_text(
            f"#!/bin/sh\necho the service is away >&2\ncat {tmp_path / 'answer.json'}\n", encoding="utf-8"
        )
        stand_in.chmod(0o755)
        (tmp_path / "python").symlink_to(sys.executable)
        return run([tmp_path / "python", ROOT / ".ci" / "audit.py", *options])

    return run_with


def test_a_known_vulnerability_fails_the_audit(audit):
    advisory = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}
    bad, good = {"name": "bad", "version": "2.0", "vulns": [advisory]}, {"name": "good", "version": "1", "vulns": []}
    done = audit(json.dumps({"dependencies": [bad, good]}))
    assert done.returncode == 1
    assert "requirements.lock: bad 2.0: PYSEC-1, fixed in 2.1" in done.stdout
    assert "2 packages audited, 0 not, 1 vulnerabilities" in done.stdout


def test_an_audit_without_findings_passes(audit):
    done = audit(json.dumps({"dependencies": [{"name": "good", "version": "1", "vulns": []}]}))
    assert done.returncode == 0
    assert done.stdout.count("1 packages audited, 0 not, 0 vulnerabilities") == 4  # All locks.


@pytest.mark.parametrize(
    "answer", ["", json.dumps({"dependencies": [{"name": "good", "skip_reason": "nobody answers"}]})]
)
def test_an_audit_that_reached_no_service_says_so(audit, answer):
    done = audit(answer)
    assert done.returncode == 0
    assert done.stdout.count("NOT AUDITED") == 4
    assert "0 vulnerabilities" not in done.stdout


def test_in_strict_mode_an_audit_that_reached_no_service_fails(audit):
    assert audit("", "--strict").returncode == 2


@pytest.fixture(scope="module")
def bills(tmp_path_factory):
    """Every bill of materials that `make sbom` writes, by name."""
    folder = tmp_path_factory.mktemp("bills")
    done = run([sys.executable, ROOT / ".ci" / "sbom.py", folder])
    assert done.returncode == 0, done.stderr
    return {
        path.name.removesuffix(".cdx.json"): json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()
    }


def locked(lock):
    """Return the names and versions that a lock pins, for any Python."""
    return set(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))


def in_bill(bill):
    return {component["name"]: component for component in bill["components"]}


@pytest.mark.slow
def test_there_is_a_bill_of_every_distribution_and_of_every_image(bills):
    distributions = {path.parent.name for path in ROOT.glob("*/pyproject.toml")}
    images = {"mien-gateway-image", "mien-serving-image"}
    assert len(list((ROOT / "deploy" / "docker").glob("*Dockerfile"))) == len(images)
    assert bills.keys() == {f"mien-{name}" for name in distributions} | images
    assert {bill["specVersion"] for bill in bills.values()} == {"1.6"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distribution", "required", "optional", "absent"),
    [
        ("mien-client", {"grpcio", "numpy", "urllib3"}, {"pillow", "model-signing"}, {"tensorflow", "fastapi"}),
        ("mien-gateway", {"mien-client", "fastapi", "pillow"}, {"mien-serving"}, {"pytest", "mien-training"}),
        ("mien-serving", {"mien-client", "tensorflow", "keras"}, {"boto3", "model-signing"}, {"fastapi", "pytest"}),
        ("mien-training", {"mien-client", "tensorflow"}, {"mlflow-skinny"}, {"mien-serving", "pytest"}),
    ],
)
def test_the_bill_of_a_distribution_names_what_it_brings(bills, distribution, required, optional, absent):
    bill, pinned = bills[distribution], locked("requirements.lock")
    found = in_bill(bill)
    assert bill["metadata"]["component"]["purl"].startswith(f"pkg:pypi/{distribution}@")
    assert {name for name in required if found[name]["scope"] == "required"} == required
    assert {name for name in optional if found[name]["scope"] == "optional"} == optional
    assert not absent & found.keys()
    for name, component in found.items():
        if not name.startswith("mien-"):
            assert (name, component["version"]) in pinned
            assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
            assert component["externalReferences"][0]["hashes"]


@pytest.mark.slow
def test_the_bill_of_a_distribution_says_which_package_needs_which_and_their_licences(bills):
    bill = bills["mien-client"]
    found = in_bill(bill)
    needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    assert needs.keys() == {one["bom-ref"] for one in [*found.values(), bill["metadata"]["component"]]}
    assert found["urllib3"]["bom-ref"] in needs[found["requests"]["bom-ref"]]
    assert found["requests"]["bom-ref"] in needs[bill["metadata"]["component"]["bom-ref"]]
    assert found["urllib3"]["licenses"] == [{"expression": "MIT"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "lock", "absent"),
    [
        ("mien-serving", "requirements.lock", {"keras", "tensorflow", "libclang"}),
        ("mien-gateway", "gateway.lock", {"matplotlib", "tensorflow", "tensorflow-cpu"}),
    ],
)
def test_the_bill_of_an_image_names_what_is_in_it(bills, image, lock, absent):
    found = in_bill(bills[f"{image}-image"])
    for name in {"numpy", "grpcio"} | ({"tensorflow-cpu"} if image == "mien-serving" else {"fastapi"}):
        assert (name, found[name]["version"]) in locked(f"deploy/docker/{lock}")
        assert found[name]["externalReferences"][0]["hashes"]
    assert {"mien-client", image} <= found.keys()
    assert not (absent | {"hatchling", "pluggy"}) & found.keys()  # What is left out, and what only builds.


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_the_bill_can_hold_the_debian_packages_of_an_image():
    """The command that lists the packages of an image is run on this machine."""
    code = "import sys, json; sys.path.insert(0, '.ci'); import sbom; print(json.dumps(sbom.debian_packages([])))"
    components = json.loads(run([sys.executable, "-c", code], cwd=ROOT).stdout)
    [dpkg] = [component for component in components if component["name"] == "dpkg"]
    version = run(["dpkg-query", "--show", "--showformat=${Version}", "dpkg"]).stdout
    assert dpkg["version"] == version
    assert re.match(r"pkg:deb/(debian|ubuntu)/dpkg@", dpkg["purl"])


def test_every_test_that_the_threat_model_names_exists():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    threats = re.findall(
        r"^\| (.+?) \| .+? \| (.*?) \|$", page.partition("## Threats")[2].partition("## An untrusted")[0], re.M
    )
    rows = [(threat, tests) for threat, tests in threats if threat not in ("threat", "---")]
    assert len(rows) > 20
    for threat, tests in rows:
        named = re.findall(r"`([\w/]+\.py)::(?:(\w+)::)?(\w+)`", tests)
        assert named, f"no test shows the answer to: {threat}"
        assert len(named) == tests.count("::") - sum(bool(group) for _, group, _ in named), tests
        for file, group, test in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            scope = next(one for one in tree.body if getattr(one, "name", "") == group) if group else tree
            assert test in {getattr(one, "name", "") for one in scope.body}, f"{file}::{group}::{test}"
