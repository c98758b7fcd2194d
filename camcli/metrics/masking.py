"""Metrics of the image multiplied by the map: drop, increase, gain, coherency, complexity and adcc."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from camcli.cam import METHODS
from camcli.cam.explain import ChooseTargets, explain_batch
from camcli.metrics.batch import Items, Scorer, precise, to_peak


def masked_scores(items: Items, scorer: Scorer) -> Tensor:
    """The score of each image multiplied by its map, (N,) float64. The masked input is zero where the map is zero.

    Where the map is 1 everywhere the image is the same, and so is its score: no pass could be as exact.
    """
    found = items.original.clone()
    changed = _changing(items)
    for part in torch.split(changed, scorer.options.chunk):
        found[part] = scorer(_masked(items, part), items.classes[part])
    return found


def masked_again(items: Items, scorer: Scorer) -> tuple[Tensor, Tensor]:
    """The scores as ``masked_scores`` returns them, and the coherency of each map, both (N,) float64, from the same passes.

    Coherency is Pearson's correlation of the positive part of the map with that of the map which the same method makes of the
    masked image, for the same class (Poppi et al. 2021). It is 1 for equal maps, and 0 if one of two different maps is constant.
    """
    scores, coherency = items.original.clone(), torch.ones_like(items.original)
    changing = set(_changing(items).tolist())
    for number, (layer, method) in enumerate(items.results):
        places = items.of_result(number)
        places = places[[place in changing for place in places.tolist()]] if len(places) else places
        independent = METHODS[method].layer_independent
        layers = [one for one in items.layers if one.name == layer] or list(items.layers[: 1 if independent else None])
        for part in torch.split(places, scorer.options.chunk):
            if not len(part):
                continue
            classes, seeds = items.classes[part], scorer.options.seeds
            own = None if seeds is None else tuple(seeds[image] for image in items.images[part].tolist())
            options = replace(scorer.options, seeds=own, fuse=scorer.options.fuse if len(layers) > 1 else None)
            again = explain_batch(scorer.network, _masked(items, part), layers, [method], _chooses(classes), options)
            scores[part] = scorer.of_logits(again.logits, classes[:, None])[:, 0]
            before = items.maps[number][items.images[part], items.positions[part]]
            coherency[part] = correlation(before.clamp_min(0), next(iter(again.maps.values()))[:, 0].clamp_min(0))
    return scores, coherency


def _chooses(classes: Tensor) -> ChooseTargets:
    return lambda _: classes[:, None]


def drop(original: Tensor, masked: Tensor) -> Tensor:
    """The share of the score that is lost: max(0, p - p') / |p|, and 0 where p is 0 (Chattopadhay et al. 2018). (N,) x2 -> (N,)."""
    return _share((original - masked).clamp_min(0), original.abs())


def increase(original: Tensor, masked: Tensor) -> Tensor:
    """1 where p' > p, else 0 (Chattopadhay et al. 2018). (N,) x2 -> (N,)."""
    return (masked > original).to(original.dtype)


def gain(original: Tensor, masked: Tensor) -> Tensor:
    """max(0, p' - p) / (1 - p) of probabilities, and 0 where p is 1 (Zhang et al. 2024, eq. 13). (N,) x2 -> (N,)."""
    return _share((masked - original).clamp_min(0), 1 - original)


def complexity(items: Items, chunk: int) -> Tensor:
    """The mean of each map on the input, (N,) float64 in [0, 1] (Poppi et al. 2021)."""
    found = torch.ones_like(items.original)
    for part in items.chunks(chunk):
        found[part] = items.placed(part).mean(dim=(1, 2), dtype=found.dtype)
    return found


def adcc(coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """The harmonic mean of coherency, 1 - complexity and 1 - drop (Poppi et al. 2021, eq. 5); 0 if one of them is not positive.

    A negative correlation counts as 0. (N,) x3 -> (N,).
    """
    parts = torch.stack([coherency, 1 - complexity, 1 - drop])
    positive = (parts > 0).all(dim=0)
    return torch.where(positive, 3 / torch.where(positive, parts, 1.0).reciprocal().sum(dim=0), 0.0)


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of each pair of maps (N, h, w): 1 for equal maps, 0 if one of two different maps is constant. (N,)."""
    a, b = (precise(maps.flatten(1)) for maps in (one, other))
    constant = (a.amin(dim=1) == a.amax(dim=1)) | (b.amin(dim=1) == b.amax(dim=1))
    same = (a == b).all(dim=1)
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    size = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    found = _share((a * b).sum(dim=1), size)
    return torch.where(same, 1.0, torch.where(constant, 0.0, found))


def _masked(items: Items, part: Tensor) -> Tensor:
    return items.inputs[items.images[part]] * items.placed(part)[:, None]


def _changing(items: Items) -> Tensor:
    """The items (M,) whose map is not 1 everywhere."""
    same = torch.zeros(len(items), dtype=torch.bool, device=items.inputs.device)
    for places, maps in items.by_result():
        same[places] = (to_peak(maps) == 1).all(dim=2).all(dim=1)
    return (~same).nonzero()[:, 0]


def _share(upper: Tensor, lower: Tensor) -> Tensor:
    """``upper / lower``, and 0 where ``lower`` is 0."""
    return torch.where(lower > 0, upper / torch.where(lower > 0, lower, 1.0), 0.0)
