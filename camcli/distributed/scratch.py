"""Temporary folders of runs with output in a store: a process that is killed leaves its folder, and the next one removes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator

_BEGINNING = f"camcli-scratch-{os.getuid()}-"


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """Context with a new temporary folder. Removes it at the end, and at the start those that dead processes have left."""
    _remove_leftovers(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=_BEGINNING, ignore_cleanup_errors=True) as place, _locked(place):
        yield place


def _remove_leftovers(folder: str) -> None:
    """Remove the folders of dead processes in ``folder``. Whoever uses one holds its lock; an empty one is not locked yet."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if not entry.name.startswith(_BEGINNING) or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError), _locked(entry.path):
                if os.listdir(entry.path) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    shutil.rmtree(entry.path, ignore_errors=True)


@contextlib.contextmanager
def _locked(place: str) -> Iterator[None]:
    """Context in which this process holds the lock of the folder at ``place``. Raises OSError while another one does."""
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
