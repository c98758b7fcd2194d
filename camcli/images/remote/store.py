"""Reading from a store, and writing to it, with patience: tries again what is passing, gives up what is not, and ends in any case.

Each process has a store of its own for each protocol, made when it is first read from: the event loop of fsspec does not survive a
fork, and nothing with credentials is ever sent to another process.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar

from camcli.addresses import masked
from camcli.errors import ConfigError, ImageError
from camcli.images.remote.addresses import WEB
from camcli.records import Stamp, escape_name

T = TypeVar("T")

TRIES = 5
"""How often something is asked at most, if what fails may pass: no answer, a broken connection, an overloaded server."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds before the second try, which double with each further one, up to the other number; the half of each is chance."""

CONNECT_SECONDS, SILENT_SECONDS = 10.0, 30.0
"""Seconds for a connection, and without a byte, after which a try has failed."""

WHOLE_SECONDS, SLOWEST = 60.0, 1 << 18
"""All tries of a read end after so many seconds, and one more for so many bytes."""

AT_ONCE = 8 << 20
"""Objects up to this size in bytes are read in one piece, larger ones in pieces of at most this size."""

MOST_SPOOLED = 16 << 30
"""Maximum size in bytes of an object that is copied to a temporary file, because its server sends no parts of it."""

_GIVE_UP_AFTER = 8
"""After so many reads in a row that failed in all their tries, each further one is tried once, until one succeeds."""

PIECE = 64 << 20
"""Files up to this size in bytes are written in one piece, larger ones in pieces of at least this size."""

on_progress: list[Callable[[], None]] = []
"""Functions that are called after each answer, so that whoever waits knows that it goes on."""


class Passing(Exception):  # noqa: N818 - what failed may pass: it is tried again
    """Something failed that may succeed later. ``wait``: seconds that the server asks for."""

    def __init__(self, words: str, wait: float = 0.0) -> None:
        super().__init__(words)
        self.wait = wait


class WholeOnly(Exception):  # noqa: N818 - an answer
    """The server does not send parts of objects."""


class NotThereError(ImageError):
    """There is no such object."""

    def __init__(self, words: str = "there is no such object") -> None:
        super().__init__("read", words)


class RefusedError(ImageError):
    """The store does not give the object: no permission, no credentials, or something that trying again does not change."""

    def __init__(self, words: str) -> None:
        super().__init__("read", words)


class ChangedError(ImageError):
    """The object is not the one that was listed, or changed while it was read."""

    def __init__(self) -> None:
        super().__init__("read", "the object has changed since it was listed; the next run tries again")


