"""A run that is asked to end while a batch is in the network: between two passes it looks whether it may go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE = 1.0
"""Seconds that a batch may still take after the run was asked to end; what takes longer is dropped."""


class Stopped(BaseException):  # no Exception: a user's forward pass may catch those
    """The batch in the network is dropped: nothing of it was recorded, and the next run does it. Never leaves the pipeline."""


class Watch:
    """What looks at ``stop`` before each pass through the network. ``tell`` hears the number of the pass within its batch."""

    def __init__(self, stop: threading.Event, tell: Callable[[int], None]) -> None:
        self._stop, self._tell = stop, tell
        self._passes = 0
        self._last_clear = time.monotonic()

    def begin_batch(self) -> None:
        """Count passes from the beginning."""
        self._passes = 0

    def before_pass(self) -> None:
        """Raise Stopped where ``stop`` may have been set for PATIENCE seconds."""
        now = time.monotonic()
        if not self._stop.is_set():
            self._last_clear = now
        elif now - self._last_clear >= PATIENCE:
            raise Stopped
        self._passes += 1
        self._tell(self._passes)
