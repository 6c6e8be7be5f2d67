"""Boxes follow the frames, the crop, the size and the mirror of a clip, in training and in all views."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from w3ray.data.boxes import BOXES_COLUMN, BoxFile, read_boxes, write_boxes
from w3ray.data.clip import ClipSpec, read_clip
from w3ray.data.microbatch import MicrobatchDecoder, from_row, to_row
from w3ray.data.schedule import Schedule
from w3ray.data.shared_clips import SharedClips
from w3ray.data.side_inputs import boxes_of, extras_of, extras_of_views
from w3ray.data.stream_spec import StreamSpec
from w3ray.data.views import parse_protocol, read_views
from w3ray.errors import InputError

HEIGHT, WIDTH, FRAMES = 60, 80, 6
SPEC = ClipSpec(num_frames=3, size=32, short_side=36, boxes_per_frame=2)


def place(frame: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the white thing in a frame, pixels: it moves right and down."""
    return 20 + 3 * frame, 16 + 2 * frame, 40 + 3 * frame, 36 + 2 * frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("clip")
    for frame in range(FRAMES):
        pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        left, top, right, bottom = place(frame)
        pixels[top:bottom, left:right] = 255
        Image.fromarray(pixels).save(made / f"{frame + 1:05d}.png")
    return made


def rows_of(clip_id: str, when: str = "frame", fps: float = 1.0) -> list[dict]:
    """The thing's box, and a worse box in the top left corner, in each frame."""
    rows = []
    for frame in range(FRAMES):
        left, top, right, bottom = place(frame)
        true = {"x1": left / WIDTH, "y1": top / HEIGHT, "x2": right / WIDTH, "y2": bottom / HEIGHT, "score": 0.9}
        corner = {"x1": 0.0, "y1": 0.0, "x2": 0.02, "y2": 0.02, "score": 0.5}
        rows += [{"clip_id": clip_id, when: frame / fps, **box} for box in (corner, true)]
    return rows


def file_of(path: Path, rows: list[dict]) -> BoxFile:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return read_boxes(str(path))


@pytest.fixture
def packed(tmp_path) -> dict:
    return {BOXES_COLUMN: file_of(tmp_path / "b.parquet", rows_of("c")).of("c")}


def assert_frames_the_thing(frames_TSSC: np.ndarray, boxes_TN4: np.ndarray) -> None:
    """The first box of each frame encloses the white pixels."""
    height, width = frames_TSSC.shape[1:3]
    for frame_SSC, box in zip(frames_TSSC, boxes_TN4[:, 0], strict=True):
        down, right = np.nonzero(frame_SSC[..., 0] > 127)
        seen = np.array(
            [right.min() / width, down.min() / height, (right.max() + 1) / width, (down.max() + 1) / height]
        )
        np.testing.assert_allclose(box, seen, atol=1.01 / min(height, width))


def test_evaluation(folder, packed):
    clip = read_clip(str(folder), label=0, spec=SPEC, rng=None)
    boxes_TN4 = boxes_of(packed, clip, SPEC)
    assert boxes_TN4.shape == (3, 2, 4)
    assert boxes_TN4.dtype == np.float32
    assert_frames_the_thing(clip.frames_TSSC, boxes_TN4)
    assert (boxes_TN4[:, 1] == 0).all(), "the corner is outside of the centre"
    assert extras_of(packed, clip, ClipSpec(num_frames=3, size=32)) == {}


def test_training_crops_and_mirrors(folder, packed):
    spec = ClipSpec(num_frames=3, size=32, flip=True, scales=(1.0, 0.9), boxes_per_frame=2)
    mirrored = set()
    for seed in range(12):
        clip = read_clip(str(folder), label=0, spec=spec, rng=np.random.default_rng(seed), flip_map={0: 0})
        assert_frames_the_thing(clip.frames_TSSC, boxes_of(packed, clip, spec))
        mirrored.add(clip.mirrored)
    assert mirrored == {True, False}


