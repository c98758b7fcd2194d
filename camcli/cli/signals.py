"""SIGINT and SIGTERM: the first one lets a run finish the images in progress, the second one ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

BROKEN_PIPE = 141
"""Exit code of a command whose stdout was closed before it was done: 128 plus the number of SIGPIPE."""


class Interrupted(BaseException):
    """A signal arrived while nothing needed to be finished."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Handles signals. In ``deferred`` the first signal sets the event ``stop``; anywhere else it raises Interrupted."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.number: int | None = None
        self.raised = False
        """Whether Interrupted was raised. A later error may be a consequence of it, such as an import that was cut off."""
        self._deferring = False
        self._answer: Callable[[int], None] = lambda _: None

    def install(self) -> None:
        """Install the handlers; only in the main thread."""
        self.number, self.raised, self._deferring = None, False, False
        self.stop.clear()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._arrived)

    def ignore(self) -> None:
        """Ignore further signals: the exit code is decided, and the interpreter takes a second to end."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def deferred(self, answer: Callable[[int], None] = lambda _: None) -> Iterator[threading.Event]:
        """Context in which the first signal only sets the yielded event. It stays so afterwards unless an error ends the context.

        ``answer`` is called with the number of the signal, at any point of the program: it must not use a lock or a buffer.
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
"""The one instance of the process, because signals belong to a process and not to a run."""
