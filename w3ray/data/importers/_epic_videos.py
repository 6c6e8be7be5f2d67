"""Where are the videos of EPIC-KITCHENS, or the folders of their frames, and which part of each is a segment?"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from w3ray.data.decoders._common import DecodeError
from w3ray.data.decoders.frames import FrameNames, whole_frame_names
from w3ray.data.importers._common import Clip
from w3ray.data.importers._epic import ROUNDING_S, Segment, Version, shown_names
from w3ray.data.importers._published import Note, video_uri
from w3ray.data.manifest import FOLDER_FPS
from w3ray.errors import InputError
from w3ray.storage import is_remote

_FRAMES_PER_S = 60

_LOOKS_AT_ONCE = 16

# Below the folder of videos. EPIC-KITCHENS-55 came with the folders `train` and `test`; the later downloader sorts the
# videos of both data sets by participant.
_VIDEO_PLACES = (
    *("{part}/{participant}/{video}", "videos/{part}/{participant}/{video}"),
    *("{participant}/videos/{video}", "{participant}/{video}", "{video}"),
)

_VIDEO_ENDINGS = (".MP4", ".mp4")

_FRAME_PLACES = (
    *("{part}/{participant}/{video}", "rgb/{part}/{participant}/{video}"),
    *("frames_rgb_flow/rgb/{part}/{participant}/{video}", "{participant}/rgb_frames/{video}"),
    *("rgb_frames/{participant}/{video}", "{participant}/{video}", "{video}"),
)

_PARTS = ("train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A video, or the folder of its frames."""

    path: str
    uri: str
    frames: FrameNames | None = None
    """The frames of a folder that was read."""
    is_folder: bool = False
    is_there: bool = True


def placed_videos(videos: str, parts: Mapping[str, str], version: Version, note: Note) -> tuple[str, dict[str, Placed]]:
    """The base of the paths, and where each video is below it.

    Args:
        videos: a folder, in which all places of the known distributions are tried; an address, which is not searched;
            or a pattern such as `s3://bucket/rgb/{participant}/{video}` (`{part}` is train or test). A pattern without
            an extension names folders of frames.
        parts: for each video the part of the distribution that has it, or "" if it may be either.

    Raises:
        InputError: no such folder, an invalid pattern, or the folder holds both videos and folders of frames.
    """
    base = videos
    files: Sequence[str] = ()
    folders: Sequence[str] = ()
    if "{" in videos:
        base, _, rest = videos.partition("{")
        base, _, begin = base.rpartition("/")
        pattern = [f"{begin}{{{rest}"]
        files, folders = (pattern, []) if os.path.splitext(videos)[1] else ([], pattern)
    elif is_remote(videos):
        files = [version.remote_place]
    else:
        files = [f"{place}{ending}" for ending in _VIDEO_ENDINGS for place in _VIDEO_PLACES]
        folders = _FRAME_PLACES
    wanted = {video: (_paths(files, video, part), _paths(folders, video, part)) for video, part in parts.items()}
    if is_remote(base):
        placed = {
            video: Placed(path=(names or others)[0], uri=video_uri(base, (names or others)[0]), is_folder=not names)
            for video, (names, others) in wanted.items()
        }
        note(f"{base}: videos are expected at {(files or folders)[0]}")
        return base, placed
    if not os.path.isdir(base):
        raise InputError(f"{os.path.abspath(base)}: no such folder; give the folder of the videos or frames")
    return base, _found(base, wanted, note)


