"""Which videos can only be told apart by the order of their frames?

`write_motion_dataset` draws them and writes real H.264 files. The classes come in pairs, and a clip of the second
class of a pair is a clip of the first played backwards: it is drawn by the same process, then its frames are turned
round. So the unordered set of frames has exactly the same distribution in both classes of a pair.

One frame says nothing either, not even the first: the action repeats with a random phase (what has arrived starts
anew), so that at any moment every state is as likely in both classes. Background, distractors, drift and noise move in
directions drawn evenly, and every frame is coded by itself at a fixed quantiser, because prediction between frames
would leave traces of where things came from.

Letters: T frames, S side of the square frame, C = 3 colours. Lengths inside a picture are shares of its side.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from w3ray.data.manifest import SCHEMA, Manifest, read_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.storage import replacing_folder

SYNTHETIC_VERSION = 6
"""Raised whenever the same arguments would give other videos."""

NUM_ACTORS = 10
"""Hues of the acting thing; the manifest's `group`."""

FloatArray = npt.NDArray[np.float32]

_QUANTILES_256 = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])

NORMAL_256: FloatArray = (_QUANTILES_256 / _QUANTILES_256.std()).astype(np.float32)
"""Equally likely values of a standard normal distribution. Looking a random byte up here is several times cheaper than
drawing a normal number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How hard the motion is to see."""

    num_distractors: int = 2
    """Small grey things that move at random."""
    num_decoys: int = 0
    """Grey things that do an action of their own, drawn evenly from all classes: only the coloured one counts."""
    noise: float = 0.02
    """Standard deviation of the noise of each pixel and frame, share of full scale."""
    background: float = 0.12
    """Contrast of the moving background, share of full scale."""
    cycles: tuple[float, float] = (1.0, 1.4)
    """How often the action happens in a clip: least and most."""


