"""Milliseconds a face of the networks in one process, measured in turns in one run.

    python benchmarks/networks.py [--quick]

The graphs are made as `mien export` makes them, from every recipe; what weights they have does not change what they
cost. The exit status is 1 if the shipped pair misses its target. Close everything else.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
from mien_training.configs import NAMES, load
from mien_training.export import freeze
from mien_training.tasks import TASKS

BATCH = 64
TARGET_MS = 0.45


def milliseconds(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds a face of each work on a batch, taken in turns, so that all meet the machine alike."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(each) / BATCH for name, each in times.items()}


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 20 if parser.parse_args().quick else 200
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, 48, 48), np.uint8))
    graphs = {name: freeze(TASKS[name.partition("-")[0]].network(load(name))) for name in NAMES}
    works: dict[str, Callable[[], object]] = {
        name: lambda graph=graph: graph(images)[0].numpy()  # type: ignore[misc]
        for name, graph in graphs.items()
    }
    works["emotion and keypoints"] = lambda: [graphs[model](images)[0].numpy() for model in TASKS]
    found = milliseconds(rounds, works)
    for name, value in found.items():
        sys.stdout.write(f"{name:22}{value:.3f} ms a face at batch {BATCH}\n")
    met = found["emotion and keypoints"] <= TARGET_MS
    sys.stdout.write(f"target for both: {TARGET_MS} ms: {'met' if met else 'MISSED'}\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
