"""The mark of an unfinished ``camcli render``: while it is there, some overlays of a folder have the old look and some the new."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from camcli.config.field import from_json, option_name
from camcli.config.run import LOOKS, RunConfig
from camcli.documents import parse_json
from camcli.errors import ConfigError, SettingsError
from camcli.layout import UNFINISHED_RENDER
from camcli.output.root import Root
from camcli.records import escape_name


def redrawing_look(root: Root) -> Mapping[str, Any] | None:
    """The look that an unfinished ``camcli render`` was giving to the overlays in ``root``; None if no render is unfinished.

    It is empty if the file is damaged. Raises OSError.
    """
    try:
        found = parse_json(root.read(UNFINISHED_RENDER))
        fields = {option_name(field): field for field in dataclasses.fields(RunConfig)}
        for name, value in found.items():
            from_json(fields[name if name in LOOKS else ""], value)
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, KeyError, ConfigError):
        return {}
    return dict(found)


def check_one_look(root: Root) -> None:
    """Raise SettingsError if a ``camcli render`` is unfinished in ``root``. Raises OSError."""
    if root.exists(UNFINISHED_RENDER):
        raise SettingsError(
            f"a camcli render was interrupted in {escape_name(root.path)!r}, so only some overlays have the new look. "
            f"Finish it with: camcli render {escape_name(root.path)}"
        )
