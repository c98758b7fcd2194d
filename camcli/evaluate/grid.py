"""The grid pointing game (Boehle et al. 2021): how much of each map lies in the right cell of a picture of several images."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from camcli.cam.explain import ChooseTargets, Explanation, explain_batch
from camcli.config.run import RunConfig
from camcli.errors import CamcliError, InputError, LayerError, first_line
from camcli.evaluate.bootstrap import mean
from camcli.evaluate.compare import Kind, Result, compare
from camcli.evaluate.config import EvaluateConfig
from camcli.evaluate.values import CONTROLS, Key, Values
from camcli.evaluate.write import write_evaluation
from camcli.listener import Listener
from camcli.network.inputs import input_tensor
from camcli.network.precision import tensor_cores
from camcli.pipeline.engine import out_of_memory, seed_of
from camcli.pipeline.job import Job, prepare_job
from camcli.pipeline.stages import prepared_batches
from camcli.records import Failure, count_words, escape_name
from camcli.source import Source

METRIC = "grid"
"""The name of the metric in the results: the share of a map that lies in the right cell."""

_SEED = 0
_KEPT = 4
"""Images that are kept for each cell of the pictures, the most confident ones."""


@dataclass(frozen=True)
class Candidate:
    """An image that may become a cell. ``input``: (H, W, 3) uint8, as the network sees it."""

    image: str
    class_index: int
    probability: float
    input: np.ndarray


@dataclass(frozen=True)
class Player:
    """The model of the game, where results name a run."""

    label: str
    path: str
    network: tuple[object, ...] = ()


@dataclass
class Game:
    """A played game. ``values``: the shares. ``shrunk``: whether the pictures were shrunk to the size of the network's input."""

    values: Values = field(default_factory=Values)
    results: list[Result] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    pictures: int = 0
    failed: int = 0
    shrunk: bool = False


def prepare_grid(config: RunConfig, *, show_progress: bool) -> Job:
    """The loaded model, with the methods of ``config`` and the controls. Raises a UsageError as ``prepare_job`` does."""
    methods = tuple(dict.fromkeys((*config.method, *CONTROLS)))
    return prepare_job(replace(config, method=methods), show_progress=show_progress)


def play_grid(
    job: Job, sources: Sequence[Source], config: EvaluateConfig, listener: Listener, stop: threading.Event
) -> Game | None:
    """Play the game with the images ``sources``; None if it was stopped.

    Raises InputError if there are not enough classes with a confident image for one picture.
    """
    assert config.grid is not None
    game, cells = Game(), config.grid**2
    candidates = _candidates(job, sources, config, game, listener, stop)
    if stop.is_set():
        return None
    pictures = compose(candidates, cells, config.pictures)
    if not pictures:
        classes = len({one.class_index for one in candidates})
        raise InputError(
            f"a picture needs images of {cells} different classes; found {count_words(len(candidates), 'image')} of {classes}, "
            f"predicted with a probability of at least {config.confidence}. Give more images, or a lower --confidence."
        )
    game.shrunk = any(layer.grid.kind == "tokens" for layer in job.layers)
    for number, picture in enumerate(pictures):
        if stop.is_set():
            return None
        _play(job, picture, config.grid, number, game)
        listener.progress(number + 1, len(pictures))
    game.pictures = len(pictures)
    game.results = compare(game.values, [_player(job)], {METRIC: Kind("higher", mean)})
    return game


def _player(job: Job) -> Player:
    return Player(escape_name(job.model.name), job.model.name)


def _candidates(
    job: Job, sources: Sequence[Source], config: EvaluateConfig, game: Game, listener: Listener, stop: threading.Event
) -> list[Candidate]:
    """The images that are predicted with confidence; at most _KEPT for each cell, the most confident ones, if there are many."""
    assert config.grid is not None
    found: list[Candidate] = []
    most = _KEPT * config.pictures * config.grid**2
    for batch in prepared_batches(sources, job.inputs, job.batch_size, stop):
        images = [item for item in batch if not isinstance(item, Failure)]
        for item in batch:
            if isinstance(item, Failure):
                game.failed += 1
                listener.failed(item)
        if not images:
            continue
        tensor = input_tensor([item.input for item in images], job.model.preprocess, job.device)
        with torch.no_grad(), tensor_cores(job.network.tf32, job.device):
            logits = job.network.run(job.network.cast_inputs(tensor), ()).logits.cpu().double()
        shares = logits.softmax(dim=1) if job.config.head == "softmax" else logits.sigmoid()
        for item, probability, index in zip(images, *(each.tolist() for each in shares.max(dim=1)), strict=True):
            if probability >= config.confidence:
                found.append(Candidate(item.source.image, index, probability, item.input))
        if len(found) > 2 * most:
            found = sorted(found, key=lambda one: -one.probability)[:most]
    return found


