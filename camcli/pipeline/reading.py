"""Files -> network inputs, in threads, in order, in batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from camcli.images.decode import NOT_ENOUGH, decode_image
from camcli.images.geometry import InputWindow, prepare_pixels
from camcli.images.header import Header
from camcli.pipeline.admission import Admission, Ticket, prepared_bytes
from camcli.records import Failure, Image, Preprocess, Source
from camcli.resources import available_cores
from camcli.timing import StageTimer

_MOST_FAILURES = 64
"""Failures that wait for the images of their batch."""

MOST_BYTES = 512 << 20
"""Of decoded images: a batch ends when its images hold so many, and no more are read ahead, nor wait to be painted."""


@dataclass(frozen=True)
class InputSettings:
    """What it takes to make inputs of a network from files.

    ``preprocess`` and ``resize_mode``: how an image becomes the input. ``max_pixels``: larger images are refused. ``hashed``:
    whether the SHA-256 of each file is computed. ``workers``: threads that read; None for as many as cores. ``peak_bytes``: the
    memory that an image takes at its peak, from its header.
    """

    preprocess: Preprocess
    resize_mode: str
    max_pixels: int
    hashed: bool = False
    workers: int | None = None
    peak_bytes: Callable[[Header], int] = prepared_bytes

    @property
    def threads(self) -> int:
        """How many threads read."""
        return self.workers or available_cores()


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image on its way: decoded, and as the network's input (h, w, 3) uint8. ``ticket``: what holds its memory for it."""

    source: Source
    image: Image
    view: InputWindow
    input: np.ndarray
    ticket: Ticket | None = None

    def without_pixels(self) -> PreparedImage:
        """The same without the decoded image, whose memory is given back."""
        if self.ticket is not None:
            self.ticket.release()
        return replace(self, image=Image(np.empty((0, 0, 3), np.uint8), self.image.stamp), ticket=None)


MarkInFlight = Callable[[str], AbstractContextManager[None]]
"""Notes, from entry to exit, that the image of that name is in the hands of C code."""


def read_ahead(
    pool: ThreadPoolExecutor,
    sources: Iterable[Source],
    settings: InputSettings,
    timer: StageTimer,
    ahead: int,
    mark_in_flight: MarkInFlight = lambda _: nullcontext(),
) -> Generator[PreparedImage | Failure | None, None, None]:
    """Each source decoded and prepared, in order; at most ``ahead`` of them, or MOST_BYTES, before they are asked for.

    None instead where the next one waits for memory that earlier ones still hold: they must be done with before it comes. To be
    closed before the ``pool`` is, so that no thread waits for memory any longer.
    """
    flying: deque[tuple[Future[PreparedImage | Failure], Ticket]] = deque()
    admission = Admission(settings.threads, settings.peak_bytes)
    remaining, largest, allowed = iter(sources), 0, 1

    def held() -> int:
        return sum(held_bytes(future.result()) if future.done() else largest for future, _ in flying)

    try:
        while True:
            while len(flying) < allowed and (not flying or held() < MOST_BYTES):
                source = next(remaining, None)
                if source is None:
                    break
                ticket = admission.ticket()
                flying.append((pool.submit(_prepare, source, settings, timer, mark_in_flight, ticket), ticket))
            if not flying:
                return
            with timer.wait("images"):
                is_there = admission.wait_for(*flying[0])
            if not is_there:
                yield None
                continue
            size = held_bytes(flying[0][0].result())
            largest, allowed = max(largest, size), min(ahead, 2 * allowed)  # few at first, until their size is known
            yield flying.popleft()[0].result()  # held by no name here: its memory is free when its user lets go of it
    finally:
        admission.close()


def held_bytes(item: PreparedImage | Failure) -> int:
    """What an item keeps in memory, in bytes."""
    return item.image.pixels.nbytes + item.input.nbytes if isinstance(item, PreparedImage) else 0


def _prepare(
    source: Source, settings: InputSettings, timer: StageTimer, mark_in_flight: MarkInFlight, ticket: Ticket
) -> PreparedImage | Failure:
    try:
        item = _decoded(source, settings, timer, mark_in_flight, ticket)
    except MemoryError:
        item = Failure(source.image, "memory", NOT_ENOUGH)
    finally:
        ticket.pass_on()
    if isinstance(item, Failure):
        ticket.release()
    else:
        ticket.decoded(held_bytes(item))
    return item


def _decoded(
    source: Source, settings: InputSettings, timer: StageTimer, mark_in_flight: MarkInFlight, ticket: Ticket
) -> PreparedImage | Failure:
    with mark_in_flight(source.image):
        image = decode_image(source, settings.max_pixels, timer, hashed=settings.hashed, admit=ticket.admit)
        return image if isinstance(image, Failure) else _prepared(source, image, settings, timer, ticket)


def _prepared(source: Source, image: Image, settings: InputSettings, timer: StageTimer, ticket: Ticket) -> PreparedImage:
    with timer.work("prepare"):
        view, prepared = prepare_pixels(image.pixels, settings.preprocess, settings.resize_mode)
        return PreparedImage(source, image, view, prepared, ticket)


def batches(
    items: Iterable[PreparedImage | Failure | None], size: int, stop: threading.Event | None
) -> Iterator[list[PreparedImage | Failure]]:
    """Runs of items that hold ``size`` prepared images each or MOST_BYTES, the last one fewer; failures keep their place.

    Many failures in a row end a run too, so that they are recorded and do not pile up; so does ``stop``. Where a run ends for
    another reason than ``stop`` follows from the images alone, as long as there is memory for them. None, for an image that waits
    for memory, comes out as an empty run: its taker finishes what it has in progress. If that was not enough, the run ends there.
    """
    batch: list[PreparedImage | Failure] = []
    images = held = 0
    waited = False
    for item in items:
        if item is not None:
            batch.append(item)
            images += isinstance(item, PreparedImage)
            held += held_bytes(item)
        full = images == size or held >= MOST_BYTES or len(batch) >= _MOST_FAILURES + size
        if item is None and not (waited and batch):
            waited = True
            yield []
        elif item is None or full or (stop is not None and stop.is_set()):
            waited = False
            item, ended, batch, images, held = None, [batch], [], 0, 0
            yield ended.pop()  # held by no name here
        else:
            waited = False
    if batch:
        yield batch
