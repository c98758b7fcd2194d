"""Fine-tuning: train the last blocks of the backbone together with the linear layer, on randomly augmented images."""

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
from camcli.fit.extractor import FeatureExtractor
from camcli.fit.linear_probe import class_weights
from camcli.models.gap_classifier import GapClassifier
from camcli.pipeline.engine import out_of_memory
from camcli.pipeline.stages import InputImage
from camcli.records import Failure, escape_name
from camcli.source import Source

LEARNING_RATE, RANDOM_LEARNING_RATE = 1e-4, 1e-3
"""Learning rates of AdamW for pretrained and for random weights; the linear layer gets ten times the former."""

_WEIGHT_DECAY = 0.01
_PATIENCE = 4
_SCALE = (0.6, 1.0)
"""Share of the image area that a random crop keeps, minimum and maximum."""


@dataclass(frozen=True)
class Epoch:
    """Losses after an epoch, and the accuracy on the validation part."""

    number: int
    train_loss: float
    val_loss: float
    accuracy: float


@dataclass(frozen=True)
class LabelledImages:
    """Images of one part, and the class index of each."""

    sources: Sequence[Source]
    labels: Sequence[int]


@dataclass(frozen=True)
class FineTuning:
    """The options of fine-tuning. ``random``: the backbone began with random weights, so its BatchNorms update their statistics."""

    blocks: int
    epochs: int
    learning_rate: float
    seed: int
    random: bool


def blocks_of(features: fx.GraphModule) -> list[tuple[str, list[str]]]:
    """The blocks of a backbone in the order in which they run: the name of each, and the names of its parameters.

    Modules with the same name up to the first number (``layer4.1``, ``blocks.6``) are one block; without a number, those with the
    same first part. A block with only one-dimensional parameters, such as a BatchNorm, is joined to the block before it.
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
    train: LabelledImages,
    val: LabelledImages,
    extractor: FeatureExtractor,
    tuning: FineTuning,
    on_epoch: Callable[[Epoch], None],
    stop: threading.Event,
) -> list[Epoch]:
    """Train the last ``tuning.blocks`` blocks of ``classifier`` and its linear layer. Returns all epochs; epoch 0 is before
    training.

    Afterwards ``classifier`` has the weights of the epoch with the lowest class-balanced validation loss. In each epoch the images
    are read again in random order and augmented at random (flip, crop, colour jitter of torchvision); the seed determines all of
    it. Early stopping: training ends after four epochs without improvement, with random weights only in the second half of the
    epochs. ``on_epoch`` is called after each epoch. Raises OutOfMemoryError, and RunError for an image that can no longer be read.
    """
    with _trainable(classifier, tuning, extractor):
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
        weights = class_weights(torch.tensor(train.labels), classifier.head.out_features).float().to(extractor.device)
        epochs = [Epoch(0, math.nan, *_evaluate(classifier, val, extractor))]
        best = copy.deepcopy(classifier.state_dict())
        on_epoch(epochs[0])
        with torch.random.fork_rng(devices=[]):
            for number in range(1, tuning.epochs + 1):
                torch.manual_seed((tuning.seed * 1_000_003 + number) % 2**63)  # PyTorch takes no more bits
                loss = _train_epoch(classifier, train, extractor, optimizer, weights, names if tuning.random else set(), stop)
                if stop.is_set():
                    break
                schedule.step()
                epochs.append(Epoch(number, loss, *_evaluate(classifier, val, extractor)))
                on_epoch(epochs[-1])
                least = min(epochs, key=lambda epoch: epoch.val_loss)
                if least is epochs[-1]:
                    best = copy.deepcopy(classifier.state_dict())
                halfway = (
                    not tuning.random or number > tuning.epochs // 2
                )  # random weights need some epochs to get below the loss of epoch 0
                if halfway and number - least.number >= _PATIENCE:
                    break
        classifier.load_state_dict(best)
        return epochs


@contextmanager
def _trainable(classifier: GapClassifier, tuning: FineTuning, extractor: FeatureExtractor) -> Iterator[None]:
    """Context for training; afterwards no parameter requires a gradient. Turns out-of-memory errors into OutOfMemoryError."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{extractor.device} is out of memory while training {tuning.blocks} blocks on {extractor.batch_size} images at once: "
            "try a smaller --batch-size or --unfreeze."
        ) from error
    finally:
        classifier.requires_grad_(False).eval()


def _train_epoch(
    classifier: GapClassifier,
    train: LabelledImages,
    extractor: FeatureExtractor,
    optimizer: torch.optim.Optimizer,
    weights: Tensor,
    learning_norms: set[str],
    stop: threading.Event,
) -> float:
    """Train one epoch. Returns the mean loss. BatchNorms in ``learning_norms`` update their statistics with each batch."""
    for name, module in classifier.features.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.weight" in learning_norms:
            module.train()
    labels = {source.image: label for source, label in zip(train.sources, train.labels, strict=True)}
    order = torch.randperm(len(train.sources)).tolist()
    total, count = 0.0, 0
    for batch in extractor.batches([train.sources[place] for place in order], stop):
        images = _prepared(batch)
        if len(images) < 2 and learning_norms:
            continue  # a BatchNorm cannot compute the variance of one image
        inputs = extractor.tensor([_augmented(image.input) for image in images])
        target = torch.tensor([labels[image.source.image] for image in images], device=extractor.device)
        with torch.enable_grad():
            # mean of weighted losses; PyTorch's weighted mean would cancel the class weights in a small batch
            loss = functional.cross_entropy(classifier(inputs), target, weights, reduction="none").mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        total, count = total + float(loss.detach()) * len(images), count + len(images)
    classifier.eval()
    return total / max(1, count)


def _prepared(batch: Sequence[InputImage | Failure]) -> list[InputImage]:
    """The images of ``batch``. Raises RunError for an image that could be read before and cannot be read now."""
    images = []
    for item in batch:
        if isinstance(item, Failure):
            raise RunError(f"{escape_name(item.image)!r} can no longer be read ({item.reason}): run the same command again.")
        images.append(item)
    return images


def _augmented(image: np.ndarray) -> np.ndarray:
    """The image (h, w, 3) uint8 with a random flip, crop and colour jitter, in the same size."""
    from torchvision.transforms import v2

    augment = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomResizedCrop(image.shape[:2], scale=_SCALE, antialias=True),
            v2.ColorJitter(0.2, 0.2, 0.2),
        ]
    )
    augmented: np.ndarray = augment(torch.from_numpy(image.copy()).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    return augmented


def predict(classifier: GapClassifier, part: LabelledImages, extractor: FeatureExtractor) -> Tensor:
    """The logits (N, K) of a part's images on the CPU, in their order. Raises RunError for an image that can no longer be read."""
    found: dict[str, Tensor] = {}
    for batch in extractor.batches(part.sources):
        images = _prepared(batch)
        with torch.no_grad():
            logits = classifier(extractor.tensor([image.input for image in images])).float().cpu()
        found |= {image.source.image: own for image, own in zip(images, logits, strict=True)}
    return torch.stack([found[source.image] for source in part.sources])


def _evaluate(classifier: GapClassifier, val: LabelledImages, extractor: FeatureExtractor) -> tuple[float, float]:
    """Class-balanced loss, and accuracy."""
    logits, labels = predict(classifier, val, extractor), torch.tensor(val.labels)
    weights = class_weights(labels, logits.shape[1]).float()
    return float(functional.cross_entropy(logits, labels, weights)), float((logits.argmax(dim=1) == labels).double().mean())
