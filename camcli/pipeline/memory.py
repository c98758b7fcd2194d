"""The memory that the images in progress may take together, over all processes.

The peak memory of an image is known from its header, before it is decoded. Each worker may fill its allowance without asking; for a
larger image it asks the main process, and the image waits until there is memory. An image that does not fit even alone fails with
stage ``memory``. So the images in progress never exhaust the memory, and two very large images are explained one after the other.
"""

from __future__ import annotations

import time

from camcli.resources import available_memory, release_memory

_SHARE = 0.25
"""Fraction of the free memory for images within the allowances, and for those that have asked. The network needs some too."""

_ENOUGH, _ENOUGH_EACH = 1 << 30, 256 << 20
"""Maximum of both parts in bytes: altogether with few workers, and per worker with many."""

_MARGIN = 64 << 20
"""Memory that stays free beside an image, in bytes."""

_PATIENCE = 20
"""Measurements of the free memory, 50 ms apart, before an image that is alone is refused."""


class Memory:
    """The memory for images of ``workers`` workers. ``allowance``: what each may take without asking, in bytes."""

    def __init__(self, workers: int) -> None:
        count = max(1, workers)
        self._budget = int(min(_SHARE * available_memory(), max(_ENOUGH, _ENOUGH_EACH * count)))
        self.allowance = self._budget // count
        self._granted: dict[int, int] = {}

    def has_room(self, size: int, *, alone: bool) -> bool:
        """Whether an image may take ``size`` bytes now. ``alone``: no other image can give back memory any more."""
        if not alone:
            return sum(self._granted.values()) + size <= self._budget and size + _MARGIN <= available_memory()
        for _ in range(_PATIENCE):  # memory that was freed a moment ago may not count as free yet
            if size + _MARGIN <= available_memory():
                return True
            release_memory()
            time.sleep(0.05)
        return size + _MARGIN <= available_memory()

    def grant(self, number: int, size: int) -> None:
        """Reserve ``size`` bytes for image ``number``."""
        self._granted[number] = size

    def release(self, number: int) -> None:
        """Give back the memory of image ``number``, if it has asked for some."""
        self._granted.pop(number, None)
