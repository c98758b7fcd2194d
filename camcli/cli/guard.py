"""Escaping the control characters in everything that is printed on stderr, including what libraries print."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from camcli.records import escape_text

MOST_CHARACTERS = 4000
"""Maximum length of a message. The middle of a longer one is cut out, such as that of a name of a megabyte."""

_BAR = re.compile(r"\n*(\x1b\[A)+")
"""What tqdm writes to return to the line of its bar."""


class Guarded:
    """A text stream that writes to ``raw`` and escapes all control characters except newlines and tabs.

    A carriage return at the beginning of a piece, and sequences that move up by lines, are not escaped: progress bars of
    libraries need them, and they can only overwrite lines. Use ``raw`` directly only for text that contains no names from
    outside.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def write(self, text: str) -> int:
        """Write ``text`` and return its length."""
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
    """``stream`` as a Guarded stream; unchanged if it already is one."""
    return stream if isinstance(stream, Guarded) else cast(TextIO, Guarded(stream))


def raw_stderr() -> TextIO:
    """The stderr without escaping, for colours, bars, and text from ``safe_line``."""
    stream: Any = sys.stderr
    return stream.raw if isinstance(stream, Guarded) else stream


def safe_line(text: str) -> str:
    r"""``text`` as one line for any terminal: control characters become ``\xNN``, and the middle of a very long text is left out.

    Backslashes are kept, because names in the text are already escaped by ``records.escape_name``.
    """
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        text = f"{text[:half]} [{len(text) - 2 * half:,} characters] {text[-half:]}"
    return escape_text(text)
