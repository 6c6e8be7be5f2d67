"""Which video does a request ask about: an upload, or a file below an allowed root?"""

import asyncio
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from w3ray._address import local_path
from w3ray._text import one_line
from w3ray.data.roots import outside
from w3ray.serving.settings import Settings

_KEYS = ("path", "start_s", "end_s")
_MAX_JSON_BYTES = 64 * 2**10
_FORM_BYTES = 64 * 2**10
"""What a form may have beside its file."""


class RefusedError(Exception):
    """A request that cannot be answered.

    Args:
        status: the HTTP status code.
        reason: one line for the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, one_line(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedVideo:
    """A video, and the part of it that is asked about."""

    uri: str
    name: str
    """What the answer calls it: the path, or the file name of an upload."""
    start_s: float | None
    end_s: float | None
    roots: tuple[str, ...] | None
    """The video must be below one of them, links followed. None: it is an upload, in a file of our own."""
    upload_bytes: int = 0


@asynccontextmanager
async def asked_video(request: Request, settings: Settings) -> AsyncIterator[AskedVideo]:
    """The video of a request. An upload is a file for as long as the context lasts.

    Raises:
        RefusedError: 400 not understood, 403 outside the roots, 413 too large, 415 of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        yield _of_path(_document(await _all_of(request)), settings)
        return
    if kind != "multipart/form-data" and kind != "application/octet-stream" and not kind.startswith("video/"):
        raise RefusedError(
            415, f"Content-Type {kind or 'is absent'}: send application/json, multipart/form-data or video/*"
        )
    _check_length(request, settings)
    descriptor, path = tempfile.mkstemp(prefix="w3ray-upload-")
    os.close(descriptor)
    try:
        if kind == "multipart/form-data":
            yield await _of_form(request, settings, path)
        else:
            yield await _of_body(request, settings, path)
    finally:
        with suppress(FileNotFoundError):  # someone cleans the folder
            os.unlink(path)


def _of_path(document: Mapping[str, Any], settings: Settings) -> AskedVideo:
    path = document.get("path")
    if not isinstance(path, str) or not path or "\0" in path:
        raise RefusedError(400, 'JSON must have a "path": the path or address of a video')
    if not settings.roots:
        raise RefusedError(403, "paths are refused here: the server was started without --root; upload the video")
    if "://" not in path and not os.path.isabs(path):
        raise RefusedError(400, f"path {path!r}: must be absolute")
    # Before anything looks at the file, so that the answer does not tell which files there are.
    if outside(path, settings.roots):
        raise RefusedError(403, f"path {path!r}: outside the folders that the server was started with (--root)")
    start_s, end_s = _times(document)
    return AskedVideo(uri=local_path(path), name=path, start_s=start_s, end_s=end_s, roots=settings.roots)


async def _of_body(request: Request, settings: Settings, path: str) -> AskedVideo:
    start_s, end_s = _times(request.query_params)
    size = 0
    with open(path, "wb") as file:
        async for chunk in _limited(request, settings, settings.max_bytes):
            size += file.write(chunk)
    if size == 0:
        raise RefusedError(400, "the body is empty: send the bytes of a video")
    return AskedVideo(uri=path, name="upload", start_s=start_s, end_s=end_s, roots=None, upload_bytes=size)


async def _of_form(request: Request, settings: Settings, path: str) -> AskedVideo:
    body = _limited(request, settings, settings.max_bytes + _FORM_BYTES)
    try:
        form = await MultiPartParser(request.headers, body, max_files=1, max_fields=len(_KEYS)).parse()
    except (MultiPartException, FormParserError, KeyError, UnicodeError) as error:
        raise RefusedError(400, f"the form cannot be read: {getattr(error, 'message', error)}") from error
    try:
        return await _of_parts(form, settings, path)
    finally:
        await form.close()


async def _of_parts(form: FormData, settings: Settings, path: str) -> AskedVideo:
    files = [part for part in form.values() if isinstance(part, UploadFile)]
    fields = {name: part for name, part in form.items() if isinstance(part, str)}
    if not files or not files[0].size:
        raise RefusedError(400, "the form has no file, or an empty one; such as curl -F video=@clip.mp4")
    if unknown := sorted(set(fields) - {"start_s", "end_s"}):
        raise RefusedError(400, f"the form has an unknown field {unknown[0]!r}; known: a file, start_s, end_s")
    if files[0].size > settings.max_bytes:
        raise _too_large(settings)
    start_s, end_s = _times(fields)
    with open(path, "wb") as target:
        await asyncio.to_thread(shutil.copyfileobj, files[0].file, target)
    name = re.split(r"[/\\]", files[0].filename or "")[-1] or "upload"
    return AskedVideo(uri=path, name=name, start_s=start_s, end_s=end_s, roots=None, upload_bytes=files[0].size)


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RefusedError(400, 'the body must be a JSON object, such as {"path": "/videos/clip.mp4"}')
    if unknown := sorted(set(document) - set(_KEYS)):
        raise RefusedError(400, f"unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")
    return document


async def _all_of(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_JSON_BYTES:
            raise RefusedError(413, f"JSON of more than {_MAX_JSON_BYTES // 2**10} KiB")
    return body


async def _limited(request: Request, settings: Settings, limit: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(settings)
        yield chunk


def _check_length(request: Request, settings: Settings) -> None:
    """Refuse by what the client says, before it sends the bytes."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > settings.max_bytes + _FORM_BYTES:
        raise _too_large(settings)


def _too_large(settings: Settings) -> RefusedError:
    return RefusedError(413, f"the upload has more than {settings.max_mib:g} MiB (--max-mib)")


def _times(given: Mapping[str, Any]) -> tuple[float | None, float | None]:
    start_s, end_s = (_seconds(name, given.get(name)) for name in ("start_s", "end_s"))
    if end_s is not None and end_s <= (start_s or 0.0):
        raise RefusedError(400, f"end_s {end_s:g}: must be after start_s")
    return start_s, end_s


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise RefusedError(400, f"{name} must be a number of seconds of at least 0, not {value!r}")
    return seconds
