"""A month of trouble in an hour.

    python -m soak --minutes 60 [--seed 1] [--output soak-report]

Three model servers, two gateways, two edges and callers, each on a host of its own; faults in an order that the seed
decides; a table, a picture and all calls in the output folder. The exit status is 1 if a target was missed. Only root
on Linux can do this.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from soak import report
from soak.accounting import Fault, Ledger, latencies, misnamed, rows
from soak.asking import Places
from soak.deployment import CALLERS, EDGES, GATEWAYS, ROOT, SERVERS, Deployment
from soak.faults import KINDS, FaultError
from soak.network import NetworkError
from soak.requirements import MissingRequirement, require
from soak.rollouts import Rollouts
from soak.schedule import Planned, plan

CALLS_PER_SECOND: Final = 40.0
CALLS_IN_AN_HOUR: Final = 100_000
SWAPS_IN_AN_HOUR: Final = 50
_PROGRESS_S: Final = 5.0
_QUIET_S: Final = 5.0
"""Seconds without faults at the beginning and at the end."""


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Soak:
    """One run.

    Args:
        deployment: What is put under stress.
        minutes: For how long.
        seed: Of what chance decides.
    """

    def __init__(self, deployment: Deployment, minutes: float, seed: int) -> None:
        self.deployment = deployment
        self.faults: list[Fault] = []
        self.missed: list[str] = []
        self.planned = plan(KINDS, minutes, seed)
        swaps = max(2, round(SWAPS_IN_AN_HOUR * minutes / 60))
        self.rollouts = Rollouts(deployment, swaps, minutes * 60, seed)
        self.swaps = swaps
        self._minutes = minutes
        self._records = deployment.folder / "calls.jsonl"
        self._records.touch()
        self.ledger = Ledger(self._records)
        self._started = 0.0
        self._told = 0.0

    def run(self) -> None:
        """Break one thing after the other while callers call."""
        callers = self._start_callers()
        self._started = time.monotonic()
        try:
            self._watch(self._started + _QUIET_S, "all is well")
            self.rollouts.start()
            for planned in self.planned:
                self._watch(self._started + planned.at_s, "all is well")
                self._break(planned)
            self._watch(self._started + self._minutes * 60, "all is well")
            self.rollouts.stop()
            self._watch(time.monotonic() + _QUIET_S, "all is well")
        finally:
            callers.send_signal(signal.SIGTERM)
            callers.wait()
        self.ledger.read()
        if callers.returncode or self.ledger.begun is None:
            self.missed.append(f"the callers ended with status {callers.returncode}")
        if self.rollouts.error:
            self.missed.append(f"rollouts stopped: {self.rollouts.error}")

    def _start_callers(self) -> subprocess.Popen[bytes]:
        folder, certificates = self.deployment.folder, self.deployment.certificates
        places = Places(
            grpc=[f"{name}:8500" for name in SERVERS],
            rest=[f"http://{name}:8501" for name in SERVERS],
            name="dns:///serving:8500",
            gateways=[f"http://{name}:8080" for name in GATEWAYS],
            edges=[f"{name}:8443" for name in EDGES],
            ca_file=str(certificates.ca_file),
            key=certificates.key,
        )
        (folder / "places.json").write_text(json.dumps(asdict(places)), encoding="utf-8")
        command = [sys.executable, "-m", "soak.callers", str(folder / "places.json"), str(self._records)]
        command.append(str(CALLS_PER_SECOND))
        with (folder / "logs" / "callers.log").open("w", encoding="utf-8") as log:
            return subprocess.Popen(  # noqa: S603
                self.deployment.hosts[CALLERS].command(command),
                cwd=ROOT,
                env=self.deployment.environment(CALLERS),
                stdout=log,
                stderr=log,
            )

    def _break(self, planned: Planned) -> None:
        begun = time.monotonic()
        where = ""
        try:
            with planned.kind.breaks(self.deployment, random.Random(planned.seed)) as where:  # noqa: S311
                self._watch(time.monotonic() + planned.lasts_s, f"{planned.kind.name}: {where}")
            while self.deployment.unready():
                if time.monotonic() > begun + 300:
                    raise FaultError(f"{', '.join(self.deployment.unready())} did not come back within 300 s")
                self._watch(time.monotonic() + 0.1, f"waiting for {', '.join(self.deployment.unready())}")
        except FaultError as error:
            self.missed.append(f"{planned.kind.name}: {error}")
        self.faults.append(Fault(planned.kind.name, where, begun, time.monotonic()))

    def _watch(self, until: float, state: str) -> None:
        """Print the progress now and then until a moment has come."""
        while (now := time.monotonic()) < until:
            if now > self._told + _PROGRESS_S:
                self._told = now
                self.ledger.read()
                records = self.ledger.records
                repeated = sum(bool(record.failures) for record in records)
                bad = sum(record.verdict != "right" for record in records)
                calls = f"{len(records):7,} calls  {repeated:4} failed first  {bad:3} lost or wrong"
                say(f"{now - self._started:6.0f} s  {calls}  {len(self.rollouts.swapped):3} swaps  {state}")
            time.sleep(min(0.1, max(0.0, until - now)))

    def conclude(self, output: Path) -> bool:
        """Print the table, write the picture, and return whether every target was met."""
        records = self.ledger.records
        counts = self.ledger.counts(self.rollouts.labels)
        found = rows(records, self.faults)
        crashes = [crash for process in self.deployment.processes.values() for crash in process.crashes]
        differs = self.rollouts.journal_differs()
        median, slow = latencies(records)
        say("")
        for line in report.table(found):
            say(line)
        say("")
        for name, count in counts.items():
            say(f"{name:40} {count:9,}")
        say(f"{'version swaps':40} {len(self.rollouts.swapped):9,}")
        say(f"{'rollouts refused':40} {self.rollouts.refused.total():9,}")
        say(f"{'rollouts done, but not everywhere':40} {self.rollouts.incomplete.total():9,}")
        say(f"{'latency, median and p99':40} {median * 1000:7.0f} ms {slow * 1000:.0f} ms")
        self.missed += [f"{name}: {count}" for name, count in list(counts.items())[3:] if count]
        self.missed += [f"a process ended by itself: {crash}" for crash in crashes]
        self.missed += differs
        enough = round(CALLS_IN_AN_HOUR * self._minutes / 60)
        if counts["calls"] < enough:
            self.missed.append(f"{counts['calls']:,} calls, expected {enough:,}")
        if len(self.rollouts.swapped) < self.swaps:
            self.missed.append(f"{len(self.rollouts.swapped)} swaps, expected {self.swaps}")
        report.picture(output / "soak.png", records, self.faults, self.rollouts.swapped)
        bad = [record for record in records if record.verdict != "right"]
        examples = [asdict(record) for record in [*bad, *misnamed(records, self.rollouts.labels)]]
        report.summary(
            output / "summary.json",
            counts,
            found,
            missed=self.missed,
            examples=examples[:100],
            failures=[failure for record in records for failure in record.failures][:1000],
            refusals=self.rollouts.reasons,
        )
        for missed in self.missed:
            say(f"MISSED  {missed}")
        say(f"{'Every target was met' if not self.missed else 'Not every target was met'}; see {output}.")
        return not self.missed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="decides the order of the faults (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("soak-report"), help="a folder (default: %(default)s)")
    options: Any = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"expected a positive number of minutes, got {options.minutes:g}")
    try:
        require()
    except MissingRequirement as error:
        parser.exit(1, f"{error}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Hosts and processes are removed.
    output: Path = options.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(prefix="mien-soak-"))
    try:
        say("Starting three model servers, two gateways and two edges ...")
        with Deployment(folder) as deployment:
            soak = Soak(deployment, options.minutes, options.seed)
            soak.run()
            met = soak.conclude(output)
    except NetworkError as error:
        say(str(error))
        return 1
    finally:
        for kept in ("logs", "calls.jsonl"):
            if (folder / kept).exists():
                shutil.move(folder / kept, output / kept)
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if met else 1


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
