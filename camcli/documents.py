"""Small files that anybody may have written (labels, tables, settings, records): read whole, bounded, never waited for."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

MOST_BYTES = 64 << 20
"""A document larger than this is refused unread, unless the caller says otherwise."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a symbolic link"),
)


def kind_of(mode: int) -> str:
    """What a file that is not regular is, in words, by its ``st_mode``: ``a FIFO``."""
    return next((words for test, words in _KINDS if test(mode)), "a special file")


def read_document(path: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of the regular file at ``path``; a link to one is followed.

    Raises OSError whose ``strerror`` says why not: nothing there, a FIFO or device (which is never waited for), or more than
    ``most_bytes``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), path) from error
    with open(handle, "rb") as file:
        return read_regular(file.fileno(), path, most_bytes)


def read_regular(handle: int, path: str, most_bytes: int = MOST_BYTES) -> bytes:
    """What the open file ``handle`` holds, from its beginning. Raises OSError as ``read_document`` does.

    ``path``: for its words.
    """
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(status.st_mode)}, not a regular file", path)
    if status.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes; more than {most_bytes:,} are not read", path)
    parts: list[bytes] = []
    left = status.st_size
    while left > 0 and (part := os.pread(handle, left, status.st_size - left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError, and nothing else, for any other text: also where it is nested too deep."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
