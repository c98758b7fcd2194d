"""ConsoleListener: the listener of the command line, which writes to stderr and moves the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from camcli.cli.console import Console
from camcli.records import Failure, escape_name

_SHOWN_FAILURES = 5
"""Maximum number of failures that are printed if a file lists all of them."""


class ConsoleListener:
    """Forwards messages, failures and progress to ``console`` and to ``move_bar``, which ``Console.bar`` returns.

    ``listed_in``: the name of the file that lists all failures. Then the first five failures are printed as messages and the others
    go to the log only. Without such a file every failure is printed as an error, also with ``--quiet``. ``failures`` counts them.
    """

    def __init__(self, console: Console, move_bar: Callable[..., None], listed_in: str | None = None) -> None:
        self._console, self._move_bar, self._listed_in = console, move_bar, listed_in
        self.failures = 0

    def info(self, text: str) -> None:
        """Print a message above the progress bar; nothing with ``--quiet``."""
        self._console.info(text)

    def warn(self, text: str) -> None:
        """Print a note; nothing with ``--quiet``."""
        self._console.warn(text)

    def failed(self, failure: Failure) -> None:
        """Print the failure, or only log it when five were printed and a file lists them all."""
        self.failures += 1
        text = f"{escape_name(failure.image)}: {escape_name(failure.reason)}"
        if self._listed_in is None:
            self._console.error(text)
        elif self.failures <= _SHOWN_FAILURES:
            self._console.info(f"camcli: {text}")
        else:
            self._console.log(f"camcli: {text}")
            if self.failures == _SHOWN_FAILURES + 1:
                self._console.info(f"camcli: further failures are listed in {self._listed_in} only.")

    def progress(self, done: int, of: int, note: str = "") -> None:
        """Move the progress bar, which appears with the first call."""
        self._move_bar(done, of, note)


@contextmanager
def console_listener(console: Console, *, unit: str = "img", listed_in: str | None = None) -> Iterator[ConsoleListener]:
    """Yield a listener with a progress bar in ``unit``; the bar is closed at the end. ``listed_in``: as in ConsoleListener."""
    with console.bar(unit=unit) as move_bar:
        yield ConsoleListener(console, move_bar, listed_in)
