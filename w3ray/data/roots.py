"""Are the videos of a manifest in allowed places? A manifest may come from anyone, and may name any file.

Roots are folders of this machine or addresses such as `s3://bucket/clips`. There are two checks. Before anything
starts, `check_roots` checks every row by the text of its uri. When a local file is opened, `outside` checks where it
really is: a link inside a root may lead out of the root, and may change at any time.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from w3ray._address import local_path
from w3ray.data.manifest import Manifest
from w3ray.errors import InputError

# Parts of a path below a root that need a closer look: `.` and `..`, empty names, escapes, queries, chained addresses.
_ODD = r"(^|/)\.{0,2}(/|$)|[%\\?#]|::"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_DECODINGS = 3


@dataclass(frozen=True, slots=True)
class _Root:
    scheme: str
    """Lower case; "" for a folder of this machine."""
    path: str
    """Without a slash at its end."""
    query: str = ""


def check_roots(manifest: Manifest, roots: Sequence[str] | None) -> None:
    """Refuse a manifest with a video outside `roots` (None: every place is allowed).

    Nearly all rows are plainly below a root. These are not checked one by one.

    Raises:
        InputError: a video is outside; the message names the first such clip, and how many there are.
    """
    if roots is None:
        return
    known = _roots(roots)
    uris = _resolved(manifest)
    plain = pa.repeat(pa.scalar(False), len(uris))
    for root in known:
        prefix = f"{root.scheme}://{root.path}/" if root.scheme else f"{root.path.rstrip('/')}/"
        rest = pc.utf8_slice_codeunits(uris, start=len(prefix))
        odd = pc.match_substring_regex(rest, _ODD)
        plain = pc.or_(plain, pc.and_(pc.starts_with(uris, prefix), pc.invert(odd)))
    left = pc.indices_nonzero(pc.invert(plain))
    offending = [
        int(row)
        for row, uri in zip(left.to_pylist(), uris.take(left).to_pylist(), strict=True)
        if not _inside(uri, known)
    ]
    if offending:
        first = offending[0]
        raise InputError(
            f"manifest {manifest.location}: {len(offending)} of {len(uris)} videos lie outside the roots "
            f"{', '.join(roots)}; first {uris[first].as_py()} of clip {manifest.table['clip_id'][first].as_py()!r}; "
            "add its folder to data.roots, or leave the clip out"
        )


def outside(uri: str, roots: Sequence[str] | None) -> bool:
    """Whether a video that is about to be opened lies outside `roots`, links followed."""
    if roots is None:
        return False
    known = _roots(roots)
    if not _inside(uri, known):
        return True
    path = _local(uri)
    return path is not None and not _below_any(os.path.realpath(path), known)


def _resolved(manifest: Manifest) -> pa.Array:
    """`Manifest.resolve` of all rows at once."""
    uris = manifest.table["uri"].combine_chunks()
    if isinstance(uris, pa.ChunkedArray):
        uris = pa.concat_arrays(uris.chunks)
    absolute = pc.or_(pc.match_substring(uris, "://"), pc.starts_with(uris, "/"))
    folder = manifest.location.rpartition("/")[0]
    return pc.if_else(absolute, uris, pc.binary_join_element_wise(folder, uris, "/"))


def _roots(roots: Sequence[str]) -> list[_Root]:
    known = []
    for text in roots:
        path = _local(text)
        if path is not None:
            # As it is written, and where it really is: a root may itself be reached through a link.
            known += [_Root("", kind) for kind in dict.fromkeys((path, os.path.realpath(path)))]
            continue
        scheme, rest = _split(text)
        place, _, query = rest.partition("?")
        if not place.strip("/") or re.search(_ODD, place.strip("/")):
            raise InputError(f"data.roots: {text}: not a plain address; write a folder, or s3://bucket/folder")
        known.append(_Root(scheme, place.rstrip("/"), query))
    return known


def _split(uri: str) -> tuple[str, str]:
    match = _SCHEME.fullmatch(uri)
    return (match[1].lower(), match[2]) if match else ("", uri)


def _local(uri: str) -> str | None:
    """The path that decoders open for a uri; None for a uri of another machine."""
    scheme, rest = ("", local_path(uri)) if uri.startswith("file://") else _split(uri)
    return os.path.abspath(rest) if scheme in ("", "file") and "://" not in rest else None


def _inside(uri: str, roots: Sequence[_Root]) -> bool:
    """Whether a uri is below a root, both with its escapes as they are and with the escapes resolved."""
    path = _local(uri)
    if path is not None:
        return "\0" not in path and _below_any(path, roots)
    scheme, rest = _split(uri)
    place, _, query = rest.partition("?")
    if "::" in rest or "\\" in rest or "#" in rest:
        return False
    for root in roots:
        # A query may name another server (`endpoint_override`); in a web address it is a part of the name.
        if root.scheme != scheme or (query != root.query and scheme not in ("http", "https")):
            continue
        readings = [place]
        for _ in range(_DECODINGS):
            readings.append(unquote(readings[-1]))
        if readings[-1] == readings[-2] and all(_plainly_below(reading, root.path) for reading in readings):
            return True
    return False


def _plainly_below(place: str, root: str) -> bool:
    rest = place.removeprefix(f"{root}/")
    return rest != place and not {"", ".", ".."} & set(rest.split("/")) and "\\" not in rest


def _below_any(path: str, roots: Sequence[_Root]) -> bool:
    return any(not root.scheme and path.startswith(f"{root.path.rstrip('/')}/") for root in roots)