DIFFICULTIES: dict[str, Difficulty] = {
    "easy": Difficulty(),
    "medium": Difficulty(num_decoys=1),
    "hard": Difficulty(num_decoys=2, num_distractors=10, noise=0.15, background=0.35),
}
"""Difficulties by name."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What an action is drawn into."""

    side: int
    progress_T: FloatArray
    """How far the action has come, 0 to 1, at each frame."""
    lap_T: FloatArray
    """The same without the rests at both ends."""
    centre_T2: FloatArray
    """Where the acting thing is (x, y), drifting slowly."""
    angle: float
    """A direction near the horizontal, radians."""

    def offsets(self, centre_T2: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Distance of every pixel from a centre, on a picture whose borders meet: x [T, 1, S] and y [T, S, 1]."""
        grid_S = ((np.arange(self.side) + 0.5) / self.side).astype(np.float32)
        x_T1S = (grid_S[None, None, :] - centre_T2[:, 0, None, None] + 0.5) % 1 - 0.5
        y_TS1 = (grid_S[None, :, None] - centre_T2[:, 1, None, None] + 0.5) % 1 - 0.5
        return x_T1S, y_TS1

    def cover(self, depth: FloatArray) -> FloatArray:
        """Share of a pixel inside a shape, from the depth of its centre below the shape's border."""
        return np.clip(depth * self.side + 0.5, 0, 1)

    def disc(self, centre_T2: FloatArray, radius: float) -> FloatArray:
        """Cover [T, S, S] of a disc."""
        x_T1S, y_TS1 = self.offsets(centre_T2)
        # At distance d the depth is r - d = (r^2 - d^2) / (r + d), at the border (r^2 - d^2) / 2r: a sum of what is
        # known for each row and each column, so that hardly anything is computed for each pixel.
        scale = self.side / (2 * radius)
        cover_TSS = (0.5 + (radius**2 - x_T1S**2) * scale) - y_TS1**2 * scale
        return np.clip(cover_TSS, 0, 1, out=cover_TSS)

    def box(self, centre_T2: FloatArray, radius: float) -> FloatArray:
        """Cover [T, S, S] of a square with half side `radius`."""
        x_T1S, y_TS1 = self.offsets(centre_T2)
        reach = np.float32(radius)
        return np.minimum(self.cover(reach - np.abs(x_T1S)), self.cover(reach - np.abs(y_TS1)))


def _move(scene: Scene) -> FloatArray:
    """A disc travels to the right, round and round."""
    return scene.disc(scene.centre_T2 + scene.lap_T[:, None] * np.array([1, 0], np.float32), 0.18)


def _open(scene: Scene) -> FloatArray:
    """An iris opens: a disc whose hole grows."""
    x_T1S, y_TS1 = scene.offsets(scene.centre_T2)
    distance_TSS = np.sqrt(x_T1S**2 + y_TS1**2)
    hole_T11 = 0.28 * scene.progress_T[:, None, None]
    return scene.cover(np.minimum(np.float32(0.34) - distance_TSS, distance_TSS - hole_T11))


def _join(scene: Scene) -> FloatArray:
    """Two discs on a nearly level line are put next to each other."""
    direction_2 = np.array([np.cos(scene.angle), np.sin(scene.angle)], np.float32)
    apart_T2 = (0.11 + 0.26 * (1 - scene.progress_T))[:, None] * direction_2
    return np.maximum(scene.disc(scene.centre_T2 + apart_T2, 0.11), scene.disc(scene.centre_T2 - apart_T2, 0.11))


def _appear(scene: Scene) -> FloatArray:
    """A square appears out of nothing, by opacity."""
    return scene.box(scene.centre_T2, 0.24) * scene.progress_T[:, None, None]


ACTIONS: dict[tuple[str, str], Callable[[Scene], FloatArray]] = {
    ("moves-right", "moves-left"): _move,
    ("opens", "closes"): _open,
    ("put-together", "pulled-apart"): _join,
    ("appears", "vanishes"): _appear,
}
"""(name forwards, name backwards) to the cover [T, S, S] of the acting thing, forwards. A new pair is one row."""

CLASSES: tuple[str, ...] = tuple(name for pair in ACTIONS for name in pair)

FLIP_MAP: dict[int, int] = {
    label: CLASSES.index({"moves-right": "moves-left", "moves-left": "moves-right"}.get(name, name))
    for label, name in enumerate(CLASSES)
}
"""What each label becomes in a mirror."""


def draw_clip(
    label: int, rng: np.random.Generator, *, side: int = 64, difficulty: Difficulty | None = None
) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Draw one clip of class `label`.

    Returns: (frames uint8 [T, S, S, 3] with T from 16 to 36, frames per second from 12 to 30, actor).
    """
    difficulty = difficulty or Difficulty()
    num_frames, fps, actor = _draw_cast(rng)
    scene = _draw_scene(rng, num_frames, side, difficulty)
    # The half rounds, because the cast to bytes cuts off.
    noise_256 = np.float32(255 * difficulty.noise) * NORMAL_256 + np.float32(0.5)
    noise_CTSS = noise_256.take(rng.integers(0, 256, (3, num_frames, side, side), np.uint8))
    pattern_TSS, base_3, tint_3 = _background(rng, scene, difficulty.background)
    layers = []
    for _ in range(difficulty.num_distractors):
        shape = (scene.disc, scene.box)[int(rng.integers(2))]
        cover_TSS = shape(_drift(rng, num_frames, speed=0.5), float(rng.uniform(0.04, 0.08)))
        layers.append((cover_TSS, _grey(rng)))
    for _ in range(difficulty.num_decoys):
        layers.append((_decoy(rng, num_frames, side, difficulty), _grey(rng)))
    layers.append((_act(label, scene), _actor_colour(actor, rng)))
    frames_TSSC = np.empty((num_frames, side, side, 3), np.uint8)
    # One colour at a time, always in the same memory: fetching fresh memory costs as much as the arithmetic.
    picture_TSS, work_TSS = np.empty((2, num_frames, side, side), np.float32)
    for channel, noise_TSS in enumerate(noise_CTSS):
        np.multiply(pattern_TSS, tint_3[channel], out=picture_TSS)
        picture_TSS += base_3[channel]
        for cover_TSS, colour_3 in layers:
            np.subtract(colour_3[channel], picture_TSS, out=work_TSS)
            work_TSS *= cover_TSS
            picture_TSS += work_TSS
        picture_TSS *= np.float32(255)
        noise_TSS += picture_TSS[::-1] if label % 2 else picture_TSS
        frames_TSSC[..., channel] = np.clip(noise_TSS, 0, 255, out=noise_TSS)
    return frames_TSSC, fps, actor


def draw_cover(
    label: int, rng: np.random.Generator, *, side: int = 64, difficulty: Difficulty | None = None
) -> FloatArray:
    """Where the acting thing is in the clip that `draw_clip` draws from the same generator state.

    Returns: its cover [T, S, S] in [0, 1]: the share of each pixel that it fills, times its opacity.
    """
    num_frames, _, _ = _draw_cast(rng)
    cover_TSS = _act(label, _draw_scene(rng, num_frames, side, difficulty or Difficulty()))
    return cover_TSS[::-1] if label % 2 else cover_TSS


def _act(label: int, scene: Scene) -> FloatArray:
    """Cover [T, S, S] of the acting thing of class `label`, forwards."""
    return list(ACTIONS.values())[label // 2](scene)


def _decoy(rng: np.random.Generator, num_frames: int, side: int, difficulty: Difficulty) -> FloatArray:
    """Cover [T, S, S] of a thing that does an action of its own. It may also act backwards, so the whole clip may."""
    label = int(rng.integers(len(CLASSES)))
    cover_TSS = _act(label, _draw_scene(rng, num_frames, side, difficulty))
    return cover_TSS[::-1] if label % 2 else cover_TSS


def _grey(rng: np.random.Generator) -> FloatArray:
    """A colour [C] that is nearly grey."""
    return (rng.uniform(0.1, 0.9) + rng.uniform(-0.05, 0.05, 3)).astype(np.float32)


def _draw_cast(rng: np.random.Generator) -> tuple[int, int, int]:
    """A clip's number of frames, its frames per second and its actor: the first numbers drawn of each clip."""
    return int(rng.integers(16, 37)), int(rng.integers(12, 31)), int(rng.integers(NUM_ACTORS))


def _draw_scene(rng: np.random.Generator, num_frames: int, side: int, difficulty: Difficulty) -> Scene:
    time_T = np.linspace(0, 1, num_frames, dtype=np.float32)
    lap_T = (np.float32(rng.uniform()) + np.float32(rng.uniform(*difficulty.cycles)) * time_T) % 1
    # A rest at both ends of the action, equally long, so that backwards is the same process mirrored.
    progress_T = np.clip((lap_T - 0.05) / 0.9, 0, 1)
    # Not at the border, where a crop of training may cut the action off.
    centre_T2 = _drift(rng, num_frames, speed=0.15, margin=0.38)
    return Scene(side, progress_T, lap_T, centre_T2, float(rng.uniform(-0.4, 0.4)))


def _drift(rng: np.random.Generator, num_frames: int, speed: float, margin: float = 0.0) -> FloatArray:
    """A straight path [T, 2], at most `speed` sides long each way; its middle is `margin` from the border."""
    time_T = np.linspace(-0.5, 0.5, num_frames, dtype=np.float32)
    middle_2 = rng.uniform(margin, 1 - margin, 2).astype(np.float32)
    return middle_2 + time_T[:, None] * rng.uniform(-speed, speed, 2).astype(np.float32)


def _background(rng: np.random.Generator, scene: Scene, contrast: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A soft pattern [T, S, S] of a few waves that drifts in one direction, its base and its tint [C]."""
    num_waves = 8
    path_T2 = _drift(rng, len(scene.lap_T), speed=0.4)
    frequency_W2 = rng.integers(-4, 5, (num_waves, 2))
    size_W = rng.normal(size=num_waves) * np.exp(2j * np.pi * rng.uniform(0, 1, num_waves)) / np.sqrt(num_waves)
    turn_S1 = 2j * np.pi * np.arange(scene.side)[:, None] / scene.side
    along_x_SW = (contrast * size_W * np.exp(turn_S1 * frequency_W2[:, 0])).astype(np.complex64)
    along_y_SW = np.exp(turn_S1 * frequency_W2[:, 1]).astype(np.complex64)
    along_y_TSW = np.exp(2j * np.pi * path_T2 @ frequency_W2.T).astype(np.complex64)[:, None, :] * along_y_SW
    # The real part of the complex product, as a product of pairs of real numbers: that of (a, b) and (c, -d).
    pattern_TSS = along_y_TSW.view(np.float32) @ along_x_SW.conj().view(np.float32).T
    return pattern_TSS, rng.uniform(0.25, 0.6, 3).astype(np.float32), rng.uniform(0.4, 1, 3).astype(np.float32)


def _actor_colour(actor: int, rng: np.random.Generator) -> FloatArray:
    """A bright saturated colour [C] of the actor's hue, a little different each time."""
    hue = 6 * actor / NUM_ACTORS
    colour_3 = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return np.clip(colour_3 * 0.85 + 0.1 + rng.uniform(-0.05, 0.05, 3), 0, 1).astype(np.float32)


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
    root, arguments = _plan(root, clips, val_clips, test_clips, seed, size, gop_frames, difficulty)
    if _holds_same_set(root, arguments):
        return read_manifest(str(root / "manifest.parquet"))
    try:
        with replacing_folder(root, over=False) as partial:
            _write_clips(partial, arguments, _difficulty(difficulty), threads, stop or threading.Event())
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
    return _manifest(*_plan(root, clips, val_clips, test_clips, seed, size, gop_frames, difficulty))


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


def _difficulty(difficulty: Difficulty | str | None) -> Difficulty:
    if not isinstance(difficulty, str):
        return difficulty or Difficulty()
    if difficulty not in DIFFICULTIES:
        raise InputError(f"difficulty {difficulty!r}: must be one of {', '.join(DIFFICULTIES)}")
    return DIFFICULTIES[difficulty]


def _settings(difficulty: Difficulty) -> dict[str, Any]:
    """As JSON holds them, so that tuples compare equal to what is read back."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(difficulty)))
    if not difficulty.num_decoys:
        del settings["num_decoys"]  # sets of before there were any are the same sets
    return settings


def _plan(
    root: str | Path,
    clips: int,
    val_clips: int | None,
    test_clips: int | None,
    seed: int,
    size: int,
    gop_frames: int,
    difficulty: Difficulty | str | None,
) -> tuple[Path, dict[str, Any]]:
    """The absolute root, and what decides the set's content, as `synthetic.json` holds it."""
    counts = split_counts(clips, val_clips, test_clips)
    _check_arguments(counts, size, gop_frames)
    arguments = {
        "version": SYNTHETIC_VERSION,
        "counts": counts,
        "seed": seed,
        "size": size,
        "gop_frames": gop_frames,
        "difficulty": _settings(_difficulty(difficulty)),
    }
    # Absolute, as `write_manifest` names its own folder: else the uris would not be seen to lie beneath it.
    return Path(os.path.abspath(root)), arguments


def split_counts(clips: int, val_clips: int | None, test_clips: int | None) -> dict[str, int]:
    """Clips of each split: None is a quarter of `clips` for validation, half for the test."""
    return {
        "train": clips,
        "val": _share(clips, 4) if val_clips is None else val_clips,
        "test": _share(clips, 2) if test_clips is None else test_clips,
    }


def _share(clips: int, divisor: int) -> int:
    """`clips` / `divisor`, rounded up to whole rounds of all classes."""
    return -(-clips // (divisor * len(CLASSES))) * len(CLASSES)


def _check_arguments(counts: dict[str, int], size: int, gop_frames: int) -> None:
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"synthetic: the {split} split needs at least 1 clip, not {count}")
    if size < 16 or size % 2:
        raise InputError(f"synthetic: size must be an even number of pixels from 16, not {size} (H.264 4:2:0)")
    if gop_frames < 1:
        raise InputError(f"synthetic: gop_frames must be at least 1, not {gop_frames}")


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
            "group": f"actor-{_draw_cast(np.random.default_rng([arguments['seed'], i, number]))[2]}",
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
