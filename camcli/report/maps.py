"""Raw maps -> what can be said of each in a number, and script files from which the page reads their values."""

from __future__ import annotations

import base64
import math

import numpy as np

_CHUNK_BYTES = 128 * 1024


def entropy(values: np.ndarray) -> float | None:
    """How spread out a map (h, w) is, from 0 (one cell has it all) to 1 (all cells alike); None where nothing is positive.

    The Shannon entropy of the map's positive part, normalised to a distribution, as a fraction of the highest that so many cells
    can have.
    """
    shares = _shares(values)
    if shares is None:
        return None
    if shares.size == 1:
        return 0.0
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum() / math.log(shares.size)) + 0.0


def border_share(values: np.ndarray) -> float | None:
    """The share of a map's (h, w) positive sum that falls on its outermost ring of cells; None where nothing is positive."""
    shares = _shares(values)
    return None if shares is None else float(1 - shares[1:-1, 1:-1].sum())


def _shares(values: np.ndarray) -> np.ndarray | None:
    positive = np.maximum(values.astype(np.float64), 0.0)
    total = float(positive.sum())
    return positive / total if math.isfinite(total) and total > 0 else None


class MapChunks:
    """Maps in the order of the rows, gathered into chunks of about 128 KiB: ``starts`` says with which row each begins."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.chunks: list[list[list[object] | None]] = []
        self._room = 0

    def add(self, row: int, values: np.ndarray | None) -> None:
        """The map of ``row``, (h, w) float32 or None: height, width, and the values as base64 of little-endian floats."""
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
