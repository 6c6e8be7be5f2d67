"""Draws the diagrams of the site as SVG: `python docs/_draw.py` writes them to `docs/_static/`.

A drawing is text with numbers, so git shows what changed. It has a white ground and can be read on dark pages.
"""

from html import escape
from pathlib import Path

STATIC = Path(__file__).resolve().parent / "_static"

INK, SOFT, LINE = "#1f2937", "#6b7280", "#94a3b8"
BLUE, GREEN, AMBER, GREY = "#dbeafe", "#dcfce7", "#fef3c7", "#f1f5f9"


class Drawing:
    """Shapes on a white sheet. Positions and sizes are in pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.shapes: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, *lines: str, fill: str = GREY) -> None:
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="{LINE}"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * 9 + 5
        for i, line in enumerate(lines):
            weight = ' font-weight="600"' if i == 0 else ""
            place = f'x="{x + width / 2:g}" y="{top + 18 * i:g}" text-anchor="middle"'
            self.shapes.append(f'<text {place} fill="{INK}"{weight}>{escape(line)}</text>')

    def text(self, x: float, y: float, line: str, *, middle: bool = False, colour: str = INK) -> None:
        anchor = ' text-anchor="middle"' if middle else ""
        # A white rim keeps words readable where a line passes behind them.
        rim = 'stroke="#ffffff" stroke-width="4" paint-order="stroke"'
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" fill="{colour}"{anchor} {rim}>{escape(line)}</text>')

    def arrow(self, *points: tuple[float, float], dashed: bool = False, head: bool = True) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        end = ' marker-end="url(#head)"' if head else ""
        self.shapes.append(f'<polyline points="{path}" fill="none" stroke="{SOFT}" stroke-width="1.5"{dashes}{end}/>')

    def svg(self) -> str:
        head = (
            f'<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{SOFT}"/></marker>'
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" font-family="system-ui, sans-serif" font-size="14" role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<defs>{head}</defs>",
                f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>',
                *self.shapes,
                "</svg>\n",
            ]
        )


def run() -> Drawing:
    """A run: its processes and what goes between them."""
    drawing = Drawing(870, 320, "A recipe goes to the driver, which runs the stages and registers the last one's model")
    drawing.box(20, 20, 110, 50, "recipe")
    drawing.box(180, 20, 130, 50, "driver", fill=BLUE)
    drawing.box(360, 20, 130, 50, "stage: teacher", fill=GREEN)
    drawing.box(540, 20, 130, 50, "stage: student", fill=GREEN)
    drawing.box(720, 20, 120, 50, "registered", "model", fill=AMBER)
    for left, right in ((130, 180), (310, 360), (490, 540), (670, 720)):
        drawing.arrow((left, 45), (right, 45))
    drawing.text(20, 122, "Inside each stage:", colour=SOFT)
    drawing.arrow((425, 70), (425, 100), (300, 100), (300, 140), dashed=True, head=False)
    drawing.box(20, 140, 130, 50, "storage", fill=AMBER)
    drawing.box(240, 140, 130, 50, "workers", "train", fill=BLUE)
    drawing.box(430, 140, 140, 50, "coordinator", "deals out blocks", fill=BLUE)
    drawing.box(640, 140, 130, 50, "decoders", "read frames", fill=BLUE)
    drawing.arrow((240, 165), (150, 165))
    drawing.text(195, 157, "checkpoints", middle=True, colour=SOFT)
    drawing.arrow((430, 165), (370, 165))
    drawing.arrow((640, 165), (570, 165))
    drawing.arrow((805, 165), (770, 165))
    drawing.text(812, 170, "videos")
    drawing.box(20, 250, 130, 50, "MLflow", fill=AMBER)
    drawing.box(240, 250, 130, 50, "driver", fill=BLUE)
    drawing.arrow((240, 275), (150, 275))
    drawing.text(195, 267, "metrics", middle=True, colour=SOFT)
    drawing.arrow((305, 190), (305, 250))
    drawing.box(540, 250, 300, 50, "the schedule", "item k: which clips, frames and crops", fill=GREEN)
    drawing.arrow((705, 250), (705, 190))
    return drawing


def interruption() -> Drawing:
    """What happens on Ctrl-C, and when the same command is typed again."""
    drawing = Drawing(870, 490, "Ctrl-C ends the processes and closes the records; the same command resumes")
    lanes = {"you": 80, "driver": 250, "processes": 450, "storage": 640, "MLflow": 790}
    for name, x in lanes.items():
        drawing.box(x - 70, 16, 140, 34, name, fill=BLUE if name == "driver" else GREY)
        drawing.arrow((x, 50), (x, 478), dashed=True, head=False)
    messages = [
        (92, "you", "driver", "Ctrl-C or SIGTERM"),
        (124, "driver", "processes", "end"),
        (156, "processes", "driver", "all have ended"),
        (188, "driver", "MLflow", "stage and run: KILLED"),
        (220, "driver", "storage", "give back the lock of the stage"),
        (252, "driver", "you", "exit code 130"),
        (330, "you", "driver", "the same command"),
        (362, "driver", "storage", "same recipe and data: same folder"),
        (394, "storage", "driver", "newest whole checkpoint: step k"),
        (426, "driver", "processes", "start at step k + 1"),
        (458, "driver", "MLflow", "the same run continues; no point twice"),
    ]
    for y, start, end, said in messages:
        left, right = lanes[start], lanes[end]
        drawing.arrow((left, y), (right, y))
        nearest = min(abs(lanes["driver"] - lanes["you"]), abs(right - left))
        drawing.text(min(left, right) + nearest / 2 if start == "you" or end == "you" else min(left, right) + 10,
                     y - 6, said, middle=start == "you" or end == "you")  # fmt: skip
    drawing.text(90, 292, "Later. Only the steps since the newest checkpoint are done again.", colour=SOFT)
    return drawing


def lost_node() -> Drawing:
    """What happens on a lost node, by what ran on it."""
    drawing = Drawing(
        900, 480, "A lost node: decoders are started elsewhere, workers restart, a driver's command is run again"
    )
    drawing.box(340, 16, 200, 40, "a node is gone", fill=AMBER)
    columns = {"It ran decoders": 20, "It ran a worker": 315, "It ran the driver": 610}
    for title, x in columns.items():
        drawing.arrow((440, 56), (440, 78), (x + 130, 78), (x + 130, 100))
        drawing.box(x, 100, 260, 36, title, fill=BLUE)
    texts = {
        20: [
            "Ray Data starts them elsewhere.",
            "The clips that they were reading are",
            "decoded again.",
            "",
            "No step is repeated.",
        ],
        315: [
            "The other workers stop.",
            "",
            "Loss announced (spot machine):",
            "a checkpoint is saved first, and",
            "no step is repeated.",
            "",
            "Not announced: the steps since the",
            "newest checkpoint are done again.",
            "",
            "Ray Train then looks for places:",
            "workers=[1,8]: as many as fit now;",
            "workers=4: it waits for all four.",
            "",
            "Same number of workers: the same",
            "weights to the last bit (CPU).",
            "Another number: the same samples",
            "in each step.",
        ],
        610: [
            "The run has ended.",
            "",
            "The same command resumes it, on any",
            "machine that sees the storage.",
            "",
            "Runs of a dead driver in MLflow are",
            "marked KILLED when the next run",
            "starts.",
        ],
    }
    for x, lines in texts.items():
        for i, line in enumerate(lines):
            drawing.text(x + 4, 164 + 19 * i, line)
    return drawing


DRAWINGS = {"run": run, "interruption": interruption, "lost-node": lost_node}


def main() -> None:
    STATIC.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (STATIC / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
