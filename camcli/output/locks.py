"""The lock of an output folder: held by the one process that writes into it, and looked at by others."""

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


@contextmanager
def claimed(root: Root, busy: str, is_used: Callable[[], bool]) -> Iterator[None]:
    """Inside, ``root`` is there, with its marker and an empty scratch folder, and nobody else writes into it.

    A folder that was not there before, and is not used by then (``is_used``), is removed again. Raises InUseError, which says
    ``busy``, OutputError where something in it has a name of camcli's and is not of its kind, and OSError.
    """
    made = root.make_self()
    folders: list[str] = []
    held: int | None = None
    try:
        check_kinds(root)
        folders += [OWN] if root.make_folder(OWN) else []
        held = root.lock(LOCK)
        if held is None:
            raise InUseError(busy)
        folders += [SCRATCH] if root.make_folder(SCRATCH) else []
        root.clear_scratch()
        yield
    finally:
        with contextlib.suppress(OSError):  # what cannot be looked at may be used
            if not is_used():  # while the lock is held: nobody else can be using what is removed
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
    """Inside, no run writes into ``root``. Raises InUseError, which says ``busy``, while one does.

    ``read_only``: a folder whose lock cannot be written is taken as it is, for nobody else writes into it either; otherwise it
    raises OutputError.
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
