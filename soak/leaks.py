"""What grows: a server, a gateway and callers, each a process of its own, while one version takes over from another.

    python -m soak.leaks --swaps 1000 [--output leaks-report]

After each swap of a version the memory, file descriptors and threads of each process are noted. Prints the slope of
each after the warm-up, which is the first fifth of the swaps; the exit status is 1 if one rises, or if a call was not
answered right. Needs no special rights.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from mien_client.contract import EMOTION_MODEL, STABLE_LABEL
from mien_serving.rollout.requests import ChangeRequest, RollbackRequest
from mien_serving.rollout.requests import Deployment as Where
from mien_serving.rollout.verbs.adopt import adopt
from mien_serving.rollout.verbs.rollback import rollback

from soak.accounting import Ledger
from soak.asking import Places
from soak.deployment import MIEN, MODELS, ROOT, SERVER_FLAGS, VERSIONS, write_config
from soak.labels import Labels

CALLS_PER_SECOND: Final = 30.0
WARM_UP: Final = 0.2
"""The share of the swaps in which caches fill and pools reach their size."""
RISE: Final = {"memory, MB": 2.0, "file descriptors": 1.0, "threads": 1.0}
"""What each may rise in a hundred swaps; more is a leak. One SavedModel of these takes more memory than that."""
_SAMPLES: Final = 200


class Quiet:
    """Takes what verbs report, and prints nothing."""

    def say(self, text: str) -> None:
        """Print nothing."""

    def count(self, done: int, total: int) -> None:
        """Draw nothing."""


def sample(pid: int) -> dict[str, float]:
    """Return what a process has now."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = {name: int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1]) for name in ("VmRSS", "Threads")}  # type: ignore[index]
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return {"memory, MB": found["VmRSS"] / 1024, "file descriptors": descriptors, "threads": found["Threads"]}


