"""What is said on stderr, and tables on stdout: for people on a terminal, for programs in a pipe."""

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


def hold_standard_streams() -> None:
    """Make the three standard streams usable whatever the caller did to them.

    A closed one is opened on the null device, or the next file that is opened would take its number and receive what
    libraries print. What an output encoding cannot say is escaped, and on stderr all control characters are.
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
    """Inside, stdout belongs to the stream that is given; what others print (downloads, a user's factory) goes to stderr.

    With ``quiet`` it goes nowhere, as everything does that C libraries print.
    """
    with contextlib.ExitStack() as stack:
        data: BinaryIO = sys.stdout.buffer if hasattr(sys.stdout, "buffer") else io.BytesIO()
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stdout that is no file has no number
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
    """Send what is still to be flushed to stdout nowhere: its reader has left, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
    """Speech on stderr, and into the log where there is one. ``quiet`` leaves only errors on stderr.

    Each message is a line: control characters in it, line breaks among them, are escaped, whoever made them. A stderr or a log
    that cannot be written stops nothing.
    """

    _log_file: TextIO | None = None  # the process has one, as it has one stderr

    def __init__(self, *, quiet: bool = False) -> None:
        self._bars: list[tqdm] = []
        self.quiet = quiet
        self.on_terminal = sys.stderr.isatty()

    @classmethod
    def open_log(cls, path: str) -> None:
        """Append what is said from now on to the file at ``path``. Raises ConfigError."""
        try:
            cls._log_file = os.fdopen(open_log_file(path), "a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            raise ConfigError(
                f"--log-file {escape_name(path)}: {error.strerror}. Name a file in a folder that is there and writable."
            ) from error

    @classmethod
    def close_log(cls) -> None:
        """Keep no log any more."""
        if cls._log_file is not None:
            with contextlib.suppress(OSError, ValueError):
                cls._log_file.close()
            cls._log_file = None

    def info(self, text: str) -> None:
        """A line for those who watch; above the progress bar while there is one."""
        self.log(text)
        if self.quiet:
            return
        if self._bars:
            self._bars[-1].write(safe_line(text), file=raw_stderr())
        else:
            self._print(text)

    def promise(self, doing: str) -> Callable[[int], None]:
        """What says at once, when a signal of that number arrives, that the command is ``doing`` something before it ends.

        It writes past all buffers: the signal may have come in the middle of another line.
        """

        def answer(number: int) -> None:
            again = "; press Ctrl-C again to stop now" if number == signal.SIGINT else ""
            start = "\r\x1b[K" if self.on_terminal else ""
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), f"{start}{doing}{again}.\n".encode("ascii"))

        return (lambda _: None) if self.quiet else answer

    def warn(self, text: str) -> None:
        """A line about something the user should know."""
        self.log(f"note: {text}")
        if not self.quiet:
            self._print(text, self._colored("camcli: note: ", "33"))

    def error(self, text: str) -> None:
        """A line about what failed; said even when quiet."""
        self.log(text)
        self._print(text, self._colored("camcli: ", "31"))

    def log(self, text: str) -> None:
        """A line for the log alone."""
        if self._log_file is not None:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            try:
                print(now, safe_line(text), file=self._log_file, flush=True)
            except (OSError, ValueError):
                self.close_log()

    @contextlib.contextmanager
    def bar(self, total: int | None = None, unit: str = "img") -> Iterator[Callable[..., None]]:
        """What tells how far it is, as ``tell(done, of, note)``: a bar on stderr while a person watches, else nothing.

        Where ``total`` is not known yet, the bar comes with the first word.
        """
        if self.quiet or not self.on_terminal:
            yield lambda _done, _of, _note="": None
            return
        from tqdm import tqdm

        def tell(done: int, of: int, note: str = "") -> None:
            if not self._bars:
                self._bars.append(tqdm(total=of, unit=unit, dynamic_ncols=True, file=raw_stderr(), smoothing=0.1))
            bar = self._bars[-1]
            bar.total = of
            bar.set_postfix_str(escape_text(note), refresh=False)
            if done == bar.n:
                bar.refresh()
            bar.update(done - bar.n)

        if total is not None:
            tell(0, total)
        try:
            yield tell
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
    """A table on stdout: drawn on a terminal; tab-separated lines with a header, unpadded, anywhere else.

    ``right``: columns of numbers. Names are written as ``records.escape_name`` writes them, so that none can draw on the terminal.
    A reader that leaves early is no error.
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
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))  # and a space between
    for column, width in zip(columns, widths, strict=False):
        table.add_column(
            Text(folded_name(column, width)), justify="right" if column in right else "left", overflow="fold", width=width
        )
    for line in lines:
        table.add_row(*map(Text, line[: len(widths)]))
    console = RichConsole(
        width=max(RichConsole().width, sum(widths) + GAP * (len(widths) - 1))
    )  # a wider one is the terminal's to break
    console.print(table)
    if len(widths) < len(columns):
        console.print(f"Left out, for lack of room: {', '.join(columns[len(widths) :])}.", style="dim", highlight=False)
