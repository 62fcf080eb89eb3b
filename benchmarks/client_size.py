"""The import time, memory and disk space of the client, compared with the official package.

    python -m benchmarks.client_size

The disk space is that of the package and of its dependencies in this environment, without the interpreter. The exit
status is 1 if a target was missed.
"""

# ruff: noqa: S603, T201
from __future__ import annotations

import re
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

RUNS = 7
SECONDS, MEMORY_MB, DISK_MB = 0.3, 60.0, 150.0
"""The targets. The first two are for importing the package and making a client."""
IMPORTS = {
    "bare interpreter": "",
    "import mien_client": "import mien_client",
    "with Client": "from mien_client import Client; Client('localhost:8500')",
}
CHILD = """
import time; start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
import re, resource, sys
try:
    # ru_maxrss includes the process from before it became Python.
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
except OSError:  # No Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(seconds, peak)
"""


def imported(code: str) -> tuple[float, float]:
    """Return the median seconds that ``code`` takes in a new interpreter, and its median peak memory in bytes."""
    runs = []
    for _ in range(RUNS):
        done = subprocess.run(
            [sys.executable, "-c", CHILD.format(code=code)], capture_output=True, encoding="utf-8", check=True
        )
        runs.append([float(number) for number in done.stdout.split()])
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)


def installed_size(name: str) -> int:
    """Return the bytes of the files of a distribution and of its dependencies."""
    waiting, found = [name], {}
    while waiting:
        key = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if key in found:
            continue
        try:
            distribution = metadata.distribution(key)
        except metadata.PackageNotFoundError:  # Required only on other systems.
            continue
        files = [Path(str(file.locate())) for file in distribution.files or ()]
        if key == "mien-client":  # Installed from its folder, of which the distribution only has the path.
            import mien_client

            files = [file for folder in mien_client.__path__ for file in Path(folder).rglob("*")]
        found[key] = sum(file.stat().st_size for file in files if file.is_file())
        waiting += [re.split(r"[^\w.-]", text)[0] for text in distribution.requires or () if "extra ==" not in text]
    return sum(found.values())


def main() -> int:
    """Print the tables."""
    results = {name: imported(code) for name, code in IMPORTS.items()}
    bare = results["bare interpreter"]
    print(f"{'':20}{'seconds':>10}{'MB above bare':>16}")
    for name, (seconds, memory) in results.items():
        print(f"{name:20}{seconds:10.3f}{(memory - bare[1]) / 1e6:16.1f}")
    seconds, memory = max(results.values())[0], (max(row[1] for row in results.values()) - bare[1]) / 1e6
    quick = seconds < SECONDS and memory < MEMORY_MB
    print(f"targets {SECONDS} s and {MEMORY_MB:g} MB: {'met' if quick else 'MISSED'}\n")
    ours = installed_size("mien-client") / 1e6
    small = ours < DISK_MB
    print(f"{'mien-client':28}{ours:8.0f} MB installed with all it requires, target {DISK_MB:g} MB:", end=" ")
    print("met" if small else "MISSED")
    official = installed_size("tensorflow-serving-api") / 1e6
    if official:
        print(f"{'tensorflow-serving-api':28}{official:8.0f} MB, {official / ours:.0f} times as much")
    return 0 if quick and small else 1


if __name__ == "__main__":
    sys.exit(main())
