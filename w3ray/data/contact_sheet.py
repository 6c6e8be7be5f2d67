"""What does the model see? The first clips of an epoch after sampling and augmentation, drawn on one sheet.

Each row of the sheet is a clip: its frames from left to right, in the order in which the model gets them. The pixels
are those of the stream, from the same schedule, the same random numbers and the same `read_clip`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from w3ray._text import one_line
from w3ray.data.clip import Clip, ClipSpec, read_clip
from w3ray.data.decoders import DecodeError
from w3ray.data.flow_colours import visible
from w3ray.data.manifest import Manifest
from w3ray.data.schedule import PADDING, Schedule
from w3ray.heads import UNLABELLED, Heads

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

# Pixels.
_MARGIN = 24
_GAP = 3
_TEXT_WIDTH, _TEXT_HEIGHT = 250, 106
_ROW_GAP = 12
_TIME_HEIGHT = 18
_MAX_FRAMES_WIDTH = 1600
_TILE = (64, 160)
_ENLARGE_TO = 96

_INK, _FAINT, _ACCENT, _BAD, _LINE, _PAPER = "#1b1f24", "#6e7781", "#b35900", "#b42318", "#e4e7eb", "#ffffff"


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One clip of a sheet."""

    position: int
    """Its place in the epoch's order, or its row in the split."""
    clip_id: str
    uri: str
    label: int
    """The label in the manifest."""
    reversed: bool
    clip: Clip | None
    """None if the video cannot be read."""
    reason: str | None = None
    """Why the video cannot be read."""
    mixed_with: "SheetRow | None" = None
    """The clip that is mixed into this one. None: it is not mixed."""
    share: float = 1.0
    """The share of this clip in the mixture."""

    @property
    def shown_label(self) -> int:
        """The label of what is seen: if the clip is mirrored, that of the mirror image."""
        return self.label if self.clip is None else self.clip.label


def training_rows(
    manifest: Manifest,
    split: str,
    spec: ClipSpec,
    schedule: Schedule,
    *,
    epoch: int,
    count: int,
    roots: Sequence[str] | None = None,
) -> list[SheetRow]:
    """The first `count` clips of an epoch (counted from 0), as training gets them.

    Raises:
        InputError: the split is empty, or `spec.flip` has no flip map.
        ValueError: the schedule has no such epoch.
    """
    table = manifest.split(split)
    spec.require_flip_map(manifest.flip_map)
    number, places = schedule.first_item(epoch * schedule.steps_per_epoch), list[tuple[int, int]]()
    while len(places) < min(count, schedule.num_train):
        item = schedule.item(number)
        places += [
            pair for pair in zip(item.positions.tolist(), item.samples.tolist(), strict=True) if PADDING not in pair
        ]
        number += 1
    return [
        _row(
            manifest,
            table,
            sample,
            position,
            spec,
            schedule.augmentation_generator(epoch, position),
            roots,
            schedule.frames_generator(epoch, position),
        )
        for position, sample in places[:count]
    ]


def evaluation_rows(
    manifest: Manifest, split: str, spec: ClipSpec, *, count: int, roots: Sequence[str] | None = None
) -> list[SheetRow]:
    """`count` clips, evenly spaced over a split, as evaluation gets them.

    Raises:
        InputError: the split is empty.
    """
    table = manifest.split(split)
    samples = np.linspace(0, table.num_rows - 1, min(count, table.num_rows)).round().astype(int)
    return [_row(manifest, table, sample, sample, spec, None, roots) for sample in samples.tolist()]


def _row(
    manifest: Manifest,
    table: pa.Table,
    sample: int,
    position: int,
    spec: ClipSpec,
    rng: np.random.Generator | None,
    roots: Sequence[str] | None,
    frames_rng: np.random.Generator | None = None,
) -> SheetRow:
    row: dict[str, Any] = table.slice(sample, 1).to_pylist()[0]
    uri, clip, reason = manifest.resolve(row["uri"]), None, None
    label = UNLABELLED if row["label"] is None else row["label"]
    try:
        clip = read_clip(
            uri, label=label, spec=spec, rng=rng, start_s=row["start_s"], end_s=row["end_s"],
            reversed=row["reversed"], flip_map=manifest.label_flips, roots=roots,
            frames_rng=frames_rng,
        )  # fmt: skip
    except DecodeError as error:
        reason = error.reason
    return SheetRow(
        position=position, clip_id=row["clip_id"], uri=uri, label=label, reversed=row["reversed"], clip=clip,
        reason=reason,
    )  # fmt: skip