def clips_of(found: Sequence[Segment], placed: Mapping[str, Placed], note: Note) -> list[tuple[int, Clip]]:
    """The clips of segments, without a split; the group is the participant."""
    clips, cut = [], []
    for segment in found:
        place = placed[segment.video]
        start_s, end_s = segment.start_s, segment.stop_s
        if place.is_folder:
            first = 1 if place.frames is None else place.frames.first
            start, stop = segment.start_frame - first, segment.stop_frame + 1 - first
            if place.frames is not None and 0 < stop - place.frames.num_frames <= ROUNDING_S * _FRAMES_PER_S:
                stop = place.frames.num_frames
                cut.append(segment.name)
            start_s, end_s = start / FOLDER_FPS, stop / FOLDER_FPS
        clip = Clip(
            path=place.path, uri=place.uri, group=segment.participant, start_s=start_s, end_s=end_s, name=segment.name,
            labels=segment.labels or (),
        )  # fmt: skip
        clips.append((segment.line, clip))
    if cut:
        note(
            f"{found[0].file}: {shown_names(cut)}: ends a few frames after the last frame of its video and is cut there"
        )
    return clips


def is_whole(placed: Mapping[str, Placed]) -> Callable[[Clip], bool]:
    """A function that tells whether a clip's video exists and, for a folder of frames, has all frames of the clip."""
    by_path = {place.path: place for place in placed.values()}

    def answer(clip: Clip) -> bool:
        place = by_path[clip.path]
        if not place.is_there or not place.is_folder or place.frames is None or clip.end_s is None:
            return place.is_there
        return round(clip.end_s * FOLDER_FPS) <= place.frames.num_frames

    return answer


def _paths(patterns: Sequence[str], video: str, part: str) -> list[str]:
    """The possible paths of a video, the most likely first."""
    found = []
    for pattern in patterns:
        try:
            found += [
                pattern.format(part=known, participant=video.partition("_")[0], video=video)
                for known in ((part,) if part else _PARTS)
            ]
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"{pattern}: a pattern may have only {{video}}, {{participant}} and {{part}} in braces"
            ) from error
    return list(dict.fromkeys(found))


def _found(base: str, wanted: Mapping[str, tuple[list[str], list[str]]], note: Note) -> dict[str, Placed]:
    """Where each video is; a missing video gets its most likely path and `is_there=False`."""

    def look(paths: tuple[list[str], list[str]]) -> tuple[str | None, str | None]:
        files, folders = paths
        return (
            next((path for path in files if _has_content(os.path.join(base, path))), None),
            next((path for path in folders if os.path.isdir(os.path.join(base, path))), None),
        )

    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        answers = dict(zip(wanted, pool.map(look, wanted.values()), strict=True))
    both = [next((video for video, answer in answers.items() if answer[kind]), None) for kind in (0, 1)]
    if both[0] and both[1]:
        raise InputError(
            f"{os.path.abspath(base)}: holds both videos ({answers[both[0]][0]}) and folders of frames "
            f"({answers[both[1]][1]}); give the folder that holds one of them, or a pattern with {{video}}"
        )
    is_folder = both[1] is not None
    placed = {}
    for video, answer in answers.items():
        likeliest = (wanted[video][is_folder] or wanted[video][not is_folder])[0]
        path = answer[is_folder]
        placed[video] = Placed(
            path=path or likeliest, uri=video_uri(base, path or likeliest), is_folder=is_folder, is_there=bool(path)
        )
    if missing := [video for video, place in placed.items() if not place.is_there]:
        note(f"{os.path.abspath(base)}: {len(missing)} of {len(placed)} videos are not there: {shown_names(missing)}")
    return _with_frames(placed, note) if is_folder else placed


def _with_frames(placed: Mapping[str, Placed], note: Note) -> dict[str, Placed]:
    """Add the frames of each folder; a note names folders that cannot be used."""

    def look(place: Placed) -> FrameNames | DecodeError | None:
        try:
            return whole_frame_names(place.uri) if place.is_there else None
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        answers = dict(zip(placed, pool.map(look, placed.values()), strict=True))
    for video, answer in answers.items():
        if isinstance(answer, DecodeError):
            note(f"{placed[video].uri}: cannot be used: {answer.reason}")
    return {
        video: replace(place, frames=answer)
        if isinstance(answer := answers[video], FrameNames)
        else replace(place, is_there=False)
        for video, place in placed.items()
    }


def _has_content(path: str) -> bool:
    try:
        return os.path.isfile(path) and os.stat(path).st_size > 0
    except OSError:
        return False
