"""The snippets of the gateway's documentation run as they are pasted, and its tables are complete."""

import argparse
import os
import re
import shutil
import subprocess

import pytest
from mien_gateway.command import COMMAND

PAGES = ("gateway/README.md", "docs/how-to/gateway.md")


def blocks(root, language):
    found = []
    for page in PAGES:
        text = (root / page).read_text(encoding="utf-8")
        found += re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.parametrize(("language", "program", "count"), [("bash", "bash", 3), ("js", "node", 1)])
def test_the_snippets_run(root, gateway, tmp_path, language, program, count):
    if shutil.which(program) is None or (program == "bash" and shutil.which("curl") is None):
        pytest.skip(f"{program} or curl is not installed")
    codes = blocks(root, language)
    assert len(codes) == count
    for code in codes:
        path = tmp_path / "snippet.mjs"
        path.write_text(code.replace("http://localhost:8080", gateway.url), encoding="utf-8")
        done = subprocess.run([program, path], cwd=root, env=os.environ, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert "Happy" in done.stdout


def test_the_go_program_reads_fields_that_there_are(root, gateway, portrait):
    """It is not run: Go is not installed here."""
    [code] = blocks(root, "go")
    schemas = gateway.get("/openapi.json").json()["components"]["schemas"]
    known = {*schemas["Face"]["properties"], *schemas["Analysis"]["properties"], *schemas["Problem"]["properties"]}
    assert set(re.findall(r'json:"(\w+)"', code)) <= known
    assert "nose_tip" in schemas["Keypoints"]["properties"]


def test_every_flag_is_in_the_readme(root):
    parser = argparse.ArgumentParser(add_help=False)
    COMMAND.add_arguments(parser)
    text = (root / "gateway" / "README.md").read_text(encoding="utf-8")
    assert [option for action in parser._actions for option in action.option_strings if f"`{option}" not in text] == []


def test_every_metric_is_in_the_readme(root, gateway):
    text = (root / "gateway" / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"^# TYPE (mien_gateway_\w+) ", gateway.get("/metrics").text, re.MULTILINE)
    assert len(names) > 8
    assert [name for name in names if f"`{name}`" not in text and not name.endswith("_created")] == []
