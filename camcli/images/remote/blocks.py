"""A part of an object as a file that is read in blocks."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

from camcli.ranges import sought

SMALLEST, FIRST, LARGEST = 16 << 10, 256 << 10, 8 << 20
"""Sizes of blocks in bytes."""

_KEPT = 2
"""Number of blocks that are kept."""


class BlockFile(io.RawIOBase):
    """``size`` bytes of an object from ``start`` on. ``read(start, size)``: exactly these bytes; it may raise ImageError.

    A file that is read without gaps gets blocks that double; one of which only a little is read of each block, such as the headers
    of a tar with large members, gets small ones. ``at_once``: the first block has all bytes, up to LARGEST.
    """

    def __init__(self, read: Callable[[int, int], bytes], start: int, size: int, *, at_once: bool = False) -> None:
        self._read, self._start, self._size, self._position = read, start, max(0, size), 0
        self._blocks: list[tuple[int, bytes]] = []
        self._length = LARGEST if at_once else FIRST
        self._touched = 0  # up to where the last block was used

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` from the present position, as far as its block goes; returns the number of bytes."""
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        begin, block = self._block(wanted)
        offset = self._position - begin
        data = block[offset : offset + wanted]
        buffer[: len(data)] = data
        self._position += len(data)
        if begin == self._blocks[-1][0]:
            self._touched = max(self._touched, offset + len(data))
        return len(data)

    def _block(self, wanted: int) -> tuple[int, bytes]:
        """The block with the present position, and where it begins."""
        for begin, block in reversed(self._blocks):
            if begin <= self._position < begin + len(block):
                return begin, block
        if self._blocks:
            begin, block = self._blocks[-1]
            is_next = begin + len(block) <= self._position <= begin + len(block) + self._length
            if is_next:
                self._length = min(LARGEST, 2 * self._length)
            elif 8 * self._touched < len(block):
                self._length = max(SMALLEST, self._length // 2)
        length = min(max(self._length, min(wanted, LARGEST)), self._size - self._position)
        block = self._read(self._start + self._position, length)
        self._blocks = [*self._blocks[1 - _KEPT :], (self._position, block)]
        self._touched = 0
        return self._blocks[-1]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it."""
        self._position = sought(offset, whence, self._position, self._size)
        return self._position
