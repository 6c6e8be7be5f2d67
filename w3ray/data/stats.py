"""What is in a manifest? Clips and classes of each split; lengths, frame rates, sizes and codecs of its videos.

Rows are counted by columns, however many there are. Only the header and the first frame of a video are read. If there
are more videos than a limit, only some of them are read, drawn at random.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray.data.decoders import DecodeError
from w3ray.data.decoders._common import kind_of_reason
from w3ray.data.decoders.probe import VideoHeader, probe_video
from w3ray.data.manifest import Manifest, known_labels
from w3ray.data.roots import check_roots
from w3ray.heads import UNLABELLED, Heads

MAX_VIDEOS = 1000

_Found = dict[str, VideoHeader | DecodeError]


def manifest_stats(
    manifest: Manifest,
    *,
    max_videos: int = MAX_VIDEOS,
    seed: int = 0,
    roots: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Count a manifest's rows and look into its videos, in a pool of threads.

    Args:
        manifest: the clips.
        max_videos: look into at most so many videos. Each split gets its share of them, at least one.
        seed: decides which videos are drawn if there are more.
        roots: where videos may lie; None: anywhere.
        progress: called with the number of videos read and of videos to read.

    Returns:
        A document of plain values: `videos`, `videos_read`, `sampled`, and in `splits` for each split its clips, its
        classes and the figures of its videos. Lengths are seconds of clips; the other figures are of videos.

    Raises:
        InputError: a video lies outside the roots.
        StorageFailing, StorageRefused.
    """
    check_roots(manifest, roots)
    rows = {name: manifest.table.filter(pc.equal(manifest.table["split"], name)) for name in manifest.splits()}
    videos = {name: pc.unique(manifest.resolved(table["uri"])) for name, table in rows.items()}
    num_videos = len(pc.unique(pa.concat_arrays(list(videos.values()))))
    sampled = num_videos > max_videos
    chosen = {name: _draw(uris, max_videos, num_videos, seed) if sampled else uris for name, uris in videos.items()}
    found = _probe(
        [str(uri) for uri in pc.unique(pa.concat_arrays(list(chosen.values()))).to_pylist()], roots, progress
    )
    return {
        "manifest": manifest.location,
        "clips": manifest.table.num_rows,
        "classes": manifest.num_classes,
        "heads": dict(manifest.head_sizes),
        "multi_label": manifest.heads.multi_label,
        "videos": num_videos,
        "videos_read": len(found),
        "sampled": sampled,
        "splits": {
            name: {
                "clips": table.num_rows,
                "videos": len(videos[name]),
                "classes": _classes(manifest.heads, table),
                "length_s": _lengths(manifest, table, found),
                **_videos([found[uri] for uri in chosen[name].to_pylist()]),
            }
            for name, table in rows.items()
        },
    }


