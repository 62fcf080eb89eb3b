"""Look up known vulnerabilities of every package that the locks pin.

    python .ci/audit.py        # exit status 1 if there is one that is not in ACCEPTED

The advisories are queried online. If no service answers, the script reports that nothing was audited and exits with 0,
because checks must also pass on a machine without a network. With `--strict` it exits with 2.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "deploy/docker/requirements.lock", "deploy/docker/gateway.lock", "tests/scanner.lock")

ACCEPTED: dict[str, str] = {}
"""Advisories that do not affect Mien, by name, each with the reason."""


def main() -> int:
    """Audit all locks and print the result."""
    status = 0
    for lock in LOCKS:
        program = str(Path(sys.executable).with_name("pip-audit"))
        command = [program, "--disable-pip", "--require-hashes", "--format=json", "--progress-spinner=off", "-r", lock]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)  # noqa: S603
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            reason = (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1]
            packages, told = [], f" ({reason})"
        else:
            told = ""
        audited = [package for package in packages if "skip_reason" not in package]
        if not audited:
            sys.stdout.write(f"{lock}: NOT AUDITED, no advisory service answered{told}\n")
            status = max(status, 2 if "--strict" in sys.argv else 0)
            continue
        found = [
            (package, advisory)
            for package in audited
            for advisory in package["vulns"]
            if not {advisory["id"], *advisory["aliases"]} & ACCEPTED.keys()
        ]
        for package, advisory in found:
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            sys.stdout.write(f"{lock}: {package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}\n")
        left = len(packages) - len(audited)
        sys.stdout.write(f"{lock}: {len(audited)} packages audited, {left} not, {len(found)} vulnerabilities\n")
        status = max(status, 1 if found else 0)
    return status


if __name__ == "__main__":
    sys.exit(main())
