"""The folder of a check: tables, pictures and the record, which is written last and says that the rest is complete."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from typing import Any

from camcli.errors import OutputError
from camcli.output.checks import OURS, check_place, check_settings
from camcli.output.locks import undisturbed
from camcli.output.writers import csv_line, json_bytes, output_error, table_line, write_whole
from camcli.records import RUN_MARKER, SANITY_PICTURES, shown
from camcli.sanity.check import MODES, Check
from camcli.sanity.plot import curves_png
from camcli.sanity.similarity import MEASURES
from camcli.sanity.strip import strip_png
from camcli.sanity.verdict import Verdict

TABLE, VERDICTS, RECORD = "sanity.csv", "verdicts.csv", "sanity.json"

FILES = (TABLE, VERDICTS, *SANITY_PICTURES, RECORD)
"""What a check leaves, in the order of writing."""

COLUMNS = ("image", "layer", "method", "mode", "step", "stage", "class_index", "status", *MEASURES,
           *(f"chance_{measure}" for measure in MEASURES))  # fmt: skip
VERDICT_COLUMNS = tuple(field.name for field in fields(Verdict))


@contextmanager
def sanity_folder(path: str, settings: Mapping[str, Any], *, overwrite: bool) -> Iterator[dict[str, Any] | None]:
    """Inside, the folder at ``path`` is this process's; gives the record of a complete check that is in it, or None.

    ``settings``: of the check that is asked for. Raises OutputError where the folder cannot be written or holds something else,
    InUseError while another check is at work in it, and SettingsError where it holds one with other settings and is not to be
    overwritten. A folder into which nothing was written is left as it was found.
    """
    path = os.path.abspath(path)
    check_place(path)
    _refuse_others(path)
    new = not os.path.lexists(path)
    try:
        os.makedirs(os.path.join(path, RUN_MARKER, "scratch"), exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        with undisturbed(path, f"another check is writing into {shown(path)!r}. Wait for it, or choose another --output."):
            record = read_record(path)
            if record is not None and not overwrite:
                check_settings(path, record["settings"], settings)
            yield record if record is not None and record["settings"] == dict(settings) and not overwrite else None
    finally:
        if new:
            _forget(path)


def _refuse_others(path: str) -> None:
    """Raise OutputError where ``path`` holds a run, or files of our names that camcli did not write."""
    ours = os.path.isdir(os.path.join(path, RUN_MARKER))
    foreign = [name for name in (FILES if not ours else OURS) if os.path.lexists(os.path.join(path, name))]
    if foreign:
        what = "a run of camcli" if ours else f"{', '.join(foreign)}, which camcli did not write"
        raise OutputError(f"{shown(path)!r} holds {what}; choose another folder with --output.")


def _forget(path: str) -> None:
    """Remove the folder and its marker where no file of a check has come into it."""
    if any(os.path.lexists(os.path.join(path, name)) for name in FILES):
        return
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(path, RUN_MARKER, "lock"))
    for folder in (os.path.join(path, RUN_MARKER, "scratch"), os.path.join(path, RUN_MARKER), path):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def read_record(path: str) -> dict[str, Any] | None:
    """The record of the check in the folder ``path``; None where there is none, or where a file of it is gone."""
    try:
        with open(os.path.join(path, RECORD), "rb") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        return None
    return record if all(os.path.isfile(os.path.join(path, name)) for name in FILES) else None


def write_check(path: str, check: Check, verdicts: Sequence[Verdict], record: Mapping[str, Any]) -> None:
    """Write all files of a check into the folder ``path``, each whole, the record last. Raises OutputError."""
    path = os.path.abspath(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, RECORD))  # which says that the rest belongs together
    model = str(record["model"]["name"])
    contents: dict[str, Callable[[], bytes]] = {
        TABLE: lambda: _table(check),
        VERDICTS: lambda: verdict_table(verdicts),
        SANITY_PICTURES[0]: lambda: curves_png(check, MODES[0], model),
        SANITY_PICTURES[1]: lambda: curves_png(check, MODES[1], model),
        SANITY_PICTURES[2]: lambda: strip_png(check),
        RECORD: lambda: json_bytes(record),
    }
    for name in FILES:
        write_whole(os.path.join(path, name), contents[name](), os.path.join(path, RUN_MARKER, "scratch"))


def _table(check: Check) -> bytes:
    """``sanity.csv``: a row for each map and step."""
    lines = [csv_line(COLUMNS)]
    for one in check.measurements:
        facts = (one.image, one.layer, one.method, one.mode, one.step, one.stage, one.class_index, one.status)
        lines.append(table_line((*facts, *map(known, (*astuple(one.similarity), *astuple(one.chance))))))
    return b"".join(lines)


def verdict_table(verdicts: Sequence[Verdict]) -> bytes:
    """``verdicts.csv``: a row for each method and layer."""
    rows = (table_line(tuple(known(value) for value in astuple(verdict))) for verdict in verdicts)
    return b"".join([csv_line(VERDICT_COLUMNS), *rows])


def known(value: Any) -> Any:
    """``value`` itself, None for NaN: an empty cell of a table, and null in JSON."""
    return None if isinstance(value, float) and math.isnan(value) else value
