"""The workflow of CI is valid, and runs every check on every supported Python."""

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def test_the_workflow_matches_the_schema_that_github_publishes():
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [str(program), "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_runs_all_checks_on_every_supported_python():
    [job] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"].values()
    assert job["steps"][-1]["run"] == ".ci/run"
    client = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = [name.rpartition(" :: ")[2] for name in client["classifiers"] if "Python :: 3." in name]
    assert job["strategy"]["matrix"]["python"] == supported


def test_all_checks_are_those_of_the_makefile():
    """No check is left out: what a change has to pass is the same on every machine."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in ("lint", "secrets audit sbom", "docs", "test", "test-slow", "test-soak", "test-docker"):
        assert f"make {target}" in script


def test_the_script_is_valid_shell():
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"]).returncode == 0
