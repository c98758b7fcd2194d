"""Reading and preparing images in threads, in order and in batches."""

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
"""Maximum number of failures in a batch, beside its images."""

MOST_BYTES = 512 << 20
"""Maximum bytes of decoded images in a batch, of images read ahead, and of images waiting to be painted."""


@dataclass(frozen=True)
class InputSettings:
    """The settings for turning files into inputs of a network.

    ``preprocess`` and ``resize_mode``: how an image becomes an input. ``max_pixels``: larger images are refused. ``hashed``:
    whether the SHA-256 of each file is computed. ``workers``: the number of threads that read; None for the number of cores.
    ``peak_bytes``: returns the peak memory of an image in bytes, from its header.
    """

    preprocess: Preprocess
    resize_mode: str
    max_pixels: int
    hashed: bool = False
    workers: int | None = None
    peak_bytes: Callable[[Header], int] = prepared_bytes

    @property
    def threads(self) -> int:
        """The number of threads that read."""
        return self.workers or available_cores()


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A decoded image, and the network's ``input`` (h, w, 3) uint8 made from it. ``ticket``: reserves its memory."""

    source: Source
    image: Image
    view: InputWindow
    input: np.ndarray
    ticket: Ticket | None = None

    def without_pixels(self) -> PreparedImage:
        """A copy without the decoded pixels, whose memory is released."""
        if self.ticket is not None:
            self.ticket.release()
        return replace(self, image=Image(np.empty((0, 0, 3), np.uint8), self.image.stamp), ticket=None)


MarkInFlight = Callable[[str], AbstractContextManager[None]]
"""Returns a context that marks the image of that name as being in the hands of C code; see ``output.inflight``."""


def read_ahead(
    pool: ThreadPoolExecutor,
    sources: Iterable[Source],
    settings: InputSettings,
    timer: StageTimer,
    ahead: int,
    mark_in_flight: MarkInFlight = lambda _: nullcontext(),
) -> Generator[PreparedImage | Failure | None, None, None]:
    """Yield each source decoded and prepared, in order. At most ``ahead`` images, with at most MOST_BYTES, are read in advance.

    Yields None when the next image waits for memory of earlier images: the caller must finish those first. The generator must be
    closed before the ``pool``, so that no thread waits for memory any longer.
    """
    in_flight: deque[tuple[Future[PreparedImage | Failure], Ticket]] = deque()
    admission = Admission(settings.threads, settings.peak_bytes)
    remaining, largest, allowed = iter(sources), 0, 1

    def held() -> int:
        return sum(held_bytes(future.result()) if future.done() else largest for future, _ in in_flight)

    try:
        while True:
            while len(in_flight) < allowed and (not in_flight or held() < MOST_BYTES):
                source = next(remaining, None)
                if source is None:
                    break
                ticket = admission.ticket()
                in_flight.append((pool.submit(_prepare, source, settings, timer, mark_in_flight, ticket), ticket))
            if not in_flight:
                return
            with timer.wait("images"):
                is_there = admission.wait_for(*in_flight[0])
            if not is_there:
                yield None
                continue
            size = held_bytes(in_flight[0][0].result())
            largest, allowed = max(largest, size), min(ahead, 2 * allowed)  # start with few images, until their size is known
            yield in_flight.popleft()[0].result()  # no name here keeps its memory alive
    finally:
        admission.close()


def held_bytes(item: PreparedImage | Failure) -> int:
    """The memory that an item takes, in bytes."""
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
    """Batches of ``size`` prepared images, or fewer: at most MOST_BYTES, many failures in a row, or ``stop`` end a batch early.

    Failures keep their place among the images. Without ``stop`` and with enough memory, the batches depend on the images alone. A
    None in ``items``, which means that the next image waits for memory, yields an empty batch: the caller then finishes the
    images in progress. If another None follows, the batch ends there.
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
            yield ended.pop()  # no name here keeps its memory alive
        else:
            waited = False
    if batch:
        yield batch
