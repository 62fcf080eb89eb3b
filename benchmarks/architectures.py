"""Accuracy against cost: emotion networks of several shapes, trained equally long, and what a face costs each.

    python benchmarks/architectures.py --data fer2013.csv.gz --runs runs/architectures --picture pareto.png

Every shape has the shipped recipe but fewer epochs: this ranks shapes, and says nothing of what
each can reach. An interrupted call goes on where it stopped. Costs are measured at the end, in turns; close everything
else.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from mien_training import kaggle, splits
from mien_training.configs import load
from mien_training.export import freeze
from mien_training.files import sha256
from mien_training.runs import open_run
from mien_training.train import Trainer
from networks import BATCH, milliseconds

SMALL = load("emotion-small").network
SHAPES = {
    "shipped": load("emotion").network,
    "small": SMALL,
    "narrow": replace(SMALL, widths=(24, 48, 96)),
    "wide": replace(SMALL, widths=(64, 128, 256)),
    "deep": replace(SMALL, widths=(32, 64, 128), depths=(1, 2, 2)),
    "bottleneck": replace(SMALL, blocks="bottleneck", widths=(64, 128, 256), depths=(1, 2, 1)),
    "separable": replace(SMALL, blocks="separable", widths=(64, 128, 256)),
}


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """The names of those (cost, accuracy) that no other both undercuts and reaches, from the cheapest on."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not front or points[name][1] > points[front[-1]][1]:
            front.append(name)
    return front


def draw(points: dict[str, tuple[float, float]], epochs: int) -> Figure:
    """Draw the shapes and their Pareto front, the shipped one marked."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    front = pareto_front(points)
    axes.plot(*zip(*(points[name] for name in front), strict=True), color="grey", linestyle=":", label="Pareto front")
    for name, (cost, accuracy) in points.items():
        axes.scatter(cost, accuracy, color="tab:red" if name == "shipped" else "tab:blue", zorder=3)
        axes.annotate(name, (cost, accuracy), xytext=(6, 4), textcoords="offset points")
    axes.set(xlabel=f"ms a face, batch {BATCH}", ylabel=f"PublicTest accuracy after {epochs} epochs", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def main() -> int:
    """Trains, measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="a run folder of each shape goes here")
    parser.add_argument("--picture", type=Path, required=True, metavar="FILE", help="the plot, a PNG file")
    parser.add_argument("--epochs", type=int, default=2, help="of each shape (%(default)s)")
    options = parser.parse_args()
    recipe = replace(load("emotion"), epochs=options.epochs)
    split = splits.split_emotion(kaggle.read_emotion(options.data), recipe.validation, recipe.seed)
    source = {"file": options.data.name, "sha256": sha256(options.data)}
    accuracies, works = {}, {}
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, 48, 48), np.uint8))
    for name, shape in SHAPES.items():
        folder = options.runs / name
        result = Trainer("emotion", split, replace(recipe, network=shape), folder, source, "float32").run()
        accuracies[name] = result["validation"]["accuracy"]
        graph = freeze(open_run(folder).load())
        works[name] = lambda graph=graph: graph(images)[0].numpy()
    costs = milliseconds(100, works)
    points = {name: (costs[name], accuracies[name]) for name in SHAPES}
    for name in sorted(points, key=lambda name: costs[name]):
        mark = " (Pareto front)" if name in pareto_front(points) else ""
        sys.stdout.write(f"{name:12} {costs[name]:.3f} ms a face, accuracy {accuracies[name]:.4f}{mark}\n")
    draw(points, options.epochs).savefig(options.picture, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
