"""The lock of an output folder, for those who look at it without writing into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from camcli.errors import InUseError
from camcli.output.writers import output_error
from camcli.records import RUN_MARKER


@contextmanager
def undisturbed(folder: str, busy: str, *, read_only: bool = False) -> Iterator[None]:
    """Inside, no run writes into ``folder``. Raises InUseError, which says ``busy``, while one does.

    ``read_only``: a folder whose lock cannot be written is taken as it is, for nobody else writes into it either; otherwise it
    raises OutputError.
    """
    path = os.path.join(folder, RUN_MARKER, "lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InUseError(busy) from error
    except OSError as error:
        if not read_only:
            raise output_error(path, error) from error
    try:
        yield
    finally:
        lock.release()
