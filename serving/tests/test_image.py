"""The image of the local model server: its content and its command."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; (.+?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def pins(path):
    """Name and version of everything that a lock file installs, with the condition for it."""
    return {(name, version): condition for name, version, condition, _ in PIN.findall(path.read_text(encoding="utf-8"))}


def test_packages_of_the_image_are_pinned_by_hash_to_the_tested_versions():
    image, tested = pins(DOCKER / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert len(image) == len(
        re.findall("^[a-z]", (DOCKER / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    )
    only_here = {name for name, version in image if (name, version) not in tested}
    assert only_here == {"tensorflow-cpu"}
    [version] = {version for name, version in image if name == "tensorflow-cpu"}
    assert ("tensorflow", version) in tested


def test_there_is_one_tensorflow_for_every_processor():
    conditions = {name: condition for (name, _), condition in pins(DOCKER / "requirements.lock").items()}
    assert conditions["tensorflow-cpu"] == "platform_machine == 'x86_64'"
    assert conditions["tensorflow"] == "platform_machine != 'x86_64'"
    assert not re.search(r"amd64|x86_64|aarch64|arm64|uname", DOCKERFILE.partition("ARG BASE_IMAGE")[2])


def test_the_image_does_not_run_as_root_and_holds_no_build_tools():
    _, final = DOCKERFILE.split("FROM $BASE_IMAGE\n")
    assert re.search(r"^USER 65534:65534$", final, re.MULTILINE)
    assert "pip" not in final
    assert "apt-get" not in final


def test_no_file_of_the_image_names_a_package_index():
    for file in (
        DOCKER / "Dockerfile",
        DOCKER / "requirements.in",
        DOCKER / "requirements.lock",
        ROOT / "docker-compose.yml",
    ):
        assert not re.search(r"index-url\b|https?://(?!127\.0\.0\.1)", file.read_text(encoding="utf-8")), file


def test_the_server_of_the_image_listens_on_every_address(tmp_path):
    program = tmp_path / "mien"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", DOCKER / "tensorflow_model_server", "--port=9000"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.split() == ["serve", "--host=0.0.0.0", "--port=9000"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {"MODEL_NAME": "model", "MODEL_BASE_PATH": "/models"},
            ["--model_name=model", "--model_base_path=/models/model"],
        ),
        (
            {"MODEL_NAME": "emotion", "MODEL_BASE_PATH": "/srv"},
            ["--model_name=emotion", "--model_base_path=/srv/emotion"],
        ),
    ],
)
def test_the_entry_point_takes_the_environment_of_tensorflow_serving(tmp_path, environment, expected):
    program = tmp_path / "tensorflow_model_server"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", DOCKER / "tf_serving_entrypoint.sh", "--enable_batching", "--port=9000"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    # Flags that are given again come last, and win.
    assert done.stdout.split() == ["--port=8500", "--rest_api_port=8501", *expected, "--enable_batching", "--port=9000"]
