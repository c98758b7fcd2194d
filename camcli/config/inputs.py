"""The options that change a model's preprocessing: ``--mean``, ``--std``, ``--resize``, ``--crop`` and ``--interpolation``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from camcli.errors import ConfigError
from camcli.records import LARGEST_SIDE, Preprocess

_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
_VALUE = re.compile(rf"({_NUMBER})(?:/({_NUMBER}))?")


@dataclass(frozen=True)
class InputChanges:
    """Changes of a model's preprocessing; None leaves that part as it is.

    ``mean`` and ``std``: one value for all channels or one for each, on the [0, 1] scale. ``resize``: (side,) resizes the shorter
    side, (height, width) resizes to exactly that size. ``crop``: (height, width). All sizes are in pixels.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: tuple[int, ...] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())

    def applied(self, preprocess: Preprocess) -> Preprocess:
        """``preprocess`` with the changes. Applying them again changes nothing.

        Without ``resize`` a new ``crop`` also changes the size to which images are resized, in proportion, so that the network
        sees the same part of them. Raises ConfigError for a number of values that is not that of the channels, and for a crop
        that is larger than the resized image.
        """
        changed = preprocess
        if self.crop is not None and self.crop != preprocess.crop:
            (old_h, old_w), (new_h, new_w) = preprocess.crop, self.crop
            height, width = round(preprocess.resize_to[0] * new_h / old_h), round(preprocess.resize_to[1] * new_w / old_w)
            kind = "cover" if preprocess.resize == "short" and height != width else preprocess.resize
            changed = replace(changed, crop=self.crop, resize=kind, resize_to=(height, width))
        if self.resize is not None:
            kind = "short" if len(self.resize) == 1 else "squash"
            changed = replace(changed, resize=kind, resize_to=(self.resize[0], self.resize[-1]))
            self._check_covered(changed)
        return replace(
            changed,
            mean=preprocess.mean if self.mean is None else _for_channels("mean", self.mean, preprocess.channels),
            std=preprocess.std if self.std is None else _for_channels("std", self.std, preprocess.channels),
            interpolation=self.interpolation or preprocess.interpolation,
        )

    def _check_covered(self, preprocess: Preprocess) -> None:
        (height, width), (crop_h, crop_w) = preprocess.resize_to, preprocess.crop
        if height < crop_h or width < crop_w:
            raise ConfigError(
                f"--resize {size_text(self.resize)} is smaller than the network's input of {crop_h} x {crop_w} pixels: give a "
                "larger --resize, or a smaller --crop."
            )


def parse_values(name: str, text: str | None, *, positive: bool = False) -> tuple[float, ...] | None:
    """The numbers in the value ``text`` of the option ``name``, such as ``0.5``, ``0.485,0.456,0.406`` or ``123/255``.

    Raises ConfigError unless there are one or three finite numbers, above 0 if ``positive``.
    """
    if text is None:
        return None
    values = [_value(part.strip()) for part in text.split(",")]
    if len(values) not in (1, 3) or not all(math.isfinite(value) and (value > 0 or not positive) for value in values):
        wanted = "numbers above 0" if positive else "numbers"
        raise ConfigError(
            f"--{name} {text!r} must be one or three {wanted}, separated by commas, on the scale from 0 (black) to 1 (white), such "
            "as 0.485,0.456,0.406 or 124/255,116/255,104/255."
        )
    return tuple(values)


def parse_size(name: str, text: str | None) -> tuple[int, ...] | None:
    """The sizes in the value ``text`` of the option ``name``: (side,) for ``224``, (height, width) for ``224x192``.

    Raises ConfigError for anything else, and for sides of 0 or more than LARGEST_SIDE pixels.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    sides = tuple(int(side) for side in found.groups() if side is not None) if found else ()
    if not sides or not all(0 < side <= LARGEST_SIDE for side in sides):
        raise ConfigError(
            f"--{name} {text!r} must be a number of pixels, or HEIGHTxWIDTH, such as 256 or 256x192, up to {LARGEST_SIDE}."
        )
    return sides


def values_text(values: tuple[float, ...] | None) -> str | None:
    """The text that stands for ``values`` among the settings of a folder: the same for ``0.5`` and ``.50``."""
    return None if values is None else ",".join(repr(float(value)) for value in values)


def size_text(sides: tuple[int, ...] | None) -> str | None:
    """The text that stands for ``sides`` among the settings of a folder."""
    return None if sides is None else "x".join(map(str, sides))


def _value(text: str) -> float:
    """The number in ``text``, which may be a fraction; NaN if it is none."""
    found = _VALUE.fullmatch(text)
    if found is None:
        return math.nan
    below = float(found[2]) if found[2] is not None else 1.0
    return float(found[1]) / below if below else math.nan


def _for_channels(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        raise ConfigError(f"--{name} has {len(values)} values, and the network takes grey images of one channel: give one value.")
    return values


NO_CHANGES = InputChanges()
