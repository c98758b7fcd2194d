"""Measure the maps of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from camcli.cam.explain import Explanation, Options
from camcli.config.run import CURVES, METRICS
from camcli.metrics import curves, masking, stability
from camcli.metrics.batch import Items, MetricSettings, Scorer
from camcli.metrics.concentration import entropy, gini
from camcli.metrics.road import road
from camcli.network import Network
from camcli.records import Layer

_MASKED = frozenset({"drop", "increase", "gain", "adcc"})


def measure(
    network: Network,
    inputs: Tensor,
    layers: Sequence[Layer],
    results: Sequence[tuple[str, str]],
    explanation: Explanation,
    wanted: np.ndarray,
    settings: MetricSettings,
    options: Options,
) -> dict[str, Tensor]:
    """The metrics of the maps of ``explanation``: column -> (B, T, R) values or (B, T, R, P) curves, float64.

    ``inputs`` (B, 3, H, W): what was explained. ``results``: (layer, method) of the R maps. ``wanted`` (B, T, R) bool: which
    maps to measure; the others are NaN. ``options``: those with which the maps were made.
    """
    scorer = Scorer(network, options, settings)
    scores = scorer.of_logits(explanation.logits, explanation.targets)
    chosen = torch.from_numpy(wanted).to(inputs.device).nonzero().T
    maps = [explanation.maps[result] for result in results]
    items = Items(inputs, explanation.targets, scores, layers, results, maps, *chosen)
    found = _measured(items, scorer) if len(items) else {}
    columns: dict[str, Tensor] = {}
    for name in METRICS:
        for column in (name, CURVES.get(name)) if name in settings.names else ():
            if column:
                values = found.get(column)
                shape = (*wanted.shape, *(() if values is None else values.shape[1:]))
                if values is None and column != name:
                    shape = (*wanted.shape, len(curves.step_counts(items.size[0] * items.size[1], settings.steps)))
                columns[column] = torch.full(shape, torch.nan, device=inputs.device, dtype=scores.dtype)
                if values is not None:
                    columns[column][tuple(chosen)] = values.to(scores.dtype)
    return columns


def _measured(items: Items, scorer: Scorer) -> dict[str, Tensor]:
    """The wanted metrics and curves of all items: column -> (N,) or (N, P)."""
    names, found = set(scorer.settings.names), dict[str, Tensor]()
    if names & {"coherency", "adcc"}:
        masked, found["coherency"] = masking.masked_again(items, scorer)
    elif names & _MASKED:
        masked = masking.masked_scores(items, scorer)
    if names & _MASKED:
        found["drop"] = masking.drop(items.original, masked)
        found["increase"] = masking.increase(items.original, masked)
        found["gain"] = masking.gain(items.original, masked)
    if names & {"complexity", "adcc"}:
        found["complexity"] = masking.complexity(items, scorer.options.chunk)
    if "adcc" in names:
        found["adcc"] = masking.adcc(found["coherency"], found["complexity"], found["drop"])
    for name, curve in (("deletion", curves.deletion_curves), ("insertion", curves.insertion_curves)):
        if name in names:
            found[CURVES[name]] = curve(items, scorer)
            counts = curves.step_counts(items.size[0] * items.size[1], scorer.settings.steps)
            found[name] = curves.area(found[CURVES[name]], counts)
    of_maps: dict[str, Callable[[Tensor], Tensor]] = {"entropy": entropy, "sparsity": gini}
    for name, compute in of_maps.items():
        if name in names:
            found[name] = torch.empty_like(items.original)
            for places, maps in items.by_result():
                found[name][places] = compute(maps)
    by_name: dict[str, Callable[[Items, Scorer], Tensor]] = {
        "road": road,
        "infidelity": stability.infidelity,
        "sensitivity": stability.sensitivity,
    }
    return found | {name: compute(items, scorer) for name, compute in by_name.items() if name in names}
