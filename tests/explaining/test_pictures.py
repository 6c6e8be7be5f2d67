"""Pictures show the right content, and nothing overlaps."""

from dataclasses import replace

import av
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from w3ray.explaining.explanation import Explanation
from w3ray.explaining.film import HOLD, write_film
from w3ray.explaining.pictures import MAX_COLUMNS, film_figure, film_images, overlay, stages_figure, strip_figure
from w3ray.explaining.record import Look

LONG = "Pretending to put something next to something, but it does not stay there"


def explanation(num_frames, size=24, *, name="TSM + W3", gradcam=False, stages=4, classes=(LONG, "b", "c")):
    rng = np.random.default_rng(0)
    looks = tuple(
        Look(
            kind="W3",
            stage=stage,
            block=2,
            mask_THW=rng.random((num_frames, 6, 6), np.float32),
            gate_TC=rng.random((num_frames, 8), np.float32),
        )
        for stage in range(1, stages + 1)
    )
    return Explanation(
        name=name,
        classes=classes,
        scores_K=np.array([0.9, 0.06, 0.04], np.float32),
        looks=() if gradcam else looks,
        source="gradcam" if gradcam else "attention",
        map_TSS=rng.random((num_frames, size, size), np.float32),
        evidence_T=rng.random(num_frames, np.float32) if gradcam else None,
    )


def frames(num_frames, size=24):
    return np.random.default_rng(1).integers(0, 256, (num_frames, size, size, 3), np.uint8)


def overlaps(figure):
    """Pairs of texts that overlap, texts that overlap a picture, and texts outside the sheet."""
    figure.draw_without_rendering()  # computes the layout, paints nothing
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.texts if text.get_text()]
    for axes in figure.axes:
        boxes += [("an image", image.get_window_extent(renderer)) for image in axes.images]
        if not axes.images:
            boxes.append(("the curves", axes.get_tightbbox(renderer, call_axes_locator=False)))
    page = figure.bbox
    found = [text for text, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1]
    for i, (one, box) in enumerate(boxes):
        for other, another in boxes[i + 1 :]:
            width = min(box.x1, another.x1) - max(box.x0, another.x0)
            height = min(box.y1, another.y1) - max(box.y0, another.y0)
            if width > 1 and height > 1:
                found.append((one, other))
    return found


@pytest.mark.parametrize("draw", [strip_figure, stages_figure])
@pytest.mark.parametrize("num_frames", [2, 8, 16, 64])
@pytest.mark.parametrize("second", [None, "short", "a very long name of a model"])
def test_nothing_covers_anything(draw, num_frames, second):
    explanations = [explanation(num_frames)]
    if second is not None:
        explanations.append(explanation(num_frames, name=second, gradcam=second == "short"))
    assert overlaps(draw(frames(num_frames), explanations, title=f"{LONG} {LONG}.mp4", true=LONG)) == []


@pytest.mark.parametrize("num_frames", [2, 16, 64])
@pytest.mark.parametrize("second", [None, "a very long name of a model, longer than any panel is wide"])
def test_nothing_covers_anything_in_a_film(num_frames, second):
    explanations = [explanation(num_frames)]
    if second is not None:
        explanations = [explanation(num_frames, name=second), *explanations]
    figure, show = film_figure(frames(num_frames), explanations, title=f"{LONG} {LONG}.mp4", true=LONG)
    show(num_frames - 1)
    assert overlaps(figure) == []


@pytest.mark.parametrize(("num_frames", "columns"), [(1, 1), (8, 8), (16, 16), (64, MAX_COLUMNS)])
def test_a_row_for_each_model(num_frames, columns):
    two = [explanation(num_frames), explanation(num_frames, name="TSM", gradcam=True)]
    strip = strip_figure(frames(num_frames), two, title="clip.mp4")
    assert sum(len(axes.images) for axes in strip.axes) == 3 * columns
    stages = stages_figure(frames(num_frames), two, title="clip.mp4")
    assert sum(len(axes.images) for axes in stages.axes) == (1 + 4 + 1) * columns


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$x^$ {\\frac", "$x^$ {\\frac"),
        ("a_b$", "a_b$"),
        ("caf\udce9.mp4", r"caf\udce9.mp4"),
        ("a\nb\x1b[31m\u202e", r"a\nb\x1b[31m\u202e"),
    ],
)
def test_any_name_can_be_shown(name, shown):
    one = explanation(8, name=name, classes=(name, "b", "c"))
    for figure in (strip_figure(frames(8), [one], title=name, true=name), stages_figure(frames(8), [one], title=name)):
        FigureCanvasAgg(figure).draw()
        texts = [text.get_text() for text in figure.texts]
        assert any(text.startswith(f"{shown} ") for text in texts), "the answer"
        assert any(text.startswith(shown) and text != shown for text in texts), "the clip"
        assert not any(text.get_parse_math() for text in figure.texts)
    assert len(list(film_images(frames(8), [one], title=name))) == 8


