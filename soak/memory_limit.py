"""Let the kernel kill a process because its control group has no memory left."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from soak.network import Host
from soak.processes import Process

_MORE: Final = 8 * 2**20
"""Bytes that the process may use beyond what it has."""
_LONGEST_S: Final = 20.0
_FACES: Final = 500
_THREADS: Final = 6


def out_of_memory(process: Process, caller: Host) -> str:
    """Limit a server's memory and send it large requests until it is killed; return how that came about."""
    group = _group(process)
    pid = process.pid
    process.expect_end()
    if group is None:
        process.kill()
        return "by SIGKILL, since no control group can be made here"
    folder, limit = group
    try:
        (folder / "cgroup.procs").write_text(str(pid), encoding="utf-8")
        (folder / limit).write_text(str(_MORE), encoding="utf-8")
        give_up = time.monotonic() + _LONGEST_S
        threads = [
            threading.Thread(target=caller.run, args=(lambda: _large_requests(process, pid, give_up),))
            for _ in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        if _runs(process, pid):
            process.kill()
            how = "by SIGKILL, since it survived its limit"
        else:
            how = "by the kernel"
        _remove(folder)
    return how


def _group(process: Process) -> tuple[Path, str] | None:
    """Make a control group; return its folder and the file of its limit, or None if that is not possible here."""
    name = f"mien-soak-{process.pid}"
    for parent, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        folder = parent / name
        with suppress(OSError):
            folder.mkdir()
            if (folder / limit).exists():
                return folder, limit
            folder.rmdir()
    return None


def _remove(folder: Path) -> None:
    for _ in range(100):
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.1)


def _runs(process: Process, pid: int) -> bool:
    return process.pid == pid and process.ready.is_set() and Path(f"/proc/{pid}").exists()


def _large_requests(process: Process, pid: int, give_up: float) -> None:
    body = json.dumps({"instances": [[[0] * 48] * 48] * _FACES})
    while _runs(process, pid) and time.monotonic() < give_up:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(process.host.address, 8501, timeout=10)
            connection.request("POST", "/v1/models/emotion:predict", body)
            connection.getresponse().read()
            connection.close()
