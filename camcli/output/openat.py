"""Opening files below a folder name by name, without following links: openat(2) with O_NOFOLLOW.

There is no check before opening that another process could make wrong by exchanging a name in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from camcli.documents import kind_of

ABSENT = (FileNotFoundError, NotADirectoryError)
"""Errors for a name that does not exist."""

NOT_INSIDE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Error numbers for a path with nothing inside the folder. Whatever is behind a link is not inside."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0)


def parts_of(relative: str) -> list[str]:
    """The parts of the path ``relative``. Raises OSError if it is not relative and normalised."""
    parts = relative.split("/")
    if "\0" in relative or any(part in ("", ".", "..") for part in parts):
        raise OSError(errno.EINVAL, "it is not a path inside the output folder", relative)
    return parts


@contextlib.contextmanager
def opened_folder(top: str, way: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Context manager: a file descriptor of the folder reached from ``top`` by the names ``way``.

    ``make``: create missing folders. ``top`` itself may be a link. Raises OSError with the whole path; for a link its text says so.
    """
    handle = os.open(top, _FOLDER)
    try:
        for depth, name in enumerate(way, 1):
            try:
                inner = _entered(name, handle, make)
            except OSError as error:
                raise _explained(error, os.path.join(top, *way[:depth]), name, handle) from error
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _entered(name: str, handle: int, make: bool) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):  # another process made it first
        os.mkdir(name, dir_fd=handle)
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)


def open_file(name: str, folder: int, flags: int, whole: str) -> int:
    """A file descriptor of the regular file ``name`` in ``folder``. Raises OSError, with the path ``whole``, for anything else."""
    try:
        handle = os.open(name, flags | _FILE, 0o666, dir_fd=folder)
    except OSError as error:
        raise _explained(error, whole, name, folder) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, not a regular file", whole)


def fill_file(name: str, folder: int, data: bytes) -> None:
    """Write ``data`` into a new file ``name`` in ``folder``. Raises OSError, also if the file exists."""
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=folder)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
    finally:
        os.close(handle)


def regular_size(name: str, folder: int | None) -> int:
    """The size of the regular file ``name`` in ``folder`` in bytes; 0 if there is none."""
    if folder is None or name in ("", ".", ".."):
        return 0
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except ABSENT:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _explained(error: OSError, whole: str, name: str, folder: int) -> OSError:
    """``error`` with the path ``whole``; its text says so if the cause is a link or something that is not a regular file."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EMLINK, errno.EISDIR):
        with contextlib.suppress(OSError):
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                return OSError(errno.ELOOP, "it is a symbolic link, and camcli follows no links in an output folder", whole)
            if error.errno != errno.ENOTDIR and not stat.S_ISREG(mode):
                return OSError(errno.EINVAL, f"it is {kind_of(mode)}, not a regular file", whole)
    return OSError(error.errno, error.strerror or str(error), whole)
