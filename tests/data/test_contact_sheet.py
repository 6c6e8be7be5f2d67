"""A sheet shows the clips of the stream with the same pixels, and marks unreadable clips."""

import numpy as np
import pyarrow as pa
import pytest
from decoders_here import decoder_param
from videos import write_video

from w3ray.data.clip import ClipSpec
from w3ray.data.contact_sheet import draw_sheet, evaluation_rows, training_rows
from w3ray.data.manifest import build_manifest, read_manifest
from w3ray.data.microbatch import ClipTables, MicrobatchDecoder
from w3ray.data.schedule import Schedule
from w3ray.data.stream_spec import StreamSpec
from w3ray.errors import InputError

SPEC = ClipSpec(num_frames=4, size=32, flip=True)


def schedule(num_train, **options):
    defaults = {"batch_size": 5, "microbatch_size": 2, "epochs": 3, "validate_every_epochs": 1, "seed": 7}
    return Schedule(num_train=num_train, num_val=0, num_test=0, world_size=1, **(defaults | options))


@pytest.fixture(scope="module")
def manifest(motion_manifest):
    return read_manifest(motion_manifest)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("rows_together", [1, 2])
def test_pixels_are_those_of_the_stream(manifest, epoch, rows_together):
    """Compared with the decoder that training uses."""
    table = manifest.split("train")
    table = table.set_column(table.column_names.index("uri"), "uri", pa.array(manifest.resolved_uris(table)))
    plan = schedule(table.num_rows, rows_together=rows_together, batch_size=6)
    tables = ClipTables.of({"train": table, "val": table, "test": table})
    decoder = MicrobatchDecoder(StreamSpec(schedule=plan, clip=SPEC, flip_map=manifest.flip_map), tables)
    first = plan.first_item(epoch * plan.steps_per_epoch)
    batches = [decoder.decode(number) for number in range(first, first + 6)]
    expected = [
        (batch.clip_ids[place], batch.labels[place], batch.clips[place].tobytes())
        for batch in batches
        for place in np.flatnonzero(batch.valid)
    ]
    rows = training_rows(manifest, "train", SPEC, plan, epoch=epoch, count=9)
    assert [row.position for row in rows] == list(range(9))
    assert [(row.clip_id, row.clip.label, row.clip.frames_TSSC.tobytes()) for row in rows] == expected[:9]
    assert {row.clip.mirrored for row in rows} == {False, True}
    assert all(row.clip.label == manifest.flip_map[row.label] for row in rows if row.clip.mirrored)


def test_no_clip_twice_in_an_epoch(manifest):
    rows = training_rows(manifest, "train", SPEC, schedule(24), epoch=1, count=99)
    assert len({row.clip_id for row in rows}) == len(rows) == 24


@pytest.mark.parametrize("decoder", [decoder_param("decord"), "pyav"])
def test_times_are_those_of_the_frames(tmp_path, decoder):
    clip = write_video(tmp_path / "clip.mp4", 40)
    columns = {"clip_id": ["a", "b"], "uri": [str(clip)] * 2, "label": [0, 0], "split": ["val"] * 2}
    columns |= {"start_s": [None, 0.8], "end_s": [None, 1.2], "reversed": [False, True]}
    spec = ClipSpec(num_frames=4, size=32, decoder=decoder)
    whole, part = evaluation_rows(build_manifest(columns, ["a"]), "val", spec, count=5)
    assert whole.clip.times_s == pytest.approx(np.array([5, 15, 25, 35]) / 25)
    assert part.clip.times_s == pytest.approx(np.array([28, 26, 23, 21]) / 25)


def test_evaluation_rows_come_from_all_over(manifest):
    rows = evaluation_rows(manifest, "val", SPEC, count=4)
    assert [row.position for row in rows] == [0, 5, 10, 15]
    assert not any(row.clip.mirrored for row in rows)


def test_the_frames_are_on_the_sheet(manifest):
    rows = evaluation_rows(manifest, "val", SPEC, count=2)
    sheet = np.asarray(draw_sheet(rows, manifest.heads, num_frames=4, size=32, title="a", subtitle="b"))
    for row in rows:
        for frame in row.clip.frames_TSSC:
            enlarged = np.kron(frame, np.ones((3, 3, 1), np.uint8))
            assert _holds(sheet, enlarged)


def test_unreadable_and_odd_names(tmp_path):
    clip = write_video(tmp_path / "Приве́т ünïcode 踢 %d.mp4", 12)
    uris = [str(clip), str(tmp_path / "none.mp4")]
    columns = {"clip_id": ["踢" * 90, "b\nc"], "uri": uris, "label": [0, 1], "split": ["val"] * 2}
    manifest = build_manifest(columns, ["something " * 40, "наклон 踢\u202e"])
    rows = evaluation_rows(manifest, "val", SPEC, count=2)
    assert (rows[0].reason, rows[1].clip) == (None, None)
    assert rows[1].reason.startswith("cannot be read")
    blank = draw_sheet([], manifest.heads, num_frames=4, size=32, title="", subtitle="")
    sheet = draw_sheet(rows, manifest.heads, num_frames=4, size=32, title="t" * 999, subtitle="s" * 999)
    assert sheet.width == blank.width
    red = np.asarray(sheet)[..., 0].astype(int) - np.asarray(sheet)[..., 1]
    assert (red[-140:] > 100).any()  # the reason


def test_errors(manifest):
    with pytest.raises(InputError, match="split 'dev' is empty"):
        evaluation_rows(manifest, "dev", SPEC, count=4)
    with pytest.raises(ValueError, match="step must lie in"):
        training_rows(manifest, "train", SPEC, schedule(24), epoch=4, count=4)
    columns = {"clip_id": ["a"], "uri": ["/a.mp4"], "label": [0], "split": ["train"]}
    with pytest.raises(InputError, match="flip map"):
        training_rows(build_manifest(columns, ["a"]), "train", SPEC, schedule(1), epoch=0, count=1)


def _holds(sheet, picture):
    """Whether the sheet contains the picture anywhere, pixel by pixel."""
    height, width = picture.shape[:2]
    starts = np.argwhere((sheet[: -height + 1, : -width + 1] == picture[0, 0]).all(axis=2))
    return any(np.array_equal(sheet[y : y + height, x : x + width], picture) for y, x in starts)