def _draw(uris: pa.Array, max_videos: int, num_videos: int, seed: int) -> pa.Array:
    share = max(1, max_videos * len(uris) // num_videos)
    return uris.take(np.sort(np.random.default_rng(seed).choice(len(uris), share, replace=False)))


def _probe(uris: list[str], roots: Sequence[str] | None, progress: Callable[[int, int], None] | None) -> _Found:
    def probe(uri: str) -> VideoHeader | DecodeError:
        try:
            return probe_video(uri, roots)
        except DecodeError as error:
            return error

    # Most of the time is spent waiting for a disk or a network. FFmpeg itself works without Python's lock.
    with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
        reading = {pool.submit(probe, uri): uri for uri in uris}
        found: _Found = {}
        try:
            for future in as_completed(reading):
                found[reading[future]] = future.result()
                if progress is not None:
                    progress(len(found), len(uris))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _classes(heads: Heads, table: pa.Table) -> dict[str, Any]:
    """`imbalance` is the size of the largest class divided by that of the smallest class with a clip. `majority` is the
    share of clips in the largest class, which is the accuracy of guessing. Both are None if no clip has a label. With
    several heads these are figures of their combinations (`absent` is empty then, because most combinations never
    occur), and `heads` has the figures of each head. A multi-label clip is counted in each of its classes; `majority`
    is the share of the clips that have the largest class, `labels_per_clip` is the mean number of classes, and
    `no_class` counts clips without one."""
    labels = known_labels(table)
    known = labels[labels != UNLABELLED]
    if heads.multi_label:
        return {**_sets(heads, known), "unlabelled": int((labels == UNLABELLED).sum())}
    found, clips = np.unique(known, return_counts=True)
    names = [heads.class_name(label) for label in found.tolist()]
    document = _balance(names, clips, () if heads.several else heads.classes)
    document["unlabelled"] = int((labels == UNLABELLED).sum())
    if heads.several:
        document["heads"] = {}
        for head in heads.each():
            own = np.bincount(head.label(known), minlength=len(head.classes))
            present = np.flatnonzero(own)
            names = [head.classes[label] for label in present]
            document["heads"][head.name] = _balance(names, own[present], head.classes)
    return document


def _sets(heads: Heads, known: np.ndarray) -> dict[str, Any]:
    clips_K = np.array(heads.clips_of_classes(np.bincount(known, minlength=heads.num_labels).tolist()))
    present = np.flatnonzero(clips_K)
    document = _balance([heads.classes[label] for label in present], clips_K[present], heads.classes)
    empty = [label for label, classes in enumerate(heads.label_sets or ()) if not classes]
    if len(present):
        document["majority"] = float(clips_K.max() / len(known))
    document["labels_per_clip"] = float(clips_K.sum() / len(known)) if len(known) else None
    document["no_class"] = int(np.isin(known, empty).sum())
    return document


def _balance(names: Sequence[str], clips: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    order = np.argsort(-clips, kind="stable")
    absent = sorted(set(classes) - set(names), key=classes.index)
    if not len(names):
        nothing = dict.fromkeys(("imbalance", "majority", "largest", "smallest"))
        return {"present": 0, **nothing, "absent": absent, "clips": dict.fromkeys(absent, 0)}
    return {
        "present": len(names),
        "imbalance": float(clips.max() / clips.min()),
        "majority": float(clips.max() / clips.sum()),
        "largest": names[order[0]],
        "smallest": names[order[-1]],
        "absent": absent,
        "clips": {names[place]: int(clips[place]) for place in order} | dict.fromkeys(absent, 0),
    }


def _lengths(manifest: Manifest, table: pa.Table, found: _Found) -> dict[str, Any]:
    """Lengths of the clips whose end the manifest gives, or whose video was read and has a duration.

    `total` is an estimate if not all are `known`.
    """
    video_s = {uri: one.duration_s for uri, one in found.items() if isinstance(one, VideoHeader) and one.duration_s}
    uris = manifest.resolved(table["uri"])
    place = pc.index_in(uris, pa.array(list(video_s), pa.string()))
    ends_s = pa.array(list(video_s.values()), pa.float64()).take(place.combine_chunks())
    starts_s = pc.fill_null(table["start_s"], 0.0)
    # `min_element_wise` skips what is null: a clip whose video is unknown ends where the manifest says.
    stops_s = pc.min_element_wise(table["end_s"], pa.chunked_array([ends_s]))
    lengths = pc.subtract(stops_s, starts_s).drop_null().to_numpy()
    spread = _spread(lengths[lengths > 0])
    return {"known": len(lengths), **spread, "total": (spread["mean"] or 0.0) * table.num_rows}


def _videos(found: list[VideoHeader | DecodeError]) -> dict[str, Any]:
    read = [one for one in found if isinstance(one, VideoHeader)]
    reasons = Counter(kind_of_reason(one.reason) for one in found if isinstance(one, DecodeError))
    return {
        "videos_read": len(found),
        "unreadable": sum(reasons.values()),
        "reasons": dict(reasons.most_common()),
        "fps": {
            **_spread(np.array([one.fps for one in read if one.fps is not None])),
            "videos": _counts(f"{one.fps:.3g}" if one.fps is not None else "unknown" for one in read),
        },
        "short_side": _spread(np.array([min(one.height, one.width) for one in read])),
        "sizes": _counts(f"{one.width}x{one.height}" for one in read),
        "codecs": _counts(one.codec for one in read),
    }


def _spread(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"min": None, "median": None, "mean": None, "max": None}
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "max": float(values.max()),
    }


def _counts(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common())
