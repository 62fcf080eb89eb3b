"""How soon callers follow `mien rollout shift` under load: from its end to the last call on the old side.

    python -m benchmarks.traffic_split --repository models

Two servers and eight callers, each with a client of its own that follows ``split.json``. Prints a line for each shift;
the exit status is 1 if a call failed, if a caller changed sides twice, or if one took more than two seconds.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from mien_client import Client, MienError
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL
from mien_client.split import asks_canary, caller_place
from mien_serving import LocalModelServer

from benchmarks.workload import check_repository, faces

TARGET = 2.0
CALLERS = 8
KEYS = range(10 * CALLERS)
PERCENTAGES = (10, 50, 100, 25, 0)
LOADED = ["--allow_version_labels_for_unavailable_models=true", "--num_load_threads=2"]
MIEN = [sys.executable, "-c", "import sys; from mien_client.cli import main; sys.exit(main())", "rollout"]


class Callers:
    """Call all the time, and note which version answered which key, and when."""

    def __init__(self, addresses: list[str], split: Path) -> None:
        self.failures: list[str] = []
        self.answers: list[tuple[float, int, int]] = []
        self._stop = threading.Event()
        self._clients = [Client(addresses, canary="auto", split=split, timeout=30) for _ in range(CALLERS)]
        self._threads = [
            threading.Thread(target=self._run, args=(client, KEYS[number::CALLERS]))
            for number, client in enumerate(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, client: Client, keys: range) -> None:
        image = faces(1)
        for key in itertools.cycle(keys):
            if self._stop.is_set():
                return
            started = time.monotonic()
            try:
                version = client.analyze(image, key=key).versions[EMOTION_MODEL]
            except MienError as error:
                self.failures.append(str(error))
            else:
                self.answers.append((started, key, version))

    def stop(self) -> None:
        """Stop calling."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()


def lag(answers: list[tuple[float, int, int]], since: float, percent: float) -> float:
    """Return the seconds after which no call began that asked the wrong side."""
    wrong = [
        started - since
        for started, key, version in answers
        if (version == 2) != asks_canary(caller_place(key), percent / 100)
    ]
    return max([0.0, *wrong])  # While the command runs, either side is right.


def moves(answers: list[tuple[float, int, int]]) -> int:
    """Return how often a caller changed sides, at most."""
    sides: dict[int, list[int]] = {}
    for _, key, version in answers:
        sides.setdefault(key, []).append(version)
    return max(sum(one != other for one, other in itertools.pairwise(versions)) for versions in sides.values())


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("models"), help="a folder with both models")
    folder = parser.parse_args().repository
    check_repository(parser, folder)
    with tempfile.TemporaryDirectory() as place:
        repository, config = Path(place) / "models", Path(place) / "models.config"
        for model, versions in ((EMOTION_MODEL, (1, 2)), (KEYPOINT_MODEL, (1,))):
            newest = max(int(path.name) for path in (folder / model).iterdir() if path.name.isdecimal())
            for version in versions:
                shutil.copytree(folder / model / str(newest), repository / model / str(version))
        shutil.copyfile(Path(__file__).parent.parent / "models.config", config)
        pinned = "model_version_policy { specific { versions: 1 } }"
        text = config.read_text(encoding="utf-8").replace("model_version_policy { latest { num_versions: 2 } }", pinned)
        config.write_text(text, encoding="utf-8")
        servers = [LocalModelServer(config, model_repository=repository, flags=LOADED) for _ in range(2)]
        with servers[0], servers[1]:
            return _measure([server.grpc_address for server in servers], repository, config)


def _measure(addresses: list[str], repository: Path, config: Path) -> int:
    def rollout(*arguments: object) -> float:
        where = [f"--repository={repository}", f"--config={config}", f"--servers={','.join(addresses)}"]
        subprocess.run([*MIEN, *map(str, arguments), *where], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        return time.monotonic()

    rollout("adopt", EMOTION_MODEL)
    rollout("canary", EMOTION_MODEL, 2)
    callers = Callers(addresses, config.with_name("split.json"))
    missed = False
    try:
        time.sleep(3)
        for percent in PERCENTAGES:
            before = len(callers.answers)
            done = rollout("shift", EMOTION_MODEL, percent)
            time.sleep(2 * TARGET)
            answers = callers.answers[before:]
            seconds, changes = lag(answers, done, percent), moves(answers)
            missed |= seconds > TARGET or changes > 1
            sys.stdout.write(
                f"shift to {percent:3}%: the last call on the old side began {seconds:5.2f} s after the command "
                f"(target {TARGET:g} s); {len(answers)} calls, at most {changes} change of sides per caller\n"
            )
    finally:
        callers.stop()
    sys.stdout.write(f"{len(callers.failures)} of {len(callers.answers) + len(callers.failures)} calls failed\n")
    return 1 if missed or callers.failures else 0


if __name__ == "__main__":
    sys.exit(main())
