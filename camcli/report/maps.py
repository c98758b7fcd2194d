"""Raw maps -> statistics of each map, and the chunks of map values that the page loads as scripts."""

from __future__ import annotations

import base64
import math

import numpy as np

_CHUNK_BYTES = 128 * 1024


def entropy(values: np.ndarray) -> float | None:
    """Normalized Shannon entropy of a map (h, w): 0 if one cell has everything, 1 if all cells are equal; None if none is positive.

    It is the entropy of the map's positive values, normalized to a distribution, divided by the entropy of a uniform map.
    """
    shares = _shares(values)
    if shares is None:
        return None
    if shares.size == 1:
        return 0.0
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum() / math.log(shares.size)) + 0.0


def border_share(values: np.ndarray) -> float | None:
    """The share of the outermost ring of cells in the sum of a map's (h, w) positive values; None if no value is positive."""
    shares = _shares(values)
    return None if shares is None else float(1 - shares[1:-1, 1:-1].sum())


def _shares(values: np.ndarray) -> np.ndarray | None:
    positive = np.maximum(values.astype(np.float64), 0.0)
    total = float(positive.sum())
    return positive / total if math.isfinite(total) and total > 0 else None


class MapChunks:
    """Maps in the order of the rows, in chunks of about 128 KiB. ``starts``: the first row of each chunk."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.chunks: list[list[list[object] | None]] = []
        self._room = 0

    def add(self, row: int, values: np.ndarray | None) -> None:
        """Add the map of ``row``, (h, w) float32 or None, as height, width, and base64 of little-endian floats."""
        if self._room <= 0:
            self.starts.append(row)
            self.chunks.append([])
            self._room = _CHUNK_BYTES
        if values is None:
            self.chunks[-1].append(None)
            return
        text = base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")
        self.chunks[-1].append([*values.shape, text])
        self._room -= len(text)
