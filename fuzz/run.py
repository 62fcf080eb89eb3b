"""Run one target for a while, in a process of its own: ``python -m fuzz.run TARGET SECONDS FOUND STATUS``.

The first half of the time Hypothesis makes the inputs. Then atheris mutates them, guided by the lines of our code that
they reach; where atheris is not installed, Hypothesis goes on. Faults do not end a run: each is kept once, and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

import hypothesis

from fuzz.inputs import inputs
from fuzz.target import Check, Target, checked

try:
    import atheris
except ImportError:
    atheris = None

_OURS: Final = ("mien_client", "mien_gateway", "mien_serving", "mien_training")
_REPORT_S: Final = 0.5
_BATCH: Final = 500
_CORPUS: Final = 1000
"""Maximum number of inputs of Hypothesis that atheris begins with."""


class Run:
    """Give inputs to a target, and keep what comes out.

    Args:
        target: The target.
        check: Its check.
        found: The folder for inputs that cause a fault.
        status: The file for what is known so far. Beside it, with the suffix ``.input``, is the input in progress.
    """

    def __init__(self, target: Target, check: Check, found: Path, status: Path) -> None:
        self._target, self._check, self._found, self._status = target, check, found, status
        self._started = time.monotonic()
        self._reported = 0.0
        self._inputs = 0
        self._outcomes: Counter[str] = Counter()
        self._faults: dict[str, dict[str, Any]] = {}
        self._current = os.open(status.with_suffix(".input"), os.O_RDWR | os.O_CREAT, 0o644)
        self.corpus: list[bytes] = []
        """Inputs whose outcome was new, and some others."""

    def __call__(self, data: bytes) -> None:
        """Give one input to the target."""
        os.ftruncate(self._current, 0)
        os.pwrite(self._current, data, 0)
        self._inputs += 1
        try:
            outcome = checked(self._target, self._check, data)
        except Exception as error:  # whatever it is, it is a fault
            self._keep(data, error)
            outcome = f"fault: {type(error).__name__}"
        if outcome not in self._outcomes or (len(self.corpus) < _CORPUS and self._inputs % 10 == 0):
            self.corpus.append(data)
        self._outcomes[outcome] += 1
        if time.monotonic() - self._reported > _REPORT_S:
            self.report()

    def report(self) -> None:
        """Write what is known so far."""
        self._reported = time.monotonic()
        document = {
            "inputs": self._inputs,
            "seconds": self._reported - self._started,
            "outcomes": self._outcomes.most_common(),
            "faults": list(self._faults.values()),
        }
        aside = self._status.with_suffix(".tmp")
        aside.write_text(json.dumps(document), encoding="utf-8")
        aside.rename(self._status)

    def _keep(self, data: bytes, error: Exception) -> None:
        where = place(error)
        key = f"{type(error).__name__} {where}"
        known = self._faults.get(key)
        if known and len(data) >= known["size"]:
            known["count"] += 1
            return
        file = keep(self._found, data)
        if known:
            Path(known["file"]).unlink(missing_ok=True)
        self._faults[key] = {
            "what": f"{type(error).__name__}: {error}"[:300],
            "where": where,
            "file": str(file),
            "size": len(data),
            "count": known["count"] + 1 if known else 1,
        }
        self.report()


def keep(found: Path, data: bytes) -> Path:
    """Keep an input in a folder, by the name of its hash; return its path."""
    found.mkdir(parents=True, exist_ok=True)
    file = found / hashlib.sha256(data).hexdigest()[:16]
    file.write_bytes(data)
    return file


def place(error: BaseException) -> str:
    """Return the innermost line of our own code that an error has passed, for people; else the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(f"{os.sep}{name}{os.sep}" in frame.filename for name in _OURS)]
    frame = (ours or frames)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno} {frame.name}"


def _generate(target: Target, run: Run, ends: float) -> None:
    strategy = inputs(target.seeds(), target.tokens)
    while time.monotonic() < ends:

        @hypothesis.seed(random.getrandbits(64))
        @hypothesis.settings(
            max_examples=_BATCH,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(strategy)
        def batch(data: bytes) -> None:
            if time.monotonic() < ends:
                run(data)

        batch()


def _mutate(run: Run, folder: Path, ends: float) -> None:
    """Mutate until the time is over, and end the process, which leaves its files in a folder."""

    def test(data: bytes) -> None:
        run(data)
        if time.monotonic() > ends:
            run.report()
            sys.stderr.flush()
            os._exit(0)

    corpus = folder / "corpus"
    for data in run.corpus:
        keep(corpus, data)
    options = ["-rss_limit_mb=0", "-reload=0", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test)
    atheris.Fuzz()


def main() -> None:
    """Run a target."""
    name, seconds, found, status = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    with ExitStack() as stack:
        folder = status.parent / "files"
        folder.mkdir()
        with atheris.instrument_imports(include=list(_OURS)) if atheris else nullcontext():
            from fuzz.targets import TARGETS

            check = stack.enter_context(TARGETS[name].prepare(folder))
        run = Run(TARGETS[name], check, found, status)
        began = time.monotonic()
        _generate(TARGETS[name], run, began + (seconds / 2 if atheris else seconds))
        run.report()
        if atheris:
            _mutate(run, status.parent, began + seconds)


if __name__ == "__main__":
    main()
