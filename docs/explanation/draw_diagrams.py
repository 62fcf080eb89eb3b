"""Draw the diagrams of architecture.md as SVG files beside it.

python docs/explanation/draw_diagrams.py
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
BLUE, GREEN, ORANGE, GREY = "#dbeafe", "#dcfce7", "#ffedd5", "#f1f5f9"
INK, LINE = "#0f172a", "#475569"


@dataclass
class Diagram:
    """Shapes on a white sheet, in pixels."""

    title: str
    width: int
    height: int
    shapes: list[str] = field(default_factory=list)

    def box(self, x: int, y: int, width: int, height: int, title: str, *lines: str, fill: str = BLUE) -> None:
        """Add a box with a bold title and lines of text below it, centred."""
        self.shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{LINE}"/>'
        )
        top = y + height / 2 - 9 * len(lines) + 5
        self.text(x + width / 2, top, title, bold=True)
        for number, line in enumerate(lines, 1):
            self.text(x + width / 2, top + 18 * number, line)

    def text(self, x: float, y: float, text: str, *, bold: bool = False, anchor: str = "middle") -> None:
        """Add one line of text."""
        weight = ' font-weight="600"' if bold else ""
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(text)}</text>')

    def group(self, x: int, y: int, width: int, height: int, title: str) -> None:
        """Add a dashed frame around other shapes."""
        self.shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="12" fill="none" stroke="{LINE}" '
            'stroke-dasharray="5 4"/>'
        )
        self.text(x + 12, y + 20, title, bold=True, anchor="start")

    def arrow(self, *points: tuple[int, int], label: str = "", at: tuple[int, int] = (0, 0)) -> None:
        """Add an arrow along some points, and a label at a place of its own."""
        path = " ".join(f"{x},{y}" for x, y in points)
        self.shapes.append(f'<polyline points="{path}" fill="none" stroke="{LINE}" marker-end="url(#head)"/>')
        if label:
            self.text(*at, label)

    def svg(self) -> str:
        """Return the file."""
        head = (
            '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 10 5 0 10z" fill="{LINE}"/></marker>'
        )
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}" stroke-width="1.3">',
            f"<title>{escape(self.title)}</title>",
            f"<defs>{head}</defs>",
            f'<rect width="{self.width}" height="{self.height}" rx="10" fill="#ffffff"/>',
            *self.shapes,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"


def parts() -> Diagram:
    """Draw the parts of a deployment and what passes between them."""
    diagram = Diagram("The parts of Mien", 900, 470)
    diagram.box(20, 60, 150, 56, "Python service", "mien-client", fill=GREEN)
    diagram.box(20, 136, 150, 56, "Any language", "REST or gRPC", fill=GREEN)
    diagram.box(20, 212, 150, 56, "Shell", "mien analyze, curl", fill=GREEN)
    diagram.box(240, 120, 130, 88, "Edge", "HAProxy: TLS,", "keys, limits")
    for y in (88, 164, 240):
        diagram.arrow((170, y), (205, y), (205, 164), (240, 164))
    diagram.group(440, 30, 230, 262, "Replicas")
    for y in (60, 136, 212):
        diagram.box(460, y, 190, 60, "TensorFlow Serving", "emotion · keypoints")
        diagram.arrow((370, 164), (410, 164), (410, y + 30), (460, y + 30))
    diagram.box(740, 60, 140, 56, "Prometheus", "alerts, Grafana")
    diagram.arrow((740, 88), (670, 88), label="metrics", at=(706, 78))
    diagram.box(440, 370, 110, 64, "models/", "repository", fill=ORANGE)
    diagram.box(570, 370, 120, 64, "models.config", "labels", fill=ORANGE)
    diagram.arrow((495, 370), (495, 292), label="versions", at=(464, 338))
    diagram.arrow((630, 370), (630, 292), label="desired state", at=(678, 338))
    diagram.box(20, 370, 150, 64, "mien train", "Kaggle file → run", fill=GREY)
    diagram.box(230, 370, 150, 64, "mien export", "run → version", fill=GREY)
    diagram.arrow((170, 402), (230, 402))
    diagram.arrow((380, 402), (440, 402))
    diagram.box(740, 370, 140, 64, "mien rollout", "operators", fill=GREY)
    diagram.arrow((740, 402), (690, 402))
    diagram.arrow((810, 370), (810, 230), (670, 230), label="reload, status", at=(756, 220))
    return diagram


def request() -> Diagram:
    """Draw the path of one request from the image to the merged answer."""
    diagram = Diagram("The path of one request", 900, 400)
    diagram.group(20, 20, 250, 360, "Client")
    diagram.group(320, 20, 250, 360, "Server")
    diagram.group(620, 20, 260, 360, "SavedModel, one version")
    diagram.box(40, 56, 210, 60, "1 Check", "48×48, uint8, one channel", fill=GREEN)
    diagram.box(40, 146, 210, 74, "2 Send two requests", "to one replica,", "with label and deadline", fill=GREEN)
    diagram.box(40, 300, 210, 60, "8 Merge", "one result for each face", fill=GREEN)
    diagram.box(340, 56, 210, 60, "3 Front end", "gRPC or REST: parse")
    diagram.box(340, 146, 210, 74, "4 Predictor", "label → loaded version;", "which signature")
    diagram.box(340, 250, 210, 44, "5 Batch with others")
    diagram.box(340, 316, 210, 44, "7 Split, format")
    diagram.box(640, 136, 220, 94, "6 Graph", "scale pixels, network,", "probabilities or points", fill=ORANGE)
    diagram.arrow((145, 116), (145, 146))
    diagram.arrow((250, 183), (295, 183), (295, 86), (340, 86), label="×2", at=(284, 140))
    diagram.arrow((445, 116), (445, 146))
    diagram.arrow((445, 220), (445, 250))
    diagram.arrow((550, 272), (595, 272), (595, 183), (640, 183))
    diagram.arrow((750, 230), (750, 338), (550, 338))
    diagram.arrow((340, 338), (250, 338), label="×2", at=(295, 330))
    return diagram


def version() -> Diagram:
    """Draw the path of one version from the training to its removal."""
    diagram = Diagram("The path of one version", 900, 290)
    steps = [
        ("mien train", "weights, metrics", GREEN),
        ("publish", "verified, stored", BLUE),
        ("canary", "beside stable", BLUE),
        ("compare", "same faces, both", BLUE),
        ("promote", "label stable", BLUE),
        ("retire", "unload, delete", GREY),
    ]
    for number, (title, line, fill) in enumerate(steps):
        x = 15 + 147 * number
        diagram.box(x, 110, 130, 64, title, line, fill=fill)
        if number:
            diagram.arrow((x - 17, 142), (x, 142))
    diagram.text(227, 92, "nobody gets it yet")
    diagram.text(374, 92, "a share of the calls")
    diagram.text(668, 92, "all calls")
    diagram.arrow((668, 174), (668, 240), (240, 240), (240, 174))
    diagram.text(454, 258, "rollback: stable is the version before; the bad version is unloaded")
    diagram.arrow((374, 174), (374, 210), (270, 210), (270, 174), label="abort", at=(322, 203))
    diagram.text(521, 40, "mien rollout", bold=True)
    diagram.shapes.append(f'<path d="M162 68v-14h718v14" fill="none" stroke="{LINE}"/>')
    return diagram


def main() -> None:
    """Write all diagrams."""
    for draw in (parts, request, version):
        (FOLDER / f"{draw.__name__}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
