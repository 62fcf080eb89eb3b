"""What a run needs of the machine."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

_PROGRAMS: Final = {
    "ip": "iproute2",
    "tc": "iproute2",
    "haproxy": "haproxy",
    "mount": "mount",
    "cc": "gcc and libc6-dev",
}


class MissingRequirement(Exception):
    """The machine lacks something; the text says what, and how to get it."""


def require() -> None:
    """Check that this machine can run it.

    Raises:
        MissingRequirement: It cannot.
    """
    if not sys.platform.startswith("linux"):
        raise MissingRequirement(f"Expected Linux, which has network namespaces, got {sys.platform}")
    if os.geteuid():
        raise MissingRequirement("Only root can make network namespaces and mount a small disk: run it with sudo")
    missing = {package for program, package in _PROGRAMS.items() if not shutil.which(program, path=_path())}
    if missing:
        raise MissingRequirement(f"Not installed: {', '.join(sorted(missing))} (Debian: apt install NAME)")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
