"""Take the pictures of the console that the documentation shows.

    python -m docs.screenshots        # writes docs/how-to/console/*.png; needs Chromium

It serves the shipped networks as version 1 and networks that answer a little differently as version 2, rolls version 2
out as canary, and opens the console of a real gateway in a real browser while calls arrive.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import requests
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

ROOT: Final = Path(__file__).parent.parent
PICTURES: Final = ROOT / "docs" / "how-to" / "console"
SAMPLES: Final = ROOT / "gateway" / "src" / "mien_gateway" / "console" / "static" / "samples"
MIEN: Final = str(Path(sys.executable).with_name("mien"))
PRETRAINED: Final = ROOT / "training" / "src" / "mien_training" / "pretrained"

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_QUIET: Final = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")

MODELS: Final = (EMOTION_MODEL, KEYPOINT_MODEL)

_NOISE: Final = 0.08
"""The noise in the weights of version 2, in standard deviations of each layer's weights."""


def browser_path() -> str | None:
    """Return the installed Chromium, or None."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def launch(playwright: Playwright, executable: str, camera: Path) -> Browser:
    """Start Chromium without a window.

    Args:
        playwright: Playwright.
        executable: The program.
        camera: What its camera shows, as `write_camera` writes it.
    """
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags.append(f"--use-file-for-fake-video-capture={camera}")
    return playwright.chromium.launch(executable_path=executable, args=[*flags, *_QUIET])


def write_camera(path: Path) -> Path:
    """Write what the camera shows: the astronaut, as Motion JPEG, which is JPEG files one after the other."""
    with Image.open(ROOT / "examples" / "astronaut.jpg") as picture:
        picture.resize((480, 480)).save(path, "JPEG", quality=90)
    path.write_bytes(path.read_bytes() * 10)
    return path


def write_both(path: Path) -> None:
    """Write the sample with two faces: the two portraits side by side."""
    portraits = [Image.open(ROOT / "examples" / name).convert("RGB") for name in ("astronaut.jpg", "admiral.jpg")]
    height = min(portrait.height for portrait in portraits)
    scaled = [portrait.resize((round(portrait.width * height / portrait.height), height)) for portrait in portraits]
    both = Image.new("RGB", (sum(portrait.width for portrait in scaled), height))
    left = 0
    for portrait in scaled:
        both.paste(portrait, (left, 0))
        left += portrait.width
    both.save(path, quality=90)


def run(*arguments: object, folder: Path, **environment: str) -> str:
    """Run a verb of ``mien`` in a folder and return what it prints."""
    command = [MIEN, *map(str, arguments)]
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return done.stdout


def export_canaries(folder: Path) -> Path:
    """Export networks that answer a little differently from the shipped ones.

    Args:
        folder: An empty folder, as an absolute path.

    Returns:
        A model repository with a version 1 of both.
    """
    generator = np.random.default_rng(0)

    def add_noise(_: str, weights: object) -> None:
        if isinstance(weights, h5py.Dataset) and weights.ndim > 1:
            values = weights[...]
            weights[...] = values + generator.normal(0, _NOISE * values.std(), values.shape)

    for model in MODELS:
        changed = shutil.copytree(PRETRAINED / model, folder / f"changed-{model}")
        with h5py.File(changed / "best.weights.h5", "r+") as file:
            file.visititems(add_noise)
        run("export", changed, "--repository", "canaries", folder=folder)
    return folder / "canaries"


@dataclass(frozen=True)
class Deployment:
    """A model server with a canary of each model, and a gateway in front of it."""

    url: str
    operator_key: str


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """Serve the shipped networks with canaries. The folder's path is absolute."""
    run("export", "--pretrained", "--repository", "models", folder=folder)
    canaries = export_canaries(folder)
    shutil.copy(ROOT / "models.config", folder)
    made = subprocess.run(  # noqa: S603
        [MIEN, "gateway", "--new_key", "ada"], capture_output=True, encoding="utf-8", check=True
    )
    (folder / "operators").write_text(made.stdout, encoding="utf-8")
    serve = ["serve", "--port=0", "--rest_api_port=0", "--model_config_file=models.config", "--model_repository=models"]
    with ExitStack() as stack:
        started = stack.enter_context(
            _program(*serve, "--allow_version_labels_for_unavailable_models=true", folder=folder)
        )
        port = re.search(r"gRPC on port (\d+)", started)
        assert port, started
        server = f"localhost:{port[1]}"
        for model in MODELS:
            run("rollout", "adopt", model, folder=folder, MIEN_SERVERS=server)
        for model, percent, why in (
            (EMOTION_MODEL, 20, "to compare the two"),
            (KEYPOINT_MODEL, 5, "to compare the two"),
        ):
            run("rollout", "publish", canaries / model / "1", folder=folder, MIEN_SERVERS=server)
            run("rollout", "canary", model, 2, "--why", why, folder=folder, MIEN_SERVERS=server)
            run("rollout", "shift", model, percent, folder=folder, MIEN_SERVERS=server)
        flags = ("--config=models.config", "--repository=models", "--operator_keys=operators", "--port=0")
        started = stack.enter_context(_program("gateway", "--server", server, *flags, folder=folder))
        url = re.search(r"http://\S+", started)
        assert url, started
        yield Deployment(url[0], made.stderr.split()[-1])


