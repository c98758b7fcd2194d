"""Reading paths of images from stdin."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from camcli.cli.console import Console
from camcli.errors import InputError
from camcli.pipeline.incoming import PathStream

STDIN = "-"
"""The input that means paths on stdin."""


def paths_on_stdin(inputs: Sequence[str], console: Console, *, null: bool) -> PathStream | None:
    """The paths on stdin, if ``inputs`` is ``-``; else None. There is one path a line, or with ``null`` paths that end in NUL.

    Empty paths are ignored. Raises InputError if ``-`` is not the only input, or if ``null`` is given without it.
    """
    if STDIN not in inputs:
        if null:
            raise InputError("--null needs paths on stdin: camcli run --null -")
        return None
    if len(inputs) > 1:
        raise InputError("- reads the paths from stdin and must be the only input.")
    if sys.stdin.isatty():
        console.info("Reading paths from the terminal, one a line; press Ctrl-D to end.")
    return PathStream(sys.stdin.fileno(), null=null)
