"""Reading, writing, replacing and removing files inside an output folder, and never outside it.

An output folder is not trusted: a stranger may have made it. So every path below it must be relative and normalised. Each folder on
the path is opened from the folder above it without following links (``openat`` with ``O_NOFOLLOW``, so that exchanging names in
between has no effect). Only regular files are opened, and opening never waits. The output folder itself may be a link, because the
user has named it. Go's ``os.Root`` has the same idea.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from camcli.documents import MOST_BYTES, kind_of, read_regular
from camcli.errors import ImageError
from camcli.layout import SCRATCH
from camcli.output.openat import ABSENT, NOT_INSIDE, fill_file, open_file, opened_folder, parts_of, regular_size
from camcli.output.writers import output_error
from camcli.records import escape_name

_TEMPORARY = re.compile(r"\d+-\d+")
_numbers = itertools.count()
_NAME_PROBLEMS = frozenset(
    {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT}
)


_MOST_OPEN = 4
"""Maximum number of folders that ``OpenRoot`` keeps open: of temporary files, overlays, maps and masks."""


class Root:
    """The files below the folder at ``path``. All methods take paths relative to it, with ``/``.

    They raise OSError, with the whole path and a text that says what is wrong, also for a path that would leave the folder
    (absolute, or with ``..``), for a link on the path, and for a file that is not regular.
    """

    def __init__(self, path: str) -> None:
        self.path = self._top = os.path.abspath(path)
        self._inside: list[str] = []
        self._outer: Root | None = None

    def below(self, name: str) -> Root:
        """The Root of the folder ``name`` inside this one. It is not followed if it is a link."""
        inner = Root(self._top)
        inner._inside = [*self._inside, *parts_of(name)]
        inner._outer = self
        inner.path = self.at(name)
        return inner

    def make_self(self) -> list[Root]:
        """Create the folder itself if it is missing; its parent must exist. Returns the created folders, the outermost first."""
        if self._outer is not None:
            made = self._outer.make_self()
            return [*made, self] if self._outer.make_folder(self._inside[-1]) else made
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path)
            return [self]
        return []

    def remove_self(self) -> None:
        """Remove the folder itself if it is empty."""
        with contextlib.suppress(OSError):
            if self._outer is not None:
                self._outer.remove_folder(self._inside[-1], above=False)
            else:
                os.rmdir(self.path)

    def at(self, relative: str) -> str:
        """The absolute path of ``relative``, for messages. Files below the folder are never opened by it."""
        return os.path.join(self.path, relative)

    def status(self, relative: str) -> os.stat_result | None:
        """The status of the file, folder or link at ``relative``; links are not followed. None if there is nothing."""
        try:
            with self._parent(relative) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in NOT_INSIDE:
                return None
            raise

    def exists(self, relative: str) -> bool:
        """Whether there is anything at ``relative``, even a dangling link."""
        return self.status(relative) is not None

    def size(self, relative: str) -> int:
        """The size of the regular file at ``relative`` in bytes; 0 if there is none."""
        status = self.status(relative)
        return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else 0

    @contextlib.contextmanager
    def sizes(self) -> Iterator[Callable[[str], int]]:
        """Context manager: a function like ``size``, faster for many files because it keeps their folders open."""
        with contextlib.ExitStack() as stack:
            folders: dict[str, int | None] = {}

            def size(relative: str) -> int:
                parent, _, name = relative.rpartition("/")
                if parent not in folders:
                    if len(folders) >= 8:  # enough for overlays, maps and masks of two folders; bounds the open descriptors
                        folders.clear()
                        stack.close()
                    folders[parent] = stack.enter_context(self._folder_or_none(parent))
                return regular_size(name, folders[parent])

            yield size

    @contextlib.contextmanager
    def _folder_or_none(self, relative: str) -> Iterator[int | None]:
        with contextlib.ExitStack() as stack:
            folder = None
            try:
                folder = stack.enter_context(self._folder(parts_of(relative)))
            except OSError as error:
                if error.errno not in NOT_INSIDE:
                    raise
            yield folder

    def is_folder(self, relative: str) -> bool:
        """Whether ``relative`` is a folder and not a link to one."""
        status = self.status(relative)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def names(self, relative: str = "") -> list[str]:
        """The names in a folder, sorted; empty if there is no such folder."""
        try:
            with self._folder(parts_of(relative) if relative else []) as folder:
                return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def files(self, top: str) -> Iterator[str]:
        """All regular files below the folder ``top``, in sorted order; links are not followed."""
        return (path for path, mode in self._below(top) if stat.S_ISREG(mode))

    def special_files(self, top: str) -> Iterator[tuple[str, str]]:
        """Everything below ``top`` that is neither a regular file nor a folder, with its kind in words."""
        return ((path, kind_of(mode)) for path, mode in self._below(top) if not stat.S_ISREG(mode))

    def _below(self, top: str) -> Iterator[tuple[str, int]]:
        """Everything below ``top`` except folders, with its mode."""
        waiting = [top] if self.exists(top) else []
        while waiting:
            folder = waiting.pop()
            inner = []
            for name in self.names(folder):
                path = f"{folder}/{name}"
                status = self.status(path)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    inner.append(path)
                elif status is not None:
                    yield path, status.st_mode
            waiting += reversed(inner)

    def open(self, relative: str) -> BinaryIO:
        """The regular file at ``relative``, opened for reading."""
        with self._parent(relative) as (folder, name):
            handle = open_file(name, folder, os.O_RDONLY, self.at(relative))
        return os.fdopen(handle, "rb")

    def read(self, relative: str, most_bytes: int = MOST_BYTES) -> bytes:
        """The contents of the regular file at ``relative``. Raises OSError if it has more than ``most_bytes``."""
        with self.open(relative) as file:
            return read_regular(file.fileno(), self.at(relative), most_bytes)

    def make_folder(self, relative: str) -> bool:
        """Create the folder ``relative``, whose parent must exist. Returns whether it was missing."""
        try:
            with self._parent(relative) as (folder, name):
                os.mkdir(name, dir_fd=folder)
        except FileExistsError:
            with self._folder(parts_of(relative)):  # raises if it is a link
                return False
        return True

    def write(self, relative: str, data: bytes) -> None:
        """Write ``data`` to ``relative``, completely or not at all: into SCRATCH first, then renamed to its place.

        Missing folders are created. Raises OutputError, which names the disk or the folder, and ImageError (stage ``write``) if the
        file system cannot store the name.
        """
        try:
            with self._folder(SCRATCH.split("/")) as scratch:
                temporary = f"{os.getpid()}-{next(_numbers)}"
                try:
                    fill_file(temporary, scratch, data)
                    self._place(temporary, scratch, relative)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(temporary, dir_fd=scratch)
        except OSError as error:
            raise output_error(error.filename or self.at(relative), error) from error

    def opened(self) -> OpenRoot:
        """A writer of many files, which keeps folders open. Close it."""
        return OpenRoot(self)

    def write_changed(self, relative: str, data: bytes) -> None:
        """``write``, unless the file already has the contents ``data``."""
        with contextlib.suppress(OSError):
            if self.size(relative) == len(data) and self.read(relative, len(data)) == data:
                return
        self.write(relative, data)

    def link(self, source: Root, relative: str) -> None:
        """Put the regular file ``relative`` of ``source`` at the same path here, as a hard link, or as a copy without link support.

        Raises OSError if it cannot be read, and what ``write`` raises.
        """
        with source.open(relative) as file, source._parent(relative) as (folder, name), self._folder(SCRATCH.split("/")) as scratch:
            there, wanted = self.status(relative), os.fstat(file.fileno())
            if there is not None and (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
                return
            temporary = f"{os.getpid()}-{next(_numbers)}"
            try:
                os.link(name, temporary, src_dir_fd=folder, dst_dir_fd=scratch, follow_symlinks=False)
            except OSError:  # no hard links on this file system
                self.write(relative, file.read())
                return
            try:
                self._place(temporary, scratch, relative)
            except OSError as error:
                raise output_error(self.at(relative), error) from error
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=scratch)

    def create(self, relative: str) -> BinaryIO:
        """A new file at ``relative``, opened for writing. Raises FileExistsError if there is anything."""
        with self._parent(relative) as (folder, name):
            handle = open_file(name, folder, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.at(relative))
        return os.fdopen(handle, "wb")

    def append(self, relative: str) -> int:
        """A file descriptor that appends to the regular file at ``relative``, which is created if it is missing.

        A file with several hard links is copied first, so that the file under the other names does not change.
        """
        self._unshare(relative)
        with self._parent(relative) as (folder, name):
            return open_file(name, folder, os.O_WRONLY | os.O_APPEND | os.O_CREAT, self.at(relative))

    def truncate(self, relative: str, size: int) -> None:
        """Cut the regular file at ``relative`` to ``size`` bytes. A file with several hard links is copied first."""
        self._unshare(relative)
        with self._parent(relative) as (folder, name):
            handle = open_file(name, folder, os.O_WRONLY, self.at(relative))
        try:
            os.ftruncate(handle, size)
        finally:
            os.close(handle)

    def rename(self, source: str, target: str) -> None:
        """Rename the file or folder ``source`` to ``target`` in one step, replacing a file there."""
        with self._parent(source) as (folder, name), self._parent(target) as (target_folder, target_name):
            os.rename(name, target_name, src_dir_fd=folder, dst_dir_fd=target_folder)

    def remove(self, relative: str) -> None:
        """Remove the file at ``relative``, if there is one. Of a link, remove the link and not its target."""
        with contextlib.suppress(*ABSENT, IsADirectoryError), self._parent(relative) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def remove_folder(self, relative: str, *, above: bool = True) -> None:
        """Remove the folder ``relative`` if it is empty, and with ``above`` also its parents that become empty."""
        parts = parts_of(relative)
        with contextlib.suppress(OSError):
            while parts:
                with self._folder(parts[:-1]) as folder:
                    os.rmdir(parts[-1], dir_fd=folder)
                parts = parts[:-1] if above else []

    def clear_scratch(self) -> None:
        """Remove the temporary files of a process that died."""
        for name in self.names(SCRATCH):
            if _TEMPORARY.fullmatch(name):
                self.remove(f"{SCRATCH}/{name}")

    def lock(self, relative: str) -> int | None:
        """A file descriptor that holds the lock file ``relative`` (flock) until closed; None while another process holds it."""
        with self._parent(relative) as (folder, name):
            handle = open_file(name, folder, os.O_RDWR | os.O_CREAT, self.at(relative))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _folder(self, parts: list[str], *, make: bool = False) -> AbstractContextManager[int]:
        """Context manager: a file descriptor of the folder ``parts``, reached from the top without following links."""
        return opened_folder(self._top, [*self._inside, *parts], make=make)

    @contextlib.contextmanager
    def _parent(self, relative: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Context manager: a file descriptor of the folder of ``relative``, and its name there. Adds the path to errors."""
        *parts, name = parts_of(relative)
        with self._folder(parts, make=make) as folder:
            try:
                yield folder, name
            except OSError as error:
                if error.filename == name or error.filename is None:
                    error.filename = self.at(relative)
                raise

    def _place(self, temporary: str, scratch: int, relative: str) -> None:
        """Rename ``temporary`` in ``scratch`` to ``relative``. Raises ImageError if the file system cannot store that name."""
        with _name_problems(self.at(relative)), self._parent(relative, make=True) as (folder, name):
            os.replace(temporary, name, src_dir_fd=scratch, dst_dir_fd=folder)

    def _unshare(self, relative: str) -> None:
        """Copy the file at ``relative`` if it has several hard links, so that writing to it changes no other file."""
        status = self.status(relative)
        if status is not None and stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            self.write(relative, self.read(relative, status.st_size))


