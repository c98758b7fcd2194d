"""How far a run is, told to a progress bar: images done, and within a batch that takes long the passes through the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from camcli.records import Counts, Outcome

_LONG = 1.0
"""Seconds without an image after which the passes are told."""

_OFTEN = 0.2
"""Seconds between two words about passes."""


class RunProgress:
    """Tells ``tell(done, of, note)`` of a bar about ``total`` images, as ``counts`` are counted."""

    def __init__(self, tell: Callable[..., None], total: int, counts: Counts) -> None:
        self._tell, self._total, self._counts = tell, total, counts
        self._done = 0
        self._finished = self._said = time.monotonic()

    def over(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """The same outcomes, each told once it was counted."""
        self._tell(0, self._total)
        for outcome in outcomes:
            yield outcome
            self._done += 1
            self._finished = time.monotonic()
            self._say("")

    def pass_begins(self, number: int) -> None:
        """Tell which pass through the network begins, where no image was finished for a while."""
        now = time.monotonic()
        if now - self._finished >= _LONG and now - self._said >= _OFTEN:
            self._said = now
            self._say(f"pass {number} of this batch")

    def _say(self, what: str) -> None:
        failed = f"{self._counts.failed} failed" if self._counts.failed else ""
        self._tell(self._done, self._total, ", ".join(filter(None, (failed, what))))
