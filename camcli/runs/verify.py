"""Checking that the journal, the tables and the files of an output folder agree, and that images have not changed since."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camcli.errors import InputError, OutputError, SettingsError
from camcli.images.finder import SourceFinder
from camcli.layout import (
    FORMER_FILES,
    JOURNAL,
    OUTPUT_FOLDERS,
    OWN,
    PART_FOLDERS,
    RUN_RECORD,
    UNCONFIRMED,
    UNFINISHED_RENDER,
)
from camcli.output.checks import check_kinds, is_unchanged
from camcli.output.exchange import LEFTOVERS, current_place
from camcli.output.files import is_whole_file, stray_files
from camcli.output.journal import Entry, read_header, table_ends
from camcli.output.ledger import Ledger
from camcli.output.locks import undisturbed
from camcli.output.names import shard_of_name
from camcli.output.parquet import other_parts
from camcli.output.parts import read_parts
from camcli.output.record import checked_record, part_of
from camcli.output.root import Root
from camcli.records import Checksum, escape_name, unescape_name
from camcli.source import Source, each

_MOST_NAMED = 5
"""Maximum number of missing shards that a message lists."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with ``file``, a file of an output folder or an image."""

    file: str
    problem: str


def run_folders(path: str) -> list[Root]:
    """``path`` if it holds a run, and the folders of shards inside it. Raises InputError if there is no run."""
    if not os.path.isdir(path):
        raise InputError(f"there is no folder {escape_name(path)!r}.")
    root = Root(path)
    try:
        parts = [root.below(name) for name in root.names() if shard_of_name(name) and root.is_folder(name)]
        found = [folder for folder in (root, *parts) if folder.is_folder(OWN) and folder.exists(JOURNAL)]
    except OSError as error:
        raise InputError(f"cannot read {escape_name(error.filename or path)!r}: {error.strerror}.") from error
    if not found:
        raise InputError(f"{escape_name(path)!r} holds no run of camcli: there is no {JOURNAL} in it.")
    return found


def missing_parts(folders: Sequence[Root]) -> str:
    """Words that name the shards missing from ``folders``; empty if none is missing."""
    parts = {part for folder in folders if (part := shard_of_name(os.path.basename(folder.path)))}
    missing = ((index, count) for count in sorted({count for _, count in parts}) for index in range(count))
    words = named_parts(part for part in missing if part not in parts)
    return f"; not here: {words}" if words else ""


def named_parts(parts: Iterator[tuple[int, int]]) -> str:
    """The first few of ``parts`` in words, and whether there are more; empty if there are none."""
    first = list(itertools.islice(parts, _MOST_NAMED + 1))
    return ", ".join(f"{index}/{count}" for index, count in first[:_MOST_NAMED]) + (" and more" if len(first) > _MOST_NAMED else "")


def verify_folder(root: Root, *, with_inputs: bool = False) -> Iterator[Problem]:
    """The problems of the output folder ``root``; none if all of it agrees. Changes nothing.

    ``with_inputs``: also check that the images exist and are unchanged. Raises InUseError while a run writes into the folder.
    """
    try:
        check_kinds(root)
    except OutputError as error:
        yield Problem(".", str(error))
        return
    with undisturbed(root, f"a run is writing into {escape_name(root.path)!r}; verify it when the run has ended.", read_only=True):
        try:
            yield from _problems(root, with_inputs=with_inputs)
        except OSError as error:
            yield Problem(os.path.relpath(error.filename or root.path, root.path), f"cannot be read: {error.strerror}")


def _problems(root: Root, *, with_inputs: bool) -> Iterator[Problem]:
    try:
        header = read_header(root)
    except SettingsError as error:
        yield Problem(JOURNAL, str(error))
        return
    if header is None:
        yield Problem(JOURNAL, "its first line is damaged, so the folder cannot be checked")
        return
    for name in (*LEFTOVERS, *FORMER_FILES, UNFINISHED_RENDER, UNCONFIRMED):
        if root.exists(name):
            yield Problem(name, "left over: the last run did not end by itself")
    ledger = Ledger(root, header.settings, header.redrawn)
    for name, start in ledger.headers.items():
        if not _begins_with(root, current_place(root, name), start):
            yield Problem(name, "missing, or its first line has changed since camcli wrote it")
            return
    torn = ledger.read()
    if torn:
        yield Problem(JOURNAL, f"{torn} lines at its end are damaged, repeat an image, or have no rows in the tables")
    ends = table_ends(ledger.starts, ledger.entries.values())
    for name in ledger.headers:
        beyond = root.size(current_place(root, name)) - ends[name]
        if beyond > 0:
            yield Problem(name, f"{beyond} bytes at its end that the journal does not record")
    named: set[str] = set()
    yield from _entries(root, ledger, named)
    for top in (*OUTPUT_FOLDERS, OWN):
        for name, kind in root.special_files(top):
            yield Problem(name, f"it is {kind}; camcli makes only files and folders")
    for stray in stray_files(root, named):
        yield Problem(stray, "no row of the table names it")
    yield from _parts(root, ledger)
    yield from _record(root, list(ledger.entries.values()))
    if with_inputs:
        yield from _inputs(ledger.settings, list(ledger.entries.values()))


