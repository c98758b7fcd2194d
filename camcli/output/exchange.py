"""Replacing several files of an output folder at once: a crash at any moment leaves all old files or all new files.

The new files are written into the folder DRAFT and flushed to disk. Then DRAFT is renamed to EXCHANGE: from then on the new files
are valid, even if the process dies before it has moved all of them to their places. ``current_place`` returns where a file is
now.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from camcli.layout import DRAFT, EXCHANGE
from camcli.output.root import Root
from camcli.output.writers import output_error

LEFTOVERS = (DRAFT, EXCHANGE)
"""Folders that remain when a process dies while it replaces files."""


def _inner(folder: str, place: str) -> str:
    return f"{folder}/{os.path.basename(place)}"


def current_place(root: Root, place: str) -> str:
    """Where the file for ``place`` is now: at ``place``, or still in EXCHANGE."""
    moving = _inner(EXCHANGE, place)
    return moving if root.exists(moving) else place


@contextmanager
def exchanged(root: Root, places: Sequence[str]) -> Iterator[Mapping[str, BinaryIO]]:
    """Context manager: new files for ``places``. When the block ends without an error, they replace the old files all at once.

    Yields place -> open file. Raises OutputError if they cannot be written; then the old files remain.
    """
    try:
        finish_exchange(root, places)
        _discard(root, places)
        root.make_folder(DRAFT)
        with contextlib.ExitStack() as stack:
            files = {place: stack.enter_context(root.create(_inner(DRAFT, place))) for place in places}
            yield files
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        root.rename(DRAFT, EXCHANGE)  # from here on the new files are valid
        finish_exchange(root, places)
    except OSError as error:
        _discard(root, places)
        raise output_error(error.filename or root.at(places[0]), error) from error
    except BaseException:
        _discard(root, places)
        raise


def exchange_files(root: Root, contents: Mapping[str, bytes]) -> None:
    """Replace the files of ``contents`` (place -> bytes) all at once; empty bytes remove a file. Raises OutputError."""
    with exchanged(root, list(contents)) as files:
        for place, data in contents.items():
            files[place].write(data)


def finish_exchange(root: Root, places: Sequence[str]) -> None:
    """Move the files that a process left in EXCHANGE when it died to their ``places``. Raises OSError."""
    if not root.exists(EXCHANGE):
        return
    for place in places:
        moving = _inner(EXCHANGE, place)
        if root.size(moving):
            root.rename(moving, place)
        elif root.exists(moving):
            root.remove(place)
            root.remove(moving)
    root.remove_folder(EXCHANGE, above=False)


def _discard(root: Root, places: Sequence[str]) -> None:
    """Remove the files of a draft, and its folder if it is empty then. What cannot be removed does no harm."""
    with contextlib.suppress(OSError):
        for place in places:
            root.remove(_inner(DRAFT, place))
        root.remove_folder(DRAFT, above=False)
