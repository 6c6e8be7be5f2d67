"""How does a generated set become real H.264 files and a manifest, and what is known of it before it is drawn?"""

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

    `gop_frames` is the distance between frames that are coded by themselves, frames; 1 = all of them.
    The same arguments give the same bytes as long as libx264 and FFmpeg stay the same.
    """
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = frames_TSSC.shape[2], frames_TSSC.shape[1], "yuv420p"
        # More threads change the bytes; bframes=0 keeps decoding order.
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = gop_frames
        # cabac=1, because x264 prepares the tables of the other coder anew for each file, which takes long.
        stream.options = {"qp": str(quantiser), "preset": "ultrafast", "x264-params": "bframes=0:scenecut=0:cabac=1"}
        for picture_HWC in np.ascontiguousarray(frames_TSSC):
            container.mux(stream.encode(av.VideoFrame.from_numpy_buffer(picture_HWC, format="rgb24")))
        container.mux(stream.encode(None))


class DrawingStopped(Exception):
    """The caller of `write_motion_dataset` wanted no more clips."""


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

    The videos are a pure function of the arguments (all but `threads`). They appear at once: written beside `root`,
    then renamed. Where `root` already holds the set of the same arguments it is used as it is.

    Args:
        root: a folder that is absent, empty, or holds the same set.
        clips: clips of the split "train", as many of each class as of the others (one less where it does not divide).
        val_clips, test_clips: clips of "val" (None = a quarter of `clips`) and of the held-out "test" (None = half).
        seed: of everything that is drawn.
        size: side of the square frames, pixels, even.
        gop_frames: distance between frames coded by themselves. Above 1 files look more like ordinary video, but
            prediction between frames leaves traces of the direction of motion in single frames.
        difficulty: how hard the motion is to see; a `Difficulty` or a name of `DIFFICULTIES`.
        threads: drawing threads; None = one a core.
        stop: when set, the drawing ends before the next clip and leaves nothing.

    Raises: InputError for an argument that cannot be used, and where `root` holds something else or cannot be
        written; DrawingStopped.
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
        # Another process may have finished the same set first; anything else there is refused.
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
    """The manifest that `write_motion_dataset` would write below `root`: it is known before a pixel is drawn.

    Raises: InputError for an argument that cannot be used.
    """
    return _manifest(*set_of(root, clips, val_clips, test_clips, seed, size, gop_frames, difficulty))


def acting_cover(root: str | Path, clip_id: str) -> FloatArray:
    """Where the acting thing is in a clip of the set that `write_motion_dataset` wrote to `root`: [T, S, S].

    Raises: InputError where `root` holds no set of this version, or the set no such clip.
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
    """Whether `root` is the finished set of these arguments; False where it is absent or empty.

    Raises: InputError where it holds anything else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    description = root / "synthetic.json"
    if not description.is_file():
        raise InputError(f"{root} exists and is no synthetic data set; choose another folder")
    found = json.loads(description.read_text())
    if found != arguments:
        differing = sorted(key for key in arguments if found.get(key) != arguments[key])
        raise InputError(
            f"{root} holds a synthetic data set with other settings ({', '.join(differing)}); "
            "remove it or choose another folder"
        )
    return True


def _jobs(counts: dict[str, int]) -> list[tuple[int, str, int, str]]:
    """Of each clip its split's number, split, number and uri."""
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
    """In every clip's name, because the manifest's fingerprint covers names, not pixels."""
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
    # Threads, not processes: NumPy and libx264 leave the interpreter lock, and callers need no `__main__` guard.
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, initializer=_step_back) as pool:
        list(pool.map(write_clip, _jobs(arguments["counts"])))


def _step_back() -> None:
    """Let this thread leave the processor to whoever else needs it: a run starts its processes beside the drawing."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
