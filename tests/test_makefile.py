"""`make` installs what the lock pins, with uv where it works and with pip where it does not."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Stands in for `python -m venv FOLDER`: the pip and uv of that environment note how they are called.
PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho pip "$@" >> "%s/calls"\\n' "$3" > "$3/bin/pip"
printf '#!/bin/sh\\necho uv "$@" >> "%s/calls"\\nexit {uv_status}\\n' "$3" > "$3/bin/uv"
chmod +x "$3/bin/pip" "$3/bin/uv"
"""


@pytest.fixture
def install(tmp_path):
    def run(uv_status):
        python = tmp_path / "python"
        python.write_text(PYTHON.format(uv_status=uv_status), encoding="utf-8")
        python.chmod(0o755)
        venv = tmp_path / "venv"
        command = ["make", f"{venv}/.installed", f"PYTHON={python}", f"VENV={venv}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        return (venv / "calls").read_text(encoding="utf-8").splitlines(), done.stderr

    return run


def test_pip_installs_uv_from_the_lock_and_uv_the_rest(install, tmp_path):
    (uv, packages, ours), _ = install(uv_status=0)
    assert uv.startswith("pip install")
    assert packages.startswith("uv pip install")
    assert packages.endswith("--require-hashes -r requirements.lock")
    assert ours.startswith("uv pip install")
    assert ours.endswith("-e client -e gateway -e serving -e training")
    lock = (tmp_path / "venv" / "uv.lock").read_text(encoding="utf-8")
    assert lock.startswith("uv==")
    assert "--hash=sha256:" in lock
    assert lock.count("==") == 1


def test_pip_installs_everything_where_uv_fails(install):
    (_, _, packages, ours), output = install(uv_status=1)
    assert packages.startswith("pip install")
    assert packages.endswith("--require-hashes -r requirements.lock")
    assert ours.endswith("-e client -e gateway -e serving -e training")
    assert "uv did not install the packages; pip does." in output
