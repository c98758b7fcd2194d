"""Paths of images that another program writes to stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from camcli.cli.console import Console
from camcli.errors import InputError

STDIN = "-"
"""The input that stands for paths on stdin."""


def paths_on_stdin(inputs: Sequence[str], console: Console, *, null: bool) -> list[str] | None:
    """The paths on stdin where ``inputs`` asks for them, a line each, or with ``null`` up to a NUL each; else None.

    Empty ones count for nothing. Raises InputError where something else is asked for as well.
    """
    if STDIN not in inputs:
        if null:
            raise InputError("--null is about paths on stdin: camcli run --null -")
        return None
    if len(inputs) > 1:
        raise InputError("- reads the paths from stdin and stands alone.")
    if sys.stdin.isatty():
        console.info("Reading paths from the terminal, one a line; Ctrl-D ends the list.")
    data = sys.stdin.buffer.read()
    names = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if not null and b"\0" in data:
        raise InputError("the paths on stdin contain NUL bytes; if they come from find -print0, add --null.")
    return [os.fsdecode(name) for name in names if name]
