"""Several files of an output folder replaced together: a crash at any moment leaves all of the old ones or all of the new ones.

The new files are written into a folder of their own and flushed to the disk. One rename of that folder decides: from then on they
are the truth, wherever a process dies while it moves them to their places. Who reads them asks ``present`` where they are.
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
"""What a process leaves that dies at it."""


def _inner(folder: str, place: str) -> str:
    return f"{folder}/{os.path.basename(place)}"


def present(root: Root, place: str) -> str:
    """Where the file that belongs at ``place`` is now: there, or on its way there."""
    decided = _inner(EXCHANGE, place)
    return decided if root.exists(decided) else place


@contextmanager
def exchanged(root: Root, places: Sequence[str]) -> Iterator[Mapping[str, BinaryIO]]:
    """Files to be filled inside, one for each of ``places``, which replace those there all at once when the block ends well.

    Raises OutputError where that cannot be written; what was there before stays then.
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
        root.rename(DRAFT, EXCHANGE)  # from here on the new files are the truth
        finish_exchange(root, places)
    except OSError as error:
        _discard(root, places)
        raise output_error(error.filename or root.at(places[0]), error) from error
    except BaseException:
        _discard(root, places)
        raise


def exchange_files(root: Root, contents: Mapping[str, bytes]) -> None:
    """Replace the files of ``contents`` (place -> bytes) all at once; no bytes stand for no file. Raises OutputError."""
    with exchanged(root, list(contents)) as files:
        for place, data in contents.items():
            files[place].write(data)


def finish_exchange(root: Root, places: Sequence[str]) -> None:
    """Move what a process that died had decided, and not moved yet, to its ``places``. Raises OSError."""
    if not root.exists(EXCHANGE):
        return
    for place in places:
        decided = _inner(EXCHANGE, place)
        if root.size(decided):
            root.rename(decided, place)
        elif root.exists(decided):
            root.remove(place)
            root.remove(decided)
    root.remove_folder(EXCHANGE, above=False)


def _discard(root: Root, places: Sequence[str]) -> None:
    """Remove a draft, as far as it is one; nothing that is in the way is of any harm."""
    with contextlib.suppress(OSError):
        for place in places:
            root.remove(_inner(DRAFT, place))
        root.remove_folder(DRAFT, above=False)