def compose(candidates: Sequence[Candidate], cells: int, most: int) -> list[list[Candidate]]:
    """At most ``most`` pictures of ``cells`` images of different classes; each image is in one picture. The same at every call.

    Each picture takes from the classes that have the most images left, so that there are as many pictures as possible.
    """
    generator = random.Random(_SEED)
    left: dict[int, list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: (one.probability, one.image)):
        left.setdefault(one.class_index, []).append(one)
    pictures: list[list[Candidate]] = []
    while len(pictures) < most:
        classes = sorted(left, key=lambda index: (-len(left[index]), generator.random()))[:cells]
        if len(classes) < cells:
            break
        picture = [left[index].pop() for index in classes]  # the most confident one
        left = {index: own for index, own in left.items() if own}
        generator.shuffle(picture)
        pictures.append(picture)
    return pictures


def _play(job: Job, picture: Sequence[Candidate], side: int, number: int, game: Game) -> None:
    """Explain the class of each cell, and add the shares of the maps to the values of ``game``."""
    classes = torch.tensor([[one.class_index for one in picture]], device=job.device)
    found, size = _explained(job, picture, side, classes, game)
    name = f"picture {number + 1}"
    game.cells.append([one.image for one in picture])
    for layer, method in job.names.results:
        for cell, share in enumerate(cell_shares(found.maps[layer, method][0], size, side)):
            game.values.add(METRIC, Key(0, layer, method), name, str(cell), [share])


def _explained(
    job: Job, picture: Sequence[Candidate], side: int, classes: Tensor, game: Game
) -> tuple[Explanation, tuple[int, int]]:
    """The maps of all classes of a picture, and its size. It is shrunk if the network takes one size only."""
    tensor = input_tensor([one.input for one in picture], job.model.preprocess, job.device)
    canvas = tiled(tensor, side)
    seeds = (seed_of(" ".join(one.image for one in picture)),)
    while True:
        shown = functional.interpolate(canvas, tensor.shape[2:], mode="area") if game.shrunk else canvas
        try:
            with tensor_cores(job.network.tf32, job.device):
                options = replace(job.options, seeds=seeds)
                found = explain_batch(job.network, shown, job.layers, job.config.method, _chooses(classes), options)
            return found, (shown.shape[2], shown.shape[3])
        except CamcliError:
            raise
        except Exception as error:  # a network that takes one size only may raise anything
            if game.shrunk or out_of_memory(error):
                raise LayerError(f"{job.model.name} fails on a picture of {side} x {side} images: {first_line(error)}.") from error
            game.shrunk = True


def _chooses(classes: Tensor) -> ChooseTargets:
    return lambda _: classes


def tiled(images: Tensor, side: int) -> Tensor:
    """``images`` (N, 3, H, W), ``side`` in a row, as one picture (1, 3, h, w) that is ``side`` times as high and wide."""
    rows = [torch.cat(list(row), dim=2) for row in images.view(side, side, *images.shape[1:])]
    return torch.cat(rows, dim=1)[None]


def cell_shares(maps: Tensor, size: tuple[int, int], side: int) -> Iterator[float]:
    """For the map of each cell's class (N, h, w) the share of its positive values that lies in that cell, 0 to 1.

    The maps are enlarged to ``size`` (height, width) of the picture, which has ``side`` cells in a row. A map without positive
    values has nothing in its cell: 0.
    """
    positive = maps.clamp_min(0)[None].float()
    large = functional.interpolate(positive, size, mode="bilinear", align_corners=False)[0].double().cpu()
    for cell, values in enumerate(large):
        height, width = size[0] / side, size[1] / side
        top, left = round(cell // side * height), round(cell % side * width)
        own = values[top : round(top + height), left : round(left + width)]
        total = float(values.sum())
        yield float(own.sum()) / total if total > 0 else 0.0


def write_grid(game: Game, config: EvaluateConfig, job: Job, place: str) -> list[str]:
    """Write the results of ``game`` into the folder ``place``. Returns the names of the files. Raises as ``write_evaluation``."""
    assert config.grid is not None
    facts = {
        "grid": {
            "side": config.grid,
            "chance": 1 / config.grid**2,
            "confidence": config.confidence,
            "shrunk": game.shrunk,
            "layers": [layer.name for layer in job.layers],
            "pictures": game.cells,
        }
    }
    return write_evaluation(place, game.results, game.values, [_player(job)], {METRIC: Kind("higher", mean)}, facts)
