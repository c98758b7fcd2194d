"""The mirror of a run in a store: a temporary folder with its tables and journals, in which shards are checked and merged.

Overlays, maps and masks are files with the right size and without contents in it: no check reads them, and at the end the store
copies them itself. They never travel through this machine.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator

from camcli.distributed.scratch import scratch_folder
from camcli.distributed.stored import end_run, fetch_run, files_of_run, is_file_of_run, is_not_merged, is_row_file, write_files
from camcli.errors import CamcliError, OutputError, SettingsError
from camcli.images.discover import shard_of
from camcli.images.remote.folder import RemoteFolder, output_at
from camcli.layout import CLUSTER, FITTED_MARK, OUTPUT_NAMES, OWN, RUN_RECORD
from camcli.output.ledger import read_ledger
from camcli.output.names import shard_name, shard_of_name
from camcli.output.root import Root
from camcli.records import Stamp
from camcli.source import together


class Mirror:
    """The run at ``folder``, and ``root``, where its mirror is. ``root`` must be locked before ``update``.

    All methods raise OutputError.
    """

    def __init__(self, folder: RemoteFolder, root: Root) -> None:
        self.folder, self.root = folder, root
        self.has_mark = False
        self._objects: dict[str, dict[str, Stamp]] = {}

    def update(self) -> None:
        """Bring the mirror up to date. ``has_mark`` is then whether the run has the mark of a run in progress."""
        before, self._objects = self._objects, self._listed()
        for part, objects in self._objects.items():
            root = self.root.below(part) if part else self.root
            if part and part in before and before[part].get(RUN_RECORD) == objects.get(RUN_RECORD):
                continue
            if part:
                shutil.rmtree(root.path, ignore_errors=True)
                fetch_run(self.folder.below(part), root, objects, is_hollow=is_not_merged)
            elif not before:
                fetch_run(self.folder, root, objects, is_hollow=is_row_file)

    def _listed(self) -> dict[str, dict[str, Stamp]]:
        """The objects of each shard that belong to its run, and under "" those of the merged run."""
        found: dict[str, dict[str, Stamp]] = {}
        others: set[str] = set()
        for name, stamp in self.folder.files():
            first, _, rest = name.partition("/")
            part, inner = (first, rest) if rest and shard_of_name(first) else ("", name)
            if inner == RUN_RECORD or is_file_of_run(inner):
                found.setdefault(part, {})[inner] = stamp
            if part:
                found.setdefault(part, {})  # a shard that is not there as a whole still says how many shards there are
            else:
                others.add(name if name == CLUSTER else first)
        self.has_mark = CLUSTER in others
        if FITTED_MARK in others:
            raise OutputError(f"{self.folder.shown!r} is a model of camcli fit; choose another place with --output.")
        if OWN not in others and (foreign := [name for name in OUTPUT_NAMES if name in others]):
            raise OutputError(
                f"{self.folder.shown!r} holds {', '.join(foreign)}, which camcli did not write; choose another place with --output."
            )
        return found

    def forget_merged(self) -> None:
        """Delete ``run.json`` of the merged run: from now on it does not count."""
        self.folder.remove(RUN_RECORD)

    def forget_shards(self) -> None:
        """Delete ``run.json`` of all shards."""
        together(lambda part: self.folder.below(part).remove(RUN_RECORD), [part for part in self._objects if part])

    def write_merged(self) -> None:
        """Write the merged run of the mirror to the store; the store copies overlays, maps and masks from the shards itself."""
        self.forget_merged()
        names = [name for name in files_of_run(self.root) if not is_row_file(name)]
        write_files(self.root, self.folder, names)
        sizes = {name: self.root.size(name) for name in names}
        there = self._objects.get("", {})
        copies: list[tuple[str, str]] = []
        for part, name in self._row_files():
            stamp = self._objects.get(part, {}).get(name)
            if stamp is not None and not (stamp.version and stamp == there.get(name)):
                copies.append((part, name))
            sizes[name] = self.root.size(name)
        together(lambda copy: self.folder.copy(self.folder.below(copy[0]), copy[1]), copies)
        end_run(self.root, self.folder, sizes)

    def _row_files(self) -> Iterator[tuple[str, str]]:
        """Yield the overlays, maps and masks of the merged run, each after the name of the shard of its image."""
        count = max((found[1] for name in self._objects if (found := shard_of_name(name))), default=1)
        ledger = read_ledger(self.root.path)
        for entry, rows in ledger.explained():
            part = shard_name(shard_of(entry.image, count), count)
            yield from ((part, name) for name in ledger.files(entry, rows))


@contextlib.contextmanager
def mirrored(output: str) -> Iterator[Mirror]:
    """Context with an empty mirror of the run at the address ``output``. In messages of errors the mirror gets the address.

    Raises ConfigError if a run cannot write there.
    """
    folder = output_at(output)
    with scratch_folder() as scratch:
        path = os.path.join(scratch, "run")
        try:
            yield Mirror(folder, Root(path))
        except CamcliError as error:
            text = str(error)
            if isinstance(error, SettingsError) and error.advice:
                advice = f"To use another place: -o {shlex.quote(f'{folder.shown}-2')}. To replace the earlier run: --overwrite."
                text = text.removesuffix(error.advice) + advice
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
                raise  # of this machine, such as a full disk
            error.args = (text.replace(path, folder.shown), *error.args[1:])
            raise