@pytest.mark.parametrize("protocol", ["2clip-center", "2clip-full-res", "3crop-1clip", "10crop-2clip"])
def test_views(folder, packed, protocol):
    views = read_views(str(folder), spec=SPEC, protocol=parse_protocol(protocol))
    boxes_VTN4 = extras_of_views(packed, views, SPEC)["boxes"]
    assert boxes_VTN4.shape == (len(views), 3, 2, 4)
    for view, boxes_TN4 in zip(views, boxes_VTN4, strict=True):
        whole = (view.frames_TSSC[..., 0] > 127).sum(axis=(1, 2)) > 0
        if whole.all() and (boxes_TN4[:, 0, 2] < 1).all() and (boxes_TN4[:, 0, 0] > 0).all():
            best = boxes_TN4[:, :1]
            if (best[..., 3] - best[..., 1] > 0.2).all():
                assert_frames_the_thing(view.frames_TSSC, boxes_TN4)


def test_a_clip_played_backwards(folder, packed):
    forwards, backwards = (
        boxes_of(packed, read_clip(str(folder), label=0, spec=SPEC, rng=None, reversed=turned), SPEC)
        for turned in (False, True)
    )
    np.testing.assert_array_equal(backwards, forwards[::-1])


def test_boxes_by_time_and_by_number_are_the_same(folder, packed, tmp_path):
    clip = read_clip(str(folder), label=0, spec=SPEC, rng=None)
    fps = float(clip.numbers_T[-1] / clip.times_s[-1])
    timed = {BOXES_COLUMN: file_of(tmp_path / "t.parquet", rows_of("c", "time_s", fps)).of("c")}
    np.testing.assert_array_equal(boxes_of(timed, clip, SPEC), boxes_of(packed, clip, SPEC))


def test_a_frame_without_boxes_takes_those_of_its_neighbour_and_an_empty_one_has_none(folder, tmp_path):
    clip = read_clip(str(folder), label=0, spec=SPEC, rng=None)
    rows = [row for row in rows_of("c") if row["frame"] == 5]
    empty = {"clip_id": "c", "frame": 0.0, "x1": 0.0, "y1": 0.0, "x2": 0.0, "y2": 0.0, "score": 0.0}
    boxes_TN4 = boxes_of({BOXES_COLUMN: file_of(tmp_path / "b.parquet", [*rows, empty]).of("c")}, clip, SPEC)
    assert (boxes_TN4[0] == 0).all()
    assert (boxes_TN4[2, 0] > 0).all()


def test_trials_share_them_with_the_clip(folder, tmp_path):
    columns = {
        "clip_id": ["b"], "uri": [str(folder)], "start_s": [None], "end_s": [None], "reversed": [False], "label": [1],
    }  # fmt: skip
    table = file_of(tmp_path / "b.parquet", rows_of("b")).joined(pa.table(columns), "m")
    schedule = Schedule(
        num_train=1, num_val=0, num_test=0, batch_size=1, microbatch_size=1, epochs=3, validate_every_epochs=1, seed=0,
        world_size=1,
    )  # fmt: skip
    shared = SharedClips(folder=tmp_path / "sweep", limit_bytes=1 << 30)
    spec = StreamSpec(schedule=schedule, clip=SPEC, shared=shared)
    trial, later = (MicrobatchDecoder(spec, {"train": table}) for _ in range(2))
    assert later.shared(0) is None
    for number in range(3):
        made, found = trial.decode(number), later.shared(number)
        assert made.extras["boxes"].any()
        np.testing.assert_array_equal(found.extras["boxes"], made.extras["boxes"])
        np.testing.assert_array_equal(found.clips, made.clips)


@pytest.mark.parametrize("protocol", [None, "2clip-center"])
def test_they_come_with_the_microbatch(folder, tmp_path, protocol):
    class Here(MicrobatchDecoder):
        def __init__(self, spec, tables):
            self._spec, self._tables, self._shared, self._watch = spec, tables, None, None

    (tmp_path / "absent").mkdir()
    columns = {
        "clip_id": ["a", "b"], "uri": [str(tmp_path / "absent"), str(folder)], "start_s": [None, None],
        "end_s": [None, None], "reversed": [False, False], "label": [0, 1],
    }  # fmt: skip
    table = file_of(tmp_path / "b.parquet", [*rows_of("b"), *rows_of("a")]).joined(pa.table(columns), "m")
    schedule = Schedule(
        num_train=2, num_val=2, num_test=2, batch_size=2, microbatch_size=2, rows_together=1, epochs=1,
        validate_every_epochs=1, seed=0, world_size=1,
    )  # fmt: skip
    looks = None if protocol is None else parse_protocol(protocol)
    spec = StreamSpec(schedule=schedule, clip=SPEC, protocol=looks)
    item = next(number for number in range(9) if schedule.item(number).kind == "val")
    made = Here(spec, {"train": table, "val": table, "test": table}).decode(item)
    views = () if looks is None else (2,)
    assert made.extras["boxes"].shape == (2, *views, 3, 2, 4)
    bad, good = made.clip_ids.index("a"), made.clip_ids.index("b")
    assert made.valid[good]
    assert not made.valid[bad]
    assert (made.extras["boxes"][bad] == 0).all()
    pixels, boxes = made.clips[good], made.extras["boxes"][good]
    assert_frames_the_thing(*((pixels, boxes) if looks is None else (pixels[0], boxes[0])))
    again = from_row(to_row(made))
    np.testing.assert_array_equal(again.extras["boxes"], made.extras["boxes"])
    assert again.failures == made.failures


