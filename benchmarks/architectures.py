"""Accuracy against cost: emotion networks of several shapes, trained equally long, and what a face costs each.

    python -m benchmarks.architectures --data fer2013.csv.gz --runs runs/architectures

All use the first teacher's recipe with fewer epochs: this ranks shapes, but does not show what each can reach. The
shipped shape is trained from three seeds, whose spread shows how much of a difference is chance. An interrupted call
continues when you run it again. Costs are measured at the end, in turns, in bfloat16 where the processor has it, as
TensorFlow Serving runs it; close everything else. The measurements are kept in
docs/explanation/architectures/measured.json, from which ``--draw-only`` draws accuracy.png beside it again.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from mien_client import kaggle
from mien_client.reading import sha256
from mien_training import splits
from mien_training.configs import load
from mien_training.distribution import native_precision
from mien_training.runs import open_run
from mien_training.train import Trainer

from benchmarks.networks import BATCH, milliseconds, session

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
FOLDER = Path(__file__).parents[1] / "docs" / "explanation" / "architectures"
MEASURED, PICTURE = FOLDER / "measured.json", FOLDER / "accuracy.png"

DOT_RADIUS = 6.0
"""Pixels around a dot that its name and others' leave free."""

Points = dict[str, tuple[float, list[float]]]
"""What each shape costs, and the accuracy from each seed."""


def means(points: Points) -> dict[str, tuple[float, float]]:
    """Return the cost of each shape, and its mean accuracy over its seeds."""
    return {name: (cost, float(np.mean(accuracies))) for name, (cost, accuracies) in points.items()}


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points that no cheaper point matches in accuracy, from the cheapest on."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not front or points[name][1] > points[front[-1]][1]:
            front.append(name)
    return front


def draw(points: Points, epochs: int) -> Figure:
    """Draw the shapes and their Pareto front, the shipped one marked.

    A dot is the mean of a shape's seeds, so that the front goes through dots; where there are several, rings are single
    seeds.
    """
    figure = Figure(figsize=(7.5, 5.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    middles = means(points)
    front = [middles[name] for name in pareto_front(middles)]
    [line] = axes.plot(*zip(*front, strict=True), color="grey", linestyle=":", label="Pareto front")
    for shipped, colour, label in ((False, "tab:blue", "other shapes"), (True, "tab:red", "shipped shape")):
        dots = [middle for name, middle in middles.items() if (name == "shipped") == shipped]
        axes.scatter(*zip(*dots, strict=True), color=colour, zorder=3, label=label)
    seeds = [(cost, one) for cost, every in points.values() if len(every) > 1 for one in every]
    if seeds:
        costs, accuracies = zip(*seeds, strict=True)
        axes.scatter(costs, accuracies, s=20, c="none", edgecolors="tab:red", zorder=3, label="its single seeds")
    axes.set(
        xlabel=f"ms a face, batch {BATCH}",
        ylabel=f"PublicTest accuracy after {epochs} epochs",
        title="Emotion networks of several shapes: accuracy against cost",
        xlim=(0, 1.25 * max(cost for cost, _ in points.values())),
    )
    axes.margins(y=0.1)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4)
    _label(figure, middles, seeds, line)
    return figure


def _label(
    figure: Figure, middles: dict[str, tuple[float, float]], seeds: list[tuple[float, float]], line: Any
) -> None:
    """Write each shape's name beside its dot, where it covers no dot, no other name and no part of the front."""
    [axes] = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()  # settles where everything is
    front = line.get_transform().transform_path(line.get_path())
    dots = axes.transData.transform([*middles.values(), *seeds])
    taken = [Bbox.from_extents(*(dot - DOT_RADIUS), *(dot + DOT_RADIUS)) for dot in dots]
    for name, middle in middles.items():
        for place in _places():
            text = axes.annotate(name, middle, textcoords="offset points", fontsize=9, **place)
            box = text.get_window_extent(renderer)
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            if inside and not box.count_overlaps(taken) and not front.intersects_bbox(box, filled=False):
                taken.append(box)
                break
            text.remove()
        else:
            raise RuntimeError(f"There is no room for the name of the shape {name}.")


def _places() -> Iterator[dict[str, Any]]:
    """Places for a name around its dot, the nearest first."""
    for distance in range(6, 40, 4):
        for x, align_x in ((1, "left"), (-1, "right"), (0, "center")):
            for y, align_y in ((-1, "top"), (1, "bottom"), (0, "center")):
                if x or y:
                    yield {"xytext": (x * distance, y * distance), "ha": align_x, "va": align_y}


def main() -> int:
    """Trains, measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="a run folder of each shape goes here")
    parser.add_argument("--epochs", type=int, default=3, help="of each shape (%(default)s)")
    parser.add_argument("--draw-only", action="store_true", help="from what was measured before")
    options = parser.parse_args()
    if not options.draw_only:
        if not options.data or not options.runs:
            parser.error("--data and --runs are needed to measure; --draw-only draws what was measured before")
        measure(options)
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    points = {name: (shape["ms_a_face"], shape["accuracies"]) for name, shape in measured["shapes"].items()}
    draw(points, measured["epochs"]).savefig(PICTURE)
    return 0


def measure(options: argparse.Namespace) -> None:
    """Train every shape, measure what a face costs each, print both and keep them."""
    recipe = replace(load("emotion-teacher-1"), epochs=options.epochs)
    faces = kaggle.read_emotion(options.data)
    split = splits.split_emotion(faces, recipe.validation, recipe.seed, others=recipe.others)
    source = {"file": options.data.name, "sha256": sha256(options.data, follow_links=True)}
    accuracies: dict[str, list[float]] = {}
    works: dict[str, Callable[[], object]] = {}
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
        works[name] = partial(run, images)
    costs = milliseconds(100, works)
    points = {name: (costs[name], accuracies[name]) for name in SHAPES}
    front = pareto_front(means(points))
    for name in sorted(points, key=lambda name: costs[name]):
        mark = " (Pareto front)" if name in front else ""
        found = " ".join(f"{accuracy:.4f}" for accuracy in accuracies[name])
        sys.stdout.write(f"{name:20} {costs[name]:.3f} ms a face, accuracy {found}{mark}\n")
    shapes = {name: {"ms_a_face": round(cost, 4), "accuracies": each} for name, (cost, each) in points.items()}
    MEASURED.write_text(json.dumps({"epochs": options.epochs, "shapes": shapes}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
