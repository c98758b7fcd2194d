"""A source: an image to explain. What its bytes are, and how to tell whether they have changed.

``Source`` is a file. Its subclasses in ``camcli.images`` are members of archives and objects of a store.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, TypeVar, cast

from camcli.errors import ImageError
from camcli.ranges import FileRange
from camcli.records import QuicklyPickled, Stamp

A = TypeVar("A")
T = TypeVar("T")

MAX_BYTES = 1 << 30
"""Maximum size of an image file in bytes; larger files are refused without reading them."""

_AT_ONCE = 16
"""How many sources are asked for at the same time where a server answers."""


@dataclass(slots=True)
class Contents:
    """The bytes of a source, open for reading; a context manager that closes them.

    ``file``: at position 0. ``size``: in bytes. ``stamp``: of exactly these bytes, without a SHA-256.
    """

    file: BinaryIO
    size: int
    stamp: Stamp

    def __enter__(self) -> Contents:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class Source(QuicklyPickled):
    """A file to explain. ``image``: its name in every table, which is its path below ``root`` with ``/``.

    Bytes that are not UTF-8 are surrogates in both, as ``os.fsdecode`` makes them.
    """

    root: str
    image: str

    @property
    def path(self) -> str:
        """The path of the file. It need not exist: for a source inside an archive it only says where that is."""
        return os.path.join(self.root, self.image)

    @property
    def is_remote(self) -> bool:
        """Whether reading it waits for a server, so that it is read ahead of time and together with others."""
        return False

    @property
    def expected_bytes(self) -> int:
        """Of a remote source the number of bytes that reading it is expected to take."""
        return 0

    def stamp(self) -> Stamp | None:
        """The stamp of the file as it is now, without a SHA-256; None if there is no such file."""
        try:
            status = os.stat(self.path)
        except (OSError, ValueError):
            return None
        return Stamp(status.st_size, status.st_mtime_ns)

    def is_readable(self) -> bool:
        """Whether there is a file that is not empty and that this process may read."""
        path = self.path
        return os.path.isfile(path) and os.path.getsize(path) > 0 and os.access(path, os.R_OK)

    def why_unreadable(self) -> str:
        """Why not even a byte of it can be read, in words; empty if one can."""
        try:
            with self.range(0, 1) as contents:
                contents.file.read(1)
        except ImageError as error:
            return str(error)
        return ""

    def open(self) -> Contents:
        """The bytes of the file.

        Raises ImageError: stage ``read`` for anything but a readable regular file, stage ``decode`` for one larger than MAX_BYTES.
        """
        handle, status = open_regular(self.path)
        try:
            check_size(status.st_size)
            return Contents(os.fdopen(handle, "rb"), status.st_size, Stamp(status.st_size, status.st_mtime_ns))
        except BaseException:
            os.close(handle)
            raise

    def range(self, start: int, size: int) -> Contents:
        """At most ``size`` bytes of the file from ``start`` on, with the size and the stamp of the whole file.

        Raises ImageError (stage ``read``) for anything but a readable regular file.
        """
        handle, status = open_regular(self.path)
        file = io.BufferedReader(FileRange(handle, start, min(size, status.st_size - start)))
        return Contents(file, status.st_size, Stamp(status.st_size, status.st_mtime_ns))

    def sha256(self) -> str | None:
        """The SHA-256 of the bytes in hexadecimal; None if they cannot be read."""
        try:
            digest = hashlib.sha256()
            with self.open() as contents:
                while part := contents.file.read(1 << 20):
                    digest.update(part)
            return digest.hexdigest()
        except (ImageError, OSError):
            return None


def each(work: Callable[[Source], T], sources: Sequence[Source]) -> Iterator[T]:
    """The result of ``work`` for each of ``sources``, in order; several at the same time where it waits for a server."""
    return iter(together(work, sources)) if any(source.is_remote for source in sources) else map(work, sources)


def together(work: Callable[[A], T], values: Sequence[A]) -> list[T]:
    """The result of ``work``, which waits for a server, for each of ``values``, in order; several at the same time.

    Raises the first error. No thread keeps the process from ending.
    """
    jobs, results = queue.SimpleQueue[tuple[int, A]](), queue.SimpleQueue[tuple[int, T | None, BaseException | None]]()

    def work_on() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number, value = jobs.get_nowait()
                try:
                    results.put((number, work(value), None))
                except BaseException as error:
                    results.put((number, None, error))

    for item in enumerate(values):
        jobs.put(item)
    for _ in range(min(len(values), _AT_ONCE)):
        threading.Thread(target=work_on, daemon=True).start()
    found: dict[int, T] = {}
    try:
        while len(found) < len(values):
            number, value, error = results.get()
            if error is not None:
                raise error
            found[number] = cast(T, value)
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                jobs.get_nowait()
    return [found[number] for number in range(len(values))]


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """A file descriptor for reading the regular file at ``path``, and its status. Never blocks. Raises ImageError (``read``)."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise ImageError("read", os_reason(error)) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            unlisted = ", which could not be listed" if stat.S_ISDIR(status.st_mode) else ""
            raise ImageError("read", f"not a regular file but a {_kind(status.st_mode)}{unlisted}")
    except BaseException:
        os.close(handle)
        raise
    return handle, status


def check_size(size: int) -> None:
    """Raise ImageError for a file that is empty (stage ``read``) or larger than MAX_BYTES (stage ``decode``)."""
    if size == 0:
        raise ImageError("read", "the file is empty")
    if size > MAX_BYTES:
        raise ImageError("decode", f"{size:,} bytes: more than {MAX_BYTES:,} are not read")


def os_reason(error: Exception) -> str:
    """The reason of an OSError or ValueError, for people."""
    if getattr(error, "errno", None) == errno.ENXIO:  # raised by open for a socket, and for a device without a driver
        return "not a regular file but a socket or a device"
    reason = getattr(error, "strerror", None) or str(error)
    return reason[:1].lower() + reason[1:]


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    ):
        if test(mode):
            return word
    return "special file"
