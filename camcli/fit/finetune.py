"""Training the last blocks of a backbone together with the head, on images that are varied at random."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from camcli.errors import OutOfMemoryError, RunError
from camcli.fit.linear_probe import class_weights
from camcli.models.gap_classifier import GapClassifier
from camcli.pipeline.engine import normalised, out_of_memory
from camcli.pipeline.job import Job
from camcli.pipeline.reading import PreparedImage
from camcli.pipeline.stages import prepared_batches
from camcli.records import Failure, Source, escape_name

LEARNING_RATE, RANDOM_LEARNING_RATE = 1e-4, 1e-3
"""Of AdamW, for weights that have learned something already and for random ones; the head takes ten times the former."""

_WEIGHT_DECAY = 0.01
_PATIENCE = 4
_SCALE = (0.6, 1.0)
"""Of the area that a random crop keeps."""


@dataclass(frozen=True)
class Epoch:
    """Losses after an epoch; ``accuracy`` on validation."""

    number: int
    train_loss: float
    val_loss: float
    accuracy: float


@dataclass(frozen=True)
class Labelled:
    """Images of one part with their classes."""

    sources: Sequence[Source]
    labels: Sequence[int]


@dataclass(frozen=True)
class Tuning:
    """How to train. ``random``: the weights were, so that BatchNorms learn their statistics too; otherwise those stay."""

    blocks: int
    epochs: int
    learning_rate: float
    seed: int
    random: bool


def blocks_of(features: fx.GraphModule) -> list[tuple[str, list[str]]]:
    """The blocks of a cut backbone in the order in which they run: a name, and the names of their parameters.

    A block is all that has the same name up to its first number (``layer4.1``, ``blocks.6``), or without one the same first part.
    One that holds nothing but vectors, a BatchNorm say, belongs to the block before it.
    """
    parameters = dict(features.named_parameters())
    found: dict[str, list[str]] = {}
    for node in features.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            target = str(node.target)
            own = [name for name in parameters if name == target or name.startswith(f"{target}.")]
            found.setdefault(_block_name(target), []).extend(own)
    blocks: list[tuple[str, list[str]]] = []
    for name, own in found.items():
        if blocks and all(parameters[one].ndim < 2 for one in own):
            blocks[-1][1].extend(own)
        elif own:
            blocks.append((name, own))
    return blocks


def _block_name(target: str) -> str:
    parts = target.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: number + 1])


def fine_tune(
    classifier: GapClassifier,
    train: Labelled,
    val: Labelled,
    job: Job,
    tuning: Tuning,
    tell: Callable[[Epoch], None],
    stop: threading.Event,
) -> list[Epoch]:
    """Train the last ``tuning.blocks`` blocks of ``classifier`` and its head; it is left as it was after its best epoch.

    Epoch 0 is what it was before. Best is the least validation loss, in which classes count the same. Images are read anew in each
    epoch, in random order, mirrored, cropped and coloured at random (torchvision's transforms); all chance comes from the seed.
    Ends early when four epochs brought nothing, with random weights in the second half of the epochs only. Raises OutOfMemoryError,
    and RunError for images that cannot be read any more; its parameters need no gradient then either.
    """
    with _trainable(classifier, tuning, job):
        blocks = blocks_of(classifier.features)
        names = {name for _, own in blocks[len(blocks) - tuning.blocks :] for name in own}
        parameters = [parameter.requires_grad_() for name, parameter in classifier.features.named_parameters() if name in names]
        head = list(classifier.head.requires_grad_().parameters())
        rates = [
            {"params": parameters, "lr": tuning.learning_rate},
            {"params": head, "lr": max(tuning.learning_rate, 10 * LEARNING_RATE)},
        ]
        optimizer = torch.optim.AdamW(rates, weight_decay=_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: (1 + math.cos(math.pi * epoch / tuning.epochs)) / 2)
        weights = class_weights(torch.tensor(train.labels), classifier.head.out_features).float().to(job.device)
        epochs = [Epoch(0, math.nan, *_judge(classifier, val, job))]
        best = copy.deepcopy(classifier.state_dict())
        tell(epochs[0])
        with torch.random.fork_rng(devices=[]):
            for number in range(1, tuning.epochs + 1):
                torch.manual_seed((tuning.seed * 1_000_003 + number) % 2**63)  # more bits PyTorch does not take
                loss = _train_epoch(classifier, train, job, optimizer, weights, names if tuning.random else set(), stop)
                if stop.is_set():
                    break
                schedule.step()
                epochs.append(Epoch(number, loss, *_judge(classifier, val, job)))
                tell(epochs[-1])
                least = min(epochs, key=lambda epoch: epoch.val_loss)
                if least is epochs[-1]:
                    best = copy.deepcopy(classifier.state_dict())
                halfway = not tuning.random or number > tuning.epochs // 2  # random weights take a while to come below epoch 0
                if halfway and number - least.number >= _PATIENCE:
                    break
        classifier.load_state_dict(best)
        return epochs


@contextmanager
def _trainable(classifier: GapClassifier, tuning: Tuning, job: Job) -> Iterator[None]:
    """Inside, parameters may need gradients; afterwards none does. Raises OutOfMemoryError for a lack of memory inside."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{job.device} has not enough memory to train {tuning.blocks} blocks on {job.batch_size} images at once: "
            "try a smaller --batch-size or --unfreeze."
        ) from error
    finally:
        classifier.requires_grad_(False).eval()


