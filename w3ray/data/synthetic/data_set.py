"""How does a generated set become H.264 files and a manifest, and what is known before it is drawn?"""

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from w3ray.data.manifest import SCHEMA, Manifest, read_manifest, write_manifest
from w3ray.data.synthetic.arguments import SYNTHETIC_VERSION, difficulty_of, set_of
from w3ray.data.synthetic.clip import draw_cast, draw_clip, draw_cover
from w3ray.data.synthetic.scene import CLASSES, FLIP_MAP, Difficulty, FloatArray
from w3ray.errors import InputError
from w3ray.storage import replacing_folder


def write_video(
    path: Path, frames_TSSC: npt.NDArray[np.uint8], fps: int, *, quantiser: int = 28, gop_frames: int = 1
) -> None:
    """Write frames uint8 [T, H, W, 3] as an H.264 file (even sides).

    `gop_frames` is the distance between intra-coded frames, in frames; 1 = all frames are intra-coded.
    The same arguments give the same bytes with the same versions of libx264 and FFmpeg.
    """
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = frames_TSSC.shape[2], frames_TSSC.shape[1], "yuv420p"
        # More threads change the bytes; bframes=0 keeps decoding order.
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = gop_frames
        # cabac=1, because x264 rebuilds the tables of the other entropy coder for each file, which is slow.
        stream.options = {"qp": str(quantiser), "preset": "ultrafast", "x264-params": "bframes=0:scenecut=0:cabac=1"}
        for picture_HWC in np.ascontiguousarray(frames_TSSC):
            container.mux(stream.encode(av.VideoFrame.from_numpy_buffer(picture_HWC, format="rgb24")))
        container.mux(stream.encode(None))


class DrawingStopped(Exception):
    """The caller of `write_motion_dataset` stopped the drawing."""


def write_motion_dataset(
    root: str | Path,
    *,
    clips: int,
    val_clips: int | None = None,
    test_clips: int | None = None,
    seed: int = 0,
    size: int = 64,
    gop_frames: int = 1,
    difficulty: Difficulty | str | None = None,
    threads: int | None = None,
    stop: threading.Event | None = None,
) -> Manifest:
    """Write `root/<split>/<class>/<number>.mp4`, `root/manifest.parquet` and `root/synthetic.json`.

    The videos are a pure function of the arguments (except `threads`). They appear all at once: they are written next
    to `root` and then renamed. If `root` already holds the set with the same arguments, it is used without changes.

    Args:
        root: a folder that is absent, empty, or holds the same set.
        clips: clips of the split "train", evenly over the classes (some have one less if it does not divide evenly).
        val_clips, test_clips: clips of "val" (None = a quarter of `clips`) and of the held-out "test" (None = half).
        seed: seed of all random draws.
        size: side of the square frames, pixels, even.
        gop_frames: distance between intra-coded frames. Above 1 the files are more like ordinary video, but prediction
            between frames leaves traces of the direction of motion in single frames.
        difficulty: how hard the motion is to see; a `Difficulty` or a name of `DIFFICULTIES`.
        threads: drawing threads; None = one per core.
        stop: when set, the drawing ends before the next clip and leaves no files.

    Raises: InputError if an argument cannot be used, or if `root` holds something else or cannot be written;
        DrawingStopped.
    """
    root, arguments = set_of(root, clips, val_clips, test_clips, seed, size, gop_frames, difficulty)
    if _holds_same_set(root, arguments):
        return read_manifest(str(root / "manifest.parquet"))
    try:
        with replacing_folder(root, over=False) as partial:
            _write_clips(partial, arguments, difficulty_of(difficulty), threads, stop or threading.Event())
            manifest = _manifest(partial, arguments)
            write_manifest(manifest, str(partial / "manifest.parquet"))
            (partial / "synthetic.json").write_text(json.dumps(arguments, indent=2) + "\n")
    except OSError as error:
        # Another process may have finished the same set first; any other content of `root` is an error.
        if not _holds_same_set(root, arguments):
            raise InputError(
                f"cannot write the synthetic data set to {root}: {error.strerror or error}; choose another folder"
            ) from error
    return read_manifest(str(root / "manifest.parquet"))