@contextmanager
def _program(*arguments: str, folder: Path) -> Iterator[str]:
    """Run a program, and yield the first line that it prints."""
    with (
        (folder / f"{arguments[0]}.log").open("w", encoding="utf-8") as log,
        subprocess.Popen(  # noqa: S603
            [MIEN, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
        ) as process,
    ):
        assert process.stdout
        try:
            yield process.stdout.readline()
        finally:
            process.terminate()


@contextmanager
def calls(url: str) -> Iterator[None]:
    """Call the gateway all the time."""
    stopped = threading.Event()
    picture = (SAMPLES / "both.jpg").read_bytes()

    def call() -> None:
        with requests.Session() as session:
            number = 0
            while not stopped.wait(0.05):
                number += 1
                session.post(
                    f"{url}/v1/analyze",
                    picture,
                    params={"key": number},
                    headers={"content-type": "image/jpeg"},
                    timeout=60,
                )

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def take(page: Page, url: str, key: str) -> None:
    """Visit the views one after the other, and take a picture of each."""

    def shoot(name: str, *, full_page: bool = False) -> None:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=PICTURES / name, full_page=full_page)

    page.goto(url)
    page.get_by_role("button", name="Both").click()
    page.get_by_role("heading", name="Face 2").wait_for()
    shoot("try.png")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("heading", name="Face 2").wait_for()
    shoot("compare.png", full_page=True)
    page.get_by_role("button", name="Keys").click()
    page.get_by_label("Operator's key").fill(key)
    page.get_by_role("button", name="Use these keys").click()
    page.get_by_role("tab", name="Versions").click()
    with calls(url):
        page.wait_for_timeout(25_000)
        shoot("versions.png", full_page=True)
    page.get_by_label("Canary's share").first.fill("40")
    page.get_by_role("button", name="Shift").first.click()
    page.locator("#confirm-go:enabled").wait_for()
    shoot("confirm.png")


def main() -> int:
    """Take the pictures.

    Returns:
        The exit status.
    """
    executable = browser_path()
    if executable is None:
        sys.stderr.write("Expected one of the programs " + ", ".join(_NAMES) + "; none was found.\n")
        return 1
    write_both(SAMPLES / "both.jpg")
    PICTURES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        deployment(Path(scratch)) as served,
        sync_playwright() as playwright,
        launch(playwright, executable, write_camera(Path(scratch) / "camera.mjpeg")) as browser,
    ):
        page = browser.new_page(viewport={"width": 1200, "height": 1080}, color_scheme="light")
        take(page, served.url, served.operator_key)
        phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=1.5)
        phone.goto(served.url)
        phone.get_by_role("button", name="Astronaut").click()
        phone.get_by_role("heading", name="Happy").wait_for()
        phone.screenshot(path=PICTURES / "phone.png", full_page=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
