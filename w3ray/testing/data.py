"""The contracts of samplers, augmentations, decoders and importers."""

import inspect
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w3ray.testing._common import SEED, ContractBroken, require

if TYPE_CHECKING:
    from w3ray.data.manifest import Manifest


def check_sampler(name: str) -> None:
    """Check a sampler of `w3ray.data.clip_sampling.SAMPLERS`: which frames it picks from videos of any length."""
    from w3ray.data.clip_sampling import SAMPLERS

    sampler = SAMPLERS[name]
    for num_frames in (1, 2, 3, 5, 7, 8, 9, 16, 17, 100, 1801):
        for num_samples in (1, 2, 3, 8, 16):
            for rng in (None, np.random.default_rng(SEED)):
                for _ in range(1 if rng is None else 20):
                    _check_indices(sampler(num_frames, num_samples, 2, rng), num_frames, num_samples)
    draws = [sampler(1000, 8, 2, np.random.default_rng(seed)).tolist() for seed in (5, 5)]
    require(draws[0] == draws[1], "the same generator gives other frames: it must be the only source of random numbers")
    fixed = [sampler(1000, 8, 2, None).tolist() for _ in range(2)]
    require(fixed[0] == fixed[1], "without a generator it gives other frames each time")


def _check_indices(indices_T: Any, num_frames: int, num_samples: int) -> None:
    what = f"{num_samples} of {num_frames} frames"
    require(isinstance(indices_T, np.ndarray) and indices_T.dtype == np.int64, f"{what}: must be an array of int64")
    require(indices_T.shape == (num_samples,), f"{what}: has the shape {indices_T.shape}")
    require(indices_T.min() >= 0 and indices_T.max() < num_frames, f"{what}: {indices_T.tolist()} are outside")
    require((np.diff(indices_T) >= 0).all(), f"{what}: {indices_T.tolist()} are not in order")


def check_augmentation(name: str) -> None:
    """Check an augmentation of `w3ray.data.augmentation.AUGMENTATIONS`: it returns a clip, and is reproducible.

    One with options is checked with its defaults.
    """
    from w3ray.data.augmentation import AugmentationChoice

    augmentation = AugmentationChoice.of(name)
    clip_TSSC = np.random.default_rng(SEED).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
    for seed in range(8):
        one, other = (augmentation(clip_TSSC.copy(), np.random.default_rng(seed)) for _ in range(2))
        good = isinstance(one, np.ndarray) and one.dtype == np.uint8 and one.shape == clip_TSSC.shape
        require(good, f"a clip must stay uint8 {clip_TSSC.shape}, not {getattr(one, 'dtype', one)} {np.shape(one)}")
        require(
            np.array_equal(one, other),
            "the same generator gives another clip: it must be the only source of random numbers",
        )


_BITS = 8
_FRAMES = 30


def check_decoder(name: str) -> None:
    """Check a decoder of `w3ray.data.decoders.DECODERS`: it returns the requested frames of a small H.264 file."""
    from w3ray.data.decoders import DECODERS, DecodeError
    from w3ray.data.decoders.in_order import frames_in_order

    decoder = DECODERS[name]
    with tempfile.TemporaryDirectory(prefix="w3ray-contract-") as folder:
        file = Path(folder) / "clip.mp4"
        _write_numbered(file)
        for indices in ([0], [_FRAMES - 1], [5, 17, 29], [28, 3, 3, 0], list(range(_FRAMES))):
            with decoder(str(file), None) as video:
                require(
                    video.info.num_frames == _FRAMES, f"reports {video.info.num_frames} frames instead of {_FRAMES}"
                )
                frames_THWC = video.frames(indices)
                good = frames_THWC.dtype == np.uint8 and frames_THWC.shape == (len(indices), 48, 64, 3)
                require(good, f"frames must be uint8 [T, H, W, 3], not {frames_THWC.dtype} {frames_THWC.shape}")
                found = _numbers(frames_THWC)
                require(found == indices, f"asked for the frames {indices}, got {found}")
        with decoder(str(file), None) as video:
            for indices in ([2, 3, 17, 29], list(range(_FRAMES))):
                found = _numbers(np.stack(list(frames_in_order(video, indices))))
                require(found == indices, f"asked for the frames {indices} in one pass, got {found}")
        with decoder(str(file), None) as video:
            require(
                video.frame_span(0.4, 0.8) == (10, 20),
                f"the frame span from 0.4 to 0.8 s is {video.frame_span(0.4, 0.8)}, not (10, 20)",
            )
            try:
                video.frames([_FRAMES])
            except IndexError:
                pass
            else:
                raise ContractBroken("a frame after the end raises no IndexError")
        for bad, content in (("absent.mp4", None), ("no-video.mp4", b"no video")):
            path = Path(folder) / bad
            if content is not None:
                path.write_bytes(content)
            try:
                with decoder(str(path), None) as video:
                    video.frames([0])
            except DecodeError:
                continue
            except Exception as error:
                raise ContractBroken(f"{bad}: raised {type(error).__name__}, not DecodeError") from error
            raise ContractBroken(f"{bad}: was read without an error")


