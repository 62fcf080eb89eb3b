"""Loads a version on this machine, to find out why servers do not.

A server that tries a broken version again and again says only that it is LOADING, for minutes. Run as a program of its
own, ``python -m mien_serving.rollout._trial FOLDER``, so that the rollout's process loads no TensorFlow. It prints why
the version cannot be loaded; nothing if it can.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mien_serving.rollout import _repository

_LONGEST_S: Final = 900


class Trial:
    """Loads one version in a process of its own, once that is asked for. It ends with the block.

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
        """Return why the version cannot be loaded; empty if it can, or while that is not known.

        The first call starts the trial, and further ones are about the same version.
        """
        if self._process is None:
            command = [sys.executable, "-m", __name__, str(_repository.version_folder(self._folder, version))]
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
    signal.alarm(_LONGEST_S)  # Whoever has started this may be gone.
    sys.stdout.write(_reason(Path(sys.argv[1])))
