"""Maps scaled to their peak, and placed on the part of the image that the network saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from camcli.records import Box

_BAND = 1 << 17
"""Number of pixels that are painted at a time. They fit into the processor's cache, and no full-size array of floats is needed."""


def scale_map(values: np.ndarray) -> np.ndarray:
    """A map divided by its peak: (h, w) float32 in [0, 1], negative values set to 0; all zeros if no value is positive.

    Because there is no epsilon and no offset, zeros stay zero, and scaling the model's logits has no effect.
    """
    positive = np.maximum(values.astype(np.float64), 0.0)
    peak = positive.max(initial=0.0)
    return (positive / peak if peak > 0 else positive).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PlacedMap:
    """A map at image resolution, stored as two factors of a matrix product: ``rows`` (H, h) and ``columns`` (h, W), float32."""

    rows: np.ndarray
    columns: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.columns.shape[1], self.rows.shape[0]

    def whole(self) -> np.ndarray:
        """The whole map, (H, W) float32."""
        placed: np.ndarray = self.rows @ self.columns
        return placed

    def bands(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the map in bands from top to bottom: the rows as a slice, and their values (N, W) float32."""
        height = max(1, _BAND // self.columns.shape[1])
        for top in range(0, len(self.rows), height):
            yield slice(top, top + height), self.rows[top : top + height] @ self.columns

    def at_least(self, threshold: float) -> np.ndarray:
        """A mask (H, W) uint8: 1 where the map is at or above ``threshold``, 0 elsewhere."""
        mask = np.empty((self.size[1], self.size[0]), np.uint8)
        for rows, heat in self.bands():
            np.greater_equal(heat, threshold, out=mask[rows], casting="unsafe")
        return mask


def place_map(values: np.ndarray, box: tuple[float, float, float, float], pixels: Box, size: tuple[int, int]) -> PlacedMap:
    """A map resized bilinearly to the rectangle ``pixels``, with ``size`` (width, height) samples.

    ``values`` (h, w) covers ``box`` (left, top, width, height) in image pixels, which may be fractional or partly outside the
    image. The samples are at the centres of ``size`` equal cells of ``pixels``. The result equals torch's
    ``interpolate(mode="bilinear", align_corners=False)`` if ``box`` and ``pixels`` are the same rectangle.
    """
    rows = _interpolation(values.shape[0], box[1], box[3], pixels.y, pixels.h, size[1])
    columns = _interpolation(values.shape[1], box[0], box[2], pixels.x, pixels.w, size[0])
    return PlacedMap(rows, values.astype(np.float32) @ columns.T)


@lru_cache(maxsize=32)  # the photos of a folder often have one size
def _interpolation(cells: int, start: float, length: float, first: int, covered: int, samples: int) -> np.ndarray:
    """The weight of each cell in each sample along one axis, (samples, cells) float32."""
    centres = first + (np.arange(samples) + 0.5) * (covered / samples)
    position = np.clip((centres - start) / length * cells - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    fraction = position - lower
    matrix = np.zeros((samples, cells), np.float32)
    index = np.arange(samples)
    matrix[index, lower] = 1 - fraction
    matrix[index, np.minimum(lower + 1, cells - 1)] += fraction
    matrix.flags.writeable = False
    return matrix
