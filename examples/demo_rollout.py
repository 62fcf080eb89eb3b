"""A new version out and back on three servers, under load, while one of them is killed: what ``mien rollout`` is for.

Run by ``make demo-rollout``, which has published the shipped networks to ``models/`` before. The new version is the
shipped emotion network once more, under the next number. Everything happens in ``demo/rollout/``.
"""

import logging
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from mien_client import Client, MienError
from mien_client.pictures import find_faces, read_picture
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).parent.parent
MIEN = str(Path(sys.executable).with_name("mien"))
PICTURES = [ROOT / "examples" / name for name in ("astronaut.jpg", "admiral.jpg", "face48.png")]
SITE = ROOT / "demo" / "rollout"
CALLERS = 2


class Server:
    """One ``mien serve``, on a port that was free and that it keeps."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self.process: subprocess.Popen[str] | None = None
        self.silence = ""
        self.client = Client(self.address, timeout=1, max_attempts=1)

    def start(self) -> None:
        """Start the process; `wait_until_ready` waits for it."""
        self.silence = "starting"
        command = [MIEN, "serve", f"--port={self.address.rpartition(':')[2]}", "--rest_api_port=0"]
        command += [f"--model_config_file={SITE / 'models.config'}", f"--model_repository={SITE / 'models'}"]
        command += ["--allow_version_labels_for_unavailable_models=true"]
        with (SITE / "servers.log").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, encoding="utf-8")

    def wait_until_ready(self) -> None:
        """Return when both models can be asked."""
        if not (self.process and self.process.stdout and "is ready" in self.process.stdout.readline()):
            sys.exit(f"A server did not start; see {SITE / 'servers.log'}.")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.silence = "dead"
        if self.process:
            self.process.kill()
            self.process.wait()

    def states(self) -> str:
        """Return the versions of the emotion model, such as ``1 AVAILABLE  2 LOADING``."""
        try:
            return "  ".join(f"{one.version} {one.state}" for one in reversed(self.client.status()["emotion"]))
        except MienError:
            return self.silence


def _free_port() -> int:
    """Return a port that the kernel gives to nobody else, such as a client's connection while the server is dead."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


class Load:
    """Callers that never stop asking for ``stable``, and for ``canary`` in a tenth of the calls."""

    def __init__(self, addresses: list[str], images: np.ndarray) -> None:
        self.client = Client(addresses, canary=0.1)
        self.images = images
        self.calls = 0
        self.failures: list[str] = []
        self.recent: deque[tuple[float, int]] = deque(maxlen=10_000)
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(CALLERS)]

    def run(self) -> None:
        """Ask until told to stop."""
        while not self.stopped.wait(0.08):
            try:
                analysis = self.client.analyze(self.images)
                self.recent.append((time.monotonic(), analysis.versions["emotion"]))
            except MienError as error:
                self.failures.append(str(error))
            self.calls += 1

    def stop(self) -> None:
        """Let the calls that are under way end, and make no more."""
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def shares(self) -> str:
        """Which versions answered the calls of the last two seconds."""
        since = time.monotonic() - 2
        counted = Counter(version for moment, version in list(self.recent) if moment > since)
        total = sum(counted.values())
        return "  ".join(f"version {version}: {count / total:.0%}" for version, count in sorted(counted.items())) or "-"


