"""Reading images in a worker, within the memory that it may take. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from camcli.config.run import RunConfig
from camcli.images.decode import NOT_ENOUGH, decode_image, memory_words
from camcli.images.geometry import InputWindow, prepare_pixels
from camcli.images.header import MAX_SIDE, Header
from camcli.pipeline.tasks import Settings
from camcli.records import Failure, Image
from camcli.resources import available_memory, limit_memory, release_memory
from camcli.source import Source
from camcli.timing import StageTimer

_PAINTED = {"overlay": 6, "heatmap": 6, "contour": 10, "spotlight": 9, "side-by-side": 15}
"""Bytes a pixel while an overlay is painted, by style: the picture, its parts, and a copy for the encoder."""

_ENCODED, _LEGEND, _REGIONS = 2, 3, 7
"""Additional bytes a pixel: for the encoded file, for a legend, and for boxes or masks."""

_LARGE = 64 << 20
"""Size in bytes from which on the memory of an image is returned to the system when it is done."""


def prepared_bytes(header: Header) -> int:
    """The peak memory of an image in bytes while it is decoded and resized."""
    return max(header.decoding, 7 * header.pixels)


def painted_bytes(header: Header, config: RunConfig) -> int:
    """The peak memory of an image in bytes while it is decoded, resized and painted."""
    painted = _PAINTED[config.style] + _ENCODED + _LEGEND * config.legend
    scale = min(1.0, (config.max_side or MAX_SIDE) / max(header.width, header.height))
    painting = painted * scale**2 + _REGIONS * (config.boxes is not None or config.masks) + (3 if scale < 1 else 0) * scale**2
    return max(prepared_bytes(header), int((3 + painting) * header.pixels))


def give_back(size: int) -> None:
    """Return the memory of an image of ``size`` bytes that is done to the system, for other processes; small ones are kept."""
    if size >= _LARGE:
        release_memory()


class NotAdmitted(Exception):  # noqa: N818 - not an error: the main process is asked
    """An image needs ``size`` bytes, more than the worker may take without asking. ``words``: for a failure."""

    def __init__(self, size: int, words: str) -> None:
        super().__init__(words)
        self.size, self.words = size, words


@dataclass(frozen=True, slots=True)
class Held:
    """An image that a worker keeps for painting. ``size``: its peak memory; ``view``: the part that the network saw."""

    image: Image
    view: InputWindow
    size: int


class Reader:
    """Reads images, and keeps the pixels of those that will be painted, by number. ``limited``: see ``Tasks``."""

    def __init__(self, settings: Settings, timer: StageTimer, *, limited: bool) -> None:
        self._settings, self._timer, self._limited = settings, timer, limited
        self._held: dict[int, Held] = {}
        self._additional = 0
        self._limit(settings.allowance)

    def allow_more(self, size: int) -> None:
        """Let this process take ``size`` bytes of address space beside that for images."""
        if size != self._additional:
            self._additional = size
            self._limit(self._settings.allowance)

    def holds(self, number: int) -> bool:
        """Whether it keeps image ``number``."""
        return number in self._held

    def read(self, number: int, source: Source, admitted: int, *, hashed: bool = False) -> tuple[Held, np.ndarray] | Failure:
        """An image and the network's input (h, w, 3) uint8 made from it. ``admitted``: bytes that it may take at most, if it asked.
        ``hashed``: compute the SHA-256 of the file although the settings do not ask for it.

        Raises NotAdmitted if it needs more than that, and more than the worker may take without asking.
        """
        inputs, size = self._settings.inputs, 0

        def admit(header: Header) -> None:
            nonlocal size
            painting = self._settings.painting
            size = prepared_bytes(header) if painting is None else painted_bytes(header, painting.config)
            if size > admitted and self._pixels() + max(size, self._largest()) > self._settings.allowance:
                raise NotAdmitted(size, memory_words(header, size, available_memory()))
            if size > self._settings.allowance:
                self._limit(size + self._settings.allowance)

        try:
            image = decode_image(source, inputs.max_pixels, self._timer, hashed=hashed or inputs.hashed, admit=admit)
            if isinstance(image, Failure):
                return image
            with self._timer.work("prepare"):
                view, prepared = prepare_pixels(image.pixels, inputs.preprocess, inputs.resize_mode)
        except MemoryError:
            return Failure(source.image, "memory", NOT_ENOUGH)
        finally:
            give_back(size)
            if size > self._settings.allowance:
                self._limit(self._settings.allowance)
        held = Held(image, view, size)
        if self._settings.painting is not None:
            self._held[number] = held
        return held, prepared

    def take(self, number: int) -> Held | None:
        """The image ``number``, which is not kept any longer; None if this worker does not have it."""
        return self._held.pop(number, None)

    def drop(self, number: int) -> None:
        """Do not keep image ``number`` any longer."""
        held = self.take(number)
        size = 0 if held is None else held.size
        del held
        give_back(size)

    def _limit(self, size: int) -> None:
        if self._limited:
            limit_memory(size + self._additional)

    def _pixels(self) -> int:
        return sum(held.image.pixels.nbytes for held in self._held.values())

    def _largest(self) -> int:
        return max((held.size for held in self._held.values()), default=0)
