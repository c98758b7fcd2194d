"""Files -> network inputs, in threads, in order, in batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from camcli.images.decode import decode_image
from camcli.images.geometry import View, prepare_input, view_of
from camcli.job import Job
from camcli.records import Failure, Image, Source
from camcli.stages import Stages

_MOST_FAILURES = 64
"""Failures that wait for the images of their batch."""

MOST_BYTES = 512 << 20
"""Of decoded images: a batch ends when its images hold so many, and no more are read ahead, nor wait to be painted."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image on its way: decoded, and as the network's input (h, w, 3) uint8."""

    source: Source
    image: Image
    view: View
    input: np.ndarray


Holding = Callable[[str], AbstractContextManager[None]]
"""Notes, from entry to exit, that the image of that name is in the hands of C code."""


def read_ahead(
    pool: ThreadPoolExecutor,
    sources: Iterable[Source],
    job: Job,
    stages: Stages,
    ahead: int,
    holding: Holding = lambda _: nullcontext(),
) -> Iterator[Prepared | Failure]:
    """Each source decoded and prepared, in order; at most ``ahead`` of them, or MOST_BYTES, before they are asked for."""
    flying: deque[Future[Prepared | Failure]] = deque()
    remaining, largest, allowed = iter(sources), 0, 1

    def held() -> int:
        return sum(held_bytes(future.result()) if future.done() else largest for future in flying)

    while True:
        while len(flying) < allowed and (not flying or held() < MOST_BYTES):
            source = next(remaining, None)
            if source is None:
                break
            flying.append(pool.submit(_prepare, source, job, stages, holding))
        if not flying:
            return
        with stages.wait("images"):
            item = flying.popleft().result()
        largest = max(largest, held_bytes(item))
        allowed = min(ahead, 2 * allowed)  # few at first, until their size is known
        yield item


def held_bytes(item: Prepared | Failure) -> int:
    """What an item keeps in memory, in bytes."""
    return item.image.pixels.nbytes + item.input.nbytes if isinstance(item, Prepared) else 0


def _prepare(source: Source, job: Job, stages: Stages, holding: Holding) -> Prepared | Failure:
    with holding(source.image):
        image = decode_image(source, job.config.max_pixels, stages, hashed=job.config.hash)
        return image if isinstance(image, Failure) else _prepared(source, image, job, stages)


def _prepared(source: Source, image: Image, job: Job, stages: Stages) -> Prepared:
    with stages.work("prepare"):
        height, width = image.pixels.shape[:2]
        view = view_of((width, height), job.model.preprocess, job.config.fit)
        return Prepared(source, image, view, prepare_input(image.pixels, view, job.model.preprocess))


def batches(items: Iterable[Prepared | Failure], size: int, stop: threading.Event | None) -> Iterator[list[Prepared | Failure]]:
    """Runs of items that hold ``size`` prepared images each or MOST_BYTES, the last one fewer; failures keep their place.

    Many failures in a row end a run too, so that they are recorded and do not pile up; so does ``stop``. Where a run ends for
    another reason than ``stop`` follows from the images alone.
    """
    batch: list[Prepared | Failure] = []
    images = held = 0
    for item in items:
        batch.append(item)
        images += isinstance(item, Prepared)
        held += held_bytes(item)
        full = images == size or held >= MOST_BYTES or len(batch) >= _MOST_FAILURES + size
        if full or (stop is not None and stop.is_set()):
            yield batch
            batch, images, held = [], 0, 0
    if batch:
        yield batch