def slope(swaps: Sequence[int], values: Sequence[float]) -> float:
    """Return by how much values rise in a hundred swaps, after the warm-up."""
    at, seen = np.array(swaps), np.array(values)
    settled = at >= at[-1] * WARM_UP
    return float(np.polyfit(at[settled], seen[settled], 1)[0] * 100)


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a program; yield it and the line with which it says that it is ready."""
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(  # noqa: S603
            command,
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        ) as process,
    ):
        try:
            assert process.stdout
            yield process, next((line for line in process.stdout if "is ready" in line), "")
        finally:
            process.send_signal(signal.SIGTERM)


class Run:
    """One run, in a folder of its own."""

    def __init__(self, folder: Path, swaps: int) -> None:
        self.folder = folder
        self.swaps = swaps
        self.labels = {model: Labels() for model in MODELS}
        for labels in self.labels.values():
            labels.moved({STABLE_LABEL: VERSIONS[0]})
        self.at: list[int] = []
        self.samples: dict[str, list[dict[str, float]]] = {"server": [], "gateway": [], "callers": []}
        self.counts: dict[str, int] = {}

    def run(self) -> None:
        """Start everything, and swap versions under load."""
        versions = self.folder / "models"
        subprocess.run([sys.executable, "-m", "soak.versions", str(versions)], cwd=ROOT, check=True)  # noqa: S603
        write_config(self.folder / "models.config")
        files = [f"--model_config_file={self.folder / 'models.config'}", f"--model_repository={versions}"]
        server = [MIEN, "serve", *SERVER_FLAGS, "--host=127.0.0.1", "--port=0", "--rest_api_port=0", *files]
        with ExitStack() as stack:
            serving, ready = stack.enter_context(running(server, self.folder / "server.log"))
            grpc, rest = re.findall(r"port (\d+)", ready) or (0, 0)
            gateway = [MIEN, "gateway", "--port=0", f"--server=localhost:{grpc}", "--workers=2"]
            passing, ready = stack.enter_context(running(gateway, self.folder / "gateway.log"))
            url = re.search(r"http://\S+", ready)
            if not grpc or not url:
                raise RuntimeError(f"The server or the gateway did not start; see {self.folder}")
            where = Where(repository=versions, config=self.folder / "models.config", servers=[f"localhost:{grpc}"])
            for model in MODELS:
                adopt(ChangeRequest(deployment=where, model=model), Quiet())
            places = Places(
                [f"localhost:{grpc}"], [f"http://localhost:{rest}"], f"localhost:{grpc}", [url[0]], [], "", ""
            )
            (self.folder / "places.json").write_text(json.dumps(asdict(places)), encoding="utf-8")
            records = self.folder / "calls.jsonl"
            records.touch()
            calling = [sys.executable, "-m", "soak.callers", str(self.folder / "places.json"), str(records)]
            with (self.folder / "callers.log").open("w", encoding="utf-8") as log:
                callers = subprocess.Popen(  # noqa: S603
                    [*calling, str(CALLS_PER_SECOND)], cwd=ROOT, stdout=log, stderr=log, encoding="utf-8"
                )
            ledger = Ledger(records)
            try:
                self._swap_all(where, {"server": serving, "gateway": passing, "callers": callers})
            finally:
                callers.send_signal(signal.SIGTERM)
                callers.wait()
            ledger.read()
            ledger.close()
            self.counts = ledger.counts(self.labels)

    def _swap_all(self, where: Where, processes: dict[str, subprocess.Popen[str]]) -> None:
        started = told = time.monotonic()
        every = max(1, self.swaps // _SAMPLES)
        labels = self.labels[EMOTION_MODEL]
        for number in range(1, self.swaps + 1):
            version = VERSIONS[number % 2]
            labels.moving({STABLE_LABEL: version})
            rollback(RollbackRequest(deployment=where, model=EMOTION_MODEL, to=version, force=True), Quiet())
            labels.moved({STABLE_LABEL: version})
            if number % every == 0:
                self.at.append(number)
                for name, process in processes.items():
                    self.samples[name].append(sample(process.pid))
            if (now := time.monotonic()) > told + 5:
                told = now
                memory = "  ".join(
                    f"{name} {found[-1]['memory, MB']:.0f} MB" for name, found in self.samples.items() if found
                )
                sys.stdout.write(f"{now - started:6.0f} s  {number:5} of {self.swaps} swaps  {memory}\n")
                sys.stdout.flush()

    def conclude(self, output: Path) -> bool:
        """Print the table, write it and the picture, and return whether nothing rises and every call was right."""
        missed, table = [], []
        sys.stdout.write(f"\n{'':10}{'':18}{'after warm-up':>14}{'at the end':>12}{'in 100 swaps':>14}\n")
        for name, found in self.samples.items():
            for what, limit in RISE.items():
                values = [one[what] for one in found]
                rise = slope(self.at, values)
                begin = values[int(len(values) * WARM_UP)]
                sys.stdout.write(f"{name:10}{what:18}{begin:14.1f}{values[-1]:12.1f}{rise:+14.2f}\n")
                table.append({"process": name, "what": what, "begin": begin, "end": values[-1], "rise": rise})
                if rise > limit:
                    missed.append(f"{what} of the {name} rises by {rise:.2f} in 100 swaps, expected at most {limit:g}")
        sys.stdout.write("\n" + "".join(f"{name:40} {count:9,}\n" for name, count in self.counts.items()))
        missed += [f"{name}: {count}" for name, count in list(self.counts.items())[2:] if count]
        self._draw(output / "leaks.png")
        document = {"swaps": self.swaps, "table": table, "counts": self.counts, "missed": missed}
        (output / "summary.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        for line in missed:
            sys.stdout.write(f"MISSED  {line}\n")
        sys.stdout.write(f"{'Not every target was met' if missed else 'Nothing rises'}; see {output}.\n")
        return not missed

    def _draw(self, path: Path) -> None:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(3, 1, sharex=True, figsize=(10, 8), layout="constrained")
        for place, what in zip(axes, RISE, strict=True):
            for name, found in self.samples.items():
                place.plot(self.at, [one[what] for one in found], label=name)
            place.set_ylabel(what)
            place.set_ylim(bottom=0)
        axes[0].legend(loc="lower right")
        axes[-1].set_xlabel("version swaps")
        figure.savefig(path, dpi=110)
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m soak.leaks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--swaps", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("leaks-report"), help="a folder (default: %(default)s)")
    options: Any = parser.parse_args(arguments)
    if options.swaps < 10:
        parser.error(f"expected at least 10 swaps, got {options.swaps}")
    if not sys.platform.startswith("linux"):
        parser.error(f"expected Linux, which tells the descriptors of a process in /proc, got {sys.platform}")
    output: Path = options.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="mien-leaks-") as folder:
        run = Run(Path(folder), options.swaps)
        try:
            run.run()
        finally:
            for log in Path(folder).glob("*.log"):
                shutil.copy(log, output)
        return 0 if run.conclude(output) else 1


if __name__ == "__main__":
    sys.exit(main())
