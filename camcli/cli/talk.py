"""What is said on stderr, and tables on stdout: for people on a terminal, for programs in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from camcli.records import shown


def hold_standard_streams() -> None:
    """Make the three standard streams usable whatever the caller did to them.

    A closed one is opened on the null device, or the next file that is opened would take its number and receive what
    libraries print. What an output encoding cannot say is escaped.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            sink = os.open(os.devnull, os.O_RDWR)
            if sink != number:
                os.dup2(sink, number)
                os.close(sink)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - lives as long as the process
        elif mode == "w" and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def stdout_for_data(*, quiet: bool = False) -> Iterator[None]:
    """Inside, what others print (PyTorch's downloads, a user's factory) goes to stderr, or with ``quiet`` nowhere."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere if quiet else sys.stderr):
        yield


def abandon_stdout() -> None:
    """Send what is still to be flushed to stdout nowhere: its reader has left, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Talk:
    """Speech on stderr. ``quiet`` leaves only errors. A stderr that cannot be written stops nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.on_terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """A line for those who watch."""
        if not self.quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """A line about something the user should know."""
        self.say(self._colored("camcli: note: ", "33") + text)

    def complain(self, text: str) -> None:
        """A line about what failed; said even when quiet."""
        self._print(self._colored("camcli: ", "31") + text)

    def _print(self, text: str) -> None:
        try:
            print(text, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process

    def _colored(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on_terminal else text


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table on stdout: drawn on a terminal; tab-separated lines with a header, unpadded, anywhere else.

    ``right``: columns of numbers. Names are written as ``records.shown`` writes them, so that none can draw on the terminal. A
    reader that leaves early is no error.
    """
    try:
        if sys.stdout.isatty():
            _draw_table(columns, rows, right)
            return
        sys.stdout.write("\t".join(columns) + "\n")
        for row in rows:
            sys.stdout.write("\t".join(shown(cell) for cell in row) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_stdout()


def _draw_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console().print(table)
