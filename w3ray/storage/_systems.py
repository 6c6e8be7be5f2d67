"""Which file system does a remote address belong to, and to which path in it does the address point?"""

import os
from functools import lru_cache
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.fs as pafs

from w3ray.errors import InputError
from w3ray.storage.errors import StorageRefused, first_line, reason_of

_S3_OPTIONS = ("region", "scheme", "endpoint_override")
_CONNECT_TIMEOUT_S, _REQUEST_TIMEOUT_S = 5.0, 10.0  # the request timeout counts seconds without a single byte


def is_remote(location: str) -> bool:
    return "://" in location and not location.startswith("file://")


def root_of(uri: str) -> str:
    """`s3://bucket` of `s3://bucket/folder/file`."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def options_of(uri: str, query: str) -> str:
    """The part of an address's query that is for the file system: all of it, or, over HTTP, none of it."""
    return "" if uri.startswith(("http://", "https://")) else query


def inner_path(uri: str, query: str) -> str:
    root, options = root_of(uri), options_of(uri, query)
    base, rest = inner(root, options)[1].rstrip("/"), uri[len(root) :].strip("/")
    path = f"{base}/{rest}" if rest else base
    return f"{path}?{query}" if query and not options else path


@lru_cache(maxsize=64)
def inner(root: str, query: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `s3://bucket` without our retries, made once in each process, and the path of its root."""
    if root.startswith("s3://"):
        return _s3(root, query), root.removeprefix("s3://")
    location = f"{root}?{query}" if query else root
    try:
        filesystem, path = pafs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec

        try:
            found, path = fsspec.core.url_to_fs(location)
        except (ValueError, ImportError) as error:
            raise InputError(f"{location}: no file system for this address ({first_line(error)})") from error
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(found))
    return filesystem, path


def _s3(root: str, query: str) -> pafs.FileSystem:
    """An S3 file system. Options missing from the address come from the environment variables of the AWS clients."""
    options = dict(parse_qsl(query))
    if unknown := sorted(set(options) - set(_S3_OPTIONS)):
        raise InputError(f"{root}: unknown option {unknown[0]!r} in the address; known: {', '.join(_S3_OPTIONS)}")
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    scheme, separator, host = endpoint.partition("://")
    if endpoint and not separator:
        raise InputError(f"AWS_ENDPOINT_URL={endpoint}: must begin with http:// or https://")
    region = options.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    host = options.get("endpoint_override", host).rstrip("/")
    if region is None and not host:
        try:
            region = pafs.resolve_s3_region(root.removeprefix("s3://"))
        except OSError as error:
            raise StorageRefused(f"{root}: cannot find its region ({reason_of(error)}); set AWS_REGION") from error
    return pafs.S3FileSystem(
        region=region,
        endpoint_override=host or None,
        scheme=options.get("scheme", scheme) or "https",
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
        allow_delayed_open=True,  # a small file is one request
    )
