"""Several runs that shared an output folder -> one run in that folder, as if one machine had made it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camcli.config.fingerprint import effective_settings
from camcli.errors import ImageError, InputError, OutputError, SettingsError
from camcli.layout import BOXES
from camcli.output.checks import check_kinds, differences
from camcli.output.files import row_files
from camcli.output.folder import OutputFolder
from camcli.output.journal import Entry, Header, read_header
from camcli.output.ledger import Ledger
from camcli.output.locks import undisturbed
from camcli.output.names import shard_name, shard_of_name
from camcli.output.record import part_of, read_record, seconds_of
from camcli.output.redrawing import check_one_look
from camcli.output.root import Root
from camcli.output.writers import output_error
from camcli.output.writing import Rewriter
from camcli.records import escape_name
from camcli.runs import coco
from camcli.runs.verify import named_parts

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
        raise InputError(f"there is no folder {escape_name(path)!r}.")
    try:
        return _merged(path, Root(path))
    except OSError as error:
        raise output_error(error.filename or path, error) from error


def _merged(path: str, root: Root) -> Merged:
    parts = _parts(path, root)
    with contextlib.ExitStack() as stack:
        for part in parts:
            check_kinds(part)
            stack.enter_context(undisturbed(part, f"a run is still writing into {escape_name(part.path)!r}. Wait for it."))
        records = [_finished_record(part) for part in parts]
        header = _common_header(root, parts)
        ledgers = [_ledger(part) for part in parts]
        for part, record, ledger in zip(parts, records, ledgers, strict=True):
            _refuse_less_than_recorded(part, record, ledger)
        folder = stack.enter_context(OutputFolder(path, effective_settings(header.current)))
        rewriter = folder.rewriting()
        contents = {entry.image: (entry, rows) for entry, rows in folder.ledger.rows() if not entry.stage}
        for part, ledger in zip(parts, ledgers, strict=True):
            for entry, rows in ledger.rows():
                _link_files(part, folder, rewriter, entry, ledger.own_rows(entry, rows))
                contents[entry.image] = entry, rows
        _doubt_replaced(folder, rewriter, contents)
        joined = rewriter.exchange(contents[image] for image in sorted(contents, key=lambda image: image.split("/")))
        explained, failed = folder.totals()
        if part_of(records[0], "settings").get("boxes-json") is True:
            joined.write(BOXES, coco.coco_boxes(folder.ledger))
        joined.finish(_joined(records, header.current, explained, failed))
    return Merged(len(parts), explained, failed)


def _doubt_replaced(folder: OutputFolder, rewriter: Rewriter, contents: Mapping[str, tuple[Entry, bytes]]) -> None:
    """Put down the files of rows that are replaced: those that no new row names are removed afterwards."""
    for entry, rows in folder.ledger.explained():
        if contents.get(entry.image, (None,))[0] is not entry:
            rewriter.mark_unconfirmed(row_files(rows, folder.ledger.settings))


def _parts(path: str, root: Root) -> list[Root]:
    """The folders of all parts, in order. Raises InputError where there are none, some are missing, or of several divisions."""
    found = {part for name in root.names() if (part := shard_of_name(name)) and root.is_folder(name)}
    counts = {count for _, count in found}
    if not found:
        raise InputError(
            f"{escape_name(path)!r} holds no parts; camcli run --shard 0/8 -o {escape_name(path)} makes the first of eight."
        )
    if len(counts) > 1:
        divisions = " and ".join(str(count) for count in sorted(counts))
        raise InputError(
            f"{escape_name(path)!r} holds parts of different divisions, into {divisions}; remove those of one of them."
        )
    count = counts.pop()
    missing = named_parts((index, count) for index in range(count) if (index, count) not in found)
    if missing:
        raise InputError(f"{escape_name(path)!r} lacks {missing}: run camcli with --shard for each, then merge.")
    return [root.below(shard_name(index, count)) for index in range(count)]


def _finished_record(part: Root) -> dict[str, Any]:
    check_one_look(part)
    record = read_record(part)
    if record.get("state") != "finished":
        raise InputError(f"{escape_name(part.path)!r} is not finished: run its command again, then merge.")
    return record


def _refuse_less_than_recorded(part: Root, record: Mapping[str, Any], ledger: Ledger) -> None:
    """Raise InputError where the journal holds other images than ``run.json`` counted when the part came to its end."""
    failed = sum(bool(entry.stage) for entry in ledger.entries.values())
    if record.get("images") != {"explained": len(ledger.entries) - failed, "failed": failed}:
        raise InputError(f"{escape_name(part.path)!r} does not hold what its run.json counts: run its command again, then merge.")


def _common_header(root: Root, parts: Sequence[Root]) -> Header:
    """The settings of the joined run: those of ``root`` where it holds one, otherwise of the first part.

    Raises SettingsError where a part has others, or its overlays another look.
    """
    first, whose = read_header(root), root
    for part in parts:
        header = read_header(part)
        if header is None:
            raise InputError(f"{escape_name(part.path)!r} has no journal: run its command again with --overwrite, then merge.")
        if first is None:
            first, whose = Header({**effective_settings(header.current), "shard": None}), part
        different = differences(_comparable(first.current, header.current), _comparable(header.current, first.current))
        if different:
            raise SettingsError(
                f"{escape_name(part.path)!r} was made with other settings than {escape_name(whose.path)!r} ({different})."
            )
    assert first is not None
    return first


def _comparable(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may differ from machine to machine: places, also of files whose SHA-256 both know."""
    places = {key.removesuffix("-sha256") for key in settings.keys() & others.keys() if key.endswith("-sha256")}
    return {key: value for key, value in settings.items() if key not in places and key not in _OF_A_MACHINE}


def _ledger(part: Root) -> Ledger:
    header = read_header(part)
    assert header is not None
    ledger = Ledger(part, header.settings, header.redrawn)
    ledger.read()  # which changes nothing: the part is somebody else's
    return ledger


def _link_files(part: Root, folder: OutputFolder, rewriter: Rewriter, entry: Entry, rows: list[dict[str, str]] | None) -> None:
    """Put the overlays and maps of an image of ``part`` into the joined folder as well. Raises OutputError."""
    if rows is None:
        raise OutputError(
            f"the rows of {escape_name(entry.image)!r} in {escape_name(part.path)!r} are damaged: run its command "
            "again, then merge."
        )
    names = [] if entry.stage else row_files(rows, folder.ledger.settings)
    if not folder.is_explained(entry.image):
        rewriter.mark_unconfirmed(names)  # until the row is there
    for name in names:
        try:
            folder.root.link(part, name)
        except FileNotFoundError as error:
            raise OutputError(f"{escape_name(part.at(name))!r} is gone: run its part again, then merge.") from error
        except ImageError as error:
            raise OutputError(f"cannot write {escape_name(name)!r}: {error}") from error


def _joined(records: list[dict[str, Any]], settings: Mapping[str, Any], explained: int, failed: int) -> dict[str, Any]:
    """``run.json`` of the joined run: the first part's, with the counts of all; seconds are the sum of theirs."""
    return {
        **records[0],
        "settings": {**part_of(records[0], "settings"), "shard": settings.get("shard")},
        "images": {"explained": explained, "failed": failed},
        "this_run": {
            "explained": explained,
            "failed": failed,
            "seconds": round(sum(map(seconds_of, records)), 3),
            "parts": len(records),
        },
    }