def _entries(root: Root, ledger: Ledger, named: set[str]) -> Iterator[Problem]:
    """The problems of the rows and files of each image. Adds the files that rows name to ``named``."""
    packed = [(ledger.packed(name), name) for name in ledger.binaries]
    for entry, data in ledger.rows():
        rows = ledger.own_rows(entry, data)
        if rows is None:
            yield Problem(entry.table, f"the rows of {escape_name(entry.image)} are damaged: they do not match the journal")
            continue
        for table, name in packed:
            if not table.is_whole(entry):
                yield Problem(name, f"the data of {escape_name(entry.image)} is damaged; run the same command again to write it")
        for row in () if entry.stage else rows:
            if not _may_have(ledger.settings, row["status"], bool(row["overlay"])):
                overlay = unescape_name(row["overlay"])
                yield Problem(entry.table, f"{row['image']}: status {row['status']} does not match the overlay {overlay!r}")
        for name, checksum in () if entry.stage else ledger.file_checksums(entry, rows):
            named.add(name)
            yield from _file(root, name, checksum)


def _may_have(settings: Mapping[str, Any], status: str, has_overlay: bool) -> bool:
    """Whether a run with ``settings`` can have written a row with ``status``, with or without an overlay."""
    if has_overlay:
        return status == "ok" and settings.get("overlays") is not False
    return status != "ok" or settings.get("overlays") is False or bool(settings.get("overlays-for"))


def _file(root: Root, name: str, checksum: Checksum | None) -> Iterator[Problem]:
    try:
        whole = is_whole_file(root, name) if checksum is None else _checksum_of(root, name) == checksum
    except OSError as error:
        yield Problem(name, f"cannot be read: {error.strerror}")
        return
    if not whole:
        words = "changed since it was written" if checksum is not None else "not a complete file"
        yield Problem(name, f"{words}; delete it and run the same command again to write it")


def _checksum_of(root: Root, name: str) -> Checksum:
    size = checksum = 0
    with root.open(name) as file:
        while part := file.read(1 << 20):
            size, checksum = size + len(part), zlib.crc32(part, checksum)
    return Checksum(size, checksum)


def _parts(root: Root, ledger: Ledger) -> Iterator[Problem]:
    """The problems of Parquet files. They need not be opened: the manifest has their checksums and those of their rows."""
    stale = other_parts(root, ledger)
    for name in stale:
        yield Problem(name, "it does not have the rows of the tables; run the same command again to write it")
    for folder in PART_FOLDERS:
        known = read_parts(root, folder)
        for name in known.keys() - set(stale):
            yield from _file(root, name, known[name].file)
        for name in root.files(folder):
            if name not in known:
                yield Problem(name, "camcli did not write it, but programs that read the folder take it for rows")


def _record(root: Root, entries: list[Entry]) -> Iterator[Problem]:
    try:
        record = checked_record(root)
    except FileNotFoundError:
        yield Problem(RUN_RECORD, "missing: the run is not finished")
        return
    except (OSError, ValueError) as error:
        yield Problem(RUN_RECORD, f"cannot be read: {escape_name(str(error))}")
        return
    if record.get("state") != "finished":
        yield Problem(
            RUN_RECORD, f"the last run was {escape_name(str(record.get('state')))[:40]}: run the same command again to resume"
        )
        return
    images = part_of(record, "images")
    failed = sum(bool(entry.stage) for entry in entries)
    if images != {"explained": len(entries) - failed, "failed": failed}:
        counts = (
            f"{escape_name(str(images.get('explained')))[:40]} explained and {escape_name(str(images.get('failed')))[:40]} failed"
        )
        yield Problem(RUN_RECORD, f"counts {counts}; the tables hold {len(entries) - failed} explained and {failed} failed")


def _inputs(settings: Mapping[str, Any], entries: list[Entry]) -> Iterator[Problem]:
    finder = SourceFinder(str(settings.get("inputs", "")))
    by_name = {entry.image: entry for entry in entries}
    sources = [finder.find(image) for image in by_name]
    for source, problem in zip(sources, each(lambda source: _input(by_name[source.image], source), sources), strict=True):
        if problem:
            yield Problem(source.path, problem)


def _input(entry: Entry, source: Source) -> str:
    """What is wrong with the source of ``entry``; empty if nothing is."""
    if source.stamp() is None and not (not source.is_remote and os.path.lexists(source.path)) and entry.stamp is not None:
        why = source.why_unreadable() if source.is_remote else ""
        return f"the image cannot be read: {why}" if why else "the image is missing; its rows are kept"
    if entry.stage != "read" and not is_unchanged(entry.stamp, source):
        return "the image has changed since: run the same command again to explain it"
    return ""


def _begins_with(root: Root, name: str, start: bytes) -> bool:
    try:
        with root.open(name) as file:
            return file.read(len(start)) == start
    except OSError:
        return False
