"""The table, the picture and the summary of a run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from soak.accounting import Fault, Row
from soak.callers import Record

_BIN_S: Final = 2.0


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table: what each kind of fault did."""
    columns = ("fault", "times", "calls during", "failed first", "lost", "recovery median", "max", "whole after", "max")
    yield f"{columns[0]:22}" + "".join(f"{column:>{max(8, len(column) + 2)}}" for column in columns[1:])
    for row in rows:
        cells = (
            str(row.times),
            f"{row.calls:,}",
            str(row.failed),
            str(row.lost),
            *(f"{value:.1f} s" for seconds in (row.recovery, row.whole) for value in _median_and_max(seconds)),
        )
        widths = (max(8, len(column) + 2) for column in columns[1:])
        yield f"{row.kind:22}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _median_and_max(seconds: Sequence[float]) -> tuple[float, float]:
    return statistics.median(seconds), max(seconds)


def summary(path: Path, counts: Mapping[str, Any], rows: Sequence[Row], **more: object) -> None:
    """Write everything that the table says, as JSON."""
    faults = [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in rows]
    path.write_text(json.dumps({"counts": counts, "faults": faults, **more}, indent=1) + "\n", encoding="utf-8")


def picture(path: Path, records: Sequence[Record], faults: Sequence[Fault], swaps: Sequence[float]) -> None:
    """Draw calls per second, failures and latency over time, with the faults."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    start = min(record.begun for record in records)
    ended = np.array([record.ended for record in records]) - start
    latency = np.array([record.ended - record.begun for record in records])
    failures = np.array([moment for record in records for moment, _ in record.failures]) - start
    edges = np.arange(0, ended.max() + _BIN_S, _BIN_S)
    figure, (load, failed, slow, marks) = plt.subplots(
        4, 1, sharex=True, figsize=(14, 9), layout="constrained", height_ratios=(2, 1, 2, 2)
    )
    load.stairs(np.histogram(ended, edges)[0] / _BIN_S, edges, fill=True, color="tab:blue")
    load.set_ylabel("answers per second")
    failed.stairs(np.histogram(failures, edges)[0], edges, fill=True, color="tab:red")
    failed.set_ylabel(f"failures in {_BIN_S:g} s")
    failed.set_ylim(0, max(1.0, failed.get_ylim()[1]))
    place = np.digitize(ended, edges)
    for share, colour in ((50, "tab:green"), (99, "tab:orange")):
        values = [
            np.percentile(latency[place == one], share) if (place == one).any() else np.nan
            for one in range(1, len(edges))
        ]
        slow.plot(edges[:-1] + _BIN_S / 2, values, color=colour, linewidth=1, label=f"p{share}")
    slow.set_yscale("log")
    slow.set_ylabel("seconds")
    slow.legend(loc="upper right")
    kinds = list(dict.fromkeys(fault.kind for fault in faults))
    for fault in faults:
        at, row = fault.begun - start, kinds.index(fault.kind)
        marks.broken_barh([(at, fault.healed - fault.begun)], (row - 0.4, 0.8), color=f"C{row % 10}")
        for axes in (load, failed, slow):
            axes.axvspan(at, fault.healed - start, color=f"C{row % 10}", alpha=0.12, linewidth=0)
    marks.plot(np.array(swaps) - start, np.full(len(swaps), len(kinds)), "k|", markersize=9)
    marks.set_yticks(range(len(kinds) + 1), [*kinds, "version swap"])
    marks.set_ylim(len(kinds) + 0.6, -0.6)
    marks.set_xlabel("seconds")
    marks.set_xlim(0, edges[-1])
    figure.suptitle(f"{len(records):,} calls, {len(swaps)} version swaps, {len(faults)} faults")
    figure.savefig(path, dpi=110)
    plt.close(figure)
