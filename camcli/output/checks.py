"""What an output folder and its tables must be like before they are written to, and how a table is read back."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from typing import Any

from camcli.errors import OutputError, SettingsError
from camcli.records import OUTPUT_FOLDERS, RUN_MARKER, recovered, shown

TABLES = ("predictions.csv", "failures.csv")
"""The tables of every run."""

OURS = (*TABLES, "run.json", *OUTPUT_FOLDERS)


def is_readable(path: str) -> bool:
    """Whether there is a regular file with contents that this process may read."""
    return os.path.isfile(path) and os.path.getsize(path) > 0 and os.access(path, os.R_OK)


def check_place(path: str) -> None:
    """Raise OutputError where ``path`` cannot become or be an output folder."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise OutputError(f"there is no folder {shown(parent)!r} to put the output in; create it first.")
    if not os.path.lexists(path):
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {shown(parent)!r} is not writable; choose another place with --output.")
        return
    if not os.path.isdir(path):
        raise OutputError(f"{shown(path)!r} is a file, not a folder; choose another place with --output.")
    if not os.access(path, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {shown(path)!r} is not writable; choose another place with --output.")
    if not os.path.isdir(os.path.join(path, RUN_MARKER)):
        foreign = [name for name in OURS if os.path.lexists(os.path.join(path, name))]
        if foreign:
            raise OutputError(
                f"{shown(path)!r} holds {', '.join(foreign)}, which camcli did not write; choose another folder with --output."
            )


def check_settings(path: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise SettingsError, with what differs, where the folder at ``path`` was made with other settings."""
    differences = [
        f"{key}: was {_words(earlier.get(key))}, now {_words(now.get(key))}"
        for key in dict.fromkeys([*earlier, *now])
        if earlier.get(key) != now.get(key)
    ]
    if differences:
        raise SettingsError(
            f"{shown(path)!r} holds a run with other settings ({'; '.join(differences)}). "
            "Choose another folder with --output, or start anew with --overwrite."
        )


def _words(value: Any) -> str:
    if value is None or value == []:
        return "the default"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def size_of(path: str) -> int:
    """Bytes of the file at ``path``, 0 where there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def table_lines(path: str) -> Iterator[tuple[bytes, str]]:
    """(line, image) of every row of a table: each row is one line, because names are written by ``shown``."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        file.readline()
        for line in file:
            yield line, recovered(next(csv.reader([line.decode("utf-8")]))[0])
