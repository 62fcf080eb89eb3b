"""Draw the panels of Grafana's dashboard from a Prometheus, with Matplotlib.

    python docs/how-to/draw_dashboard.py http://127.0.0.1:9090 docs/how-to/dashboard.png [--minutes 10] [--ago 0]

Use it where Grafana is not installed. Each panel is where `deploy/monitoring/grafana/dashboards/mien.json` puts it, and
shows that panel's own queries, sent with `query_range`.
"""

import argparse
import json
import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib.dates
import matplotlib.pyplot as plt
import requests

DASHBOARD = Path(__file__).parents[2] / "deploy/monitoring/grafana/dashboards/mien.json"
UNITS = {"reqps": "requests/s", "s": "seconds", "percentunit": "share", "ops": "runs/s", "short": ""}


def series(url: str, target: dict[str, Any], start: float, end: float) -> dict[str, list[tuple[float, float]]]:
    """Return the points (time, value) of each series of a query, by its legend."""
    expression = target["expr"].replace("$__rate_interval", "40s").replace("$model", ".*")
    parameters = {"query": expression, "start": str(start), "end": str(end), "step": "5"}
    answer = requests.get(f"{url}/api/v1/query_range", params=parameters, timeout=60)
    answer.raise_for_status()
    found = {}
    for one in answer.json()["data"]["result"]:
        labels = one["metric"]
        text = target.get("legendFormat", "")
        for name in re.findall(r"\{\{(\w+)\}\}", text):
            text = text.replace(f"{{{{{name}}}}}", labels.get(name, ""))
        found[text or " ".join(labels.values())] = [(at, float(value)) for at, value in one["values"]]
    return found


def draw(panel: dict[str, Any], axes: Any, found: dict[str, list[tuple[float, float]]]) -> None:
    """Draw one panel's series on its axes."""
    unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
    if panel["type"] == "timeseries":
        for name, points in sorted(found.items()):
            times, values = zip(*points, strict=True)
            axes.plot([datetime.fromtimestamp(at) for at in times], values, linewidth=1, label=name)
        axes.set_ylim(0, 1.3 * (axes.get_ylim()[1] or 1))  # Room for the legend.
        axes.set_ylabel(unit, fontsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="upper left", ncols=2)
        axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
        axes.tick_params(labelsize=7)
        return
    axes.axis("off")
    last = {name: points[-1][1] for name, points in sorted(found.items())}
    if panel["type"] == "stat":
        [value] = last.values() or [float("nan")]
        axes.text(0.5, 0.4, f"{value:.3g} {unit}", fontsize=15, ha="center", va="center")
    else:
        rows = [[name, f"{value:g}"] for name, value in last.items()]
        table = axes.table(
            rows, colLabels=["version", "replicas"], loc="upper center", colWidths=[0.7, 0.2], cellLoc="left"
        )
        table.set_fontsize(7)


def main() -> None:
    """Asks and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", metavar="URL")
    parser.add_argument("picture", metavar="FILE.png")
    parser.add_argument("--minutes", type=float, default=10, help="how far back (%(default)g)")
    parser.add_argument("--ago", type=float, default=0, help="how many minutes ago it ends (%(default)g)")
    arguments = parser.parse_args()
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    end = time.time() - 60 * arguments.ago
    figure = plt.figure(figsize=(13, rows * 0.32))
    for panel in panels:
        at = panel["gridPos"]
        left, width = at["x"] / 24 + 0.035, at["w"] / 24 - 0.05
        bottom, height = 1 - (at["y"] + at["h"] - 0.9) / (rows + 1.5) - 0.03, (at["h"] - 1.9) / (rows + 1.5)
        found = {}
        for target in panel["targets"]:
            found.update(series(arguments.prometheus, target, end - 60 * arguments.minutes, end))
        draw(panel, figure.add_axes((left, bottom, width, height)), found)
    note = "The panels of mien.json from Prometheus's answers, drawn with Matplotlib: not a picture of Grafana"
    figure.text(0.5, 0.995, note, ha="center", va="top", fontsize=8, color="gray")
    figure.savefig(arguments.picture, dpi=100)
    sys.stdout.write(f"Drew {len(panels)} panels into {arguments.picture}.\n")


if __name__ == "__main__":
    main()