def motion_manifest(
    root: str | Path,
    *,
    clips: int,
    val_clips: int | None = None,
    test_clips: int | None = None,
    seed: int = 0,
    size: int = 64,
    gop_frames: int = 1,
    difficulty: Difficulty | str | None = None,
) -> Manifest:
    """The manifest that `write_motion_dataset` would write below `root`; it is known before anything is drawn.

    Raises: InputError if an argument cannot be used.
    """
    return _manifest(*set_of(root, clips, val_clips, test_clips, seed, size, gop_frames, difficulty))


def acting_cover(root: str | Path, clip_id: str) -> FloatArray:
    """Where the acting object is in a clip of the set that `write_motion_dataset` wrote to `root`: [T, S, S].

    Raises: InputError if `root` holds no set of this version, or if the set has no such clip.
    """
    description = Path(root) / "synthetic.json"
    try:
        arguments = json.loads(description.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{description}: cannot be read; name the folder of a generated data set") from error
    if arguments.get("version") != SYNTHETIC_VERSION:
        raise InputError(f"{root} was drawn by another version of w3ray; draw it again")
    digest, _, place = clip_id.partition("-")
    split, _, number = place.rpartition("-")
    counts = arguments["counts"]
    if digest != _digest(arguments) or split not in counts or not number.isdigit() or int(number) >= counts[split]:
        raise InputError(f"{root} holds no clip {clip_id!r}")
    return draw_cover(
        int(number) % len(CLASSES),
        np.random.default_rng([arguments["seed"], list(counts).index(split), int(number)]),
        side=arguments["size"],
        difficulty=Difficulty(**arguments["difficulty"]),
    )


def _holds_same_set(root: Path, arguments: dict[str, Any]) -> bool:
    """Whether `root` is the finished set with these arguments; False if it is absent or empty.

    Raises: InputError if `root` holds anything else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    description = root / "synthetic.json"
    if not description.is_file():
        raise InputError(f"{root} exists and is not a synthetic data set; choose another folder")
    found = json.loads(description.read_text())
    if found != arguments:
        differing = sorted(key for key in arguments if found.get(key) != arguments[key])
        raise InputError(
            f"{root} holds a synthetic data set with other settings ({', '.join(differing)}); "
            "remove it or choose another folder"
        )
    return True


def _jobs(counts: dict[str, int]) -> list[tuple[int, str, int, str]]:
    """For each clip: the split's number, the split, the clip's number and its uri."""
    return [
        (i, split, number, f"{split}/{CLASSES[number % len(CLASSES)]}/{number:05d}.mp4")
        for i, (split, count) in enumerate(counts.items())
        for number in range(count)
    ]


def _manifest(folder: Path, arguments: dict[str, Any]) -> Manifest:
    digest = _digest(arguments)
    rows = [
        {
            "clip_id": f"{digest}-{split}-{number:05d}",
            "uri": uri,
            "start_s": None,
            "end_s": None,
            "reversed": False,
            "label": number % len(CLASSES),
            "split": split,
            "group": f"actor-{draw_cast(np.random.default_rng([arguments['seed'], i, number]))[2]}",
        }
        for i, split, number, uri in _jobs(arguments["counts"])
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return Manifest(table=table, classes=CLASSES, flip_map=FLIP_MAP, location=str(folder / "manifest.parquet"))


def _digest(arguments: dict[str, Any]) -> str:
    """Part of every clip's name, because the manifest's fingerprint covers names, not pixels."""
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:8]


def _write_clips(
    folder: Path, arguments: dict[str, Any], difficulty: Difficulty, threads: int | None, stop: threading.Event
) -> None:
    def write_clip(job: tuple[int, str, int, str]) -> None:
        if stop.is_set():
            raise DrawingStopped
        i, _, number, uri = job
        rng = np.random.default_rng([arguments["seed"], i, number])
        frames_TSSC, fps, _ = draw_clip(number % len(CLASSES), rng, side=arguments["size"], difficulty=difficulty)
        write_video(folder / uri, frames_TSSC, fps, gop_frames=arguments["gop_frames"])

    for split in arguments["counts"]:
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
    # Threads, not processes: NumPy and libx264 release the interpreter lock, and callers need no `__main__` guard.
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, initializer=_step_back) as pool:
        list(pool.map(write_clip, _jobs(arguments["counts"])))


def _step_back() -> None:
    """Lower this thread's priority, because a run starts its processes while the set is drawn."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
