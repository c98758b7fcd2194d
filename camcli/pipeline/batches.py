"""The images of a run, read in the workers of a pool and returned in order and in batches."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from camcli.pipeline.pool import Pool
from camcli.pipeline.tasks import Failed, PreparedImage, ReadTask
from camcli.records import Failure
from camcli.source import Source

_MOST_FAILURES = 64
"""Maximum number of failures in a batch, beside its images."""

_SILENCE = 0.2
"""Seconds without a new path after which an incomplete batch is explained."""

_LONGEST = 0.5
"""Seconds after which an incomplete batch is explained although paths still come, but slowly."""


class Sources(Protocol):
    """Images that may still be coming. ``handle``: a file descriptor that can be read when more have come; None for none."""

    handle: int | None

    @property
    def ended(self) -> bool:
        """Whether there will be no more."""

    def take(self) -> Source | Failure | None:
        """The next image, or why it cannot be read; None if there is none at the moment."""


class ListedSources:
    """Images that are all known."""

    handle: int | None = None

    def __init__(self, sources: Iterable[Source]) -> None:
        self._left = iter(sources)
        self._next = next(self._left, None)

    @property
    def ended(self) -> bool:
        """Whether all images were taken."""
        return self._next is None

    def take(self) -> Source | None:
        """The next image; None at the end."""
        source, self._next = self._next, next(self._left, None)
        return source


Batch = list[PreparedImage | Failed]
"""Prepared images and failures, in order."""


class Batches:
    """Orders the reading of ``sources`` from ``pool``, and puts what was read into batches of ``size`` images.

    Images have the numbers 0, 1, 2, ... At most ``window`` images are between the first that is not recorded and the last that is
    being read, beside the failures of the batch that is not complete. With enough memory the batches depend on the images alone,
    not on the workers. ``sources_of``: number -> source, of the images that are in progress.
    """

    def __init__(self, pool: Pool, sources: Sources, size: int, window: int) -> None:
        self._pool, self._sources, self._size, self._window = pool, sources, size, window
        self._slots = deque(range(len(pool.inputs)))
        self._slot_of: dict[int, int] = {}
        self._ready: dict[int, PreparedImage | Failed] = {}
        self._batch: Batch = []
        self._images = 0
        self._read = self._taken = 0
        self._is_dry = False
        self._last_came = self._begun = time.monotonic()
        self.sources_of: dict[int, Source] = {}

    def order(self, recorded: int) -> None:
        """Have images read, as far as window and slots allow. ``recorded``: how many images, from the first on, are recorded."""
        tasks: list[ReadTask] = []
        self._is_dry = False
        failed = len(self._batch) - self._images  # they do not count, so that the window never cuts a batch
        while self._slots and self._read < recorded + self._window + failed:
            number = self._next_number()
            if number is None:
                break
            self._slot_of[number] = self._slots.popleft()
            tasks.append(ReadTask(number, self.sources_of[number], self._slot_of[number]))
        self._pool.read(tasks)

    def _next_number(self) -> int | None:
        while not self._sources.ended and (source := self._sources.take()) is not None:
            number, self._read, self._last_came = self._read, self._read + 1, time.monotonic()
            if isinstance(source, Source):
                self.sources_of[number] = source
                return number
            self.sources_of[number] = Source("", source.image)
            self._ready[number] = Failed(number, source)
        self._is_dry = not self._sources.ended
        return None

    def add(self, result: PreparedImage | Failed) -> None:
        """Receive the result of reading an image."""
        if not isinstance(result, PreparedImage):
            self._slots.append(self._slot_of.pop(result.number))
        self._ready[result.number] = result

    def free(self, images: Iterable[PreparedImage]) -> None:
        """Let other inputs take the slots of ``images``, which the network has seen."""
        self._slots.extend(self._slot_of.pop(image.number) for image in images)

    def next(self, *, cut: bool) -> Batch | None:
        """The next batch if it is complete, else None. ``cut``: an incomplete one is returned too, if it has an image."""
        while self._taken in self._ready:
            item = self._ready.pop(self._taken)
            self._taken += 1
            self._begun = self._begun if self._batch else time.monotonic()
            self._batch.append(item)
            self._images += isinstance(item, PreparedImage)
            if self._images == self._size or len(self._batch) >= _MOST_FAILURES + self._size:
                return self._ended()
        at_end = self._sources.ended and self._taken == self._read
        return self._ended() if self._batch and (cut or at_end or self.patience() <= 0) else None

    def _ended(self) -> Batch:
        batch, self._batch, self._images = self._batch, [], 0
        return batch

    def patience(self) -> float:
        """How many seconds to wait for more paths before an incomplete batch is explained; infinite if none are awaited."""
        if not self._is_dry or not self._batch:
            return math.inf
        left = self._begun + _LONGEST - time.monotonic()
        return min(left, self._last_came + _SILENCE - time.monotonic()) if self._taken == self._read else left

    @property
    def has_begun(self) -> bool:
        """Whether there are images for an incomplete batch."""
        return bool(self._batch)

    @property
    def has_ended(self) -> bool:
        """Whether every image is in a batch."""
        return self._sources.ended and self._taken == self._read and not self._batch

    @property
    def awaited(self) -> int | None:
        """The file descriptor through which the next path comes, if the sources have none at the moment."""
        return self._sources.handle if self._is_dry else None
