"""How is an explanation drawn: as a strip of frames (the paper's Fig. 3), stage by stage, or as the frames of a film?

All sizes are in inches. The parts of a sheet are placed one below the other, so that no part covers another.

Axes: T frames, S side of the square frames, C = 3 colours.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from w3ray._text import one_line, plain_lines
from w3ray.data.flow_colours import visible
from w3ray.explaining.explanation import Explanation
from w3ray.explaining.maps import last_of_stages, stretch, to_frames
from w3ray.explaining.record import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

Frames = npt.NDArray[np.uint8]

DPI = 120
FILM_DPI = 100
MAX_COLUMNS = 16
"""The maximum number of frames in a strip. A strip of a longer clip shows evenly spaced frames; the film shows all."""

INK, GREY, RIGHT, WRONG = "#1a1a1a", "#6b6b6b", "#1b7837", "#b2182b"
COLOURS = ("#3b6fb6", "#e08214", "#35978f", "#c2185b", "#7b5ea7")
LINES = ("-", "--", ":")
"""The curves of a network with more stages than colours differ in their lines: SlowFast has eight stages."""
HEAT = "turbo"
KEY = "blue least, red most"
_CELL, _GAP, _LABEL, _MARGIN = 1.1, 0.05, 1.45, 0.2


def overlay(frames_TSSC: Frames, map_TSS: FloatArray) -> Frames:
    """Lay a map in [0, 1] over the frames in grey. Blue is the map's lowest value, red its highest."""
    from matplotlib import colormaps

    # Without the ends of the colour map: they are so dark that they would hide the frame.
    heat_TSSC = colormaps[HEAT](0.08 + 0.84 * map_TSS)[..., :3]
    grey_TSS1 = 0.15 + 0.85 / 255 * (frames_TSSC @ np.array([0.299, 0.587, 0.114]))[..., None]
    strength_TSS1 = 0.25 + 0.45 * map_TSS[..., None]
    mixed_TSSC = (1 - strength_TSS1) * grey_TSS1 + strength_TSS1 * heat_TSSC
    return np.rint(255 * np.clip(mixed_TSSC, 0, 1)).astype(np.uint8)


def strip_figure(
    frames_TSSC: Frames, explanations: Sequence[Explanation], *, title: str, true: str | None = None
) -> "Figure":
    """The frames; below them, where each model looks; below that, the activity of the first model over time.

    Args:
        frames_TSSC: the clip, uint8 [T, S, S, 3].
        explanations: one or more, of this clip.
        title: the clip's name.
        true: the clip's class, if known.
    """
    frames_TSSC = visible(frames_TSSC)
    shown = _columns(len(frames_TSSC))
    rows: list[tuple[str, str, Frames]] = [("frames", "", frames_TSSC[shown])]
    for one in explanations:
        rows.append((one.name, f"{_made_of(one)}\n{KEY}", overlay(frames_TSSC[shown], one.map_TSS[shown])))
    sheet = _Sheet(len(shown), [len(rows)], num_curves=1)
    sheet.head(title, true, explanations)
    sheet.numbers(shown)
    for label, note, images in rows:
        sheet.row(label, note, images)
    sheet.curves(explanations[0], len(frames_TSSC), shown)
    return sheet.figure


def stages_figure(
    frames_TSSC: Frames, explanations: Sequence[Explanation], *, title: str, true: str | None = None
) -> "Figure":
    """The mask of each stage of each model over the frames, and the activity of each model's attention over time.

    Same arguments as `strip_figure`.
    """
    frames_TSSC = visible(frames_TSSC)
    shown = _columns(len(frames_TSSC))
    parts = [_stage_rows(frames_TSSC, one, shown) for one in explanations]
    sheet = _Sheet(len(shown), [1, *map(len, parts)], num_curves=len(parts))
    sheet.head(title, true, explanations)
    sheet.numbers(shown)
    sheet.row("frames", "", frames_TSSC[shown])
    for one, rows in zip(explanations, parts, strict=True):
        sheet.space()
        for label, note, images in rows:
            sheet.row(label, note, images)
        sheet.curves(one, len(frames_TSSC), shown)
    return sheet.figure


