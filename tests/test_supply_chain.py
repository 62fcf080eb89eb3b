"""Supply chain checks of CI: `make secrets`, `make audit`, `make sbom`."""

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
    assert done.stdout.count("1 packages audited, 0 not, 0 vulnerabilities") == 3  # All locks.


@pytest.mark.parametrize(
    "answer", ["", json.dumps({"dependencies": [{"name": "good", "skip_reason": "nobody answers"}]})]
)
def test_an_audit_that_reached_no_service_says_so(audit, answer):
    done = audit(answer)
    assert done.returncode == 0
    assert done.stdout.count("NOT AUDITED") == 3
    assert "0 vulnerabilities" not in done.stdout


def test_in_strict_mode_an_audit_that_reached_no_service_fails(audit):
    assert audit("", "--strict").returncode == 2


def test_the_bill_of_materials_names_what_is_in_the_image(tmp_path):
    done = run([sys.executable, ROOT / ".ci" / "sbom.py", tmp_path / "bill.json"])
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "bill.json").read_text(encoding="utf-8"))
    assert bill["specVersion"] == "1.6"
    found = {component["name"]: component for component in bill["components"]}
    lock = (ROOT / "deploy" / "docker" / "requirements.lock").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+) \\$", lock, re.M):
        assert found[name]["version"] == version
        assert found[name]["purl"] == f"pkg:pypi/{name}@{version}"
    assert found["tensorflow-cpu"]["externalReferences"][0]["hashes"]
    assert not {"keras", "tensorflow", "libclang"} & found.keys()  # They are left out of the image.


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_the_bill_can_hold_the_debian_packages_of_an_image():
    """The command that lists the packages of an image is run on this machine."""
    code = "import sys, json; sys.path.insert(0, '.ci'); import sbom; print(json.dumps(sbom.debian_packages([])))"
    components = json.loads(run([sys.executable, "-c", code], cwd=ROOT).stdout)
    [dpkg] = [component for component in components if component["name"] == "dpkg"]
    version = run(["dpkg-query", "--show", "--showformat=${Version}", "dpkg"]).stdout
    assert dpkg["version"] == version
    assert re.match(r"pkg:deb/(debian|ubuntu)/dpkg@", dpkg["purl"])
