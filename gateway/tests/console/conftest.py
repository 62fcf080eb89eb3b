"""A real browser on the console of real gateways."""

import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mien_gateway.keys import new_key
from mien_serving import LocalModelServer
from mien_serving.rollout.requests import CanaryRequest, ChangeRequest, Deployment
from mien_serving.rollout.verbs.adopt import adopt
from mien_serving.rollout.verbs.canary import canary
from playwright.sync_api import expect, sync_playwright

from docs.screenshots import browser_path, export_canaries, launch, write_camera
from tests.made_once import made_once

expect.set_options(timeout=30_000)


class Silent:
    def say(self, text):
        pass

    def count(self, done, total):
        pass


@pytest.fixture(scope="module")  # While Playwright runs, no other test of this process can call asyncio.run().
def browser(tmp_path_factory):
    executable = browser_path()
    if executable is None:
        pytest.skip("Chromium is not installed")
    camera = write_camera(tmp_path_factory.mktemp("camera") / "camera.mjpeg")
    with sync_playwright() as playwright, launch(playwright, executable, camera) as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Open a gateway's console; the page must keep to its policy and meet no error of its own."""
    problems = []
    contexts = []

    def open_page(gateway, view="try", **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write", "camera"])
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda message: (
                problems.append(message.text) if re.search("policy|TrustedHTML", message.text, re.I) else None
            ),
        )
        page.goto(f"{gateway.url}/#{view}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(open_page, gateway):
    """The console of a gateway in front of the shipped networks."""
    return open_page(gateway)


@pytest.fixture(scope="session")
def canaries(tmp_path_factory):
    """A repository of versions that answer a little differently from those of the shipped networks."""
    return made_once(tmp_path_factory, "canaries", export_canaries) / "canaries"


@dataclass
class RolledOut:
    """A gateway in front of a server with canaries, and what its rollout is made of."""

    gateway: object
    config: Path
    operator_key: str


@pytest.fixture(scope="session")
def roll_out(published, canaries, starting, tmp_path_factory, root):
    """Return a context manager that runs a server with canaries and a gateway in front of it."""

    @contextmanager
    def roll_out():
        folder = tmp_path_factory.mktemp("rollout")
        repository = shutil.copytree(published, folder / "models")
        config = Path(shutil.copy(root / "models.config", folder))
        with LocalModelServer(config, model_repository=repository) as server, starting() as start_gateway:
            where = Deployment(repository=repository, config=config, servers=[server.grpc_address])
            for model in ("emotion", "keypoints"):
                adopt(ChangeRequest(deployment=where, model=model), Silent())
                shutil.copytree(canaries / model / "1", repository / model / "2")
                canary(CanaryRequest(deployment=where, model=model, version=2, why="to try it"), Silent())
            key, line = new_key("ada")
            keys = folder / "operators"
            keys.write_text(line, encoding="utf-8")
            flags = [f"--config={config}", f"--repository={repository}", f"--operator_keys={keys}"]
            yield RolledOut(start_gateway("--server", server.grpc_address, *flags), config, key)

    return roll_out


@pytest.fixture(scope="session")
def rolled_out(roll_out):
    """A deployment with canaries, which tests leave as it is."""
    with roll_out() as deployment:
        yield deployment


@pytest.fixture
def samples(root):
    return root / "gateway" / "src" / "mien_gateway" / "console" / "static" / "samples"
