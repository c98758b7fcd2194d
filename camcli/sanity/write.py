"""The output folder of a check: tables, pictures, and the record, which comes last and so proves that the rest is complete."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from typing import Any

from camcli.config.run import RunConfig
from camcli.documents import parse_json
from camcli.errors import OutputError
from camcli.layout import OUTPUT_NAMES, OWN, SANITY_PICTURES
from camcli.output.checks import check_place, refuse_differences, with_defaults
from camcli.output.exchange import exchange_files, finish_exchange
from camcli.output.locks import claimed
from camcli.output.record import refuse_newer_format
from camcli.output.root import Root
from camcli.output.writers import csv_line, json_bytes, table_line
from camcli.records import escape_name
from camcli.sanity.check import MODES, Check
from camcli.sanity.config import SanityConfig
from camcli.sanity.plot import curves_png
from camcli.sanity.similarity import MEASURES
from camcli.sanity.strip import strip_png
from camcli.sanity.verdict import Verdict

TABLE, VERDICTS, RECORD = "sanity.csv", "verdicts.csv", "sanity.json"

FILES = (TABLE, VERDICTS, *SANITY_PICTURES, RECORD)
"""The files of a check, in the order of writing."""

FORMAT = 1
"""Format of ``sanity.json``; checks without it have format 1."""

COLUMNS = ("image", "layer", "method", "mode", "step", "stage", "class_index", "status", *MEASURES,
           *(f"chance_{measure}" for measure in MEASURES))  # fmt: skip
VERDICT_COLUMNS = tuple(field.name for field in fields(Verdict))


@contextmanager
def sanity_folder(path: str, settings: Mapping[str, Any], *, overwrite: bool) -> Iterator[dict[str, Any] | None]:
    """Context that holds the lock of the folder ``path``; yields the record of a complete check with these settings, or None.

    Raises OutputError if the folder cannot be written or holds other files, InUseError if another check is writing into it, and
    SettingsError if it holds a check with other settings and ``overwrite`` is not set. A folder is left as it was if nothing is
    written into it.
    """
    root = Root(path)
    check_place(root.path)
    _refuse_others(root)
    with claimed(root, "camcli sanity", lambda: any(map(root.exists, FILES))):
        finish_exchange(root, FILES)
        record = read_check(root)
        earlier = None
        if record is not None and not overwrite:
            refuse_newer_format(root.path, record, record.get("format"), FORMAT)
            refuse_differences(root.path, with_defaults(record["settings"], settings, RunConfig, SanityConfig), settings)
            earlier = record
        yield earlier


def _refuse_others(root: Root) -> None:
    """Raise OutputError if ``root`` holds a run, or files with our names that camcli did not write."""
    if not os.path.isdir(root.path):
        return
    ours = root.is_folder(OWN)
    foreign = [name for name in (FILES if not ours else OUTPUT_NAMES) if root.exists(name)]
    if foreign:
        what = "a run of camcli" if ours else f"{', '.join(foreign)}, which camcli did not write"
        raise OutputError(f"{escape_name(root.path)!r} holds {what}; choose another folder with --output.")


def read_check(root: Root) -> dict[str, Any] | None:
    """The record of the check in ``root``; None if there is none, or if one of its files is missing."""
    try:
        record = parse_json(root.read(RECORD))
        whole = all(map(root.size, FILES))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict) or not isinstance(record.get("failed"), list):
        return None
    return record if whole else None


def write_check(path: str, check: Check, verdicts: Sequence[Verdict], record: Mapping[str, Any]) -> None:
    """Write all files of a check into the folder ``path``, replacing an earlier check in one step. Raises OutputError."""
    model = str(record["model"]["name"])
    contents = {
        TABLE: _table(check),
        VERDICTS: verdict_table(verdicts),
        SANITY_PICTURES[0]: curves_png(check, MODES[0], model),
        SANITY_PICTURES[1]: curves_png(check, MODES[1], model),
        SANITY_PICTURES[2]: strip_png(check),
        RECORD: json_bytes(record),
    }
    exchange_files(Root(path), {name: contents[name] for name in FILES})


def _table(check: Check) -> bytes:
    """The contents of ``sanity.csv``: a row for each map and step."""
    lines = [csv_line(COLUMNS)]
    for one in check.measurements:
        facts = (one.image, one.layer, one.method, one.mode, one.step, one.group, one.class_index, one.status)
        lines.append(table_line((*facts, *map(none_if_nan, (*astuple(one.similarity), *astuple(one.chance))))))
    return b"".join(lines)


def verdict_table(verdicts: Sequence[Verdict]) -> bytes:
    """The contents of ``verdicts.csv``: a row for each method and layer."""
    rows = (table_line(tuple(none_if_nan(value) for value in astuple(verdict))) for verdict in verdicts)
    return b"".join([csv_line(VERDICT_COLUMNS), *rows])


def none_if_nan(value: Any) -> Any:
    """``value``, or None for NaN: an empty cell in a table, null in JSON."""
    return None if isinstance(value, float) and math.isnan(value) else value
