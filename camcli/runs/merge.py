"""Combining the shards in an output folder into one run."""

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
from camcli.output.folder import OutputFolder
from camcli.output.journal import Entry, Header, read_header
from camcli.output.ledger import Ledger
from camcli.output.locks import undisturbed
from camcli.output.names import shard_name, shard_of_name
from camcli.output.parquet import require_pyarrow, require_pyarrow_for, write_parquet
from camcli.output.record import part_of, read_record, seconds_of
from camcli.output.redrawing import check_one_look
from camcli.output.root import Root
from camcli.output.writers import output_error
from camcli.output.writing import Rewriter
from camcli.records import escape_name
from camcli.runs import coco
from camcli.runs.verify import named_parts

_MACHINE_SETTINGS = ("shard", "inputs")
"""Settings in which shards may differ: machines may have the images in different folders."""


@dataclass(frozen=True)
class Merged:
    """The numbers of shards, of explained images and of failed images."""

    parts: int
    explained: int
    failed: int


def merge_shards(path: str) -> Merged:
    """Combine the shards inside ``path`` into one run: tables, journal and ``run.json``, with hard links to overlays and maps.

    The shards are kept and can be resumed. Images that ``path`` itself contains are kept too, unless a shard has them or they
    failed. Rows are sorted by the paths of the images, folder by folder, as a run over one folder sorts them. Raises InputError
    if shards are missing or unfinished, SettingsError if their settings differ, InUseError while a run writes into one, and
    OutputError if the folder cannot be written.
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
            stack.enter_context(
                undisturbed(part, f"a run is still writing into {escape_name(part.path)!r}. Wait for it to end, then merge.")
            )
        records = [_finished_record(part) for part in parts]
        header = _common_header(root, parts)
        ledgers = [_ledger(part) for part in parts]
        for part, record, ledger in zip(parts, records, ledgers, strict=True):
            _check_counts(part, record, ledger)
        folder = stack.enter_context(OutputFolder(path, effective_settings(header.current)))
        rewriter = folder.rewriting()
        if wants_parquet := any(part_of(record, "settings").get("format") == "parquet" for record in records):
            require_pyarrow("predictions.parquet of the shards")
        require_pyarrow_for(folder.root, folder.ledger.settings)
        contents = {entry.image: (entry, rows) for entry, rows in folder.ledger.rows() if not entry.stage}
        owners = dict.fromkeys(contents, folder.ledger)
        for part, ledger in zip(parts, ledgers, strict=True):
            for entry, rows in ledger.rows():
                _link_files(part, folder, rewriter, entry, ledger.own_rows(entry, rows))
                contents[entry.image] = entry, rows
                owners[entry.image] = ledger
        _log_replaced(folder, rewriter, contents)
        ordered = sorted(contents, key=lambda image: image.split("/"))
        combined = rewriter.exchange((contents[image] for image in ordered), lambda entry: owners[entry.image])
        explained, failed = folder.totals()
        if part_of(records[0], "settings").get("boxes-json") is True:
            combined.write(BOXES, coco.coco_boxes(folder.ledger))
        write_parquet(folder.root, folder.ledger, asked=wants_parquet)
        combined.finish(_combined_record(records, header.current, explained, failed))
    return Merged(len(parts), explained, failed)


def _log_replaced(folder: OutputFolder, rewriter: Rewriter, contents: Mapping[str, tuple[Entry, bytes]]) -> None:
    """Log the files of rows that are replaced, so that those without a new row are removed afterwards."""
    for entry, rows in folder.ledger.explained():
        if contents.get(entry.image, (None,))[0] is not entry:
            rewriter.mark_unconfirmed(folder.ledger.files(entry, rows))


def _parts(path: str, root: Root) -> list[Root]:
    """The folders of all shards, in order. Raises InputError if there are none, some are missing, or their counts differ."""
    found = {part for name in root.names() if (part := shard_of_name(name)) and root.is_folder(name)}
    counts = {count for _, count in found}
    if not found:
        raise InputError(
            f"{escape_name(path)!r} holds no shards. To make the first of eight: camcli run --shard 0/8 -o {escape_name(path)} ..."
        )
    if len(counts) > 1:
        words = " and ".join(str(count) for count in sorted(counts))
        raise InputError(
            f"{escape_name(path)!r} holds shards of several runs, which have {words} shards; remove the shards of all runs but one."
        )
    count = counts.pop()
    missing = named_parts((index, count) for index in range(count) if (index, count) not in found)
    if missing:
        raise InputError(f"{escape_name(path)!r} lacks the shards {missing}: run camcli with --shard for each, then merge.")
    return [root.below(shard_name(index, count)) for index in range(count)]


def _finished_record(part: Root) -> dict[str, Any]:
    check_one_look(part)
    record = read_record(part)
    if record.get("state") != "finished":
        raise InputError(f"{escape_name(part.path)!r} is not finished: run its command again, then merge.")
    return record


def _check_counts(part: Root, record: Mapping[str, Any], ledger: Ledger) -> None:
    """Raise InputError if the journal of a shard does not have the number of images that its ``run.json`` counts."""
    failed = sum(bool(entry.stage) for entry in ledger.entries.values())
    if record.get("images") != {"explained": len(ledger.entries) - failed, "failed": failed}:
        raise InputError(
            f"{escape_name(part.path)!r} does not have the images that its run.json counts: run its command again, then merge."
        )


def _common_header(root: Root, parts: Sequence[Root]) -> Header:
    """The settings of the combined run: those of the run in ``root``, or of the first shard if there is none.

    Raises SettingsError if a shard has other settings, or another look of the overlays.
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
    """``settings`` without those that may differ between machines, such as the paths of files whose SHA-256 both runs recorded."""
    places = {key.removesuffix("-sha256") for key in settings.keys() & others.keys() if key.endswith("-sha256")}
    return {key: value for key, value in settings.items() if key not in places and key not in _MACHINE_SETTINGS}


def _ledger(part: Root) -> Ledger:
    header = read_header(part)
    assert header is not None
    ledger = Ledger(part, header.settings, header.redrawn)
    ledger.read()  # read only: the shard must not change
    return ledger


def _link_files(part: Root, folder: OutputFolder, rewriter: Rewriter, entry: Entry, rows: list[dict[str, str]] | None) -> None:
    """Link the overlays and maps of an image of the shard ``part`` into the combined folder. Raises OutputError."""
    if rows is None:
        raise OutputError(
            f"the rows of {escape_name(entry.image)!r} in {escape_name(part.path)!r} are damaged: run its command "
            "again, then merge."
        )
    names = [] if entry.stage else folder.ledger.files(entry, rows)
    if not folder.is_explained(entry.image):
        rewriter.mark_unconfirmed(names)  # until its row is written
    for name in names:
        try:
            folder.root.link(part, name)
        except FileNotFoundError as error:
            raise OutputError(
                f"{escape_name(part.at(name))!r} is missing: run the command of its shard again, then merge."
            ) from error
        except ImageError as error:
            raise OutputError(f"cannot write {escape_name(name)!r}: {error}") from error


def _combined_record(records: list[dict[str, Any]], settings: Mapping[str, Any], explained: int, failed: int) -> dict[str, Any]:
    """``run.json`` of the combined run: that of the first shard, with the counts and the seconds of all shards added up."""
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
