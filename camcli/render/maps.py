"""Maps scaled to their peak and put where the network looked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from camcli.records import Box

BAND = 32
"""A picture is painted this many rows at a time: what a band needs stays in the processor's cache, and nothing is held in floats
at full size."""


def scale_map(values: np.ndarray) -> np.ndarray:
    """A map divided by its peak: (h, w) float32 in [0, 1], negative values cut to 0; zeros where nothing is positive.

    Division by the peak, without an epsilon and without stretching, keeps zero where the method says zero and does not
    change when the model's logits are scaled.
    """
    positive = np.maximum(values.astype(np.float64), 0.0)
    peak = positive.max(initial=0.0)
    return (positive / peak if peak > 0 else positive).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PlacedMap:
    """A map in its place, as two factors whose product it is: ``rows`` (height, h) and ``columns`` (h, width), float32."""

    rows: np.ndarray
    columns: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in samples."""
        return self.columns.shape[1], self.rows.shape[0]

    def whole(self) -> np.ndarray:
        """All of it: (H, W) float32."""
        placed: np.ndarray = self.rows @ self.columns
        return placed

    def bands(self) -> Iterator[tuple[slice, np.ndarray]]:
        """From top to bottom: which BAND rows, and the map there, (BAND, W) float32."""
        for top in range(0, len(self.rows), BAND):
            yield slice(top, top + BAND), self.rows[top : top + BAND] @ self.columns

    def at_least(self, threshold: float) -> np.ndarray:
        """Where the map is not below ``threshold``: (H, W) uint8, 1 or 0."""
        mask = np.empty((self.size[1], self.size[0]), np.uint8)
        for rows, heat in self.bands():
            np.greater_equal(heat, threshold, out=mask[rows], casting="unsafe")
        return mask


def place_map(values: np.ndarray, box: tuple[float, float, float, float], pixels: Box, size: tuple[int, int]) -> PlacedMap:
    """A map spread bilinearly over ``box`` and sampled in ``pixels``, at ``size`` (width, height) points.

    ``values`` (h, w) covers ``box`` (left, top, width, height, in image pixels, not necessarily whole or inside the image).
    The samples are the centres of ``size`` equal cells of the rectangle ``pixels``. Half-pixel centres and edges held, as
    torch's ``interpolate(mode="bilinear", align_corners=False)``: equal to it where box and rectangle coincide.
    """
    rows = _interpolation(values.shape[0], box[1], box[3], pixels.y, pixels.h, size[1])
    columns = _interpolation(values.shape[1], box[0], box[2], pixels.x, pixels.w, size[0])
    return PlacedMap(rows, values.astype(np.float32) @ columns.T)


def _interpolation(cells: int, start: float, length: float, first: int, covered: int, samples: int) -> np.ndarray:
    """(samples, cells) float32: the weight of each cell of a line in each sample."""
    centres = first + (np.arange(samples) + 0.5) * (covered / samples)
    position = np.clip((centres - start) / length * cells - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    fraction = position - lower
    matrix = np.zeros((samples, cells), np.float32)
    index = np.arange(samples)
    matrix[index, lower] = 1 - fraction
    matrix[index, np.minimum(lower + 1, cells - 1)] += fraction
    return matrix
