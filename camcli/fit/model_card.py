"""The files of a trained model: weights, class names, the split with predictions, metrics, and a model card."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from camcli import __version__
from camcli.fit.config import FitConfig
from camcli.fit.data import Dataset, counts_of
from camcli.fit.metrics import Metrics
from camcli.fit.records import Backbone, Examples, Training
from camcli.layout import FAILURES, FITTED_WEIGHTS
from camcli.output.writers import FAILURE_COLUMNS, csv_line, failure_line, json_bytes, table_line
from camcli.pipeline.job import package_versions
from camcli.records import escape_name

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")
_MOST_CONFUSED = 20
"""Maximum number of classes for which the card shows the confusion matrix."""


def model_files(config: FitConfig, backbone: Backbone, dataset: Dataset, training: Training) -> dict[str, bytes]:
    """The contents of each file of the model's folder, by file name; the description of the model is not among them."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.classifier.state_dict().items()}
    classes = dataset.classes
    files = {
        FITTED_WEIGHTS: save(tensors),
        "labels.txt": "".join(f"{escape_name(name)}\n" for name in classes).encode(),
        "split.csv": _split(training.examples, classes, training.logits),
        "metrics.json": json_bytes(_metrics(training)),
        "README.md": _card(config, backbone, dataset, training).encode(),
    }
    if training.failures:
        files[FAILURES] = csv_line(FAILURE_COLUMNS) + b"".join(map(failure_line, training.failures))
    return files


def _split(examples: Examples, classes: Sequence[str], logits: dict[str, Tensor]) -> bytes:
    """The contents of ``split.csv``: for each image its class, its part, and the model's prediction."""
    rows: dict[int, tuple[Any, ...]] = {}
    for part, found in logits.items():
        best = found.double().softmax(dim=1).max(dim=1)
        for at, index, probability in zip(examples.positions(part), best.indices.tolist(), best.values.tolist(), strict=True):
            label = classes[examples.labels[at]]
            rows[at] = (examples.sources[at].image, label, part, classes[index], probability)
    columns = ("image", "class", "part", "predicted_class", "predicted_probability")
    return csv_line(columns) + b"".join(table_line(rows[at]) for at in sorted(rows))


def _metrics(training: Training) -> dict[str, Any]:
    """The contents of ``metrics.json``."""
    found = training.metrics.as_json()
    for each in found["classes"]:  # type: ignore[attr-defined]
        each["class"] = escape_name(each["class"])
    epochs = [
        {
            "epoch": one.number,
            "train_loss": _finite(one.train_loss),
            "val_loss": _finite(one.val_loss),
            "accuracy": one.accuracy,
        }
        for one in training.epochs
    ]
    return {"validation": found, "weight_decay": training.probe.weight_decay, "epochs": epochs}


def _finite(loss: float) -> float | None:
    """``loss``, or None if it is not finite, because JSON has no such number."""
    return loss if math.isfinite(loss) else None


def _card(config: FitConfig, backbone: Backbone, dataset: Dataset, training: Training) -> str:
    """The model card in Markdown."""
    metrics, model, examples = training.metrics, backbone.model, training.examples
    classes = dataset.classes
    counts = counts_of(examples.labels, examples.parts, classes)
    trained = "a linear probe on the frozen backbone"
    if config.unfreeze:
        trained = f"a linear probe, then fine-tuning with the last {config.unfreeze} blocks of the backbone"
    epoch = " and the epoch" if config.unfreeze else ""
    shares = [
        f"| {_plain(name)} | {counts[name][0]} | {counts[name][1]} | {_percent(precision)} | {_percent(recall)} |"
        for name, precision, recall in zip(classes, metrics.precision, metrics.recall, strict=True)
    ]
    known = package_versions()
    versions = ", ".join(f"{name} {known[name]}" for name in ("torch", "torchvision", "timm"))
    lines = [
        f"# Classifier: {_plain(', '.join(classes[:3]))}{' ...' if len(classes) > 3 else ''}",
        "",
        f"Backbone: {_plain(model.name)} ({_plain(model.weights)}) up to layer `{backbone.layer.name}`, then global "
        "average pooling and "
        f"a linear layer with {len(classes)} classes. Training: {trained}. Its class activation maps are exact (Zhou et al. 2016):",
        "",
        "    camcli run --model PATH_OF_THIS_FOLDER --method cam images/",
        "",
        f"Accuracy on held-out images: **{metrics.accuracy:.1%}** of {int(metrics.confusion.sum()):,}.",
        "",
        "| class | training images | validation images | precision | recall |",
        "| --- | ---: | ---: | ---: | ---: |",
        *shares,
        "",
        *_confusion(metrics),
        f"Limitations: the same validation images were used to choose the weight decay{epoch}, so the figures are "
        "slightly too high. "
        "Similar images (frames of a film, X-rays of one patient) can be in both parts, which raises the figures too. "
        "The model knows only its classes: it assigns one of them to every image. "
        "A heatmap shows where the model found evidence for a class, not that the class is right.",
        "",
        "| | |",
        "| --- | --- |",
        f"| seed | {config.seed} |",
        "| share for validation | "
        f"{config.val if dataset.predefined_split is None else 'predefined by the folders train and val'} |",
        f"| weight decay | {training.probe.weight_decay:g} |",
        f"| images left out | {len(training.failures)} |",
        f"| input | {model.preprocess.crop[1]} x {model.preprocess.crop[0]} pixels, {config.resize_mode} |",
        f"| made with | camcli {__version__}, {versions} |",
        "",
        "`split.csv` lists the part and the prediction of each image; `metrics.json` has all figures.",
        "",
    ]
    return "\n".join(lines)


def _confusion(metrics: Metrics) -> list[str]:
    """The confusion matrix as a table: true classes in rows, predicted classes in columns; empty for more than 20 classes."""
    if len(metrics.classes) > _MOST_CONFUSED:
        return []
    names = [_plain(name) for name in metrics.classes]
    rows = [f"| **{name}** | {' | '.join(map(str, own))} |" for name, own in zip(names, metrics.confusion.tolist(), strict=True)]
    return [f"| true class, predicted as | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}", *rows, ""]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _plain(text: str) -> str:
    """``text`` escaped for Markdown and HTML."""
    return _MARKUP.sub(r"\\\1", escape_name(text)).replace("&", "&amp;")
