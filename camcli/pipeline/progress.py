"""The progress of a run: finished images, and within a slow batch also the forward passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from camcli.records import Counts, Outcome

_LONG = 1.0
"""Seconds without a finished image after which passes are reported."""

_OFTEN = 0.2
"""Minimum seconds between two reports of passes."""


class RunProgress:
    """Reports the progress over ``total`` images to ``on_progress(done, of, note)``. ``counts``: for the number of failures."""

    def __init__(self, on_progress: Callable[..., None], total: int, counts: Counts) -> None:
        self._on_progress, self.total, self._counts = on_progress, total, counts
        self._done = 0
        self._finished = self._reported = time.monotonic()

    def over(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """Yield the outcomes, and report the progress after the caller has handled each."""
        self._on_progress(0, self.total)
        for outcome in outcomes:
            yield outcome
            self._done += 1
            self._finished = time.monotonic()
            self._report("")

    def pass_begins(self, number: int) -> None:
        """Report that forward pass ``number`` of the batch begins, if no image was finished for a while."""
        now = time.monotonic()
        if now - self._finished >= _LONG and now - self._reported >= _OFTEN:
            self._reported = now
            self._report(f"pass {number} of this batch")

    def _report(self, what: str) -> None:
        failed = f"{self._counts.failed} failed" if self._counts.failed else ""
        self._on_progress(self._done, self.total, ", ".join(filter(None, (failed, what))))
