"""Whether the overlays of a folder are of two looks: ``camcli render`` says so from its first overlay to its last."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from camcli.config.field import from_json, option_name
from camcli.config.run import LOOKS, RunConfig
from camcli.documents import parse_json
from camcli.errors import ConfigError, SettingsError
from camcli.layout import NEW_LOOK
from camcli.output.root import Root
from camcli.records import escape_name


def redrawing_look(root: Root) -> Mapping[str, Any] | None:
    """The look that a ``camcli render`` was giving to the overlays in ``root`` when it died; None where none did.

    Empty where the file does not say. Raises OSError.
    """
    try:
        found = parse_json(root.read(NEW_LOOK))
        fields = {option_name(field): field for field in dataclasses.fields(RunConfig)}
        for name, value in found.items():
            from_json(fields[name if name in LOOKS else ""], value)
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, KeyError, ConfigError):
        return {}
    return dict(found)


def check_one_look(root: Root) -> None:
    """Raise SettingsError where the overlays in ``root`` are of two looks, and OSError."""
    if root.exists(NEW_LOOK):
        raise SettingsError(
            f"a camcli render was interrupted in {escape_name(root.path)!r}, so its overlays are of two looks. "
            f"Finish it with: camcli render {escape_name(root.path)}"
        )
