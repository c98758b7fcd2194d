"""Stopping a run while the network works on a batch: a check before each forward pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MAX_SECONDS = 1.0
"""Seconds that a batch may still take after the run is asked to stop; a longer one is dropped."""


class Stopped(BaseException):  # not an Exception: a user's forward pass may catch those
    """The batch in the network is dropped. None of it is recorded, so the next run explains it. Never leaves the pipeline."""


class Watch:
    """Checks ``stop`` before each forward pass. ``on_pass`` is called with the number of the pass within its batch."""

    def __init__(self, stop: threading.Event, on_pass: Callable[[int], None]) -> None:
        self._stop, self._on_pass = stop, on_pass
        self._passes = 0
        self._last_clear = time.monotonic()

    def begin_batch(self) -> None:
        """Start to count passes at 1 again."""
        self._passes = 0

    def before_pass(self) -> None:
        """Raise Stopped if ``stop`` may have been set for MAX_SECONDS; otherwise report the pass."""
        now = time.monotonic()
        if not self._stop.is_set():
            self._last_clear = now
        elif now - self._last_clear >= MAX_SECONDS:
            raise Stopped
        self._passes += 1
        self._on_pass(self._passes)
