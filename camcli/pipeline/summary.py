"""What a run gives back: its summary, and what a listener receives while it goes on."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from camcli.config.run import RunConfig
from camcli.layout import FAILURES, OVERLAYS, PREDICTIONS, REPORT_PAGE
from camcli.listener import Listener, SilentListener
from camcli.records import Counts, Success
from camcli.timing import StageTimer

if TYPE_CHECKING:
    from camcli.report.write import Report


@dataclass(frozen=True)
class RunSummary:
    """The result of a run: counts, and the paths of its files.

    ``state``: ``finished``, or ``interrupted`` if it was stopped before the last image. ``explained``, ``failed`` and
    ``pending``: how many of all inputs are explained, have failed, and are still to explain, counting earlier runs.
    ``new_failures``: failures that no earlier run has reported. ``seconds``: time since the command started. ``counts``: the
    images of this run alone. ``report``: the report, if one was written. ``has_overlays``: False with ``--no-overlays``.
    """

    folder: str
    state: str
    explained: int
    failed: int
    pending: int
    new_failures: int
    seconds: float
    counts: Counts = field(default_factory=Counts)
    timer: StageTimer = field(default_factory=StageTimer)
    report: Report | None = None
    has_overlays: bool = True

    @property
    def predictions(self) -> str:
        """The path of the table of predictions."""
        return os.path.join(self.folder, PREDICTIONS)

    @property
    def failures(self) -> str:
        """The path of the table of failures."""
        return os.path.join(self.folder, FAILURES)

    @property
    def overlays(self) -> str:
        """The path of the folder of overlays."""
        return os.path.join(self.folder, OVERLAYS)

    @property
    def report_page(self) -> str | None:
        """The path of the report; None if none was written."""
        return os.path.join(self.folder, REPORT_PAGE) if self.report is not None and self.report.page is not None else None


class RunListener(Listener, Protocol):
    """A listener that also receives the results of a run.

    ``earlier_rows``: whether ``done_before`` is called; reading the rows of a large folder takes a while.
    """

    earlier_rows: bool

    def loading(self, config: RunConfig) -> AbstractContextManager[None]:
        """Return a context that is active while libraries and the model of ``config`` are loaded."""

    def begins(self, todo: int) -> None:
        """Receive the number of images to explain. The folder is locked, the model is not loaded yet."""

    def done_before(self, rows: bytes) -> None:
        """Receive the rows of an image that an earlier run explained, as bytes of the table."""

    def explained(self, outcome: Success) -> None:
        """Receive an image after its files and rows are written."""

    def summary(self, summary: RunSummary) -> None:
        """Receive the summary, before ``run.json`` records that the failures were reported."""


class SilentRunListener(SilentListener):
    """A RunListener that ignores everything. Subclass it to receive only some of the calls."""

    earlier_rows = False

    def loading(self, config: RunConfig) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def begins(self, todo: int) -> None:
        """Ignore the number of images."""

    def done_before(self, rows: bytes) -> None:
        """Ignore rows of an earlier run."""

    def explained(self, outcome: Success) -> None:
        """Ignore an image."""

    def summary(self, summary: RunSummary) -> None:
        """Ignore the summary."""