class Show:
    """The commands with what they print, and below them, in a terminal, a live table."""

    def __init__(self, servers: list[Server]) -> None:
        self.console = Console(highlight=False)
        self.servers = servers
        self.load: Load | None = None
        self.started = time.monotonic()
        self.live = Live(get_renderable=self.picture, console=self.console, refresh_per_second=4)

    def picture(self) -> Group:
        """Return the current display."""
        table = Table("SERVER", "EMOTION VERSIONS")
        for server in self.servers:
            table.add_row(server.address, server.states())
        asked = Text(f"{time.monotonic() - self.started:.0f} s   ")
        if self.load:
            asked.append(f"{self.load.calls} calls, ")
            asked.append(f"{len(self.load.failures)} failed", "bold red" if self.load.failures else "bold green")
            asked.append(f"   answered now by {self.load.shares()}")
        return Group(Text(), table, asked)

    def say(self, text: str, style: str = "") -> None:
        """Add lines above the table."""
        self.console.print(Text(text.rstrip(), style), soft_wrap=not self.console.is_terminal)

    def run(self, *arguments: object, expect: int = 0) -> None:
        """Run a verb of ``mien rollout`` and show its output; stop the demo if the verb fails."""
        self.say(f"\n$ mien rollout {shlex.join(map(str, arguments))}", "bold")
        command = [MIEN, "rollout", *map(str, arguments)]
        where = {**os.environ, "MIEN_SERVERS": ",".join(server.address for server in self.servers)}
        with subprocess.Popen(
            command, cwd=SITE, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        ) as process:
            for line in process.stdout or ():
                self.say(line)
        if process.returncode != expect:
            raise RuntimeError(f"mien rollout {arguments[0]} ended with status {process.returncode}, not {expect}.")


def main() -> int:
    """Play the scenario.

    Returns:
        The exit status: 0 if no call failed.
    """
    logging.getLogger("mien_client").addHandler(logging.NullHandler())  # The table tells it already.
    shutil.rmtree(SITE, ignore_errors=True)
    for model in ("emotion", "keypoints"):
        (SITE / "models" / model).mkdir(parents=True)
        shutil.copytree(ROOT / "models" / model / "1", SITE / "models" / model / "1")
    shutil.copy(ROOT / "models.config", SITE)
    images = np.stack([face.image for picture in PICTURES for face in find_faces(read_picture(picture))])
    shifted = [
        np.roll(image, (down, right), (0, 1)) for image in images for down in range(-2, 3) for right in range(-2, 3)
    ]
    np.savez(SITE / "faces.npz", images=np.stack(shifted))
    servers = [Server() for _ in range(3)]
    show = Show(servers)
    try:
        with show.live if show.console.is_terminal else nullcontext():
            play(show, servers, images)
    except (RuntimeError, KeyboardInterrupt) as error:
        show.console.print(f"The demo stopped. {error}", style="red")
        return 1
    finally:
        if show.load:
            show.load.stop()
        for server in servers:
            server.kill()
    load = show.load
    assert load
    show.console.print(
        f"\n{load.calls} calls while a version went out and back and a server died: {len(load.failures)} failed. "
        f"{time.monotonic() - show.started:.0f} s."
    )
    for failure in load.failures[:5]:
        show.console.print(failure, style="red")
    return 1 if load.failures else 0


def play(show: Show, servers: list[Server], images: np.ndarray) -> None:
    """Start the servers, and take a version out and back."""
    show.say("Starting three servers of the shipped networks, each of which has to load TensorFlow ...", "cyan")
    for server in servers:
        server.start()
    for server in servers:
        server.wait_until_ready()
    for model in ("emotion", "keypoints"):
        show.run("adopt", model)
    show.load = Load([server.address for server in servers], images)
    for thread in show.load.threads:
        thread.start()
    show.run("publish", os.path.relpath(ROOT / "models" / "emotion" / "1", SITE), "--why", "more faces")
    show.run("canary", "emotion", 2)
    pause(show, 4, "A tenth of the calls goes to version 2 now.")
    show.run("compare", "emotion", "--data=faces.npz", "--max-p99-ratio=10", "--report=report.html")
    show.say(f"\nkill -9 of {servers[1].address}", "bold red")
    servers[1].kill()
    show.run("promote", "emotion", expect=1)
    show.say(f"\nstarting {servers[1].address} again", "bold")
    servers[1].start()
    servers[1].wait_until_ready()
    show.run("promote", "emotion", "--why", "it is as good")
    pause(show, 4, "All calls go to version 2 now.")
    show.run("rollback", "emotion", "--why", "to show that it goes back")
    pause(show, 3, "All calls go to version 1 again.")
    show.run("retire", "emotion", 2, "--delete")
    show.run("history")


def pause(show: Show, seconds: float, why: str) -> None:
    """Let a person watch."""
    show.say(f"\n{why}", "cyan")
    time.sleep(seconds)


if __name__ == "__main__":
    sys.exit(main())