def test_images_are_the_frames_and_the_map_over_them():
    clip, one = frames(8), explanation(8)
    images = [image.get_array() for image in strip_figure(clip, [one], title="x").axes[0].images]
    assert all(np.array_equal(image, frame) for image, frame in zip(images[:8], clip, strict=True))
    drawn = overlay(clip, one.map_TSS)
    assert all(np.array_equal(image, frame) for image, frame in zip(images[8:], drawn, strict=True))


def test_long_clips_show_frames_from_all_of_it():
    clip = frames(64)
    figure = strip_figure(clip, [explanation(64)], title="x")
    images = [image.get_array() for image in figure.axes[0].images]
    shown = [next(i for i in range(64) if np.array_equal(clip[i], image)) for image in images[:MAX_COLUMNS]]
    assert shown == list(range(2, 64, 4))


def test_overlay_is_red_where_the_map_is_great():
    map_TSS = np.zeros((1, 4, 4), np.float32)
    map_TSS[0, 1, 2] = 1
    grey = np.full((1, 4, 4, 3), 128, np.uint8)
    drawn = overlay(grey, map_TSS)[0].astype(int)
    redness_SS = drawn[..., 0] - drawn[..., 2]
    assert np.unravel_index(redness_SS.argmax(), (4, 4)) == (1, 2)
    assert redness_SS[1, 2] > 60
    assert redness_SS[0, 0] < 0


@pytest.mark.parametrize(("true", "colour"), [(None, "#1a1a1a"), (LONG, "#1b7837"), ("b", "#b2182b")])
def test_the_title_says_whether_it_is_right(true, colour):
    figure = strip_figure(frames(8), [explanation(8)], title="clip.mp4", true=true)
    head, line = figure.texts[:2]
    assert head.get_color() == colour
    assert "90.0%" in head.get_text()
    assert ("true: " in line.get_text()) == (true is not None)


@pytest.mark.parametrize("num_frames", [8, 16])
def test_film(tmp_path, num_frames):
    two = [explanation(num_frames), explanation(num_frames, name="TSM", gradcam=True)]
    images = list(film_images(frames(num_frames), two, title="clip.mp4", true="b"))
    assert len(images) == num_frames
    assert all(side % 2 == 0 for side in images[0].shape[:2])
    assert not np.array_equal(images[0], images[1])
    assert write_film(tmp_path / "film.mp4", images) == num_frames * HOLD
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        read = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 10
    assert len(read) == num_frames * HOLD
    for shown, image in zip(read[::HOLD], images, strict=True):
        assert np.abs(shown.astype(int) - image).mean() < 4
    # The index is before the pictures, so a browser need not fetch the whole file first.
    content = (tmp_path / "film.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_each_image_shows_its_frame_and_its_map():
    clip, one = frames(8), explanation(8)
    changed = clip.copy()
    changed[3] = 255 - changed[3]
    map_TSS = one.map_TSS.copy()
    map_TSS[5] = 1 - map_TSS[5]
    before = list(film_images(clip, [one], title="clip.mp4"))
    for after, only in (
        (film_images(changed, [one], title="clip.mp4"), 3),
        (film_images(clip, [replace(one, map_TSS=map_TSS)], title="clip.mp4"), 5),
    ):
        assert [i for i, image in enumerate(after) if not np.array_equal(image, before[i])] == [only]


def test_film_without_the_h264_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    write_film(tmp_path / "film.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "mpeg4"
        assert sum(1 for _ in film.decode(video=0)) == 3 * HOLD


def test_a_film_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no image"):
        write_film(tmp_path / "film.mp4", [])


@pytest.mark.parametrize("num_frames", [2, 4, 8, 32])
def test_eight_stages_can_be_told_apart(num_frames):
    """SlowFast has four stages in each path."""
    figure = stages_figure(frames(num_frames), [explanation(num_frames, stages=8)], title="clip.mp4", true="b")
    assert overlaps(figure) == []
    (axes,) = [axes for axes in figure.axes if not axes.images]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 8