def film_images(
    frames_TSSC: Frames, explanations: Sequence[Explanation], *, title: str, true: str | None = None
) -> Iterator[Frames]:
    """One image [H, W, 3] with even sides for each frame: the frame, where each model looks, the activity over time.

    Same arguments as `strip_figure`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    frames_TSSC = visible(frames_TSSC)
    figure, show = film_figure(frames_TSSC, explanations, title=title, true=true)
    canvas = FigureCanvasAgg(figure)
    for frame in range(len(frames_TSSC)):
        show(frame)
        canvas.draw()
        picture_HWC = np.asarray(canvas.buffer_rgba())[..., :3]
        yield np.ascontiguousarray(picture_HWC[: len(picture_HWC) // 2 * 2, : picture_HWC.shape[1] // 2 * 2])


def film_figure(
    frames_TSSC: Frames, explanations: Sequence[Explanation], *, title: str, true: str | None = None
) -> "tuple[Figure, Callable[[int], None]]":
    """The figure of a film, and a function that makes it show a given frame. Same arguments as `strip_figure`."""
    from matplotlib.figure import Figure

    panel, gap, head, curve, foot = 3.0, 0.2, 1.32, 1.35, 0.62
    num_panels = 1 + len(explanations)
    width, height = num_panels * panel + (num_panels + 1) * gap, head + panel + 0.4 + curve + foot
    figure = Figure(figsize=(width, height), dpi=FILM_DPI, facecolor="white")
    _write_head(figure, width, height, gap, title, true, explanations)
    stacks = [frames_TSSC, *(overlay(frames_TSSC, one.map_TSS) for one in explanations)]
    labels = [("frame", KEY), *((one.name, _made_of(one).replace("\n", " ")) for one in explanations)]
    images, texts = [], []
    for column, (stack, (label, note)) in enumerate(zip(stacks, labels, strict=True)):
        left = gap + column * (panel + gap)
        axes = figure.add_axes((left / width, (height - head - panel) / height, panel / width, panel / height))
        axes.set_axis_off()
        images.append(axes.imshow(stack[0], interpolation="bicubic"))
        top = (height - head + 0.3) / height
        texts.append(_write(figure, left / width, top, _short(label, 36), fontsize=10, weight="bold", color=INK))
        _write(figure, left / width, top - 0.06 / height, note, fontsize=8, color=GREY, va="top")
    axes = figure.add_axes(((gap + 0.35) / width, foot / height, (width - 2 * gap - 0.35) / width, curve / height))
    _draw_curves(axes, explanations[0], len(frames_TSSC), range(len(frames_TSSC)))
    caption = f"activity: {_short(explanations[0].name, 36)}, mean {_averaged(explanations[0])}"
    _write(figure, gap / width, (foot + curve + 0.1) / height, caption, fontsize=8, color=GREY)
    cursor = axes.axvline(1, color=INK, linewidth=1.2)

    def show(frame: int) -> None:
        for image, stack in zip(images, stacks, strict=True):
            image.set_data(stack[frame])
        texts[0].set_text(f"frame {frame + 1} of {len(frames_TSSC)}")
        cursor.set_xdata([frame + 1, frame + 1])

    return figure, show


class _Sheet:
    """A page of rows of frames. Each method places its part below the parts placed before."""

    def __init__(self, num_columns: int, rows_of_parts: Sequence[int], *, num_curves: int) -> None:
        from matplotlib.figure import Figure

        # Even with few frames, the head needs this width.
        self.cell = max(_CELL, 6.6 / num_columns)
        self.width = _MARGIN + _LABEL + num_columns * (self.cell + _GAP) + _MARGIN
        height = 0.85 + 0.2 + sum(rows_of_parts) * (self.cell + _GAP) + (len(rows_of_parts) - 1) * 0.15
        self.height = height + num_curves * 1.55 + _MARGIN
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor="white")
        # One for all images: own axes for each image, with ticks that nobody sees, take longer than all the rest.
        self.images = self.figure.add_axes((0, 0, 1, 1))
        self.images.set_axis_off()
        self.below = 0.0

    def head(self, title: str, true: str | None, explanations: Sequence[Explanation]) -> None:
        _write_head(self.figure, self.width, self.height, _MARGIN, title, true, explanations)
        self.below = 0.85

    def numbers(self, shown: Sequence[int]) -> None:
        for column, frame in enumerate(shown):
            x = _MARGIN + _LABEL + column * (self.cell + _GAP) + self.cell / 2
            self._text(x, self.below + 0.14, str(frame + 1), ha="center", fontsize=8, color=GREY)
        self.below += 0.2

    def row(self, label: str, note: str, images: Frames) -> None:
        from matplotlib.image import AxesImage
        from matplotlib.transforms import Bbox, TransformedBbox

        middle = self.below + self.cell / 2
        words = _wrap(label, 17)
        self._text(_MARGIN, middle + (0.0 if note else 0.07), words, fontsize=9.5, weight="bold", color=INK)
        if note:
            self._text(_MARGIN, middle + 0.05, note, fontsize=7.5, color=GREY, va="top")
        for column, image in enumerate(images):
            left = _MARGIN + _LABEL + column * (self.cell + _GAP)
            box = Bbox.from_bounds(*self._box(left, self.below, self.cell, self.cell))
            extent = (box.x0, box.x1, box.y0, box.y1)
            drawn = AxesImage(self.images, interpolation="bicubic", resample=True, extent=extent)
            drawn.set_data(image)
            drawn.set_clip_box(TransformedBbox(box, self.figure.transFigure))
            self.images.add_image(drawn)
        self.below += self.cell + _GAP

    def curves(self, one: Explanation, num_frames: int, shown: Sequence[int]) -> None:
        width = self.width - 2 * _MARGIN - _LABEL - _GAP
        axes = self.figure.add_axes(self._box(_MARGIN + _LABEL, self.below + 0.15, width, 0.95))
        _draw_curves(axes, one, num_frames, shown)
        middle = self.below + 0.6
        self._text(_MARGIN, middle, "activity", fontsize=9.5, weight="bold", color=INK)
        self._text(
            _MARGIN, middle + 0.05, f"{_wrap(one.name, 18)}\nmean {_averaged(one)}", fontsize=7.5, color=GREY, va="top"
        )
        self.below += 1.55

    def space(self) -> None:
        self.below += 0.15

    def _box(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Left, bottom, width and height as shares of the figure."""
        bottom = self.height - top - height
        return (left / self.width, bottom / self.height, width / self.width, height / self.height)

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        _write(self.figure, x / self.width, 1 - y / self.height, text, **style)


