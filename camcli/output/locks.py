"""The lock of an output folder: held by the one process that writes into it, and tested by others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from camcli.errors import InUseError
from camcli.layout import LOCK, OWN, SCRATCH
from camcli.output.checks import check_kinds
from camcli.output.root import Root
from camcli.output.writers import output_error
from camcli.records import escape_name


@contextmanager
def claimed(root: Root, writer: str, is_used: Callable[[], bool]) -> Iterator[None]:
    """Context manager: lock ``root``, which is created with its marker and an empty scratch folder if it is missing.

    ``writer``: names the writing command in the message of InUseError, which is raised while another process holds the lock.
    ``is_used``: whether the folder has contents; at the end a folder that was created here and has none is removed. Raises
    OutputError if an entry with a name of camcli's has the wrong kind, and for every OSError, also from the body of the with
    statement.
    """
    try:
        with _claimed(root, writer, is_used):
            yield
    except OSError as error:
        raise output_error(error.filename or root.path, error) from error


@contextmanager
def _claimed(root: Root, writer: str, is_used: Callable[[], bool]) -> Iterator[None]:
    made = root.make_self()
    folders: list[str] = []
    held: int | None = None
    try:
        check_kinds(root)
        folders += [OWN] if root.make_folder(OWN) else []
        held = root.lock(LOCK)
        if held is None:
            raise InUseError(
                f"another {writer} is writing into {escape_name(root.path)!r}. Wait for it to end, or choose "
                "another folder with --output."
            )
        folders += [SCRATCH] if root.make_folder(SCRATCH) else []
        root.clear_scratch()
        yield
    finally:
        with contextlib.suppress(OSError):  # a folder that cannot be read may be in use
            if not is_used():  # while the lock is held, so nobody else uses what is removed
                if OWN in folders and held is not None:
                    root.remove(LOCK)
                for folder in reversed(folders):
                    root.remove_folder(folder, above=False)
                for one in reversed(made):
                    one.remove_self()
        if held is not None:
            os.close(held)


@contextmanager
def undisturbed(root: Root, busy: str, *, read_only: bool = False) -> Iterator[None]:
    """Context in which no other process writes into ``root``. Raises InUseError with the message ``busy`` while one does.

    ``read_only``: accept a folder in which the lock file cannot be opened for writing, because then nobody else can write into it
    either. Without it such a folder raises OutputError.
    """
    held = None
    try:
        held = root.lock(LOCK)
    except OSError as error:
        if not read_only:
            raise output_error(error.filename or root.at(LOCK), error) from error
    else:
        if held is None:
            raise InUseError(busy)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)
