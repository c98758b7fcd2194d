"""Everything that can stop camcli, as a tree. Each class carries its exit code.

    CamcliError
      UsageError (2)          the user can mend it by writing the command differently
        ConfigError           an option or a line of a TOML file
        InputError            nothing to do, or an input that does not exist
        ModelError            no such model, or it cannot be built or run
          WeightsError        no such weights, not downloadable, not fitting, not safe
        LabelsError           a labels file that does not fit
        LayerError            no such layer, or no map can be had there
        ClassError            no such class
        DeviceError           no such device
        SettingsError         the output folder holds a run with other settings
      RunError (3)            the run cannot go on
        OutputError           not writable, not ours, disk full
        InUseError            another run holds the output folder
        OutOfMemoryError      at batch size 1
      ImageError              one image cannot be explained: becomes a Failure record, never crosses threads

They are raised where the cause is known and say what, where, and what to try. ``camcli.cli.app`` catches them once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CamcliError(Exception):
    """What every error of camcli is."""

    exit_code = 3


class UsageError(CamcliError):
    """The command asks for something that cannot be had."""

    exit_code = 2


class ConfigError(UsageError):
    """An option's value, or a line of a TOML file, is wrong."""


class InputError(UsageError):
    """An input does not exist, or holds no image."""


class ModelError(UsageError):
    """There is no such model, or it cannot be built or run."""


class WeightsError(ModelError):
    """The weights do not exist, cannot be downloaded, do not fit, or would run code."""


class LabelsError(UsageError):
    """A labels file cannot be read or does not fit the model's head."""


class LayerError(UsageError):
    """The model has no such layer, or the layer has no heatmap."""


class ClassError(UsageError):
    """The model has no such class."""


class DeviceError(UsageError):
    """The device does not exist on this machine."""


class SettingsError(UsageError):
    """The output folder holds a run made with other settings. ``different``: their names, where they are known."""

    def __init__(self, message: str, different: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.different = frozenset(different)


class RunError(CamcliError):
    """The run cannot go on; what was finished is kept."""


class OutputError(RunError):
    """The output folder cannot be written, or is not camcli's."""


class InUseError(RunError):
    """Another run is writing into the output folder."""


class OutOfMemoryError(RunError):
    """One single image needs more memory than the device has."""


class ImageError(CamcliError):
    """One image cannot be explained. ``stage`` names the room that gave up."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


def nearest_names(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """The ``limit`` names most like ``name``, best first, case ignored; empty when none is near."""
    by_folded: dict[str, list[str]] = {}
    for candidate in names:
        by_folded.setdefault(candidate.casefold(), []).append(candidate)
    folded = name.casefold()
    close = difflib.get_close_matches(folded, by_folded, n=limit, cutoff=0.6)
    inside = sorted((key for key in by_folded if folded and folded in key), key=len)
    found = [
        candidate
        for key in dict.fromkeys([*close, *inside])
        for candidate in sorted(by_folded[key], key=lambda spelling: -difflib.SequenceMatcher(None, name, spelling).ratio())
    ]
    return list(dict.fromkeys(found))[:limit]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A sentence that names the nearest names, with a leading space; empty when none is near."""
    close = nearest_names(name, names)
    if not close:
        return ""
    return " Did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"


def message_of(error: BaseException) -> str:
    """The message of an error, on one line; user code may raise errors whose message cannot be read."""
    try:
        return " ".join(str(error).split())
    except Exception:  # its own __str__ fails
        return "(its text cannot be read)"


def first_line(error: BaseException, *, with_type: bool = True) -> str:
    """The first line of an error's message, after its type; without ``with_type`` the message alone, or the type if it is empty."""
    name = type(error).__name__
    text = f"{name}: {error}" if with_type else str(error)
    return (text.splitlines() or [name])[0]