ROW = {"clip_id": "a", "time_s": 0.0, "x1": 0.0, "y1": 0.0, "x2": 0.5, "y2": 0.5, "score": 1.0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{key: ROW[key] for key in ROW if key != "x2"}], "absent: x2"),
        ([{key: ROW[key] for key in ROW if key != "time_s"}], "absent: time_s or frame"),
        ([{**ROW, "frame": 0}], "it has both time_s and frame"),
        ([{**ROW, "x2": 40.0}], r"1 boxes are outside of 0 to 1, such as \(0, 0, 40, 0.5\) in row 0"),
        ([ROW, {**ROW, "y1": 0.9}], r"1 boxes are with x2 < x1 or y2 < y1, such as .* in row 1"),
        ([{**ROW, "score": "high"}], "score must hold numbers, not string"),
        ([{**ROW, "score": float("nan")}], "score must hold finite numbers"),
        ([{**ROW, "clip_id": 3}], "clip_id must be text"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, rows, message):
    with pytest.raises(InputError, match=message) as caught:
        file_of(tmp_path / "b.parquet", rows)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_boxes(tmp_path):
    with pytest.raises(InputError, match=r"absent\.parquet: boxes cannot be read \(No such file"):
        read_boxes(str(tmp_path / "absent.parquet"))
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(InputError, match=r"text\.parquet: not a Parquet file of boxes"):
        read_boxes(str(tmp_path / "text.parquet"))
    write_boxes(str(tmp_path / "none.parquet"), [])
    with pytest.raises(InputError, match="holds no boxes"):
        read_boxes(str(tmp_path / "none.parquet"))


def test_boxes_of_another_manifest_are_refused(tmp_path):
    boxes = file_of(tmp_path / "b.parquet", [ROW, {**ROW, "clip_id": "b"}])
    rows = pa.table({"clip_id": ["b", "x", "y"]})
    with pytest.raises(InputError, match="2 of 3 clips of m have no boxes, such as 'x'; make boxes of this manifest"):
        boxes.joined(rows, "m")
    joined = boxes.joined(pa.table({"clip_id": ["b", "a", "b"]}), "m")
    assert joined[BOXES_COLUMN].to_pylist() == [boxes.of("b"), boxes.of("a"), boxes.of("b")]


def test_boxes_with_the_times_of_other_videos_are_refused(tmp_path):
    """A packed part of a video begins at 0, and its boxes were made at the times of the whole video."""
    rows = pa.table({"clip_id": ["a"]})
    before = file_of(tmp_path / "before.parquet", [ROW, {**ROW, "time_s": 7.0}])
    assert before.joined(rows, "m", own_times=False).num_rows == 1
    with pytest.raises(InputError, match=r"before\.parquet: its times are those of the clips before they were packed"):
        before.joined(rows, "m", own_times=True)
    write_boxes(str(tmp_path / "packed.parquet"), [ROW, {**ROW, "time_s": 1.0}], own_times=True)
    packed = read_boxes(str(tmp_path / "packed.parquet"))
    assert packed.joined(rows, "m", own_times=True).num_rows == 1
    with pytest.raises(InputError, match="after they were packed, and the clips of m are parts of videos"):
        packed.joined(rows, "m", own_times=False)
    grid = file_of(tmp_path / "grid.parquet", [ROW, {**ROW, "x1": 0.0}])
    assert grid.joined(rows, "m", own_times=True).num_rows == 1, "they are the same in all frames"
