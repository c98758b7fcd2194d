"""What an output folder must be like before it is written to, and whether an image is still what it was."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from typing import Any

from camcli.config.field import default_values
from camcli.config.fingerprint import comparable_settings
from camcli.config.run import LOOKS, RunConfig
from camcli.documents import kind_of
from camcli.errors import OutputError, SettingsError
from camcli.layout import FITTED_MARK, OUTPUT_FOLDERS, OUTPUT_NAMES, OWN, OWN_FOLDERS
from camcli.output.advice import ways_on
from camcli.output.journal import Header
from camcli.output.root import Root
from camcli.records import Stamp, escape_name, stamp_of

_FOLDERS = frozenset({*OUTPUT_FOLDERS, *OWN_FOLDERS})
"""Names of folders in an output folder, and in its marker; all else that camcli makes there are files."""


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
    if parent == path:
        raise OutputError(f"{escape_name(path)!r} is the root of the file system; name a folder of its own with --output.")
    if not os.path.isdir(parent):
        raise OutputError(f"there is no folder {escape_name(parent)!r} to put the output in; create it first.")
    if not os.path.lexists(path):
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {escape_name(parent)!r} is not writable; choose another place with --output.")
        return
    if not os.path.isdir(path):
        raise OutputError(f"{escape_name(path)!r} is a file, not a folder; choose another place with --output.")
    if not os.access(path, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {escape_name(path)!r} is not writable; choose another place with --output.")
    if os.path.samestat(os.stat(path), os.stat(os.sep)):
        raise OutputError(f"{escape_name(path)!r} is the root of the file system; name a folder of its own with --output.")
    if os.path.lexists(os.path.join(path, FITTED_MARK)):
        raise OutputError(f"{escape_name(path)!r} is a model of camcli fit; choose another folder with --output.")
    if not os.path.lexists(os.path.join(path, OWN)):
        foreign = [name for name in OUTPUT_NAMES if os.path.lexists(os.path.join(path, name))]
        if foreign:
            raise OutputError(
                f"{escape_name(path)!r} holds {', '.join(foreign)}, which camcli did not write; choose another folder "
                "with --output."
            )


def check_kinds(root: Root) -> None:
    """Raise OutputError where something in ``root`` has a name of ours and is no file or folder as camcli makes them.

    Every later step refuses it too; here it is told at once, before a model is loaded.
    """
    inner = [f"{OWN}/{name}" for name in root.names(OWN)] if root.is_folder(OWN) else []
    for name in (OWN, *OUTPUT_NAMES, *inner):
        status = root.status(name)
        if status is None:
            continue
        is_folder = name == OWN or os.path.basename(name) in _FOLDERS
        if stat.S_ISDIR(status.st_mode) if is_folder else stat.S_ISREG(status.st_mode):
            continue
        expected, found = ("folder", "a file") if is_folder else ("file", "a folder")
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            found = kind_of(status.st_mode)
        raise OutputError(
            f"{escape_name(root.at(name))!r} is {found}, where camcli writes a {expected}; it follows no links inside "
            "an output folder. "
            "Move it away, or choose another folder with --output."
        )


def check_settings(path: str, earlier: Header, now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with which the run in the folder at ``path`` goes on, and what ``camcli render`` has changed of them since.

    An option that the folder's record does not name had its default. The look may be that of the run or the one that ``camcli
    render`` has given to the folder since: the same command goes on in the present one. Raises SettingsError, with what differs,
    for other settings.
    """
    defaults = default_values(RunConfig)
    before = {**{key: defaults[key] for key in now if key in defaults}, **earlier.settings}
    present = {**before, **earlier.drawn}
    looks = [key for key in LOOKS if key in now]
    as_before = all(now[key] == before[key] for key in looks)
    refuse_differences(path, present, {**now, **({key: present[key] for key in looks} if as_before else {})})
    return {**now, **{key: before[key] for key in looks}}, dict(earlier.drawn)


def refuse_differences(path: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise SettingsError, with what differs, where what is in the folder at ``path`` was made with other settings."""
    earlier, now = comparable_settings(earlier, now)
    different = [key for key in dict.fromkeys([*earlier, *now]) if earlier.get(key) != now.get(key)]
    if different:
        raise SettingsError(
            f"{escape_name(path)!r} holds a run with other settings ({differences(earlier, now)}). "
            f"{ways_on(path, earlier, now, different)}",
            different,
        )


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which settings two runs differ, in words; empty where in none. Those that have no effect do not count."""
    earlier, now = comparable_settings(earlier, now)
    return "; ".join(
        f"{key}: was {_words(earlier.get(key))}, now {_words(now.get(key))}"
        for key in dict.fromkeys([*earlier, *now])
        if earlier.get(key) != now.get(key)
    )


def _words(value: Any) -> str:
    if value is None or value == []:
        return "the default"
    return escape_name(", ".join(map(str, value)) if isinstance(value, list) else str(value))
