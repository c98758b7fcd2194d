"""Checks of an output folder before it is written to, and of images that may have changed since they were explained."""

from __future__ import annotations

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
from camcli.output.advice import settings_advice
from camcli.output.journal import Header
from camcli.output.root import Root
from camcli.records import Stamp, escape_name
from camcli.source import Source

_FOLDERS = frozenset({*OUTPUT_FOLDERS, *OWN_FOLDERS})
"""Names of the folders that camcli makes in an output folder; everything else that it makes there is a file."""


def is_unchanged(earlier: Stamp | None, source: Source) -> bool:
    """Whether ``source`` still has the stamp ``earlier``; None is the stamp of a source that is missing.

    Compares the SHA-256 if it was recorded, otherwise size, modification time and version.
    """
    now = source.stamp()
    if earlier is None or now is None:
        return earlier is now
    if not earlier.sha256:
        return earlier == now
    if earlier.size != now.size:
        return False
    digest = source.sha256()
    if digest is None:  # unreadable now
        return (earlier.mtime_ns, earlier.version) == (now.mtime_ns, now.version)
    return earlier.sha256 == digest


def is_listable(path: str) -> bool:
    """Whether ``path`` is a folder that this process may list."""
    return os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK)


def check_place(path: str) -> None:
    """Raise OutputError if ``path`` is not an output folder and cannot become one."""
    parent = os.path.dirname(path)
    if parent == path:
        raise OutputError(f"{escape_name(path)!r} is the root of the file system; name a folder of its own with --output.")
    if not os.path.isdir(parent):
        raise OutputError(f"there is no folder {escape_name(parent)!r} for the output; create it first.")
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
    """Raise OutputError if an entry of ``root`` with a name of camcli's has the wrong kind, such as a link or a folder for a file.

    Every later step refuses it too. This check reports it early, before a model is loaded.
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
            f"{escape_name(root.at(name))!r} is {found}, but camcli writes a {expected} there, and it follows no links inside an "
            "output folder. Move it away, or choose another folder with --output."
        )


def check_settings(path: str, earlier: Header, now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with which the run in the folder ``path`` is resumed, and the settings that ``camcli render`` has changed since.

    ``earlier``: the recorded settings; an option that they do not name had its default. ``now``: the settings of the new run. Their
    look may be the one of the earlier run or the one that ``camcli render`` has given to the overlays since; both resume with the
    current look. Raises SettingsError, with the differences, for other settings.
    """
    before = with_defaults(earlier.settings, now, RunConfig)
    present = {**before, **earlier.redrawn}
    looks = [key for key in LOOKS if key in now]
    as_before = all(now[key] == before[key] for key in looks)
    refuse_differences(path, present, {**now, **({key: present[key] for key in looks} if as_before else {})})
    return {**now, **{key: before[key] for key in looks}}, dict(earlier.redrawn)


def with_defaults(earlier: Mapping[str, Any], now: Mapping[str, Any], *options: Any) -> dict[str, Any]:
    """``earlier`` settings, and the default of each setting in ``now`` that they do not name: it did not exist then.

    ``options``: dataclasses of options, or their types, that define the defaults.
    """
    defaults: dict[str, Any] = {}
    for each in options:
        defaults |= default_values(each)
    return {**{key: defaults[key] for key in now if key in defaults}, **earlier}


def refuse_differences(path: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise SettingsError, with the differences, if the run in the folder ``path`` has other settings than ``now``."""
    earlier, now = comparable_settings(earlier, now)
    different = [key for key in dict.fromkeys([*earlier, *now]) if earlier.get(key) != now.get(key)]
    if different:
        raise SettingsError(
            f"{escape_name(path)!r} holds a run with other settings ({differences(earlier, now)}). ",
            different,
            settings_advice(path, earlier, now, different),
        )


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings in which two runs differ, in words; empty if there are none. Settings without effect are not compared."""
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
