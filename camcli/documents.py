"""Read small untrusted files (labels, tables, settings, records): whole, up to a size limit, and without ever blocking."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import tomllib
from typing import Any

MOST_BYTES = 64 << 20
"""Default maximum size of a document in bytes; larger ones are refused without reading them."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a symbolic link"),
)


def kind_of(mode: int) -> str:
    """The kind of a file that is not regular, from its ``st_mode``, such as ``a FIFO``."""
    return next((words for test, words in _KINDS if test(mode)), "a special file")


def read_document(path: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of the regular file at ``path``; links are followed.

    Raises OSError with the reason in ``strerror``: no such file, a FIFO or device (which is not waited for), or more than
    ``most_bytes``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), path) from error
    with open(handle, "rb") as file:
        return read_regular(file.fileno(), path, most_bytes)


def read_regular(handle: int, path: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of the open file ``handle`` from its beginning. Raises OSError as ``read_document`` does, with ``path`` in it."""
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise _irregular(status, path)
    if status.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes; more than {most_bytes:,} are not read", path)
    parts: list[bytes] = []
    left = status.st_size
    while left > 0 and (part := os.pread(handle, left, status.st_size - left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_text(path: str, most_bytes: int = MOST_BYTES) -> str:
    """The text of the UTF-8 file at ``path`` without a byte order mark; line ends are not changed.

    Raises OSError as ``read_document`` does, and ValueError for a file that is not UTF-8.
    """
    data = read_document(path, most_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start:,} is not UTF-8") from error


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError for all invalid texts, including those that are nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


MOST_TOML_BYTES = 256 << 10
_MOST_DOTS = 250
"""Maximum number of dots on a line of TOML outside of strings. The parser's time grows with the square of a dotted key's parts."""

_TOML_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text. Raises ValueError for all invalid texts, including those that are nested too deeply."""
    for number, line in enumerate(text.split("\n"), 1):
        if (
            line.count(".") > _MOST_DOTS
            and not line.lstrip().startswith("#")
            and _TOML_STRING.sub("", line).count(".") > _MOST_DOTS
        ):
            raise ValueError(f"line {number:,} holds a key of more than {_MOST_DOTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def open_log_file(path: str) -> int:
    """The regular file at ``path``, opened for appending and created if it does not exist. Returns its descriptor.

    The null device, a terminal, and the stdout and stderr of this process are allowed too, because people name them and writing
    there is harmless. Raises OSError with the reason in ``strerror``: a folder, or a FIFO or another device, which is not waited
    for.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), path) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # a FIFO without a reader, or a socket
            raise _irregular(os.stat(path), path) from error
        raise
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) and not _is_harmless(status, handle):
        os.close(handle)
        raise _irregular(status, path)
    os.set_blocking(handle, True)
    return handle


_HARMLESS_DEVICES = ("/dev/null", "/dev/full")


def _is_harmless(status: os.stat_result, handle: int) -> bool:
    if os.isatty(handle):
        return True
    for known in (1, 2, *_HARMLESS_DEVICES):
        with contextlib.suppress(OSError):
            found = os.stat(known)
            if os.path.samestat(status, found):
                return True
    return False


def _irregular(status: os.stat_result, path: str) -> OSError:
    return OSError(errno.EINVAL, f"it is {kind_of(status.st_mode)}, not a regular file", path)
