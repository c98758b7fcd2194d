"""What an output folder must be like before it is written to, and whether an image is still what it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from camcli.errors import OutputError, SettingsError
from camcli.output.journal import TABLES
from camcli.records import FITTED_MARK, OUTPUT_FOLDERS, REPORT_PAGE, RUN_MARKER, Stamp, shown, stamp_of

OURS = (*TABLES, "run.json", "boxes.json", REPORT_PAGE, *OUTPUT_FOLDERS)

REDRAWING = os.path.join(RUN_MARKER, "redrawing")
"""Is there while overlays are drawn anew, and for as long as that has not come to its end."""


def is_unchanged(earlier: Stamp | None, path: str) -> bool:
    """Whether the file at ``path`` holds the bytes that ``earlier`` stands for; None stands for a file that is not there.

    Told by their SHA-256 where that was recorded, otherwise by size and modification time.
    """
    now = stamp_of(path)
    if earlier is None or now is None:
        return earlier is now
    if not earlier.sha256:
        return earlier == now
    if earlier.size != now.size:
        return False
    digest = _sha256_of(path)
    return earlier.mtime_ns == now.mtime_ns if digest is None else earlier.sha256 == digest  # None: it cannot be read just now


def _sha256_of(path: str) -> str | None:
    if not is_readable(path):
        return None
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def is_readable(path: str) -> bool:
    """Whether there is a regular file with contents that this process may read."""
    return os.path.isfile(path) and os.path.getsize(path) > 0 and os.access(path, os.R_OK)


def is_listable(path: str) -> bool:
    """Whether there is a folder whose contents this process may list."""
    return os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK)


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
    if os.path.lexists(os.path.join(path, FITTED_MARK)):
        raise OutputError(f"{shown(path)!r} is a model of camcli fit; choose another folder with --output.")
    if not os.path.isdir(os.path.join(path, RUN_MARKER)):
        foreign = [name for name in OURS if os.path.lexists(os.path.join(path, name))]
        if foreign:
            raise OutputError(
                f"{shown(path)!r} holds {', '.join(foreign)}, which camcli did not write; choose another folder with --output."
            )


def check_settings(path: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise SettingsError, with what differs, where the folder at ``path`` was made with other settings."""
    different = differences(earlier, now)
    if different:
        raise SettingsError(
            f"{shown(path)!r} holds a run with other settings ({different}). "
            "Choose another folder with --output, or start anew with --overwrite."
        )


def check_one_look(path: str) -> None:
    """Raise SettingsError where the overlays in the output folder ``path`` are of two kinds."""
    if os.path.lexists(os.path.join(path, REDRAWING)):
        raise SettingsError(
            f"a camcli render did not come to its end in {shown(path)!r}, so its overlays are of two kinds. "
            "Run it again, or start anew with camcli run --overwrite."
        )


def read_record(path: str) -> dict[str, Any]:
    """``run.json`` in the output folder ``path``; empty where there is none that can be read: the run has not come to its end."""
    try:
        with open(os.path.join(path, "run.json"), "rb") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which settings two runs differ, in words; empty where in none."""
    return "; ".join(
        f"{key}: was {_words(earlier.get(key))}, now {_words(now.get(key))}"
        for key in dict.fromkeys([*earlier, *now])
        if earlier.get(key) != now.get(key)
    )


def _words(value: Any) -> str:
    if value is None or value == []:
        return "the default"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def exists(path: str) -> bool:
    """Whether there is anything at ``path``. Raises OSError where that cannot be told, which ``os.path.exists`` calls absent."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def size_of(path: str) -> int:
    """Bytes of the file at ``path``, 0 where there is none."""
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
