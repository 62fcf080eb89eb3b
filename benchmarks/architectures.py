"""Accuracy against cost: emotion networks of several shapes, trained equally long, and what a face costs each.

    python benchmarks/architectures.py --data fer2013.csv.gz --runs runs/architectures --picture docs/architectures.png

All have the first teacher's recipe, and fewer epochs: this ranks shapes, and says nothing of what each can reach. The
shipped shape is trained from three seeds, which says how much of a difference is chance. An interrupted call goes on
where it stopped. Costs are measured at the end, in turns, in bfloat16 where the processor has it, as TensorFlow Serving
runs it; close everything else.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from matplotlib.figure import Figure
from mien_client import kaggle
from mien_training import splits
from mien_training.configs import load
from mien_training.distribution import native_precision
from mien_training.files import sha256
from mien_training.runs import open_run
from mien_training.train import Trainer
from networks import BATCH, milliseconds, session

SHIPPED = load("emotion").network
SHAPES = {
    "shipped": SHIPPED,
    "teacher": load("emotion-teacher-1").network,
    "deep": replace(SHIPPED, depths=(2, 2, 2, 2)),
    "narrow": replace(SHIPPED, stem=24, widths=(24, 48, 96, 192)),
    "three wide stages": replace(SHIPPED, widths=(64, 128, 256), depths=(1, 1, 1)),
    "early": replace(SHIPPED, early=True, widths=(64, 128, 256), depths=(1, 1, 1)),
    "early, narrow": replace(SHIPPED, early=True, stem=24, widths=(40, 80, 160), depths=(1, 1, 1)),
    "bottleneck": replace(SHIPPED, blocks="bottleneck", widths=(64, 128, 256, 512)),
    "separable": replace(SHIPPED, blocks="separable", widths=(48, 96, 192, 384)),
}
SEEDS = 3

Points = dict[str, tuple[float, list[float]]]
"""What each shape costs, and the accuracy from each seed."""


def means(points: Points) -> dict[str, tuple[float, float]]:
    """What each shape costs, and its accuracy, the mean over its seeds."""
    return {name: (cost, float(np.mean(accuracies))) for name, (cost, accuracies) in points.items()}


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """The names of those (cost, accuracy) that no other both undercuts and reaches, from the cheapest on."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not front or points[name][1] > points[front[-1]][1]:
            front.append(name)
    return front


def draw(points: Points, epochs: int) -> Figure:
    """Draw the shapes and their Pareto front, the shipped one marked."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    middles = means(points)
    front = [middles[name] for name in pareto_front(middles)]
    axes.plot(*zip(*front, strict=True), color="grey", linestyle=":", label="Pareto front")
    for name, (cost, accuracies) in points.items():
        colour = "tab:red" if name == "shipped" else "tab:blue"
        axes.scatter([cost] * len(accuracies), accuracies, color=colour, zorder=3)
        axes.annotate(name, middles[name], xytext=(6, 4), textcoords="offset points")
    axes.set(xlabel=f"ms a face, batch {BATCH}", ylabel=f"PublicTest accuracy after {epochs} epochs")
    axes.set_xlim(0, 1.25 * max(cost for cost, _ in points.values()))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def main() -> int:
    """Trains, measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="a run folder of each shape goes here")
    parser.add_argument("--picture", type=Path, required=True, metavar="FILE", help="the plot, a PNG file")
    parser.add_argument("--epochs", type=int, default=3, help="of each shape (%(default)s)")
    options = parser.parse_args()
    recipe = replace(load("emotion-teacher-1"), epochs=options.epochs)
    faces = kaggle.read_emotion(options.data)
    split = splits.add_others(splits.split_emotion(faces, recipe.validation, recipe.seed), faces.others)
    source = {"file": options.data.name, "sha256": sha256(options.data)}
    accuracies: dict[str, list[float]] = {}
    works = {}
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 48, 48), np.uint8)
    for name, shape in SHAPES.items():
        accuracies[name] = []
        for seed in range(SEEDS if name == "shipped" else 1):
            folder = options.runs / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            config = replace(recipe, network=shape, seed=seed)
            sys.stderr.write(f"{folder.name}\n")
            result = Trainer("emotion", split, config, folder, source, native_precision()).run()
            accuracies[name].append(result["validation"]["accuracy"])
        run = session(open_run(folder).load(), bfloat16=True)
        works[name] = lambda run=run: run(images)
    costs = milliseconds(100, works)
    points = {name: (costs[name], accuracies[name]) for name in SHAPES}
    front = pareto_front(means(points))
    for name in sorted(points, key=lambda name: costs[name]):
        mark = " (Pareto front)" if name in front else ""
        found = " ".join(f"{accuracy:.4f}" for accuracy in accuracies[name])
        sys.stdout.write(f"{name:20} {costs[name]:.3f} ms a face, accuracy {found}{mark}\n")
    draw(points, options.epochs).savefig(options.picture, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
