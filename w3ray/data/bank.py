"""A bank of long-term features: what a trained network sees in whole videos (Wu et al., arXiv:1812.05038).

    bank.json             written last: if it exists, the bank is finished; see `Bank`
    videos.json           the length of each video, written first
    failures.jsonl        the videos that could not be read, or not as a whole
    features/HASH.npy     float32 [S, C]: the features of one video, named by the hash of its uri

Feature i of a video is of the clip around (i + 1/2) * every_s seconds. A feature that could not be computed is nan. A
video that cannot be read has S = 0.

In a table of clips, the column `BANK_COLUMN` names the file of each clip's video.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from w3ray.data.manifest.table import folder_of
from w3ray.errors import InputError, RunError
from w3ray.storage import StorageFailing, StoragePath, StorageRefused, storage_path

BANK_COLUMN = "bank"
BANK_NAME, LENGTHS_NAME, LEDGER_NAME, FEATURES_FOLDER = "bank.json", "videos.json", "failures.jsonl", "features"
BANK_VERSION = 1
"""Increased when the same model and videos give other features than before. Part of a bank's identity."""
_OPEN_FILES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BankAbout:
    """What a network must know of a bank that it was trained with, to be used with another one."""

    model: str
    """SHA-256 of the weights of the model that made the features."""
    every_s: float
    """Seconds from one feature to the next."""
    span_s: float
    """Seconds of video that a feature is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """A finished bank, as its `bank.json` describes it."""

    folder: StoragePath
    identity: str
    about: BankAbout
    channels: int
    manifest: str
    """Fingerprint of the manifest that it was made of."""
    moments: Mapping[str, int]
    """`video_key` of a `video_name` -> number of the video's features."""
    resolved: Mapping[str, str]
    """`video_key` of a video as it could be opened when the bank was made -> the key in `moments`."""

    def file_of(self, *names: str) -> str:
        """The file of the video with the first of these names that is there, for the column `BANK_COLUMN`.

        Args:
            names: as `video_name` gives them, or as the video could be opened when the bank was made.

        Raises:
            InputError: the bank does not have this video.
        """
        for name in names:
            if (key := self._key(name)) is not None:
                return str(_file(self.folder, key))
        raise InputError(f"{self.folder}: has no features of {names[0]}; make a bank with `w3ray data bank`")

    def _key(self, name: str) -> str | None:
        key = video_key(name)
        return key if key in self.moments else self.resolved.get(key)

    def joined(self, rows: pa.Table, where: str, *, location: str = "", fingerprint: str | None = None) -> pa.Table:
        """`rows` with the column `BANK_COLUMN`.

        Args:
            rows: with the column `uri`, resolved.
            where: the manifest, for messages.
            location, fingerprint: of the manifest; none: they are no clips of a manifest. In the manifest of the bank,
                videos are known by their place beside it, wherever it lies now. In another one that would be a guess:
                two data sets may both have `train/0.mp4`. There only the same path or address is the same video.

        Raises:
            InputError: the bank does not have a video.
        """
        videos = rows["uri"].combine_chunks().dictionary_encode()
        beside = location if fingerprint == self.manifest else ""
        names = [video_name(uri, beside) for uri in videos.dictionary.to_pylist()]
        keys = [self._key(name) for name in names]
        if missing := [name for name, key in zip(names, keys, strict=True) if key is None]:
            raise InputError(
                f"{self.folder}: has no features of {len(missing)} of {len(names)} videos of {where}, such as "
                f"{missing[0]!r}; make a bank of this manifest with `w3ray data bank`"
            )
        files = pa.array([None if key is None else str(_file(self.folder, key)) for key in keys], pa.string())
        return rows.append_column(BANK_COLUMN, files.take(videos.indices))


def video_name(uri: str, location: str) -> str:
    """A name of a video that stays the same when its manifest and the videos beside it move.

    Args:
        uri: as it can be opened.
        location: of the manifest; "": there is none.

    Returns: its path in the folder of the manifest if it lies there, else its absolute path or address.
    """
    return uri.removeprefix(f"{folder_of(location)}/") if location else str(storage_path(uri))


def videos_of(tables: Iterable[pa.Table], location: str) -> dict[str, str]:
    """`video_name` -> uri of each video of these rows, in the order of its first clip."""
    uris = dict.fromkeys(uri for rows in tables for uri in rows["uri"].combine_chunks().unique().to_pylist())
    return {video_name(uri, location): uri for uri in uris}


