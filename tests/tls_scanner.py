"""What a scanner, sslyze, finds at a TLS port. `make test` installs it, in an environment of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAM = Path(sys.prefix) / "scanner" / "bin" / "sslyze"


def weaknesses(port: int, authority: Path) -> dict[str, str]:
    """Return where a TLS port of this machine differs from Mozilla's intermediate configuration, and what else is weak.

    That configuration asks for TLS 1.2 or 1.3, authenticated and forward secret ciphers, no compression, secure
    renegotiation, no known vulnerability, and a certificate for `localhost` of a trusted authority, for a year at most.

    Args:
        port: The port.
        authority: The certificate of the authority that clients trust.
    """
    if not PROGRAM.exists():
        pytest.skip("sslyze is not installed (make test installs it)")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            str(PROGRAM),
            "--mozilla_config=intermediate",
            "--early_data",
            f"--certinfo_ca_file={authority}",
            f"--json_out={report}",
        ]
        done = subprocess.run([*command, f"localhost:{port}"], capture_output=True, encoding="utf-8", check=False)
        [server] = json.loads(report.read_text(encoding="utf-8"))["server_scan_results"]
    assert server["scan_status"] == "COMPLETED", done.stdout
    found = dict(re.findall(r"^        \* (\w+): (.*)$", done.stdout, re.MULTILINE))
    assert bool(found) == bool(done.returncode), done.stdout
    # Mozilla's list has no curve that is stronger than it needs to be.
    if not set(re.findall(r"'(\w+)'", found.get("tls_curves", ""))) - {"X448", "secp521r1"}:
        found.pop("tls_curves", None)
    results = {name: attempt["result"] for name, attempt in server["scan_result"].items()}
    if results["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]:
        found["client_renegotiation"] = "Callers can ask for new handshakes on a connection, as often as they like."
    if results["tls_1_3_early_data"]["supports_early_data"]:
        found["early_data"] = "Requests in early data can be sent again by somebody else."
    return found
