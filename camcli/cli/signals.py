"""SIGINT and SIGTERM: the first one lets a run finish what is in flight, the second one ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

BROKEN_PIPE = 141
"""Exit code of a command whose stdout was closed before it was done: 128 and the number of SIGPIPE."""


class Interrupted(BaseException):
    """A signal arrived where nothing needs to be finished."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """What arrived. ``stop`` is set by the first signal while a run is in ``deferred``; anywhere else it raises Interrupted."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.number: int | None = None
        self.raised = False
        """Whether Interrupted was: an error that follows is what somebody made of it, an import that lost its half, say."""
        self._deferring = False
        self._answer: Callable[[int], None] = lambda _: None

    def install(self) -> None:
        """Listen, in the main thread."""
        self.number, self.raised, self._deferring = None, False, False
        self.stop.clear()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._arrived)

    def ignore(self) -> None:
        """Hear nothing any more: the exit code is decided, and the interpreter takes a second to be torn down."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def deferred(self, answer: Callable[[int], None] = lambda _: None) -> Iterator[threading.Event]:
        """Inside, and after it unless an error has ended it, the first signal only sets the event.

        ``answer`` is called with its number, between any two steps of the program: it must not take a lock, nor use a buffer.
        """
        self._deferring, self._answer = True, answer
        try:
            yield self.stop
        except BaseException:
            self._deferring = False
            raise

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        if not self._deferring:
            self.raised = True
            raise Interrupted(number)
        self.stop.set()
        self._answer(number)


SIGNALS = Signals()
"""The process's own: signals belong to a process, not to a run."""
