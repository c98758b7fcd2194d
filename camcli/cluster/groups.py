"""Groups of images in a space: where many are close together (HDBSCAN), else k-means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from camcli.cluster.features import DENSE_COMPONENTS, some_of

NONE = -1
"""The group of an image that is in no group."""

SMALLEST = 10
_SHARE = 0.05
"""A group has at least 10 images and 5 percent of those among which groups are looked for."""

_REACH = 1.5
"""An image joins a group if it is not much farther from its nearest dense image than these are from each other."""

_MOST_MEANS = 6

MOST_MEASURED = 2000
"""Images of a class by which a silhouette or a gap is measured."""


@dataclass(frozen=True)
class Grouping:
    """``labels`` (N,): the group of each image, NONE for none. ``centres`` (G, D). ``distances`` (N,): to the own centre, or the
    nearest one. ``dense``: whether the groups are dense places; otherwise k-means has divided all images.
    """

    labels: np.ndarray
    centres: np.ndarray
    distances: np.ndarray
    dense: bool


def find_groups(space: np.ndarray, sample: int, seed: int) -> Grouping:
    """Groups of the images in ``space`` (N, K), the axes ordered by variance.

    Dense places are looked for among at most ``sample`` images. Every other image joins the group of the nearest dense image, if
    it is no farther from it than 1.5 times the distance within which 95 percent of the dense images of the group have their
    nearest one. Without a dense place, k-means divides the images, into the number of
    groups from 2 to 6 with the best silhouette.
    """
    from sklearn.cluster import HDBSCAN

    leading = np.ascontiguousarray(space[:, :DENSE_COMPONENTS], np.float64)
    count = len(leading)
    chosen = some_of(count, sample, seed)
    smallest = max(SMALLEST, round(_SHARE * len(chosen)))
    found = np.full(len(chosen), NONE)
    if len(chosen) > 2 * smallest and np.ptp(leading[chosen], axis=0).max() > 0:
        found = HDBSCAN(min_cluster_size=smallest, algorithm="kd_tree", n_jobs=1, copy=True).fit_predict(leading[chosen])
    if found.max(initial=NONE) == NONE:
        return _means(leading, chosen, smallest, seed)
    dense, own = leading[chosen[found >= 0]], found[found >= 0]
    reach = _REACH * np.array([_apart(dense[own == group]) for group in range(own.max() + 1)])
    nearest, distances = _nearest(leading, dense)
    labels = np.where(distances <= reach[own[nearest]], own[nearest], NONE)
    return grouped(space, labels, dense=True)


def grouped(space: np.ndarray, labels: np.ndarray, *, dense: bool) -> Grouping:
    """The groups that ``labels`` (N,) make of ``space`` (N, K), with their centres and the distances from these."""
    leading = np.asarray(space[:, :DENSE_COMPONENTS], np.float64)
    centres = np.array([leading[labels == group].mean(axis=0) for group in range(labels.max() + 1)])
    closest, to_centre = _nearest(leading, centres)
    to_own = np.linalg.norm(leading - centres[np.where(labels >= 0, labels, closest)], axis=1)
    return Grouping(labels, centres, np.where(labels >= 0, to_own, to_centre), dense)


def _apart(points: np.ndarray) -> float:
    """The distance within which 95 percent of ``points`` have their nearest one."""
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points)
    return float(np.quantile(distances[:, 1], 0.95))


def _means(space: np.ndarray, chosen: np.ndarray, smallest: int, seed: int) -> Grouping:
    from sklearn.cluster import KMeans

    some = space[chosen]
    best: tuple[float, np.ndarray] = -1.0, some.mean(axis=0, keepdims=True)
    for wanted in range(2, min(_MOST_MEANS, len(some) // smallest) + 1):
        if len(np.unique(some, axis=0)) < wanted:
            break
        model = KMeans(wanted, n_init=4, random_state=seed).fit(some)
        if np.bincount(model.labels_).min() < min(smallest, len(some) // 3):
            continue
        score = float(np.mean(silhouettes(some, model.labels_, seed)))
        if score > best[0]:
            best = score, model.cluster_centers_
    labels, distances = _nearest(space, best[1])
    return Grouping(labels, best[1], distances, False)


def _nearest(space: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of ``space`` the nearest of ``points``, and its distance."""
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=1).fit(points)
    distances, nearest = model.kneighbors(space)
    return nearest[:, 0], distances[:, 0]


def silhouettes(space: np.ndarray, labels: np.ndarray, seed: int) -> list[float]:
    """For each group, how far it is from the rest (Rousseeuw 1987): the mean of (b - a) / max(a, b) over its images, -1 to 1.

    ``space`` (N, K), ``labels`` (N,).

    a: mean distance to the other images of the group; b: to those of the nearest other group. Images without a group are a group of
    their own, and so are all others together if there is only one group. Of more than 2,000 images a sample is measured.
    """
    leading = np.asarray(space[:, :DENSE_COMPONENTS], np.float64)
    groups = int(labels.max(initial=NONE)) + 1
    chosen = some_of(len(leading), MOST_MEASURED, seed)
    points, own = leading[chosen], labels[chosen]
    own = np.where(own == NONE, groups, own)
    member = np.eye(groups + 1)[own]
    sizes = member.sum(axis=0)
    squares = (points**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0))
    np.fill_diagonal(distances, 0)
    sums = distances @ member
    found = []
    for group in range(groups):
        mine = own == group
        others = [other for other in range(groups + 1) if other != group and sizes[other] > 0]
        if sizes[group] < 2 or not others:
            found.append(0.0)
            continue
        a = sums[mine, group] / (sizes[group] - 1)
        b = (sums[mine][:, others] / sizes[others]).min(axis=1)
        largest = np.maximum(a, b)
        found.append(float(np.mean(np.where(largest > 0, (b - a) / np.where(largest > 0, largest, 1.0), 0.0))))
    return found
