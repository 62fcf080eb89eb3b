"""Load a version on this machine, to find out why servers do not.

A server that retries a broken version reports it as LOADING for minutes, without an error. This module runs as a
program, ``python -m mien_serving.rollout.loading.trial FOLDER``, so that the rollout's own process need not load
TensorFlow. It prints why the version cannot be loaded; nothing if it can.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mien_serving.repository.layout import version_folder
from mien_serving.servables.without_keras import import_tensorflow

_LONGEST_S: Final = 900


class Trial:
    """Loads one version in a process of its own, which ends with the block.

    Args:
        folder: The model's folder in the repository.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def problem(self, version: int) -> str:
        """Return why a version cannot be loaded; empty if it can, or while the result is unknown.

        The first call starts the trial; further calls must name the same version.
        """
        if self._process is None:
            command = [sys.executable, "-m", __name__, str(version_folder(self._folder, version))]
            quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8"}
            self._process = subprocess.Popen(  # noqa: S603 — our own program
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", env=quiet
            )
        if self._process.poll() is None or self._process.stdout is None:
            return ""
        found, _ = self._process.communicate()
        self._process.stdout = None
        return found.strip()


def _reason(folder: Path) -> str:
    import_tensorflow()
    from mien_serving.core.status import StatusError
    from mien_serving.servables.predictor import Predictor
    from mien_serving.servables.servable import Servable
    from mien_serving.servables.session_options import SessionOptions
    from mien_serving.servables.warmup import has_warm_up, warm_up

    try:
        servable = Servable(folder, SessionOptions())
        if has_warm_up(folder):
            warm_up(Predictor.of_version(servable), folder)
    except StatusError as error:
        return error.message
    return ""


if __name__ == "__main__":
    signal.alarm(_LONGEST_S)  # The rollout may be gone.
    sys.stdout.write(_reason(Path(sys.argv[1])))
