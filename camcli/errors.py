"""All errors of camcli. Each class has its exit code.

    CamcliError
      UsageError (2)          the user can correct the command
        ConfigError           wrong option, or wrong line in a TOML file
        InputError            no images, or an input that does not exist
        ModelError            unknown model, or it cannot be built or run
          WeightsError        weights that do not exist, cannot be downloaded, do not fit, or are not safe
        LabelsError           labels file that does not fit
        LayerError            unknown layer, or a layer without a spatial map
        ClassError            unknown class
        DeviceError           unknown device
        SettingsError         the output folder holds a run with other settings
      RunError (3)            the run cannot continue
        OutputError           output folder not writable, not written by camcli, or disk full
        InUseError            another run is writing into the output folder
        OutOfMemoryError      out of memory with a single image
      ImageError              one image cannot be explained; it becomes a Failure record where it is caught

Errors are raised where the cause is known. The message says what is wrong, where, and what to try. ``camcli.cli.app`` catches them
in one place.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CamcliError(Exception):
    """Base class of all errors of camcli."""

    exit_code = 3


class UsageError(CamcliError):
    """The command is wrong and can be corrected by the user."""

    exit_code = 2


class ConfigError(UsageError):
    """An option's value, or a line of a TOML file, is wrong."""


class InputError(UsageError):
    """An input does not exist or contains no image."""


class ModelError(UsageError):
    """The model is unknown, or it cannot be built or run."""


class WeightsError(ModelError):
    """The weights do not exist, cannot be downloaded, do not fit the model, or would run code."""


class LabelsError(UsageError):
    """The labels file cannot be read, or it does not fit the model's number of classes."""


class LayerError(UsageError):
    """The model has no such layer, or the layer has no heatmap."""


class ClassError(UsageError):
    """The model has no such class."""


class DeviceError(UsageError):
    """The device does not exist on this machine."""


class SettingsError(UsageError):
    """The output folder holds a run with other settings. ``different``: the names of the settings that differ, if known.

    ``advice``: the end of the message, which says what to do.
    """

    def __init__(self, message: str, different: Iterable[str] = (), advice: str = "") -> None:
        super().__init__(message + advice)
        self.different = frozenset(different)
        self.advice = advice


class RunError(CamcliError):
    """The run cannot continue; finished images are kept."""


class OutputError(RunError):
    """The output folder cannot be written, or camcli did not write it."""


class InUseError(RunError):
    """Another run is writing into the output folder."""


class OutOfMemoryError(RunError):
    """A single image needs more memory than the device has."""


class ImageError(CamcliError):
    """One image cannot be explained. ``stage``: the stage that failed, such as ``decode``."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


def nearest_names(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """At most ``limit`` names that are similar to ``name``, the most similar first; case is ignored."""
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
    """A sentence with similar names, with a leading space; empty if there are none."""
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