def _write(figure: "Figure", x: float, y: float, text: str, **style: Any) -> "Text":
    """Write a text. Dollar signs in it do not start a formula, because it may hold names."""
    style.setdefault("va", "bottom")
    return figure.text(x, y, plain_lines(text), parse_math=False, **style)


def _write_head(
    figure: "Figure",
    width: float,
    height: float,
    margin: float,
    title: str,
    true: str | None,
    explanations: Sequence[Explanation],
) -> None:
    """The first model's answer in bold; below it, the clip, its true class, and all answers if there are several."""
    room = int(width * 8)
    first = explanations[0]
    answers = [f"{_short(one.classes[one.predicted], 44)} {_percent(one)}" for one in explanations]
    colour = INK if true is None else (RIGHT if first.classes[first.predicted] == true else WRONG)
    y = 1 - 0.16 / height
    _write(figure, margin / width, y, _short(answers[0], room), fontsize=13, weight="bold", color=colour, va="top")
    y -= 0.27 / height
    line = [_short(title, 48)] + ([] if true is None else [f"true: {_short(true, 44)}"])
    if len(explanations) > 1:
        line.append("; ".join(f"{one.name}: {text}" for one, text in zip(explanations, answers, strict=True)))
    _write(figure, margin / width, y, _short("   ·   ".join(line), int(width * 13)), fontsize=8.5, color=GREY, va="top")


