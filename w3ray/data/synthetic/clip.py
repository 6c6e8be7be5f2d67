"""How is one clip drawn from its class and a random generator?

Letters: T frames, S side of the square frame, C = 3 colours. Lengths inside a picture are fractions of its side.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from w3ray.data.synthetic.scene import ACTIONS, CLASSES, Difficulty, FloatArray, Scene

NUM_ACTORS = 10
"""Number of hues of the acting object; the hue is the manifest's `group`."""

_QUANTILES_256 = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])

NORMAL_256: FloatArray = (_QUANTILES_256 / _QUANTILES_256.std()).astype(np.float32)
"""256 equally likely values of a standard normal distribution. Looking up a random byte here is several times cheaper
than drawing a normal number."""


def draw_clip(
    label: int, rng: np.random.Generator, *, side: int = 64, difficulty: Difficulty | None = None
) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Draw one clip of class `label`.

    Returns: (frames uint8 [T, S, S, 3] with T from 16 to 36, frames per second from 12 to 30, actor).
    """
    difficulty = difficulty or Difficulty()
    num_frames, fps, actor = draw_cast(rng)
    scene = _draw_scene(rng, num_frames, side, difficulty)
    # Adding 0.5 rounds to nearest, because the cast to bytes truncates.
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
    # One colour at a time, always in the same memory: allocating new memory costs as much as the arithmetic.
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
    """Where the acting object is in the clip that `draw_clip` draws from the same generator state.

    Returns: its cover [T, S, S] in [0, 1]: the fraction of each pixel that it fills, times its opacity.
    """
    num_frames, _, _ = draw_cast(rng)
    cover_TSS = _act(label, _draw_scene(rng, num_frames, side, difficulty or Difficulty()))
    return cover_TSS[::-1] if label % 2 else cover_TSS


def _act(label: int, scene: Scene) -> FloatArray:
    """Cover [T, S, S] of the acting object of class `label`, played forwards."""
    return list(ACTIONS.values())[label // 2](scene)


def _decoy(rng: np.random.Generator, num_frames: int, side: int, difficulty: Difficulty) -> FloatArray:
    """Cover [T, S, S] of an object with its own action, forwards or backwards alike: it does not show if the clip is
    reversed."""
    label = int(rng.integers(len(CLASSES)))
    cover_TSS = _act(label, _draw_scene(rng, num_frames, side, difficulty))
    return cover_TSS[::-1] if label % 2 else cover_TSS


def _grey(rng: np.random.Generator) -> FloatArray:
    """A nearly grey colour [C]."""
    return (rng.uniform(0.1, 0.9) + rng.uniform(-0.05, 0.05, 3)).astype(np.float32)


def draw_cast(rng: np.random.Generator) -> tuple[int, int, int]:
    """A clip's number of frames, frames per second and actor: the first numbers drawn for each clip."""
    return int(rng.integers(16, 37)), int(rng.integers(12, 31)), int(rng.integers(NUM_ACTORS))


def _draw_scene(rng: np.random.Generator, num_frames: int, side: int, difficulty: Difficulty) -> Scene:
    time_T = np.linspace(0, 1, num_frames, dtype=np.float32)
    lap_T = (np.float32(rng.uniform()) + np.float32(rng.uniform(*difficulty.cycles)) * time_T) % 1
    # Pauses of equal length at both ends of the action, so that backwards is the same process in reverse.
    progress_T = np.clip((lap_T - 0.05) / 0.9, 0, 1)
    # Not at the border, where a training crop may cut off the action.
    centre_T2 = _drift(rng, num_frames, speed=0.15, margin=0.38)
    return Scene(side, progress_T, lap_T, centre_T2, float(rng.uniform(-0.4, 0.4)))


def _drift(rng: np.random.Generator, num_frames: int, speed: float, margin: float = 0.0) -> FloatArray:
    """A straight path [T, 2], at most `speed` long in x and in y; its middle is at least `margin` from the border."""
    time_T = np.linspace(-0.5, 0.5, num_frames, dtype=np.float32)
    middle_2 = rng.uniform(margin, 1 - margin, 2).astype(np.float32)
    return middle_2 + time_T[:, None] * rng.uniform(-speed, speed, 2).astype(np.float32)


def _background(rng: np.random.Generator, scene: Scene, contrast: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A soft pattern [T, S, S] of a few waves that drifts in one direction, its base colour [C] and its tint [C]."""
    num_waves = 8
    path_T2 = _drift(rng, len(scene.lap_T), speed=0.4)
    frequency_W2 = rng.integers(-4, 5, (num_waves, 2))
    size_W = rng.normal(size=num_waves) * np.exp(2j * np.pi * rng.uniform(0, 1, num_waves)) / np.sqrt(num_waves)
    turn_S1 = 2j * np.pi * np.arange(scene.side)[:, None] / scene.side
    along_x_SW = (contrast * size_W * np.exp(turn_S1 * frequency_W2[:, 0])).astype(np.complex64)
    along_y_SW = np.exp(turn_S1 * frequency_W2[:, 1]).astype(np.complex64)
    along_y_TSW = np.exp(2j * np.pi * path_T2 @ frequency_W2.T).astype(np.complex64)[:, None, :] * along_y_SW
    # The real part of the complex product, as a product of pairs of real numbers: (a, b) times (c, -d).
    pattern_TSS = along_y_TSW.view(np.float32) @ along_x_SW.conj().view(np.float32).T
    return pattern_TSS, rng.uniform(0.25, 0.6, 3).astype(np.float32), rng.uniform(0.4, 1, 3).astype(np.float32)


def _actor_colour(actor: int, rng: np.random.Generator) -> FloatArray:
    """A bright saturated colour [C] of the actor's hue, a little different each time."""
    hue = 6 * actor / NUM_ACTORS
    colour_3 = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return np.clip(colour_3 * 0.85 + 0.1 + rng.uniform(-0.05, 0.05, 3), 0, 1).astype(np.float32)
