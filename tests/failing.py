"""File operations that fail, one after the other: what a full disk, a broken one or an administrator does to a run."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

LOOKING = frozenset({"stat", "lstat", "access"})
READING = frozenset({"open", "scandir", "listdir", "read"})
MAKING = frozenset({"create", "write", "flush", "close", "fsync", "replace", "rename", "mkdir", "link", "symlink"})
CHANGING = MAKING | {"unlink", "remove", "rmdir", "truncate", "ftruncate", "utime"}
FAILS_WITH = {
    errno.EIO: READING | CHANGING,
    errno.ENOSPC: MAKING,
    errno.EACCES: (READING | CHANGING) - {"read", "write", "flush", "close", "fsync"},
    errno.EMFILE: frozenset({"open", "create", "scandir", "listdir"}),
}
"""Which operations a disk, a system or an administrator lets fail how."""


@dataclass
class Failing:
    """Inside, the ``number``-th of ``operations`` on what lies below ``root`` fails with ``code``: once, or that and all later.

    A context manager. ``seen``: the operations that were counted; a ``number`` of 0 counts and lets nothing fail.
    """

    root: str
    operations: frozenset[str]
    number: int = 0
    code: int = errno.EIO
    for_good: bool = False
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open = io.open
        self._kept: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Failing:
        for name in ("replace", "rename", "mkdir", "unlink", "remove", "rmdir", "truncate", "link", "symlink", "utime"):
            self._patch(os, name, self._calling(name))
        for name in ("scandir", "listdir", "stat", "lstat", "access", "fsync", "ftruncate"):
            self._patch(os, name, self._calling(name))
        self._patch(os, "open", self._opening_handle)
        self._patch(os, "pread", self._calling("read"))
        self._patch(os, "write", self._writing)
        self._patch(io, "open", self._opening)
        self._patch(builtins, "open", self._opening)
        return self

    def __exit__(self, *_: object) -> None:
        for place, name, original in reversed(self._kept):
            setattr(place, name, original)
        self._kept.clear()

    def _patch(self, place: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        self._kept.append((place, name, getattr(place, name)))
        setattr(place, name, wrap(getattr(place, name)))

    def fails(self, operation: str, target: Any, folder: int | None = None) -> bool:
        """Count an operation on a path or a descriptor; whether it is to fail."""
        if operation not in self.operations:
            return False
        path = _path_of(target, folder)
        if path != self.root and not path.startswith(self.root + os.sep):
            return False
        with self._lock:
            self.seen.append(f"{operation} {path[len(self.root) + 1 :]}")
            return 0 < self.number <= len(self.seen) and (self.for_good or self.number == len(self.seen))

    def error(self, target: Any) -> OSError:
        """What the operation fails with."""
        name = None if isinstance(target, int) else target
        return OSError(self.code, os.strerror(self.code), name) if name is not None else OSError(self.code, os.strerror(self.code))

    def _calling(self, name: str) -> Callable[[Any], Any]:
        def wrap(real: Any) -> Any:
            def call(target: Any = ".", *rest: Any, **options: Any) -> Any:
                folder = options.get("dir_fd", options.get("src_dir_fd"))
                if self.fails(name, target, folder):
                    raise self.error(target)
                return real(target, *rest, **options)

            return call

        return wrap

    def _opening_handle(self, real: Any) -> Any:
        def call(target: Any, flags: int, *rest: Any, **options: Any) -> int:
            operation = "create" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "open"
            if self.fails(operation, target, options.get("dir_fd")):
                raise self.error(target)
            return int(real(target, flags, *rest, **options))

        return call

    def _writing(self, real: Any) -> Any:
        def call(handle: int, data: Any) -> int:
            if self.fails("write", handle):
                real(handle, bytes(data)[: len(data) // 2])
                raise self.error(handle)
            return int(real(handle, data))

        return call

    def _opening(self, real: Any) -> Any:
        def call(target: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            reads = not set(mode) & set("wax+")
            if not isinstance(target, int) and self.fails("open" if reads else "create", target):
                raise self.error(target)
            file = real(target, mode, *rest, **options)
            return _File(file, target, self) if _path_of(target, None).startswith(self.root + os.sep) else file

        return call


def _path_of(target: Any, folder: int | None) -> str:
    if isinstance(target, int):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{target}")
        return ""
    path = os.fsdecode(target)
    return os.path.normpath(os.path.join(_path_of(folder, None), path)) if folder is not None else os.path.abspath(path)


class _File:
    """An open file whose operations may fail; a write that fails has written half."""

    def __init__(self, file: Any, target: Any, failing: Failing) -> None:
        self._file, self._target, self._failing = file, target, failing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        for line in self._file:
            self._may_fail("read")
            yield line

    def _may_fail(self, operation: str) -> None:
        if self._failing.fails(operation, self._target):
            raise self._failing.error(self._target)

    def read(self, *size: int) -> Any:
        self._may_fail("read")
        return self._file.read(*size)

    def readline(self, *size: int) -> Any:
        self._may_fail("read")
        return self._file.readline(*size)

    def write(self, data: Any) -> Any:
        if self._failing.fails("write", self._target):
            self._file.write(data[: len(data) // 2])
            raise self._failing.error(self._target)
        return self._file.write(data)

    def flush(self) -> None:
        self._may_fail("flush")
        self._file.flush()

    def close(self) -> None:
        closed, writable = self._file.closed, not self._file.closed and self._file.writable()
        self._file.close()
        if not closed and writable:
            self._may_fail("close")
