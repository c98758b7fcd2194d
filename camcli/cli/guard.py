"""The gate before the terminal: whatever is printed on stderr, by whomever, has its control characters escaped."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from camcli.records import escape_text

MOST_CHARACTERS = 4000
"""Of one message: a longer one, of a name of a megabyte say, loses its middle."""

_BAR = re.compile(r"\n*(\x1b\[A)+")
"""What tqdm writes to go back to the line of its bar."""


class Guarded:
    """A text stream that passes on to ``raw`` what is written, line by line as it is, with other control characters escaped.

    Only a carriage return at the beginning of a piece, and going up by lines, are passed on as they are: progress bars of
    libraries consist of them, and they can only overwrite lines. ``raw`` is for those who write nothing that a stranger made.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def write(self, text: str) -> int:
        """Write ``text``; how many characters it had."""
        if not _BAR.fullmatch(text):
            start = "\r" if text.startswith("\r") else ""
            safe = start + escape_text(text[len(start) :], keep="\n\t")
            self.raw.write(safe)
        else:
            self.raw.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)


def guarded(stream: TextIO) -> TextIO:
    """``stream`` behind the gate; itself where it is that already."""
    return stream if isinstance(stream, Guarded) else cast(TextIO, Guarded(stream))


def raw_stderr() -> TextIO:
    """What lies behind the gate of stderr: for colours, bars, and text that has been made ``safe_line``."""
    stream: Any = sys.stderr
    return stream.raw if isinstance(stream, Guarded) else stream


def safe_line(text: str) -> str:
    r"""``text`` on one line of any terminal: control characters as ``\xNN``, the middle of a very long one left out.

    Backslashes stay, for names in it have been written by ``records.escape_name``.
    """
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        text = f"{text[:half]} [{len(text) - 2 * half:,} characters] {text[-half:]}"
    return escape_text(text)
