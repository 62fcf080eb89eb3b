"""What commands load, and which packages are pinned. `make lint` checks which module may import which."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["serve", "--help"],
        ["analyze", "--help"],
        ["train", "--help"],
        ["rollout", "status", "--help"],
        ["repository", "sync", "--help"],
        ["gateway", "--help"],
    ],
)
def test_help_loads_no_large_library(arguments):
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'numpy', 'grpc', 'requests', 'boto3', 'fastapi'):\n"
        "    sys.modules[name] = None\n"
        "from mien_client.cli import main\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: mien" in done.stdout


def test_every_package_is_pinned_with_hashes_and_no_host_is_named():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?://|--index|--find-links|file:", text)
    requirements = re.split(r"\n(?=[a-z0-9])", text)
    assert len(requirements) > 50
    for requirement in requirements[1:]:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==[^\s\\]+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_tensorflow_and_the_container_have_the_same_minor():
    locked = re.findall(
        r"^(tensorflow|tensorflow-serving-api)==(\d+\.\d+)",
        (ROOT / "requirements.lock").read_text(encoding="utf-8"),
        re.M,
    )
    image = re.search(r"tensorflow/serving:(\d+\.\d+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert {minor for _, minor in locked} == {image[1]} == {"2.20"}
    assert len(locked) == 2


def without_encoding(code):
    """Yield the lines that read or write text in the locale's encoding, which differs between machines.

    Ruff's PLW1514 finds those whose type it can infer; this goes by the names of methods.
    """
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {keyword.arg for keyword in call.keywords}
        if "encoding" not in given and (name in ("read_text", "write_text") or "text" in given):
            yield call.lineno


def test_text_is_never_read_or_written_in_the_locales_encoding():
    assert list(without_encoding("a.read_text()\nrun(b, text=True)\na.write_text(c, encoding='utf-8')")) == [1, 2]
    for path in ROOT.rglob("*.py"):
        if ".venv" not in path.parts:
            assert list(without_encoding(path.read_text(encoding="utf-8"))) == [], path
