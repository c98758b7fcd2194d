"""Parts of files as files: a range of bytes, and a stream that can only be read forwards."""

from __future__ import annotations

import io
import os
from collections.abc import Callable


class FileRange(io.RawIOBase):
    """``size`` bytes of an open file from ``start`` on. Closing it closes ``handle``. Reads nothing beyond the end of the file."""

    def __init__(self, handle: int, start: int, size: int) -> None:
        self._handle, self._start, self._size, self._position = handle, start, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` from the present position; returns the number of bytes."""
        view = memoryview(buffer)[: max(0, self._size - self._position)]
        count = os.preadv(self._handle, [view], self._start + self._position) if view else 0
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it."""
        self._position = sought(offset, whence, self._position, self._size)
        return self._position

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._handle)
        super().close()


class ForwardStream(io.RawIOBase):
    """``size`` bytes that ``read`` returns piece by piece, as a file with any position: it keeps what it has read.

    ``read(n)`` returns at most n bytes, none at the end.
    """

    def __init__(self, read: Callable[[int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0
        self._known = bytearray()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` from the present position; returns the number of bytes."""
        end = min(self._position + len(buffer), self._size)
        while len(self._known) < end and (more := self._read(end - len(self._known))):
            self._known += more
        data = bytes(self._known[self._position : end])
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it."""
        self._position = sought(offset, whence, self._position, self._size)
        return self._position


def sought(offset: int, whence: int, position: int, size: int) -> int:
    """The new position of a file of ``size`` bytes after ``seek(offset, whence)``."""
    return max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: position, os.SEEK_END: size}[whence])