@dataclass(frozen=True, slots=True)
class Piece:
    """What a store has answered. ``data``: the bytes that were asked for; None if there are more than wanted.

    ``stamp``: of the whole object these bytes are from. ``size``: its size; None if the server does not say it.
    """

    data: bytes | None
    stamp: Stamp
    size: int | None


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing. ``key``: below the bucket."""

    key: str
    stamp: Stamp


class Backend(Protocol):
    """A kind of store. All methods raise Passing or ImageError; each asks once and takes at most ``seconds``."""

    def look(self, url: str, seconds: float) -> Piece:
        """What is at ``url``, without data."""

    def whole(self, url: str, most: int, seconds: float) -> Piece:
        """The object, if it has at most ``most`` bytes."""

    def part(self, url: str, start: int, size: int, stamp: Stamp, seconds: float) -> Piece:
        """``size`` bytes from ``start`` on of the object that has this stamp. Raises WholeOnly and ChangedError."""

    def copy(self, url: str, file: BinaryIO, seconds: float) -> Piece:
        """Write the whole object to ``file``."""

    def list(self, bucket: str, prefix: str) -> Iterator[Callable[[float], list[Listed]]]:
        """Yield functions that return a page of the objects whose keys begin with ``prefix``."""

    def put(self, url: str, file: BinaryIO, size: int) -> Generator[Callable[[float], None]]:
        """Yield functions that together write ``file``, which has ``size`` bytes, as the object at ``url``.

        Each may be called again after Passing. The object is replaced by the last one, as a whole.
        """

    def duplicate(self, source: str, url: str, seconds: float) -> None:
        """Copy the object at ``source`` to ``url`` inside the store. Both are in the same bucket."""

    def delete(self, url: str, seconds: float) -> None:
        """Delete the object at ``url``."""


class Store:
    """The objects of one protocol as this process reads and writes them. Used by several threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._failed = 0
        self._spools: OrderedDict[str, tuple[int, Stamp]] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, url: str) -> Piece:
        """What is at ``url``, without data. Raises ImageError (``read``)."""
        return self._patiently(lambda seconds: self._backend.look(url, seconds), WHOLE_SECONDS)

    def whole(self, url: str, *, most: int | None = None, expected: int | None = None) -> Piece:
        """The object, if it has at most ``most`` bytes, AT_ONCE by default. ``expected``: its size if it is known.

        Raises ImageError (``read``).
        """
        limit = AT_ONCE if most is None else most
        seconds = WHOLE_SECONDS + (limit if expected is None else expected) / SLOWEST
        return self._patiently(lambda left: self._backend.whole(url, limit, left), seconds)

    def part(self, url: str, start: int, size: int, stamp: Stamp) -> bytes:
        """``size`` bytes from ``start`` on of the object with this stamp. Raises ImageError (``read``), also if it has changed."""
        if url not in self._spools:
            try:
                piece = self._patiently(
                    lambda seconds: self._backend.part(url, start, size, stamp, seconds), WHOLE_SECONDS + size / SLOWEST
                )
                if piece.stamp != stamp:
                    raise ChangedError
                return piece.data or b""
            except WholeOnly:
                pass
        handle, known = self._spool(url, stamp.size)
        try:
            if known != stamp:
                raise ChangedError
            return os.pread(handle, size, start)
        finally:
            os.close(handle)

    def whole_file(self, url: str) -> tuple[int, Stamp]:
        """A temporary copy of an object whose server does not say its size: an open file, and its stamp. Raises ImageError."""
        return self._spool(url, 0)

    def list(self, bucket: str, prefix: str) -> Iterator[Listed]:
        """Yield the objects whose keys begin with ``prefix``. Raises ImageError (``read``)."""
        for page in self._backend.list(bucket, prefix):
            yield from self._patiently(page, WHOLE_SECONDS)

    def put(self, url: str, file: BinaryIO, size: int) -> None:
        """Write ``file``, which has ``size`` bytes, as the object at ``url``, completely or not at all. Raises ImageError."""
        with contextlib.closing(self._backend.put(url, file, size)) as steps:
            for step in steps:
                self._patiently(step, WHOLE_SECONDS + size / SLOWEST)

    def duplicate(self, source: str, url: str) -> None:
        """Copy the object at ``source`` to ``url`` inside the store. Raises ImageError."""
        self._patiently(lambda seconds: self._backend.duplicate(source, url, seconds), WHOLE_SECONDS)

    def delete(self, url: str) -> None:
        """Delete the object at ``url``, if there is one. Raises ImageError."""
        with contextlib.suppress(NotThereError):
            self._patiently(lambda seconds: self._backend.delete(url, seconds), WHOLE_SECONDS)

    def _spool(self, url: str, size: int) -> tuple[int, Stamp]:
        """An open temporary file with the whole object, and its stamp. The last two are kept."""
        with self._lock:
            if url in self._spools:
                handle, stamp = self._spools[url]
                self._spools.move_to_end(url)
                return os.dup(handle), stamp
            with tempfile.TemporaryFile(prefix="camcli-") as file:

                def copy(seconds: float) -> Piece:
                    file.seek(0)
                    file.truncate()
                    return self._backend.copy(url, file, seconds)

                piece = self._patiently(copy, WHOLE_SECONDS + size / SLOWEST)
                file.flush()
                self._spools[url] = (os.dup(file.fileno()), piece.stamp)
            while len(self._spools) > 2:
                os.close(self._spools.popitem(last=False)[1][0])
            return os.dup(self._spools[url][0]), self._spools[url][1]

    def _patiently(self, ask: Callable[[float], T], seconds: float) -> T:
        """The answer to ``ask``, which is asked again while what fails may pass, ``seconds`` at most."""
        end = time.monotonic() + seconds
        tries = TRIES if self._failed < _GIVE_UP_AFTER else 1
        for number in range(1, tries + 1):
            try:
                answer = ask(max(1.0, end - time.monotonic()))
            except Passing as error:
                wait = max(
                    min(error.wait, LONGEST_WAIT), min(LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1)) * random.uniform(0.5, 1.0)
                )
                if number == tries or time.monotonic() + wait >= end:
                    self._failed += 1
                    again = f", {number} times" if number > 1 else ""
                    raise ImageError("read", f"{escape_name(masked(str(error)))}{again}; the next run tries again") from None
                go_on()
                time.sleep(wait)
            except ImageError:
                self._failed = 0  # it answers
                raise
            else:
                self._failed = 0
                go_on()
                return answer
        raise AssertionError


def go_on() -> None:
    """Tell whoever waits that a server answers."""
    for listener in on_progress:
        listener()


_PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "http": ("aiohttp", "http"), "https": ("aiohttp", "http")}
"""What each protocol needs: the package, and the extra of camcli that brings it."""

_stores: dict[tuple[int, str, str], Store] = {}
_making = threading.Lock()


def store_of(url: str) -> Store:
    """The store of this process for ``url``. Raises ConfigError for an unknown protocol, or if a package is missing."""
    protocol, _, rest = url.partition("://")
    where = "" if protocol in _PACKAGES else rest.partition("/")[0]
    key = (os.getpid(), protocol, where)
    if key not in _stores:
        with _making:
            if key not in _stores:
                _stores[key] = Store(_backend(protocol, url))
    return _stores[key]


def forget_stores() -> None:
    """Make new stores at the next read, with the settings that the environment has then."""
    with contextlib.suppress(KeyError):
        while _stores:
            _stores.popitem()


def _backend(protocol: str, url: str) -> Backend:
    package, extra = _PACKAGES.get(protocol, ("", ""))
    try:
        if protocol == "s3":
            from camcli.images.remote.s3 import S3

            return S3()
        if protocol in WEB:
            from camcli.images.remote.web import Web

            return Web()
        from camcli.images.remote.other import Other

        return Other(url)
    except ImportError as error:
        install = f"pip install 'camcli[{extra}]'" if extra else "install the package that fsspec needs for it"
        raise ConfigError(
            f"{protocol}:// needs {package or 'a package'}, which cannot be imported here ({error}): {install}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{protocol}:// is no protocol that fsspec knows: {escape_name(masked(str(error)))}") from error