def draw_sheet(
    rows: Sequence[SheetRow], heads: Heads, *, num_frames: int, size: int, title: str, subtitle: str
) -> "Image.Image":
    """Draw the rows, an RGB image. `num_frames` and `size` are those of a clip; frames are scaled to fit the sheet."""
    from PIL import Image, ImageDraw

    least, most = _TILE
    # Small frames are enlarged by a whole number, without smoothing, to show the pixels that the model gets.
    enlarged = size * max(1, -(-_ENLARGE_TO // size))
    tile = min(max(_MAX_FRAMES_WIDTH // num_frames - _GAP, least), most, enlarged)
    row_height = max(tile + _TIME_HEIGHT, _TEXT_HEIGHT) + _ROW_GAP
    top = _MARGIN + 62
    left = _MARGIN + _TEXT_WIDTH
    width = max(left + num_frames * (tile + _GAP) - _GAP + _MARGIN, 900)
    sheet = Image.new("RGB", (width, top + len(rows) * row_height + _MARGIN - _ROW_GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN - 4), title, 20, _INK, width - 2 * _MARGIN, bold=True)
    _write(draw, (_MARGIN, _MARGIN + 24), subtitle, 13, _FAINT, width - 2 * _MARGIN)
    for number, row in enumerate(rows):
        y = top + number * row_height
        draw.line([(_MARGIN, y - _ROW_GAP // 2), (width - _MARGIN, y - _ROW_GAP // 2)], fill=_LINE)
        _draw_text(draw, row, heads, y)
        if row.clip is None:
            _write(draw, (left, y + 4), f"unreadable: {row.reason}", 13, _BAD, width - left - _MARGIN)
            continue
        for place, (frame, time_s) in enumerate(zip(visible(row.clip.frames_TSSC), row.clip.times_s, strict=True)):
            x = left + place * (tile + _GAP)
            how = Image.Resampling.NEAREST if size < tile else Image.Resampling.LANCZOS
            sheet.paste(Image.fromarray(frame).resize((tile, tile), how), (x, y))
            draw.rectangle([(x - 1, y - 1), (x + tile, y + tile)], outline=_LINE)
            _write(draw, (x, y + tile + 2), f"{time_s:.2f} s", 11, _FAINT, tile)
    return sheet


def _draw_text(draw: "ImageDraw.ImageDraw", row: SheetRow, heads: Heads, y: int) -> None:
    label = row.shown_label
    is_mirrored = row.clip is not None and row.clip.mirrored
    marks = [mark for mark, holds in (("mirrored", is_mirrored), ("reversed", row.reversed)) if holds]
    if label != row.label:
        marks.append(f"was {heads.class_name(row.label)}")
    if (other := row.mixed_with) is not None:
        marks.append(f"{row.share:.0%}, and {1 - row.share:.0%} {heads.class_name(other.shown_label)}")
    lines = [(", ".join(marks), 12, _ACCENT), (f"{row.position}  {row.clip_id}", 11, _FAINT)]
    if other is not None:
        lines.append((f"{other.position}  {other.clip_id}", 11, _FAINT))
    if row.clip is not None:
        box = row.clip.box
        lines.append((f"cut {box.width}x{box.height} at {box.left}, {box.top}", 11, _FAINT))
    y = _write(draw, (_MARGIN, y - 2), heads.class_name(label), 15, _INK, _TEXT_WIDTH - 16, bold=True, max_lines=3)
    for text, size, colour in lines:
        if text:
            y = _write(draw, (_MARGIN, y + 2), text, size, colour, _TEXT_WIDTH - 16)


def _write(
    draw: "ImageDraw.ImageDraw",
    place: tuple[int, int],
    text: str,
    size: int,
    colour: str,
    width: int,
    *,
    bold: bool = False,
    max_lines: int = 1,
) -> int:
    """Write text in lines of at most `width`; the last one may be shortened in its middle. Returns the end (y)."""
    x, y = place
    text = one_line(text)
    words = text.split()
    letters = frozenset(text) - {" "}
    font = _font(letters if letters - _covered(_OWN_FONTS[bold]) else frozenset(), size, bold)
    for number in range(max_lines):
        taken = len(words)
        if number < max_lines - 1:
            while taken > 1 and draw.textlength(" ".join(words[:taken]), font=font) > width:
                taken -= 1
        line, words = " ".join(words[:taken]), words[taken:]
        shown, keep = line, len(line)
        while draw.textlength(shown, font=font) > width and keep > 2:
            keep -= 1
            shown = f"{line[: keep - keep // 2]}…{line[len(line) - keep // 2 :]}"
        draw.text((x, y), shown, fill=colour, font=font)
        y += size + 4
        if not words:
            break
    return y


_OWN_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
"""Fonts that come with Matplotlib, so a sheet looks the same everywhere. They have no Chinese, Japanese or Korean."""


@lru_cache(maxsize=256)
def _font(letters: frozenset[str], size: int, bold: bool) -> Any:
    """Matplotlib's own font, or a font of this machine that has more of `letters`."""
    import matplotlib
    from matplotlib import font_manager
    from PIL import ImageFont

    path = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _OWN_FONTS[bold])
    if letters:
        others = sorted(font.fname for font in font_manager.fontManager.ttflist if "LastResort" not in font.fname)
        path = max([path, *others], key=lambda one: len(letters & _covered(one)))
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=512)
def _covered(path: str) -> frozenset[str]:
    """The letters of a font."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    full = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / path  # an absolute path stays what it is
    try:
        return frozenset(map(chr, FT2Font(str(full)).get_charmap()))
    except (RuntimeError, OSError):  # a collection or a bitmap font
        return frozenset()
