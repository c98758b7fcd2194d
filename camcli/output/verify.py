"""Whether journal, tables and files of an output folder agree, and whether the images are still those that were explained."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from camcli.errors import InputError, SettingsError
from camcli.output.checks import is_unchanged, size_of
from camcli.output.files import files_of, is_whole_file, stray_files
from camcli.output.journal import TABLES, Entry, read_entries, read_settings, table_ends
from camcli.output.ledger import Ledger, journal_path
from camcli.output.locks import undisturbed
from camcli.output.names import shard_of_name
from camcli.records import RUN_MARKER, recovered, shown


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file of an output folder, or with an image."""

    file: str
    problem: str


def run_folders(path: str) -> list[str]:
    """``path`` where it holds a run, and the folders in it of runs that share it. Raises InputError when there is none."""
    if not os.path.isdir(path):
        raise InputError(f"there is no folder {shown(path)!r}.")
    parts = sorted(name for name in os.listdir(path) if shard_of_name(name))
    found = [folder for folder in (path, *(os.path.join(path, name) for name in parts)) if os.path.exists(journal_path(folder))]
    if not found:
        raise InputError(f"{shown(path)!r} holds no run of camcli: there is no {RUN_MARKER}/journal.jsonl in it.")
    return found


def missing_parts(folders: Sequence[str]) -> str:
    """Words for the parts that are not among ``folders`` although others of their division are; empty where none is missing."""
    parts = {part for folder in folders if (part := shard_of_name(os.path.basename(folder)))}
    missing = sorted({(index, count) for _, count in parts for index in range(count)} - parts)
    return f"; not here: {', '.join(f'{index}/{count}' for index, count in missing)}" if missing else ""


def verify_folder(path: str, *, with_inputs: bool = False) -> Iterator[Problem]:
    """What does not agree in the output folder ``path``; nothing where all is well. Changes nothing.

    ``with_inputs`` looks at the images too: whether they are there and unchanged. Raises InUseError while a run is at work.
    """
    with undisturbed(path, f"a run is writing into {shown(path)!r}; verify it when that has ended.", read_only=True):
        yield from _problems(path, with_inputs=with_inputs)


def _problems(path: str, *, with_inputs: bool) -> Iterator[Problem]:
    settings = read_settings(journal_path(path))
    if settings is None:
        yield Problem(os.path.join(RUN_MARKER, "journal.jsonl"), "its first line is damaged; nothing can be said of the rest")
        return
    yield from _leftovers(path)
    ledger = Ledger(path, settings)
    sizes = {name: size_of(os.path.join(path, name)) for name in TABLES}
    for name, header in ledger.headers.items():
        if _start(os.path.join(path, name), len(header)) != header:
            yield Problem(name, "missing, or its first line is not as camcli wrote it")
            return
    entries, torn = read_entries(journal_path(path), ledger.starts, sizes)
    if torn:
        yield Problem(os.path.join(RUN_MARKER, "journal.jsonl"), f"{torn} lines at its end are damaged, or their rows are missing")
    ends = table_ends(ledger.starts, entries)
    for name in TABLES:
        if sizes[name] > ends[name]:
            yield Problem(name, f"{sizes[name] - ends[name]} bytes at its end that the journal does not know")
    try:
        yield from _entries(path, ledger, entries)
        for stray in stray_files(path, settings):
            yield Problem(os.path.relpath(stray, path), "no row of the table names it")
    except SettingsError as error:
        yield Problem("predictions.csv", f"not a table as camcli writes it: {error}")
    yield from _record(path, entries)
    if with_inputs:
        yield from _inputs(settings, entries)


def _leftovers(path: str) -> Iterator[Problem]:
    for name in ("exchange", "draft", "in-flight", "redrawing"):
        if os.path.lexists(os.path.join(path, RUN_MARKER, name)):
            yield Problem(os.path.join(RUN_MARKER, name), "left over: the last run did not end by itself")


def _entries(path: str, ledger: Ledger, entries: list[Entry]) -> Iterator[Problem]:
    """What is wrong with the rows of each image and the files they name."""
    ledger.entries = {entry.image: entry for entry in entries}
    if len(ledger.entries) < len(entries):
        yield Problem(os.path.join(RUN_MARKER, "journal.jsonl"), f"{len(entries) - len(ledger.entries)} images stand in it twice")
        return
    for entry, data in ledger.rows():
        rows = ledger.own_rows(entry, data)
        if rows is None:
            yield Problem(entry.table, f"the rows of {entry.image} are not where the journal says, or not whole")
        elif not entry.stage:
            for row in rows:
                yield from _files(path, row, ledger.settings)


def _files(path: str, row: dict[str, str], settings: dict[str, Any]) -> Iterator[Problem]:
    overlay = recovered(row["overlay"])
    if (row["status"] == "ok") != bool(overlay):
        yield Problem("predictions.csv", f"{row['image']}: status {row['status']} does not go with the overlay {overlay!r}")
    for name in files_of(overlay, settings):
        try:
            whole = is_whole_file(os.path.join(path, name))
        except OSError as error:
            yield Problem(name, f"cannot be read: {error.strerror}")
            continue
        if not whole:
            yield Problem(name, "not a whole file; delete it, and the same command writes it anew")


def _record(path: str, entries: list[Entry]) -> Iterator[Problem]:
    try:
        with open(os.path.join(path, "run.json"), "rb") as file:
            record = json.load(file)
    except FileNotFoundError:
        yield Problem("run.json", "missing: the run has not come to its end")
        return
    except (OSError, ValueError) as error:
        yield Problem("run.json", f"cannot be read: {error}")
        return
    if not isinstance(record, dict) or record.get("state") != "finished":
        state = record.get("state") if isinstance(record, dict) else "another program's"
        yield Problem("run.json", f"the last run was {state}: the same command goes on")
        return
    images = record.get("images", {})
    failed = sum(bool(entry.stage) for entry in entries)
    if images != {"explained": len(entries) - failed, "failed": failed}:
        yield Problem("run.json", f"counts {images}; the tables hold {len(entries) - failed} explained and {failed} failed")


def _inputs(settings: dict[str, Any], entries: list[Entry]) -> Iterator[Problem]:
    for entry in entries:
        place = os.path.join(settings["inputs"], entry.image)
        if not os.path.lexists(place) and entry.stamp is not None:
            yield Problem(place, "the image is gone; its rows stay")
        elif entry.stage != "read" and not is_unchanged(entry.stamp, place):
            yield Problem(place, "the image has changed since: the same command explains it anew")


def _start(path: str, length: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(length)
    except OSError:
        return b""
