"""Keeping C libraries from writing to the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from camcli.cli.guard import guarded


@contextlib.contextmanager
def silent_c_libraries() -> Iterator[None]:
    """Context in which libjpeg and other C libraries cannot write to file descriptor 2. The tables contain the same errors.

    Python's ``sys.stderr`` still writes to the same place as before.
    """
    try:
        number = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(number)
    original = sys.stderr
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stderr = guarded(os.fdopen(os.dup(kept), "w", buffering=1, encoding=original.encoding, errors="backslashreplace"))
        os.dup2(sink, number)
        yield
    finally:
        sys.stderr.close()
        sys.stderr = original
        os.dup2(kept, number)
        os.close(kept)
        os.close(sink)
