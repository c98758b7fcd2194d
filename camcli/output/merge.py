"""Several runs that shared an output folder -> one run in that folder, as if one machine had made it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camcli.errors import InputError, OutputError, SettingsError
from camcli.output.checks import differences, read_record
from camcli.output.files import files_of
from camcli.output.folder import OutputFolder
from camcli.output.journal import Entry, read_settings
from camcli.output.ledger import Ledger, journal_path
from camcli.output.locks import undisturbed
from camcli.output.names import shard_name, shard_of_name
from camcli.output.writers import output_error
from camcli.records import RUN_MARKER, recovered, shown

_OF_A_MACHINE = ("shard", "inputs")
"""Settings in which the parts of a run may differ: machines may have the images at different places."""


@dataclass(frozen=True)
class Merged:
    """What came together: parts, images explained and failed."""

    parts: int
    explained: int
    failed: int


def merge_shards(path: str) -> Merged:
    """Join the parts inside ``path`` into one run: tables, journal and ``run.json``, with hard links to overlays and maps.

    The parts stay, so that they can go on. What ``path`` holds already stays too, unless a part has it as well; failures that no
    part has do not. Rows are sorted by the paths of the images, folder by folder, as a run over one folder writes them. Raises
    InputError where parts are missing or unfinished, SettingsError where they differ, InUseError where one is at work, OutputError
    where nothing can be written.
    """
    if not os.path.isdir(path):
        raise InputError(f"there is no folder {shown(path)!r}.")
    parts = _parts(path)
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(undisturbed(part, f"a run is still writing into {shown(part)!r}. Wait for it."))
        records = [_finished_record(part) for part in parts]
        settings = _common_settings(path, parts)
        ledgers = [_ledger(part) for part in parts]
        folder = stack.enter_context(OutputFolder(path, settings))
        contents = {entry.image: (entry, rows) for entry, rows in folder.ledger.rows() if not entry.stage}
        for part, ledger in zip(parts, ledgers, strict=True):
            for entry, rows in ledger.rows():
                _link_files(part, folder, entry, ledger.own_rows(entry, rows))
                contents[entry.image] = entry, rows
        folder.ledger.exchange(contents[image] for image in sorted(contents, key=lambda image: image.split("/")))
        folder.sweep()
        explained, failed = folder.totals()
        folder.finish(_joined(records, settings, explained, failed))
    return Merged(len(parts), explained, failed)


def _parts(path: str) -> list[str]:
    """The folders of all parts, in order. Raises InputError where there are none, some are missing, or of several divisions."""
    found = sorted(part for name in os.listdir(path) if (part := shard_of_name(name)) and os.path.isdir(os.path.join(path, name)))
    counts = {count for _, count in found}
    if not found:
        raise InputError(f"{shown(path)!r} holds no parts; camcli run --shard 0/8 -o {shown(path)} makes the first of eight.")
    if len(counts) > 1:
        divisions = " and ".join(str(count) for count in sorted(counts))
        raise InputError(f"{shown(path)!r} holds parts of different divisions, into {divisions}; remove those of one of them.")
    count = counts.pop()
    missing = [f"{index}/{count}" for index in range(count) if (index, count) not in found]
    if missing:
        raise InputError(f"{shown(path)!r} lacks {', '.join(missing)}: run camcli with --shard for each, then merge.")
    return [os.path.join(path, shard_name(index, count)) for index in range(count)]


def _finished_record(part: str) -> dict[str, Any]:
    record = read_record(part)
    if record.get("state") != "finished":
        raise InputError(f"{shown(part)!r} has not come to its end: run its command again, then merge.")
    return record


def _common_settings(path: str, parts: list[str]) -> dict[str, Any]:
    """The settings of the joined run: those of ``path`` where it holds one, otherwise of the first part.

    Raises SettingsError where a part has others.
    """
    own = read_settings(journal_path(path))
    first, whose = own, path
    for part in parts:
        settings = read_settings(journal_path(part))
        if settings is None:
            raise InputError(f"{shown(part)!r} has no journal: run its command again with --overwrite, then merge.")
        if first is None:
            first, whose = {**settings, "shard": None}, part
        different = differences(_comparable(first, settings), _comparable(settings, first))
        if different:
            raise SettingsError(f"{shown(part)!r} was made with other settings than {shown(whose)!r} ({different}).")
    assert first is not None
    return first


def _comparable(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may differ from machine to machine: places, also of files whose SHA-256 both know."""
    places = {key.removesuffix("-sha256") for key in settings.keys() & others.keys() if key.endswith("-sha256")}
    return {key: value for key, value in settings.items() if key not in places and key not in _OF_A_MACHINE}


def _ledger(part: str) -> Ledger:
    settings = read_settings(journal_path(part))
    assert settings is not None
    ledger = Ledger(part, settings)
    ledger.load()
    return ledger


def _link_files(part: str, folder: OutputFolder, entry: Entry, rows: Sequence[Mapping[str, str]] | None) -> None:
    """Put the overlays and maps of an image of ``part`` into the joined folder as well. Raises OutputError."""
    if rows is None:
        raise OutputError(f"the rows of {shown(entry.image)!r} in {shown(part)!r} are damaged: run its command again, then merge.")
    for row in () if entry.stage else rows:
        for name in files_of(recovered(row["overlay"]), folder.ledger.settings):
            _link(os.path.join(part, name), os.path.join(folder.path, name), os.path.join(folder.path, RUN_MARKER, "scratch"))


def _link(source: str, target: str, scratch: str) -> None:
    temporary = os.path.join(scratch, f"{os.getpid()}-link")
    try:
        if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
            return
        try:
            os.link(source, temporary)
        except FileNotFoundError as error:
            raise OutputError(f"{shown(source)!r} is gone: run its part again, then merge.") from error
        except OSError:  # no hard links on this file system
            shutil.copyfile(source, temporary)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(temporary, target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _joined(records: list[dict[str, Any]], settings: Mapping[str, Any], explained: int, failed: int) -> dict[str, Any]:
    """``run.json`` of the joined run: the first part's, with the counts of all; seconds are the sum of theirs."""
    seconds = sum(record.get("this_run", {}).get("seconds", 0) for record in records)
    return {
        **records[0],
        "settings": {**records[0].get("settings", {}), "shard": settings["shard"]},
        "images": {"explained": explained, "failed": failed},
        "this_run": {"explained": explained, "failed": failed, "seconds": round(seconds, 3), "parts": len(records)},
    }
