"""Milliseconds a face of the networks in one process, measured in turns in one run.

    python -m benchmarks.networks [--quick]

The graphs are made as `mien export` makes them, from the shipped recipes and from two plain residual networks of 1.2
million weights; what weights they have does not change what they cost. Each is run in float32, and as TensorFlow
Serving runs it with ``--mixed_precision=bfloat16``, which is the same on processors without bfloat16. The exit status
is 1 if the shipped pair costs more than its target, a share of what the plain pair costs in the same run. Close
everything else.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf
from mien_training.configs import load
from mien_training.prediction import freeze
from mien_training.tasks import TASKS
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

BATCH = 64
TARGET = 0.8
SHIPPED = ("emotion", "keypoints")
PLAIN = ("emotion-plain", "keypoints-plain")
KINDS = ("float32", "bfloat16")

Works = dict[str, Callable[[], object]]


def milliseconds(rounds: int, works: Works) -> dict[str, float]:
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


def session(network: keras.Model, *, bfloat16: bool) -> Callable[[object], object]:
    """Put a network into a session, as the servers do: from uint8 [N, 48, 48] to its output."""
    frozen = freeze(network)
    config = tf.compat.v1.ConfigProto()
    if bfloat16:
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
    with tf.Graph().as_default() as graph:
        names = [frozen.inputs[0].name, frozen.outputs[0].name]
        images, output = tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), return_elements=names)
        run: Callable[[object], object] = tf.compat.v1.Session(graph=graph, config=config).make_callable(
            output, [images]
        )
    return run


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 20 if parser.parse_args().quick else 200
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 48, 48), np.uint8)
    works: Works = {}
    for kind in KINDS:
        for pair in (SHIPPED, PLAIN):
            networks = {name: TASKS[name.partition("-")[0]].network(load(name)) for name in pair}
            runs = {name: session(network, bfloat16=kind == "bfloat16") for name, network in networks.items()}
            for name, run in runs.items():
                works[f"{name} {kind}"] = lambda run=run: run(images)  # type: ignore[misc]
            works[f"{' and '.join(pair)} {kind}"] = lambda runs=runs: [run(images) for run in runs.values()]  # type: ignore[misc]
    found = milliseconds(rounds, works)
    both = [" and ".join(pair) for pair in (SHIPPED, PLAIN)]
    sys.stdout.write(f"{f'ms a face, batch {BATCH}':34}" + "".join(f"{kind:>10}" for kind in KINDS) + "\n")
    for name in (*SHIPPED, *PLAIN, *both):
        sys.stdout.write(f"{name:34}" + "".join(f"{found[f'{name} {kind}']:10.3f}" for kind in KINDS) + "\n")
    ratios = {kind: found[f"{both[0]} {kind}"] / found[f"{both[1]} {kind}"] for kind in KINDS}
    met = max(ratios.values()) <= TARGET
    shown = ", ".join(f"{ratio:.2f} in {kind}" for kind, ratio in ratios.items())
    sys.stdout.write(f"shipped pair over plain pair: {shown}; target {TARGET}: {'met' if met else 'MISSED'}\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