class OpenRoot:
    """Writes files below ``root``, as ``Root.write`` does, and keeps open the folders that it wrote into last.

    Before each file it makes sure that they are still the folders at their places.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._folders: dict[str, tuple[int, tuple[int, int], contextlib.ExitStack]] = {}

    def write(self, relative: str, data: bytes) -> None:
        """Write ``data`` to ``relative``, completely or not at all. Raises what ``Root.write`` raises."""
        place, _, name = relative.rpartition("/")
        parts_of(relative)
        try:
            scratch = self._folder(SCRATCH, make=False)
            temporary = f"{os.getpid()}-{next(_numbers)}"
            try:
                fill_file(temporary, scratch, data)
                with _name_problems(self._root.at(relative)):
                    os.replace(temporary, name, src_dir_fd=scratch, dst_dir_fd=self._folder(place, make=True))
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=scratch)
                raise
        except OSError as error:
            raise output_error(error.filename or self._root.at(relative), error) from error

    def _folder(self, place: str, *, make: bool) -> int:
        """A file descriptor of the folder ``place``, which is opened without following links."""
        if place in self._folders:
            handle, identity, stack = self._folders[place]
            with contextlib.suppress(OSError):
                if _identity(os.stat(self._root.at(place), follow_symlinks=False)) == identity:
                    return handle
            del self._folders[place]
            stack.close()
        if len(self._folders) >= _MOST_OPEN:
            oldest = next(other for other in self._folders if other != SCRATCH)
            self._folders.pop(oldest)[2].close()
        with contextlib.ExitStack() as stack:
            handle = stack.enter_context(self._root._folder(parts_of(place) if place else [], make=make))
            self._folders[place] = handle, _identity(os.fstat(handle)), stack.pop_all()
        return handle

    def close(self) -> None:
        """Close all folders."""
        while self._folders:
            self._folders.popitem()[1][2].close()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _name_problems(whole: str) -> Iterator[None]:
    """Raise ImageError (stage ``write``) if the file system cannot store the name of the file at the path ``whole``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NAME_PROBLEMS:
            raise
        raise ImageError("write", f"its output file cannot have the name {escape_name(whole)!r}: {error.strerror}") from error
