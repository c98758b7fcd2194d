"""Images of a class -> principal components of their evidence, a space for groups, and a picture in two dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from camcli.cluster.read import Arrays
from camcli.errors import ConfigError

COMPONENTS = 50
"""Dimensions to which contributions and maps are reduced first, each."""

DENSE_COMPONENTS = 6
"""Leading dimensions in which groups are looked for: in more of them no place is dense."""

_LARGEST_PICTURE = 2000
"""Images that t-SNE and UMAP place; the others are put between their nearest neighbours."""


def require_sklearn() -> None:
    """Raise ConfigError if scikit-learn cannot be imported."""
    try:
        import sklearn.cluster  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"camcli cluster needs scikit-learn, which cannot be imported here ({error}): pip install 'camcli[cluster]'"
        ) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which numerical libraries use one thread, so that sums are added in one order: the same bytes every time."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


@dataclass(frozen=True)
class Components:
    """Principal components of the rows (N, D) of a class. ``axes`` (K, D), ordered by variance; ``mean`` (D,).

    ``scores`` (N, K): the centred rows along the axes. ``shares`` (K,): of the whole variance, which is ``variance``.
    """

    axes: np.ndarray
    mean: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    variance: float

    @property
    def logits(self) -> np.ndarray:
        """What each component adds to the logit, beyond the mean of the class: (N, K).

        Neural PCA (Neuhaus et al. 2023, eq. 4): the score times the sum of the axis, for rows that add up to the logit. The sum
        over all components is the logit minus the mean logit; the sign does not depend on that of the axis.
        """
        return np.asarray(self.scores * self.axes.sum(axis=1))


def components_of(arrays: Arrays, count: int, seed: int) -> Components:
    """The first COMPONENTS principal components of the ``count`` rows of ``arrays``.

    If the rows are too many to be held, IncrementalPCA finds them block by block; then the axes are approximate.
    """
    from sklearn.decomposition import PCA, IncrementalPCA

    held = arrays.held
    wanted = min(COMPONENTS, count - 1, int(np.prod(arrays.shape)))
    if held is not None:
        mean = held.mean(axis=0, dtype=np.float64).astype(np.float32)
        variance = float(((held - mean) ** 2).sum(dtype=np.float64) / count)
        if variance <= 0:
            return _constant(mean, count)
        exact = min(held.shape) <= 4 * COMPONENTS
        model: Any = PCA(wanted, svd_solver="full" if exact else "randomized", random_state=seed).fit(held)
    else:
        model = IncrementalPCA(wanted)
        for _, block in arrays.blocks():
            if len(block) >= wanted:
                model.partial_fit(block)
        mean, variance = np.asarray(model.mean_, np.float32), float(np.sum(model.var_))
        if variance <= 0:
            return _constant(mean, count)
    axes = np.asarray(model.components_, np.float32)
    scores = np.zeros((count, len(axes)), np.float32)
    for part, block in arrays.blocks():
        scores[part] = (block - mean) @ axes.T
    shares = np.asarray((scores.astype(np.float64) ** 2).sum(axis=0) / count / variance)
    return Components(axes, mean, scores, shares, variance)


def _constant(mean: np.ndarray, count: int) -> Components:
    return Components(np.zeros((1, len(mean)), np.float32), mean, np.zeros((count, 1), np.float32), np.zeros(1), 0.0)


def joined_space(parts: Sequence[Components]) -> np.ndarray:
    """One space of the scores in ``parts``, in which each part has variance 1: (N, K), axes ordered by variance."""
    scaled = [part.scores / np.sqrt(part.variance) for part in parts if part.variance > 0]
    if not scaled:
        return np.zeros((len(parts[0].scores), 1))
    joined = np.hstack(scaled).astype(np.float64)
    if len(scaled) == 1:
        return joined
    joined -= joined.mean(axis=0)
    _, axes = np.linalg.eigh(joined.T @ joined)
    return np.asarray(joined @ axes[:, ::-1][:, :COMPONENTS])


def some_of(count: int, most: int, seed: int) -> np.ndarray:
    """The numbers (n,) of at most ``most`` of ``count`` images, drawn at random, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def picture_of(space: np.ndarray, layout: str, seed: int) -> np.ndarray:
    """A place for each image in two dimensions, (N, 2) in [0, 1]. ``space``: from ``joined_space``. Raises ConfigError."""
    count = len(space)
    if layout == "pca" or count < 10:
        places = space[:, :2] if space.shape[1] > 1 else np.hstack([space[:, :1], np.zeros((count, 1))])
        return _to_unit(places)
    chosen = some_of(count, _LARGEST_PICTURE, seed)
    placed = _umap(space[chosen], seed) if layout == "umap" else _tsne(space[chosen], seed)
    if len(chosen) == count:
        return _to_unit(placed)
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=3).fit(space[chosen])
    places = np.zeros((count, 2))
    for start in range(0, count, 1024):
        part = slice(start, start + 1024)
        distances, neighbours = near.kneighbors(space[part])
        weights = 1 / np.maximum(distances, 1e-9)
        weights /= weights.sum(axis=1, keepdims=True)
        places[part] = (placed[neighbours] * weights[:, :, None]).sum(axis=1)
    return _to_unit(places)


def _tsne(space: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    spread = float(np.std(space[:, 0]))
    start = space[:, :2] * (1e-4 / spread if spread > 0 else 0.0)
    start = start if start.shape[1] == 2 else np.hstack([start, np.zeros_like(start)])
    perplexity = min(30.0, (len(space) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=seed, n_jobs=1, max_iter=500)
    return np.asarray(model.fit_transform(space.astype(np.float32)), np.float64)


def _umap(space: np.ndarray, seed: int) -> np.ndarray:
    try:
        import umap  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ConfigError(f"--layout umap needs umap-learn, which cannot be imported here ({error}): use --layout tsne.") from error
    return np.asarray(umap.UMAP(random_state=seed, n_jobs=1).fit_transform(space), np.float64)


def _to_unit(places: np.ndarray) -> np.ndarray:
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray((places - low) / np.where(high > low, high - low, 1.0))
