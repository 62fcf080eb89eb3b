"""Fuzz every target, and send malformed traffic to every port: ``python -m fuzz --seconds 60``.

Prints a table of each; the exit status is 1 if there was a fault. Inputs that cause faults are kept in ``fuzz/found``:
``python -m fuzz --replay FILE`` runs one of them again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fuzz.run import keep
from fuzz.target import checked
from fuzz.targets import TARGETS

_FOUND: Final = Path(__file__).parent / "found"
_STUCK_S: Final = 120.0
"""Seconds without a new input after which a run counts as stuck; ten times as long before the first."""

_PROGRESS_S: Final = 30.0


@dataclass
class _Result:
    """What a run has found."""

    name: str
    inputs: int = 0
    seconds: float = 0.0
    outcomes: int = 0
    coverage: str = "–"
    faults: list[dict[str, Any]] = field(default_factory=list)

    def read(self, status: Path) -> None:
        """Read what the run has written."""
        if status.exists():
            document = json.loads(status.read_text(encoding="utf-8"))
            self.inputs, self.seconds = document["inputs"], document["seconds"]
            self.outcomes, self.faults = len(document["outcomes"]), document["faults"]

    def row(self) -> str:
        """Return the run's row of the table."""
        rate = self.inputs / self.seconds if self.seconds else 0
        return (
            f"{self.name:20} {self.inputs:>10,} {rate:>9,.0f} {self.outcomes:>9,} {self.coverage:>9} "
            f"{len(self.faults):>7,}"
        )


_HEAD: Final = f"{'target':20} {'inputs':>10} {'inputs/s':>9} {'outcomes':>9} {'coverage':>9} {'faults':>7}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _fuzz(name: str, seconds: float) -> _Result:
    """Run one target in a process of its own."""
    result = _Result(name)
    with tempfile.TemporaryDirectory() as folder:
        status, log = Path(folder) / "status", Path(folder) / "log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(  # noqa: S603 -- this interpreter
                [sys.executable, "-m", "fuzz.run", name, str(seconds), str(_FOUND / name), str(status)],
                cwd=Path(__file__).parents[1],
                stdout=output,
                stderr=output,
            )
        ended = _watch(process, result, status)
        result.read(status)
        told = log.read_text(encoding="utf-8", errors="replace")
        if covered := re.findall(r"\bcov: (\d+)", told):
            result.coverage = f"{int(covered[-1]):,}"
        if ended:
            current = status.with_suffix(".input")
            file = keep(_FOUND / name, current.read_bytes() if current.exists() else b"")
            file.with_suffix(".log").write_text(told[-20_000:], encoding="utf-8")
            last = told.strip().rpartition("\n")[2][:200]
            result.faults.append({"what": f"{ended} {last}", "where": name, "file": str(file), "count": 1})
    _say(result.row())
    return result


def _watch(process: subprocess.Popen[bytes], result: _Result, status: Path) -> str:
    """Wait for the end of a run; return what was wrong with it."""
    moved, said = time.monotonic(), time.monotonic()
    while process.poll() is None:
        time.sleep(0.5)
        before, now = result.inputs, time.monotonic()
        result.read(status)
        if result.inputs != before:
            moved = now
        if now - said > _PROGRESS_S:
            said = now
            _say(f"  {result.name}: {result.inputs:,} inputs so far, {len(result.faults)} faults")
        if now - moved > _STUCK_S * (1 if result.inputs else 10):
            process.kill()
            process.wait()
            return f"It hangs: no end within {_STUCK_S:g} s."
    return f"The process ended with {process.returncode}." if process.returncode else ""


def _replay(files: Sequence[Path]) -> int:
    """Run kept inputs again; the folder of each names its target."""
    status = 0
    for file in files:
        target = TARGETS[file.absolute().parent.name]
        with tempfile.TemporaryDirectory() as folder, target.prepare(Path(folder)) as check:
            try:
                _say(f"{file}: {checked(target, check, file.read_bytes())}")
            except Exception:  # whatever it is, it is the fault
                status = 1
                _say(f"{file}:\n{traceback.format_exc()}")
    return status


def main() -> int:
    """Fuzz, or replay; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each target (default: %(default)g)")
    parser.add_argument("--target", nargs="+", choices=sorted([*TARGETS, "traffic"]), help="default: all")
    parser.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="run inputs in fuzz/found again")
    arguments = parser.parse_args()
    if arguments.replay:
        return _replay(arguments.replay)
    chosen = arguments.target or [*TARGETS, "traffic"]
    _say(_HEAD)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(
            pool.map(lambda name: _fuzz(name, arguments.seconds), [name for name in chosen if name in TARGETS])
        )
    _say("")
    faults = [(result.name, fault) for result in results for fault in result.faults]
    for name, fault in faults:
        _say(
            f"{name}: {fault['what']}\n    at {fault['where']}, {fault['count']:,} times; replay: "
            f"python -m fuzz --replay {os.path.relpath(fault['file'])}"
        )
    bad = len(faults)
    if "traffic" in chosen:
        from fuzz.traffic import measure

        bad += measure(_say)
    _say(f"{sum(result.inputs for result in results):,} inputs, {bad} faults.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
