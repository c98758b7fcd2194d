"""Admitting images in order, as far as the free memory of the machine and of the control group allows.

The peak memory of an image is known from its header, before it is decoded. An image waits for earlier images if they leave too
little memory for it. An image that does not fit even alone fails with stage ``memory``. So the images in progress never exhaust
the memory, and large images are explained one after the other if two do not fit.
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
"""Fraction of the free memory for images in progress. The network needs some too."""

_MARGIN = 64 << 20
"""Memory that stays free beside an image, in bytes."""

_LARGE = 64 << 20
"""Size of an image in bytes at or above which the free memory is measured again before it is admitted."""


_PATIENCE = 20
"""Measurements of the free memory, 50 ms apart, before an image that is alone is refused."""

_PAINTED = {"overlay": 6, "heatmap": 6, "contour": 10, "spotlight": 9, "side-by-side": 15}
"""Bytes a pixel while an overlay is painted, by style: the picture, its parts, and a copy for the encoder."""

_ENCODED, _LEGEND, _REGIONS = 2, 3, 7
"""Additional bytes a pixel: for the encoded file, for a legend, and for boxes or masks."""


def prepared_bytes(header: Header) -> int:
    """The peak memory of an image in bytes while it is decoded and resized."""
    return max(header.decoding, 7 * header.pixels)


def painted_bytes(header: Header, config: RunConfig) -> int:
    """The peak memory of an image in bytes while it is decoded, resized and painted."""
    painted = _PAINTED[config.style] + _ENCODED + _LEGEND * config.legend
    scale = min(1.0, (config.max_side or MAX_SIDE) / max(header.width, header.height))
    painting = painted * scale**2 + _REGIONS * (config.boxes is not None or config.masks) + (3 if scale < 1 else 0) * scale**2
    return max(prepared_bytes(header), int((3 + painting) * header.pixels))


class Admission:
    """The memory that the images in progress may take together.

    ``workers``: the number of threads that read, and of threads that paint. ``needed``: returns the peak memory of an image in
    bytes, from its header. Each image gets a Ticket, in the order of the images. ``wait_for`` waits for an image and returns
    early if the image itself waits for earlier ones.
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
        """The ticket of the next image."""
        self._issued += 1
        return Ticket(self, self._issued - 1)

    def wait_for(self, future: Future[Any], ticket: Ticket) -> bool:
        """Wait until the image of ``ticket`` is ready (True) or waits for the memory of earlier images (False)."""
        future.add_done_callback(lambda _: self._notify())
        with self._changed:
            self._changed.wait_for(lambda: future.done() or self._held_up is ticket)
        return future.done()

    def close(self) -> None:
        """End all waiting, because the run is over."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _admit(self, ticket: Ticket, header: Header) -> int:
        """Wait until the image fits and reserve its memory. Returns the reserved bytes. Raises ImageError (stage ``memory``)."""
        needed = self.needed(header)
        with self._changed:
            self._changed.wait_for(lambda: self._next == ticket.number or self._closed)
            patience = _PATIENCE
            while not (self._closed or self._fits(needed)):
                if self._reserved:
                    self._held_up = ticket
                    self._changed.notify_all()
                    self._changed.wait()
                elif patience:  # memory that was freed a moment ago may not count as free yet
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
        """Record that image ``number`` no longer waits for memory, so that the next image can be admitted."""
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
            self._held_up = None  # until it has tried again
            self._changed.notify_all()

    def _is_small(self, size: int) -> bool:
        """Whether all threads at once can take ``size`` bytes, to decode and to paint, without a reservation."""
        return size * 4 * self._workers <= self._capacity


class Ticket:
    """The position of an image in the order of admission, ``number`` from 0 on, and the memory reserved for it."""

    def __init__(self, admission: Admission, number: int) -> None:
        self._admission, self.number = admission, number
        self._size = 0

    def admit(self, header: Header) -> None:
        """Wait until there is memory for the image. Raises ImageError (stage ``memory``) if it does not fit even alone."""
        if not self._size:
            self._size = self._admission._admit(self, header)
            self._admission._pass_on(self.number)

    def decoded(self, held: int) -> None:
        """Record that the image is decoded and takes ``held`` bytes. A small image gives back the rest of its reservation.

        After a large image, the memory of decoding is returned to the system; otherwise the C library keeps it in pieces that are
        too small for painting.
        """
        if not self._admission._is_small(self._size):
            release_memory()
        elif held < self._size:
            self._admission._give_back(self._size - held)
            self._size = held

    def pass_on(self) -> None:
        """Let the next image be admitted: this one needs no more memory than it has."""
        self._admission._pass_on(self.number)

    def release(self) -> None:
        """Give back the memory of the image, which is done."""
        self._admission._give_back(self._size)
        self._size = 0
