"""Messages on stderr and tables on stdout, formatted for a terminal or a pipe."""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, TextIO

from camcli.cli.guard import guarded, raw_stderr, safe_line
from camcli.documents import open_log_file
from camcli.errors import ConfigError
from camcli.records import escape_name, escape_text

if TYPE_CHECKING:
    from tqdm import tqdm


def secure_standard_streams() -> None:
    """Make the three standard streams usable, also if the caller has closed them.

    A closed stream is opened on the null device; otherwise the next opened file gets its number and receives what libraries print.
    Characters that the encoding of a stream does not have are escaped, and on stderr all control characters too.
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
    sys.stderr = guarded(sys.stderr)


@contextlib.contextmanager
def stdout_for_data(*, quiet: bool = False) -> Iterator[BinaryIO]:
    """Context in which only the yielded stream writes to stdout. What others print (downloads, a user's factory) goes to stderr.

    With ``quiet`` their output is dropped. What C libraries print to stdout is always dropped.
    """
    with contextlib.ExitStack() as stack:
        data: BinaryIO = sys.stdout.buffer if hasattr(sys.stdout, "buffer") else io.BytesIO()
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout may not be a file
            number = sys.stdout.fileno()
            sys.stdout.flush()
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            data = stack.enter_context(os.fdopen(os.dup(kept), "wb", buffering=0))
            os.dup2(nowhere.fileno(), number)
        with contextlib.redirect_stdout(nowhere if quiet else sys.stderr):
            yield data


def abandon_stdout() -> None:
    """Drop what is still to be written to stdout, because it is closed or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
    """Writes messages to stderr, and to the log file if there is one. ``quiet``: only errors go to stderr.

    Each message is one line: all control characters in it are escaped, including line breaks. A stderr or log file that cannot be
    written is ignored.
    """

    _log_file: TextIO | None = None  # one for the process, like stderr

    def __init__(self, *, quiet: bool = False) -> None:
        self._bars: list[tqdm] = []
        self.quiet = quiet
        self.on_terminal = sys.stderr.isatty()

    @classmethod
    def open_log(cls, path: str) -> None:
        """Append all messages from now on to the file at ``path``. Raises ConfigError if it cannot be opened."""
        try:
            cls._log_file = os.fdopen(open_log_file(path), "a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            raise ConfigError(
                f"--log-file {escape_name(path)}: {error.strerror}. Name a file in a folder that exists and is writable."
            ) from error

    @classmethod
    def close_log(cls) -> None:
        """Close the log file."""
        if cls._log_file is not None:
            with contextlib.suppress(OSError, ValueError):
                cls._log_file.close()
            cls._log_file = None

    def info(self, text: str) -> None:
        """Print a message, above the progress bar if there is one."""
        self.log(text)
        if self.quiet:
            return
        if self._bars:
            self._bars[-1].write(safe_line(text), file=raw_stderr())
        else:
            self._print(text)

    def interrupt_message(self, doing: str) -> Callable[[int], None]:
        """A function to call when a signal arrives, with its number. It prints what the command is ``doing`` before it ends.

        It writes without a buffer, because the signal may arrive while another line is written.
        """

        def answer(number: int) -> None:
            again = "; press Ctrl-C again to stop now" if number == signal.SIGINT else ""
            start = "\r\x1b[K" if self.on_terminal else ""
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), f"{start}{doing}{again}.\n".encode("ascii"))

        return (lambda _: None) if self.quiet else answer

    def warn(self, text: str) -> None:
        """Print a note about something that the user should know."""
        self.log(f"note: {text}")
        if not self.quiet:
            self._print(text, self._colored("camcli: note: ", "33"))

    def error(self, text: str) -> None:
        """Print an error, also with ``quiet``."""
        self.log(text)
        self._print(text, self._colored("camcli: ", "31"))

    def log(self, text: str) -> None:
        """Write a line to the log file only."""
        if self._log_file is not None:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            try:
                print(now, safe_line(text), file=self._log_file, flush=True)
            except (OSError, ValueError):
                self.close_log()

    @contextlib.contextmanager
    def bar(self, total: int | None = None, unit: str = "img") -> Iterator[Callable[..., None]]:
        """Context manager: a function ``move(done, of, note)`` for a progress bar on stderr; it does nothing without a terminal.

        ``total``: show the bar at once; None shows it with the first call.
        """
        if self.quiet or not self.on_terminal:
            yield lambda _done, _of, _note="": None
            return
        from tqdm import tqdm

        def move(done: int, of: int, note: str = "") -> None:
            if not self._bars:
                self._bars.append(tqdm(total=of, unit=unit, dynamic_ncols=True, file=raw_stderr(), smoothing=0.1))
            bar = self._bars[-1]
            bar.total = of
            bar.set_postfix_str(escape_text(note), refresh=False)
            if done == bar.n:
                bar.refresh()
            bar.update(done - bar.n)

        if total is not None:
            move(0, total)
        try:
            yield move
        finally:
            while self._bars:
                self._bars.pop().close()

    def _print(self, text: str, start: str = "") -> None:
        try:
            print(start + safe_line(text), file=raw_stderr(), flush=True)
        except (OSError, ValueError):
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process

    def _colored(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on_terminal else text


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print a table on stdout: formatted on a terminal, otherwise as tab-separated lines with a header.

    ``right``: columns that are right-aligned. Cells are escaped by ``records.escape_name``, so that no name can control the
    terminal. A stdout that is closed early is no error.
    """
    try:
        columns, right = [escape_text(column) for column in columns], [escape_text(column) for column in right]
        if sys.stdout.isatty():
            _draw_table(columns, rows, right)
            return
        sys.stdout.write("\t".join(columns) + "\n")
        for row in rows:
            sys.stdout.write("\t".join(escape_name(cell) for cell in row) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_stdout()


def _draw_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    from camcli.cli.table import GAP, column_widths, folded_name

    lines = [[escape_name(cell) for cell in row] for row in rows]
    widths = column_widths(columns, lines, right, RichConsole().width)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))  # Rich adds a space between columns
    for column, width in zip(columns, widths, strict=False):
        table.add_column(
            Text(folded_name(column, width)), justify="right" if column in right else "left", overflow="fold", width=width
        )
    for line in lines:
        table.add_row(*map(Text, line[: len(widths)]))
    console = RichConsole(
        width=max(RichConsole().width, sum(widths) + GAP * (len(widths) - 1))
    )  # the terminal breaks lines that are too wide
    console.print(table)
    if len(widths) < len(columns):
        console.print(f"Left out, for lack of room: {', '.join(columns[len(widths) :])}.", style="dim", highlight=False)
