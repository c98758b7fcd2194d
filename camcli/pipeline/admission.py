"""Images are admitted, in their order, as far as the memory goes that the machine and the control group have.

What an image costs at its peak is known from its header, before it is decoded. An image waits until those before it are done where
they leave no room for it; one that does not fit even alone fails, with stage ``memory``. So no run is killed for the pictures that
it has in hand, and large ones are explained one after the other where there is no memory for two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from camcli.config.run import RunConfig
from camcli.errors import ImageError
from camcli.images.decode import memory_words
from camcli.images.header import MAX_SIDE, Header
from camcli.resources import available_memory, release_memory

_SHARE = 0.5
"""Of the free memory, for images in progress: the network takes some too."""

_MARGIN = 64 << 20
"""Bytes that are left free beside an image."""

_LARGE = 64 << 20
"""Bytes from which on the free memory is looked at again for each image."""


_PATIENCE = 20
"""Looks at the free memory, 50 ms apart, before an image is refused that has it for itself."""

_PAINTED = {"overlay": 6, "heatmap": 6, "contour": 10, "spotlight": 9, "side-by-side": 15}
"""Bytes for a pixel of an overlay, by style: the picture, what it is made of, and its copy for the encoder."""

_ENCODED, _LEGEND, _REGIONS = 2, 3, 7
"""Bytes for a pixel more: of the finished file, with a legend, and for boxes or masks."""


def prepared_bytes(header: Header) -> int:
    """Bytes of memory that an image takes at the most while it is decoded and resized."""
    return max(header.decoding, 7 * header.pixels)


def painted_bytes(header: Header, config: RunConfig) -> int:
    """Bytes of memory that an image takes at the most: while it is decoded, while it is resized, or while it is painted."""
    painted = _PAINTED[config.style] + _ENCODED + _LEGEND * config.legend
    scale = min(1.0, (config.max_side or MAX_SIDE) / max(header.width, header.height))
    painting = painted * scale**2 + _REGIONS * (config.boxes is not None or config.masks) + (3 if scale < 1 else 0) * scale**2
    return max(prepared_bytes(header), int((3 + painting) * header.pixels))


class Admission:
    """The memory that images in progress may take together. ``workers``: threads that read, and threads that paint.

    Each image has a Ticket, taken in the order in which images are done. ``needed`` tells the bytes that an image takes at its
    peak, from its header. Whoever waits for an image asks ``wait_for`` whether it is held up by earlier ones.
    """

    def __init__(self, workers: int, needed: Callable[[Header], int]) -> None:
        self.needed = needed
        self._workers = workers
        self._changed = threading.Condition()
        self._capacity = int(_SHARE * available_memory())
        self._reserved = 0
        self._issued = self._next = 0
        self._held_up: Ticket | None = None
        self._passed: set[int] = set()
        self._closed = False

    def ticket(self) -> Ticket:
        """The next image's."""
        self._issued += 1
        return Ticket(self, self._issued - 1)

    def wait_for(self, future: Future[Any], ticket: Ticket) -> bool:
        """Wait for the image of ``ticket``; whether it is there, and not held up by those before it."""
        future.add_done_callback(lambda _: self._notify())
        with self._changed:
            self._changed.wait_for(lambda: future.done() or self._held_up is ticket)
        return future.done()

    def close(self) -> None:
        """Let nobody wait any longer: the run is over."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _admit(self, ticket: Ticket, header: Header) -> int:
        """Wait until there is room; the bytes that are reserved. Raises ImageError (stage ``memory``)."""
        needed = self.needed(header)
        with self._changed:
            self._changed.wait_for(lambda: self._next == ticket.number or self._closed)
            patience = _PATIENCE
            while not (self._closed or self._fits(needed)):
                if self._reserved:
                    self._held_up = ticket
                    self._changed.notify_all()
                    self._changed.wait()
                elif patience:  # what was freed a moment ago may not be back yet
                    patience -= 1
                    self._changed.wait(0.05)
                else:
                    raise ImageError("memory", memory_words(header, needed + _MARGIN, available_memory()))
            self._reserved += needed
            return needed

    def _fits(self, needed: int) -> bool:
        if not self._reserved:
            free = available_memory()
            if needed + _MARGIN > free:
                release_memory()
                free = available_memory()
            self._capacity = int(_SHARE * free)
            return needed + _MARGIN <= free
        if self._reserved + needed > self._capacity:
            return False
        return needed < _LARGE or needed + _MARGIN <= available_memory()

    def _pass_on(self, number: int) -> None:
        """The image of that number waits for no memory any more: the next one may."""
        with self._changed:
            if number >= self._next:
                self._passed.add(number)
            while self._next in self._passed:
                self._passed.remove(self._next)
                self._next += 1
            self._changed.notify_all()

    def _give_back(self, size: int) -> None:
        with self._changed:
            self._reserved -= size
            self._held_up = None  # until it has looked again
            self._changed.notify_all()

    def _is_small(self, size: int) -> bool:
        """Whether all threads together can take so much for a moment, to decode and to paint, without a reservation."""
        return size * 4 * self._workers <= self._capacity


class Ticket:
    """One image's place in the row, and the memory that is reserved for it. ``number``: from 0 on, in order."""

    def __init__(self, admission: Admission, number: int) -> None:
        self._admission, self.number = admission, number
        self._size = 0

    def admit(self, header: Header) -> None:
        """Wait until there is memory for the image. Raises ImageError (stage ``memory``) where there is not enough for it alone."""
        if not self._size:
            self._size = self._admission._admit(self, header)
            self._admission._pass_on(self.number)

    def decoded(self, held: int) -> None:
        """The image takes ``held`` bytes from now on, and for moments more; what is small is reserved no longer.

        What decoding a large one took goes back to the system: the C library would keep it, in pieces too small for painting.
        """
        if not self._admission._is_small(self._size):
            release_memory()
        elif held < self._size:
            self._admission._give_back(self._size - held)
            self._size = held

    def pass_on(self) -> None:
        """The image needs no memory, or none any more that it has not."""
        self._admission._pass_on(self.number)

    def release(self) -> None:
        """The image is done."""
        self._admission._give_back(self._size)
        self._size = 0