def _draw_curves(axes: "Axes", one: Explanation, num_frames: int, shown: Sequence[int]) -> None:
    activity = one.activity()
    for number, (name, (curve_T, least, greatest)) in enumerate(activity.items()):
        # A stage of a 3D network has fewer frames than the clip. Each one stands for an equal share of the clip.
        x_T = (np.arange(len(curve_T)) + 0.5) * (num_frames / len(curve_T)) + 0.5
        label = f"{name}: {least:.4g} to {greatest:.4g}"
        again, colour = divmod(number, len(COLOURS))
        axes.plot(
            x_T,
            curve_T,
            label=label,
            color=COLOURS[colour],
            linestyle=LINES[again % len(LINES)],
            linewidth=1.8,
            marker="o",
            markersize=3,
        )
    first, last = shown[0], shown[-1]
    half = max(1, last - first) / max(1, len(shown) - 1) / 2
    axes.set_xlim(first + 1 - half, last + 1 + half)
    axes.set_ylim(-0.08, 1.08)
    axes.set_yticks([0, 1], ["least", "most"], fontsize=7, color=GREY)
    axes.set_xticks([frame + 1 for frame in shown], [str(frame + 1) for frame in shown], fontsize=7, color=GREY)
    axes.tick_params(length=2, color="#bbbbbb")
    axes.grid(axis="x", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#bbbbbb")
    if activity:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.2),
            ncols=max(1, min(len(activity), int(axes.get_window_extent().width / axes.figure.dpi / 1.55))),
            borderaxespad=0,
            fontsize=7,
            frameon=False,
            handlelength=1.4,
            columnspacing=1.4,
            labelcolor=GREY,
        )


def _stage_rows(frames_TSSC: Frames, one: Explanation, shown: Sequence[int]) -> list[tuple[str, str, Frames]]:
    num_frames, size = frames_TSSC.shape[:2]
    if one.source == "gradcam":
        return [(one.name, f"{_made_of(one)}\n{KEY}", overlay(frames_TSSC[shown], one.map_TSS[shown]))]
    rows = []
    for look in last_of_stages(one.looks):
        assert look.mask_THW is not None
        mask_THW = look.mask_THW
        note = f"stage {look.stage}, block {look.block}\n{mask_THW.min():.4g} to {mask_THW.max():.4g}"
        map_TSS = stretch(to_frames(mask_THW, num_frames, size))
        rows.append((one.name, note, overlay(frames_TSSC[shown], map_TSS[shown])))
    return rows


def _made_of(one: Explanation) -> str:
    """What a model's map is made of. The range of the masks shows how much they were stretched."""
    if one.source == "gradcam":
        return "Grad-CAM"
    masks = [look.mask_THW for look in last_of_stages(one.looks) if look.mask_THW is not None]
    least, greatest = min(mask.min() for mask in masks), max(mask.max() for mask in masks)
    return f"mean of its stages,\n{least:.4g} to {greatest:.4g}"


def _averaged(one: Explanation) -> str:
    """Which values the curves of `Explanation.activity` are means of."""
    if any(look.gate_TC is not None for look in one.looks):
        return "channel gate"
    return "mask" if any(look.mask_THW is not None for look in one.looks) else "Grad-CAM"


def _percent(one: Explanation) -> str:
    return f"{100 * float(one.scores_K.max()):.1f}%"


def _columns(num_frames: int) -> list[int]:
    count = min(num_frames, MAX_COLUMNS)
    return [int((i + 0.5) * num_frames / count) for i in range(count)]


def _short(text: str, room: int) -> str:
    text = one_line(text)
    return text if len(text) <= room else text[: max(1, room - 1)].rstrip() + "…"


def _wrap(text: str, room: int) -> str:
    import textwrap

    return "\n".join(_short(line, room) for line in textwrap.wrap(one_line(text), room)[:3])
