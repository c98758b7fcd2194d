"""Objects in any other store that fsspec can read or write, such as gs://, abfs:// and hf://, by its general methods.

A store is asked what it has before and after each read, so that bytes of two versions are never mixed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, BinaryIO

from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import url_to_fs

from camcli.errors import ImageError, first_line
from camcli.images.remote.store import PIECE, ChangedError, Listed, NotThereError, Passing, Piece, RefusedError
from camcli.records import Stamp

_VERSIONS = ("etag", "ETag", "e_tag", "generation", "md5Hash", "content_md5", "blob_id", "sha", "sha256", "version_id")
"""Keys under which stores say which version of an object they have, the best first."""

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


class Other:
    """A ``Backend`` for the store of ``url``. Raises ImportError if its package is missing, ValueError for an unknown protocol."""

    def __init__(self, url: str) -> None:
        self._files, _ = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        self._protocol = url.partition("://")[0]

    def look(self, url: str, seconds: float) -> Piece:
        """What is at ``url``."""
        found = self._ask("info", seconds, self._path(url))
        if found.get("type") == "directory":
            raise NotThereError
        size = found.get("size")
        return Piece(None, _stamp(found), size if isinstance(size, int) else None)

    def whole(self, url: str, most: int, seconds: float) -> Piece:
        """The object, if it has at most ``most`` bytes."""
        before = self._ask("info", seconds, self._path(url))
        if before.get("type") == "directory":
            raise NotThereError
        stamp = _stamp(before)
        if stamp.size > most:
            return Piece(None, stamp, stamp.size)
        data = self._ask("cat_file", seconds, self._path(url))
        if len(data) != stamp.size or self.look(url, seconds).stamp != stamp:
            raise Passing("the object changed while it was read, or was cut off")
        if (digest := _md5(before)) and hashlib.md5(data, usedforsecurity=False).digest() != digest:
            raise Passing("the bytes do not match their checksum")
        return Piece(data, stamp, stamp.size)

    def part(self, url: str, start: int, size: int, stamp: Stamp, seconds: float) -> Piece:
        """``size`` bytes from ``start`` on of the object with this stamp."""
        data = self._ask("cat_file", seconds, self._path(url), start=start, end=start + size)
        if (now := self.look(url, seconds).stamp) != stamp:
            raise ChangedError
        if len(data) != size:
            raise Passing(f"the connection ended after {len(data):,} of {size:,} bytes")
        return Piece(data, now, now.size)

    def copy(self, url: str, file: BinaryIO, seconds: float) -> Piece:
        """Not needed, as parts are read. Raises RefusedError."""
        raise RefusedError("the store sends no parts of objects")

    def list(self, bucket: str, prefix: str) -> Iterator[Callable[[float], list[Listed]]]:
        """Yield a function that returns the objects whose keys begin with ``prefix``."""
        top = self._path(f"{self._protocol}://{bucket}/")

        def page(seconds: float) -> list[Listed]:
            try:
                found = self._ask("find", seconds, self._path(f"{self._protocol}://{bucket}/{prefix}"), detail=True)
            except NotThereError:
                return []
            keys = {path.removeprefix(top).lstrip("/"): info for path, info in found.items() if info.get("type") != "directory"}
            return [Listed(key, _stamp(info)) for key, info in keys.items() if key.startswith(prefix)]

        yield page

    def put(self, url: str, file: BinaryIO, size: int) -> Generator[Callable[[float], None]]:
        """Yield a function that writes ``file`` to ``url``."""

        def write(seconds: float) -> None:
            file.seek(0)
            if size <= PIECE:
                self._ask("pipe_file", seconds, self._path(url), file.read())
                return
            try:
                with self._files.open(self._path(url), "wb", block_size=PIECE) as target:
                    shutil.copyfileobj(file, target, PIECE)
            except Exception as error:
                raise _in_words(error) from None

        yield write

    def duplicate(self, source: str, url: str, seconds: float) -> None:
        """Copy an object inside the store; by way of this machine if the store cannot do that."""
        try:
            self._ask("cp_file", seconds, self._path(source), self._path(url))
        except RefusedError:
            self._ask("pipe_file", seconds, self._path(url), self._ask("cat_file", seconds, self._path(source)))

    def delete(self, url: str, seconds: float) -> None:
        """Delete the object at ``url``."""
        self._ask("rm_file", seconds, self._path(url))

    def _path(self, url: str) -> str:
        return str(self._files._strip_protocol(url))

    def _ask(self, name: str, seconds: float, *values: Any, **named: Any) -> Any:
        try:
            if isinstance(self._files, AsyncFileSystem):
                return sync(self._files.loop, getattr(self._files, f"_{name}"), *values, timeout=seconds, **named)
            return getattr(self._files, name)(*values, **named)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            raise _in_words(error) from None


def _stamp(found: Mapping[str, Any]) -> Stamp:
    size = found.get("size")
    version = next((str(found[key]) for key in _VERSIONS if found.get(key)), "")
    changed = next((found[key] for key in _TIMES if found.get(key)), None) if not version else None
    version = version or ("" if changed is None else str(changed))
    return Stamp(size if isinstance(size, int) and size >= 0 else 0, 0, version=version[:1024])


def _md5(found: Mapping[str, Any]) -> bytes:
    """The MD5 that the store says the object has; empty if it says none."""
    try:
        digest = base64.b64decode(str(found.get("md5Hash") or ""), validate=True)
    except (binascii.Error, ValueError):
        return b""
    return digest if len(digest) == 16 else b""


def _in_words(error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError):
        return NotThereError()
    status = next((value for key in ("code", "status", "status_code") if isinstance(value := getattr(error, key, None), int)), 0)
    words = first_line(error)
    if status in (404, 410):
        return NotThereError()
    if isinstance(error, PermissionError) or (400 <= status < 500 and status not in (408, 429)):
        return RefusedError(f"the store refuses it: {words}")
    if isinstance(error, ValueError | TypeError | NotImplementedError | AttributeError | IsADirectoryError):
        return RefusedError(f"cannot be read: {words}")
    return Passing(f"the store does not answer as it should: {words}")
