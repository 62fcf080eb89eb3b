"""Two evaluations side by side."""

from mien_training.evaluation import Evaluation, Picture
from mien_training.report import Table

MOST_COLUMNS = 3
"""Of numbers, in a table whose columns are doubled; a wider one would not fit 80 characters, so its rows are."""


def compare(first: Evaluation, second: Evaluation) -> Evaluation:
    """Join two evaluations of the same faces: every table and every picture shows both.

    Args:
        first: Marked A.
        second: Marked B.
    """
    tables = [_join(*pair) for pair in zip(first.tables, second.tables, strict=True)]
    pictures = {
        name: Picture(
            picture.draw,
            {
                f"{mark}: {network}": what
                for mark, of in (("A", picture.of), ("B", second.pictures[name].of))
                for network, what in of.items()
            },
        )
        for name, picture in first.pictures.items()
    }
    return Evaluation({"A": first.metrics, "B": second.metrics}, tables, pictures)


def _join(first: Table, second: Table) -> Table:
    other = {row[0]: row for row in second.rows}
    pairs = [(row, other[row[0]]) for row in first.rows if row[0] in other]
    if len(first.header) - 1 > MOST_COLUMNS:
        rows = [[f"{row[0]} {mark}", *row[1:]] for pair in pairs for mark, row in zip("AB", pair, strict=True)]
        return Table(first.title, first.header, rows)
    # Both were asked about the same faces, so their number stands once.
    marks = ["" if name == "faces" else "AB" for name in first.header[1:]]
    header = [
        f"{name} {mark}".strip() for name, both in zip(first.header[1:], marks, strict=True) for mark in both or " "
    ]
    rows = [
        [a[0], *(cell for *pair, both in zip(a[1:], b[1:], marks, strict=True) for cell in pair[: len(both) or 1])]
        for a, b in pairs
    ]
    return Table(first.title, [first.header[0], *header], rows)
