"""Runs whose output is in a store: which files of a run are kept there, how a run gets there, and how it comes back.

``run.json`` of a run is deleted first and written last, so a run without it does not count: it was not written to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from camcli.errors import ImageError, OutputError
from camcli.images.remote.folder import RemoteFolder
from camcli.layout import BINARY_TABLES, BOXES, JOURNAL, OWN, PART_FOLDERS, PARTS_MANIFEST, ROW_FOLDERS, RUN_RECORD, SCRATCH, TABLES
from camcli.output.names import is_output_name
from camcli.output.openat import parts_of
from camcli.output.record import part_of, read_record
from camcli.output.root import Root
from camcli.output.writers import json_bytes
from camcli.records import Stamp
from camcli.source import together

_FILES = (JOURNAL, *BINARY_TABLES, PARTS_MANIFEST, *TABLES, BOXES)
"""The files of a run but ``run.json``, first the journal: it marks the folder, so that no run takes its overlays for photos."""

Identity = tuple[int, int, int]
"""Inode, size and modification time of a file, by which a file that was written again is known."""


def is_file_of_run(name: str) -> bool:
    """Whether ``name`` is the path of a file of a run, except ``run.json``. Any other object is left alone."""
    try:
        parts = parts_of(name)
    except OSError:
        return False
    if name in _FILES:
        return True
    return len(parts) > 1 and (is_row_file(name) or (parts[0] in PART_FOLDERS and name.endswith(".parquet")))


def is_row_file(name: str) -> bool:
    """Whether ``name`` is the path of an overlay, a map or a mask."""
    return name.partition("/")[0] in ROW_FOLDERS and is_output_name(name)


def is_not_merged(name: str) -> bool:
    """Whether merging a shard does not read its file ``name``: overlays, maps, masks, and Parquet, which is made from tables."""
    return is_row_file(name) or name.partition("/")[0] in PART_FOLDERS


def files_of_run(root: Root) -> list[str]:
    """The files of the run in ``root`` except ``run.json``, the journal first."""
    found = [name for name in _FILES if root.exists(name)]
    for top in (*PART_FOLDERS, *ROW_FOLDERS):
        found += filter(is_file_of_run, root.files(top))
    return found


def fetch_run(
    folder: RemoteFolder, root: Root, objects: Mapping[str, Stamp], *, is_hollow: Callable[[str], bool] = lambda _: False
) -> dict[str, Identity]:
    """Copy a run from ``folder``, which has these ``objects``, into ``root``, which is created. Without ``run.json`` copy nothing.

    Files for which ``is_hollow`` is true get the right size and no contents. An object whose name the file system cannot store is
    left out, as if it were missing. Returns the files as they are now. Raises OutputError.
    """
    root.make_self()
    for name in (OWN, SCRATCH):
        root.make_folder(name)
    if RUN_RECORD not in objects:
        return {}

    def is_fetched(name: str) -> bool:
        try:
            if is_hollow(name):
                root.write(name, b"")
                root.truncate(name, objects[name].size)
            else:
                folder.fetch(name, objects[name], root)
        except ImageError:
            return False
        return True

    names = [name for name in objects if name == RUN_RECORD or is_file_of_run(name)]
    filled = [name for name in names if not is_hollow(name)]
    found = [name for name, done in zip(filled, together(is_fetched, filled), strict=True) if done]
    found += [name for name in names if is_hollow(name) and is_fetched(name)]
    return {name: identity for name in found if (identity := identity_of(root, name)) is not None}


def identity_of(root: Root, name: str) -> Identity | None:
    """The identity of a file of ``root``; None if there is none."""
    status = root.status(name)
    return None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns)


def write_run(root: Root, folder: RemoteFolder, fetched: Mapping[str, Identity]) -> None:
    """Write the run in ``root`` to ``folder``, whole. ``fetched``: files that the folder has if they are unchanged.

    Objects of an earlier run that this run does not have are deleted. Raises OutputError.
    """
    if RUN_RECORD in fetched and fetched[RUN_RECORD] == identity_of(root, RUN_RECORD):
        return  # there was nothing to do
    folder.remove(RUN_RECORD)
    names = files_of_run(root)
    changed = [name for name in names if fetched.get(name) != identity_of(root, name)]
    write_files(root, folder, changed)
    end_run(root, folder, {name: root.size(name) for name in names})


def write_files(root: Root, folder: RemoteFolder, names: Sequence[str]) -> None:
    """Write the files ``names`` of ``root`` to ``folder``: the first before the others, which are written several at a time."""
    for name in names[:1]:
        folder.write(name, root)
    together(partial(folder.write, root=root), names[1:])


def end_run(root: Root, folder: RemoteFolder, sizes: Mapping[str, int]) -> None:
    """Delete the objects of an earlier run and write ``run.json``.

    Raises OutputError, also if a file of this run is not there with its size in ``sizes``.
    """
    missing = dict(sizes)
    stale: list[str] = []
    for name, stamp in folder.files():
        if missing.get(name) == stamp.size:
            del missing[name]
        elif name not in sizes and is_file_of_run(name):
            stale.append(name)
    if missing:
        raise OutputError(
            f"{folder.below(min(missing)).shown!r} is not there as it was written: another run writes to {folder.shown!r}, or "
            "something deletes objects there."
        )
    together(folder.remove, stale)
    folder.write(RUN_RECORD, root)


def set_output(root: Root, output: str) -> None:
    """Record ``output`` as the output of the run in ``root``, instead of the temporary folder that it was made in."""
    record = read_record(root)
    settings = part_of(record, "settings")
    if settings:
        record["settings"] = {**settings, "output": output}
        root.write_changed(RUN_RECORD, json_bytes(record))