def _write_numbered(path: Path) -> None:
    """Write a video whose frame i shows the number i as eight black or white bars, lowest bit on the left; 25 fps."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 12
        for number in range(_FRAMES):
            image = np.zeros((48, 64, 3), np.uint8)
            for bit in range(_BITS):
                image[:, bit * 8 : (bit + 1) * 8] = 255 * (number >> bit & 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _numbers(frames_THWC: np.ndarray) -> list[int]:
    bars = frames_THWC.mean(axis=(1, 3)).reshape(len(frames_THWC), _BITS, -1).mean(axis=2)
    return [sum(int(bar > 128) << bit for bit, bar in enumerate(row)) for row in bars]


def check_importer(name: str, annotations: str | Path, videos: str | Path, **options: Any) -> "Manifest":
    """Check an importer of `w3ray.data.importers.IMPORTERS` on a small data set in its format.

    Args:
        annotations: folder as the importer expects it. All its videos must exist.
        videos: folder of the videos.
        options: further arguments of the importer.

    Returns:
        The manifest, for further assertions.
    """
    from w3ray.data.importers import IMPORTERS
    from w3ray.data.manifest import Manifest, read_manifest, write_manifest

    notes: list[str] = []

    def imported() -> Any:
        return IMPORTERS[name](str(annotations), videos=str(videos), partial=False, note=notes.append, **options)

    manifest = imported()
    require(isinstance(manifest, Manifest), f"it must return a Manifest, not {type(manifest).__name__}")
    require(imported().fingerprint() == manifest.fingerprint(), "a second import gives another manifest")
    require(all("\n" not in note for note in notes), "a note has more than one line")
    labels = [label for label in manifest.table["label"].to_pylist() if label is not None]
    require(labels, "no clip has a label")
    require(min(labels) >= 0 and max(labels) < manifest.heads.num_labels, "a label is not one of the classes")
    for label, mirror in manifest.flip_map.items():
        require(manifest.flip_map.get(mirror) == label, f"flip map: {label} -> {mirror}, but not back")
    absent = [uri for uri in manifest.resolved_uris() if uri.startswith("/") and not Path(uri).exists()]
    require(not absent, f"a video is absent from its place in the manifest: {', '.join(absent[:2])}")
    with tempfile.TemporaryDirectory(prefix="w3ray-contract-") as folder:
        path = str(Path(folder) / "manifest.parquet")
        written = write_manifest(manifest, path)
        again = read_manifest(path)
    require(again.fingerprint() == written.fingerprint(), "the manifest changes when it is written and read")
    return manifest


def check_importer_signature(name: str) -> None:
    """Check an importer's arguments, without its data."""
    from w3ray.data.importers import IMPORTERS

    parameters = inspect.signature(IMPORTERS[name]).parameters
    missing = [word for word in ("videos", "partial", "note") if word not in parameters]
    require(not missing, f"it must take (annotations, *, videos, partial, note); {', '.join(missing)} is missing")