def _train_epoch(
    classifier: GapClassifier,
    train: Labelled,
    job: Job,
    optimizer: torch.optim.Optimizer,
    weights: Tensor,
    learning_norms: set[str],
    stop: threading.Event,
) -> float:
    """Once through the training images in random order; their mean loss. BatchNorms of ``learning_norms`` learn from each batch."""
    for name, module in classifier.features.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.weight" in learning_norms:
            module.train()
    labels = {source.image: label for source, label in zip(train.sources, train.labels, strict=True)}
    order = torch.randperm(len(train.sources)).tolist()
    total, count = 0.0, 0
    for batch in prepared_batches([train.sources[place] for place in order], job, stop):
        images = _still_there(batch)
        if len(images) < 2 and learning_norms:
            continue  # a BatchNorm learns nothing from one image
        inputs = normalised([_varied(image.input) for image in images], job)
        target = torch.tensor([labels[image.source.image] for image in images], device=job.device)
        with torch.enable_grad():
            # not the weighted mean: it divides by the weights of the batch, so that in a small one no class counts more
            loss = functional.cross_entropy(classifier(inputs), target, weights, reduction="none").mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        total, count = total + float(loss.detach()) * len(images), count + len(images)
    classifier.eval()
    return total / max(1, count)


def _still_there(batch: Sequence[PreparedImage | Failure]) -> list[PreparedImage]:
    """The images of ``batch``, all of which could be read before. Raises RunError for one that cannot any more."""
    images = []
    for item in batch:
        if isinstance(item, Failure):
            raise RunError(f"{escape_name(item.image)!r} cannot be read any more ({item.reason}): run the same command again.")
        images.append(item)
    return images


def _varied(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8, mirrored, cropped and coloured at random, of the same size."""
    from torchvision.transforms import v2

    vary = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomResizedCrop(image.shape[:2], scale=_SCALE, antialias=True),
            v2.ColorJitter(0.2, 0.2, 0.2),
        ]
    )
    varied: np.ndarray = vary(torch.from_numpy(image.copy()).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    return varied


def predict(classifier: GapClassifier, part: Labelled, job: Job) -> Tensor:
    """The logits (N, K) of a part's images, in their order, on the host. Raises RunError for one that cannot be read any more."""
    found: dict[str, Tensor] = {}
    for batch in prepared_batches(part.sources, job):
        images = _still_there(batch)
        with torch.no_grad():
            logits = classifier(normalised([image.input for image in images], job)).float().cpu()
        found |= {image.source.image: own for image, own in zip(images, logits, strict=True)}
    return torch.stack([found[source.image] for source in part.sources])


def _judge(classifier: GapClassifier, val: Labelled, job: Job) -> tuple[float, float]:
    """Loss, classes counting the same, and accuracy."""
    logits, labels = predict(classifier, val, job), torch.tensor(val.labels)
    weights = class_weights(labels, logits.shape[1]).float()
    return float(functional.cross_entropy(logits, labels, weights)), float((logits.argmax(dim=1) == labels).double().mean())
