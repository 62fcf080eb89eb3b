"""Two evaluations side by side."""

from mien_training.evaluate import Evaluation, Table


def compare(first: Evaluation, second: Evaluation) -> Evaluation:
    """Join two evaluations of the same faces: every table with both columns, every picture twice.

    Args:
        first: Marked A.
        second: Marked B.
    """
    pairs = zip(first.tables, second.tables, strict=True)
    figures = {
        f"{name}_{mark}": evaluation.figures[name]
        for name in first.figures
        for mark, evaluation in (("A", first), ("B", second))
    }
    return Evaluation({"A": first.metrics, "B": second.metrics}, [_join(*pair) for pair in pairs], figures)


def _join(first: Table, second: Table) -> Table:
    header = [first.header[0], *(f"{name} {mark}".strip() for name in first.header[1:] for mark in "AB")]
    other = {row[0]: row for row in second.rows}
    rows = [
        [row[0], *(cell for pair in zip(row[1:], other[row[0]][1:], strict=True) for cell in pair)]
        for row in first.rows
        if row[0] in other
    ]
    return Table(first.title, header, rows)
