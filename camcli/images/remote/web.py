"""Objects on web servers, over HTTP: requests with the session of fsspec, so that the header of each answer is known.

Source of what headers mean: RFC 9110, HTTP Semantics.
"""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO

import aiohttp
import fsspec
import yarl
from fsspec.asyn import sync

from camcli.errors import ImageError, first_line
from camcli.images.remote.store import (
    CONNECT_SECONDS,
    MOST_SPOOLED,
    SILENT_SECONDS,
    ChangedError,
    Listed,
    NotThereError,
    Passing,
    Piece,
    RefusedError,
    WholeOnly,
    go_on,
)
from camcli.records import Stamp

_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_PASSING = frozenset({408, 425, 429})
"""Answers below 500 that may be others later."""

_REDIRECTS = 8


class Web:
    """A ``Backend`` for http and https."""

    def __init__(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        self._files = fsspec.filesystem(
            "https", skip_instance_cache=True, use_listings_cache=False, client_kwargs={"timeout": timeout, "trust_env": True}
        )

    def look(self, url: str, seconds: float) -> Piece:
        """What is at ``url``. Asks for one byte: many servers refuse HEAD, and so do addresses that are signed for reading."""
        return self._ask(url, seconds, {"Range": "bytes=0-0"}, _looked)

    def whole(self, url: str, most: int, seconds: float) -> Piece:
        """The object, if it has at most ``most`` bytes."""

        async def read(response: aiohttp.ClientResponse) -> Piece:
            stamp, size = _stamp(response, _length(response)), _length(response)
            _refuse_status(response, {200})
            if size is not None and size > most:
                return Piece(None, stamp, size)
            parts: list[bytes] = []
            count = 0
            async for chunk in response.content.iter_chunked(_CHUNK):
                parts.append(chunk)
                count += len(chunk)
                if count > most:
                    return Piece(None, stamp, size)
            if size is not None and count != size:
                raise Passing(f"the connection ended after {count:,} of {size:,} bytes")
            return Piece(b"".join(parts), stamp, size)

        end = time.monotonic() + seconds
        piece = self._ask(url, seconds, {}, read)
        if piece.data is not None:
            self._check_unchanged(url, piece, end)
        return piece

    def part(self, url: str, start: int, size: int, stamp: Stamp, seconds: float) -> Piece:
        """``size`` bytes from ``start`` on of the object with this stamp."""
        wanted = {"Range": f"bytes={start}-{start + size - 1}"}
        if stamp.version.startswith('"'):
            wanted["If-Match"] = stamp.version

        async def read(response: aiohttp.ClientResponse) -> Piece:
            if response.status in (412, 416):
                raise ChangedError
            _refuse_status(response, {200, 206})
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status == 200 or found is None or found[1] is None or _is_packed(response):
                raise WholeOnly
            if (int(found[1]), int(found[2])) != (start, start + size - 1):
                raise WholeOnly  # another part than the one that was asked for
            data = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                data += chunk
                if len(data) > size:
                    raise WholeOnly
            if len(data) < size:
                raise Passing(f"the connection ended after {len(data):,} of {size:,} bytes")
            total = None if found[3] == "*" else int(found[3])
            return Piece(bytes(data), _stamp(response, total), total)

        piece = self._ask(url, seconds, wanted, read)
        if piece.size is None:
            raise WholeOnly
        return piece

    def copy(self, url: str, file: BinaryIO, seconds: float) -> Piece:
        """Write the whole object to ``file``. Raises RefusedError if it is too large."""

        async def read(response: aiohttp.ClientResponse) -> Piece:
            size, count = _length(response), 0
            stamp = _stamp(response, size)
            _refuse_status(response, {200})
            if (size or 0) > MOST_SPOOLED:
                raise RefusedError(f"the server sends no parts of objects, and this one has {size:,} bytes: download it first")
            async for chunk in response.content.iter_chunked(1 << 20):
                count += len(chunk)
                if count > MOST_SPOOLED:
                    raise RefusedError("the server sends no parts of objects, and this one is too large: download it first")
                file.write(chunk)
                go_on()
            if size is not None and count != size:
                raise Passing(f"the connection ended after {count:,} of {size:,} bytes")
            return Piece(None, stamp, size)

        end = time.monotonic() + seconds
        piece = self._ask(url, seconds, {}, read)
        self._check_unchanged(url, piece, end)
        return piece

    def list(self, bucket: str, prefix: str) -> Iterator[Callable[[float], list[Listed]]]:
        """Raises RefusedError: a web server lists nothing."""
        raise RefusedError("a web server lists no files")

    def put(self, url: str, file: BinaryIO, size: int) -> Generator[Callable[[float], None]]:
        """Raises RefusedError: camcli writes nothing to a web server."""
        raise RefusedError("a web server cannot be written to")

    def duplicate(self, source: str, url: str, seconds: float) -> None:
        """Raises RefusedError."""
        raise RefusedError("a web server cannot be written to")

    def delete(self, url: str, seconds: float) -> None:
        """Raises RefusedError."""
        raise RefusedError("a web server cannot be written to")

    def _check_unchanged(self, url: str, piece: Piece, end: float) -> None:
        """Ask again after reading, until the clock shows ``end``: the object may have changed meanwhile.

        Not needed if the server has named this very version of the object.
        """
        if piece.stamp.version.startswith('"') or not (piece.stamp.version or piece.stamp.mtime_ns):
            return
        if self.look(url, max(1.0, end - time.monotonic())).stamp != piece.stamp:
            raise Passing("the object changed while it was read")

    def _ask(self, url: str, seconds: float, headers: dict[str, str], read: Callable[..., Any]) -> Piece:
        async def ask() -> Piece:
            session = await self._files.set_session()
            async with session.get(
                yarl.URL(url, encoded=True), headers={**headers, "Accept-Encoding": "identity"}, max_redirects=_REDIRECTS
            ) as response:
                answer: Piece = await read(response)
                if answer.data is None:
                    response.close()  # the rest is not wanted
                return answer

        try:
            return sync(self._files.loop, ask, timeout=seconds)  # type: ignore[no-any-return]
        except (Passing, ImageError, WholeOnly, MemoryError):
            raise
        except Exception as error:
            raise _in_words(error) from None


async def _looked(response: aiohttp.ClientResponse) -> Piece:
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 416:
        return Piece(None, _stamp(response, 0), 0)
    _refuse_status(response, {200, 206})
    if response.status == 206 and found is not None:
        size = None if found[3] == "*" else int(found[3])
    else:
        size = _length(response) if response.status == 200 else None
    return Piece(None, _stamp(response, size), size)


def _is_packed(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")


def _length(response: aiohttp.ClientResponse) -> int | None:
    """The number of bytes that the server announces; None if it does not, or if they are compressed on the way."""
    return None if _is_packed(response) else response.content_length


def _stamp(response: aiohttp.ClientResponse, size: int | None) -> Stamp:
    """The stamp of the object: its size, and its ETag or else the time of its last change."""
    version = response.headers.get("ETag", "").strip()
    if version:
        return Stamp(size or 0, 0, version=version[:1024])
    try:
        changed = email.utils.parsedate_to_datetime(response.headers.get("Last-Modified", ""))
        return Stamp(size or 0, int(changed.timestamp()) * 1_000_000_000)
    except (ValueError, TypeError, OverflowError):
        return Stamp(size or 0, 0)


def _refuse_status(response: aiohttp.ClientResponse, good: set[int]) -> None:
    status = response.status
    if status in good:
        return
    if status in (404, 410):
        raise NotThereError(f"there is no such object (HTTP {status})")
    if status in (401, 403):
        raise RefusedError(f"the server refuses it (HTTP {status}): no permission, or a signature in its address that has expired")
    words = f"the server answers HTTP {status} {response.reason or ''}".rstrip()
    if status in _PASSING or status >= 500:
        try:
            wait = float(response.headers.get("Retry-After", "0"))
        except ValueError:
            wait = 0.0
        raise Passing(words, max(0.0, wait) if wait == wait else 0.0)
    raise RefusedError(words)


def _in_words(error: Exception) -> Exception:
    """What an error of aiohttp means."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return Passing("no answer in time")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return RefusedError(f"the certificate of the server is not valid: {first_line(error, with_type=False)}")
    if isinstance(error, aiohttp.TooManyRedirects):
        return RefusedError("the server redirects without end")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | ValueError):
        return RefusedError(f"not a valid address: {first_line(error, with_type=False)}")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Passing("the connection ended early")
    if isinstance(error, aiohttp.ClientError | OSError):
        return Passing(f"cannot reach the server: {first_line(error, with_type=False)}")
    return RefusedError(f"cannot be read: {first_line(error)}")
