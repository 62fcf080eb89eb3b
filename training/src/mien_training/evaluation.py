"""What an evaluation found: numbers, tables and pictures, and the report that holds them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mien_client.writing import write_json

from mien_training import report
from mien_training.report import Table


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn only when asked for, of one network or of two to compare them.

    Attributes:
        draw: Draws everything in one figure, given what to draw by the network's name.
        of: What to draw, by the network's name.
    """

    draw: Callable[[dict[str, Any]], Figure]
    of: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        metrics: Named numbers, ready for JSON.
        tables: For people, the summary first.
        pictures: By their name.
    """

    metrics: dict[str, Any]
    tables: list[Table]
    pictures: dict[str, Picture]

    def write(self, folder: Path, title: str, facts: dict[str, str]) -> list[Path]:
        """Write ``metrics.json``, a PNG file for each picture, and ``report.html``, which needs no other file.

        Args:
            folder: Made if it is not there.
            title: The report's heading.
            facts: What was evaluated on what, for the report's first lines.

        Returns:
            The files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        page, numbers = folder / "report.html", folder / "metrics.json"
        write_json(numbers, {"evaluated": facts, **self.metrics})
        pictures = {name: report.png(picture.draw(picture.of)) for name, picture in self.pictures.items()}
        files = {folder / f"{name}.png": picture for name, picture in pictures.items()}
        for path, picture in files.items():
            report.write_picture(path, picture)
        report.write_html(page, title, facts, self.tables, pictures)
        return [page, numbers, *files]
