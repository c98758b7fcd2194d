"""Reading paths of images from stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from camcli.cli.console import Console
from camcli.errors import InputError

STDIN = "-"
"""The input that means paths on stdin."""


def paths_on_stdin(inputs: Sequence[str], console: Console, *, null: bool) -> list[str] | None:
    """The paths on stdin, if ``inputs`` is ``-``; else None. There is one path a line, or with ``null`` paths that end in NUL.

    Empty paths are ignored. Raises InputError if ``-`` is not the only input, or if ``null`` does not match the input.
    """
    if STDIN not in inputs:
        if null:
            raise InputError("--null needs paths on stdin: camcli run --null -")
        return None
    if len(inputs) > 1:
        raise InputError("- reads the paths from stdin and must be the only input.")
    if sys.stdin.isatty():
        console.info("Reading paths from the terminal, one a line; press Ctrl-D to end.")
    data = sys.stdin.buffer.read()
    names = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if not null and b"\0" in data:
        raise InputError("the paths on stdin contain NUL bytes; if they come from find -print0, add --null.")
    return [os.fsdecode(name) for name in names if name]