def video_key(uri: str) -> str:
    """How a bank names a video: a hash, because an address may hold a secret key and is no file name."""
    return hashlib.sha256(uri.encode()).hexdigest()[:32]


def features_file(folder: StoragePath, uri: str) -> StoragePath:
    """Where the features of a video lie."""
    return _file(folder, video_key(uri))


def _file(folder: StoragePath, key: str) -> StoragePath:
    return folder / FEATURES_FOLDER / f"{key}.npy"


def features_bytes(features_SC: np.ndarray) -> bytes:
    """The content of a file of features."""
    content = io.BytesIO()
    np.save(content, features_SC.astype(np.float32), allow_pickle=False)
    return content.getvalue()


def read_bank(location: str) -> Bank:
    """Read a finished bank: the folder of its stage, or one that `w3ray data bank` wrote.

    Raises:
        InputError: the folder holds no finished bank, or a damaged one.
    """
    folder = storage_path(location)
    path = folder / BANK_NAME
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Bank(
            folder=folder,
            identity=str(document["identity"]),
            about=BankAbout(
                model=str(document["model"]), every_s=float(document["every_s"]), span_s=float(document["span_s"])
            ),
            channels=int(document["channels"]),
            manifest=str(document["manifest"]),
            moments={str(uri): int(count) for uri, count in document["videos"].items()},
            resolved={str(uri): str(name) for uri, name in document["resolved"].items()},
        )
    except (StorageFailing, StorageRefused):
        raise
    except OSError as error:
        raise InputError(
            f"{location}: no finished bank here ({error.strerror or error}); name the folder of a bank's stage, or one "
            "that `w3ray data bank` wrote"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a description of a bank ({error!r}); make the bank again") from error


def bank_for(name: str, about: BankAbout, channels: int, locations: Sequence[str]) -> Bank:
    """The bank that a model can read, of those that are given.

    Args:
        name: of the model, for messages.
        about: of the bank that it was trained with.
        channels: of that bank's features.
        locations: folders of banks.

    Raises:
        InputError: none is given or can be read by this model; the message says why not.
    """
    if not locations:
        raise InputError(f"{name}: needs a bank of the videos; name its folder with --bank (see `w3ray data bank`)")
    banks = [read_bank(location) for location in locations]
    of_its_model = [bank for bank in banks if bank.about.model == about.model]
    if not of_its_model:
        raise InputError(
            f"{banks[0].folder}: was made by another model than the bank that {name} was trained with; make a bank "
            "with that model (`w3ray data bank`)"
        )
    bank = next((one for one in of_its_model if one.about == about), of_its_model[0])
    for field in ("every_s", "span_s"):
        ours, theirs = getattr(about, field), getattr(bank.about, field)
        if ours != theirs:
            raise InputError(
                f"{bank.folder}: was made with {field}={theirs:g}, but {name} was trained with {field}={ours:g}"
            )
    if bank.channels != channels:
        raise InputError(f"{bank.folder}: its features have {bank.channels} channels, but {name} reads {channels}")
    return bank


def features_at(file: str, first: int, count: int) -> np.ndarray:
    """Features `first` to `first + count - 1` of a video: float32 [count, C]. Those that do not exist are nan.

    Args:
        file: from the column `BANK_COLUMN`.
        first: may be below 0.
        count: number of features.
    """
    features_SC = _features(file)
    found = np.full((count, features_SC.shape[1]), np.nan, dtype=np.float32)
    low, high = max(0, first), min(len(features_SC), first + count)
    if low < high:
        found[low - first : high - first] = features_SC[low:high]
    return found


@lru_cache(maxsize=_OPEN_FILES)
def _features(file: str) -> np.ndarray:
    """A video's features. Those of a local file stay on the disk: the processes of a node share its page cache."""
    path = storage_path(file)
    try:
        if isinstance(path, Path):
            features_SC: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            features_SC = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        if features_SC.ndim != 2 or features_SC.dtype != np.float32:
            raise ValueError(f"{features_SC.dtype} {list(features_SC.shape)}")
    except FileNotFoundError as error:
        raise RunError(f"{file}: this file of a bank is gone, or this node does not see it") from error
    except (ValueError, EOFError) as error:
        raise RunError(f"{file}: not a file of a bank's features ({error}); make the bank again") from error
    return features_SC
