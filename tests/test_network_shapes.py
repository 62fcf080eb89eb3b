"""The picture of network shapes: what is drawn where, with made-up shapes."""

import json
import sys

import matplotlib.pyplot as plt
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import architectures

POINTS = {
    "shipped": (0.2, [0.60, 0.66, 0.69]),  # its mean, 0.65, is what counts
    "cheap": (0.1, [0.6]),
    "dear": (0.3, [0.7]),
    "dear and worse": (0.31, [0.64]),
}


def boxes(figure):
    figure.draw_without_rendering()
    [axes] = figure.axes
    renderer = figure.canvas.get_renderer()
    return {text.get_text(): text.get_window_extent(renderer) for text in axes.texts}


def test_the_line_of_the_front_passes_through_its_dots():
    [axes] = architectures.draw(POINTS, 3).axes
    [front] = axes.lines
    corners = np.asarray(front.get_xydata(), float)
    np.testing.assert_allclose(corners, [(0.1, 0.6), (0.2, 0.65), (0.3, 0.7)])
    others, shipped, seeds = (np.asarray(dots.get_offsets(), float) for dots in axes.collections)
    dots = np.concatenate([others, shipped])
    for corner in corners:
        assert np.isclose(dots, corner).all(axis=1).any()
    np.testing.assert_allclose(shipped, [(0.2, 0.65)])
    np.testing.assert_allclose(seeds, [(0.2, 0.60), (0.2, 0.66), (0.2, 0.69)])


def assert_names_are_unobstructed(figure, points, middles):
    [axes] = figure.axes
    names = boxes(figure)
    assert set(names) == set(points)
    front = axes.lines[0].get_transform().transform_path(axes.lines[0].get_path())
    places = axes.transData.transform(
        [*middles.values(), *((cost, one) for cost, every in points.values() for one in every)]
    )
    for name, box in names.items():
        assert not box.count_overlaps([other for another, other in names.items() if another != name]), name
        assert not any(box.contains(*place) for place in places), name
        assert not front.intersects_bbox(box, filled=False), name
        assert axes.bbox.x0 <= box.x0, name
        assert box.x1 <= axes.bbox.x1, name


@settings(max_examples=20)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 40).map(lambda n: n / 100), st.integers(50, 80).map(lambda n: n / 100)),
        min_size=2,
        max_size=9,
        unique=True,
    )
)
def test_names_overlap_neither_each_other_nor_the_dots(shapes):
    points = {"shipped": (0.2, [0.60, 0.66, 0.69])}
    points |= {f"shape {index}": (cost, [accuracy]) for index, (cost, accuracy) in enumerate(shapes)}
    assert_names_are_unobstructed(architectures.draw(points, 3), points, architectures.means(points))


def test_what_was_measured_is_kept_and_can_be_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(architectures, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr(sys, "argv", ["architectures.py", "--draw-only"])
    assert architectures.main() == 0
    assert plt.imread(tmp_path / "picture.png").shape[0] > 400
    kept = json.loads(architectures.MEASURED.read_text(encoding="utf-8"))["shapes"]
    assert set(kept) == set(architectures.SHAPES)
    points = {name: (shape["ms_a_face"], shape["accuracies"]) for name, shape in kept.items()}
    assert_names_are_unobstructed(architectures.draw(points, 3), points, architectures.means(points))
