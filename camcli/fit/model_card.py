"""The files of a fitted model: weights, names, who was taught and who was asked, and a card for people."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from camcli import __version__
from camcli.fit.config import FitConfig
from camcli.fit.data import counts_of
from camcli.fit.folder import FAILURES
from camcli.fit.linear_probe import Head
from camcli.fit.metrics import Metrics
from camcli.fit.records import Backbone, Examples, Result
from camcli.layout import FITTED_WEIGHTS
from camcli.output.writers import FAILURE_COLUMNS, csv_line, failure_line, json_bytes, table_line
from camcli.pipeline.job import package_versions
from camcli.records import escape_name

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")
_MOST_CONFUSED = 20
"""Classes up to which the card shows the whole confusion table."""


def model_files(
    config: FitConfig, backbone: Backbone, examples: Examples, head: Head, result: Result, logits: dict[str, Tensor]
) -> dict[str, bytes]:
    """File name -> contents. ``logits`` (N, K): of each part's images, in their order."""
    from safetensors.torch import save

    assert result.metrics is not None
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.classifier.state_dict().items()}
    classes = result.dataset.classes
    files = {
        FITTED_WEIGHTS: save(tensors),
        "labels.txt": "".join(f"{escape_name(name)}\n" for name in classes).encode(),
        "split.csv": _split(examples, classes, logits),
        "metrics.json": json_bytes(_metrics(head, result)),
        "README.md": _card(config, backbone, examples, head, result).encode(),
    }
    if result.failures:
        files[FAILURES] = csv_line(FAILURE_COLUMNS) + b"".join(map(failure_line, result.failures))
    return files


def _split(examples: Examples, classes: Sequence[str], logits: dict[str, Tensor]) -> bytes:
    """A row an image: its class, its part, and what the model says of it."""
    rows: dict[int, tuple[Any, ...]] = {}
    for part, found in logits.items():
        best = found.double().softmax(dim=1).max(dim=1)
        for place, index, probability in zip(examples.places(part), best.indices.tolist(), best.values.tolist(), strict=True):
            label = classes[examples.labels[place]]
            rows[place] = (examples.sources[place].image, label, part, classes[index], probability)
    columns = ("image", "class", "part", "predicted_class", "predicted_probability")
    return csv_line(columns) + b"".join(table_line(rows[place]) for place in sorted(rows))


def _metrics(head: Head, result: Result) -> dict[str, Any]:
    assert result.metrics is not None
    found = result.metrics.as_json()
    for each in found["classes"]:  # type: ignore[attr-defined]
        each["class"] = escape_name(each["class"])
    epochs = [
        {
            "epoch": one.number,
            "train_loss": _finite(one.train_loss),
            "val_loss": _finite(one.val_loss),
            "accuracy": one.accuracy,
        }
        for one in result.epochs
    ]
    return {"validation": found, "weight_decay": head.weight_decay, "epochs": epochs}


def _finite(loss: float) -> float | None:
    """``loss``; None where there is none, or where it grew beyond all bounds: JSON has no word for that."""
    return loss if math.isfinite(loss) else None


def _card(config: FitConfig, backbone: Backbone, examples: Examples, head: Head, result: Result) -> str:
    metrics, model = result.metrics, backbone.model
    assert metrics is not None
    classes = result.dataset.classes
    counts = counts_of(examples.labels, examples.parts, classes)
    trained = "one linear layer on frozen features"
    if config.unfreeze:
        trained = f"the linear layer, then with it the last {config.unfreeze} blocks"
    epoch = " and the epoch" if config.unfreeze else ""
    shares = [
        f"| {_plain(name)} | {counts[name][0]} | {counts[name][1]} | {_percent(precision)} | {_percent(recall)} |"
        for name, precision, recall in zip(classes, metrics.precision, metrics.recall, strict=True)
    ]
    known = package_versions()
    versions = ", ".join(f"{name} {known[name]}" for name in ("torch", "torchvision", "timm"))
    lines = [
        f"# {_plain(', '.join(classes[:3]))}{' ...' if len(classes) > 3 else ''}: a classifier that shows where it looks",
        "",
        f"{_plain(model.name)} ({_plain(model.weights)}), cut at layer `{backbone.layer.name}`; average pooling and {len(classes)} "
        f"logits. Trained: {trained}. Its class activation maps are exact (Zhou et al. 2016):",
        "",
        "    camcli run --model PATH_OF_THIS_FOLDER --method cam images/",
        "",
        f"Accuracy on images that it was not taught: **{metrics.accuracy:.1%}** of {int(metrics.confusion.sum()):,}.",
        "",
        "| class | training images | validation images | precision | recall |",
        "| --- | ---: | ---: | ---: | ---: |",
        *shares,
        "",
        *_confusion(metrics),
        f"What to keep in mind: the same validation images chose the weight decay{epoch}, so the "
        "figures are a little kind. Images that look like one another (frames of a film, one patient's X-rays) may stand on both "
        "sides of the division, which only copies do not. The model knows nothing but its classes: whatever it is shown, it names "
        "one of them. A heatmap shows where the evidence for a class was found, not that it is right.",
        "",
        "| | |",
        "| --- | --- |",
        f"| seed, share for validation | {config.seed}, "
        f"{config.val if result.dataset.predefined_split is None else 'as predefined_split'} |",
        f"| weight decay | {head.weight_decay:g} |",
        f"| images left out | {len(result.failures)} |",
        f"| input | {model.preprocess.crop[1]} x {model.preprocess.crop[0]} pixels, {config.resize_mode} |",
        f"| made with | camcli {__version__}, {versions} |",
        "",
        "`split.csv` says of each image to which part it belonged and what the model says of it; `metrics.json` has the figures.",
        "",
    ]
    return "\n".join(lines)


def _confusion(metrics: Metrics) -> list[str]:
    """The table of true classes (rows) and predicted ones; nothing for too many."""
    if len(metrics.classes) > _MOST_CONFUSED:
        return []
    names = [_plain(name) for name in metrics.classes]
    rows = [f"| **{name}** | {' | '.join(map(str, own))} |" for name, own in zip(names, metrics.confusion.tolist(), strict=True)]
    return [f"| true, taken for | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}", *rows, ""]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _plain(text: str) -> str:
    """``text`` such that Markdown and HTML take it as it stands."""
    return _MARKUP.sub(r"\\\1", escape_name(text)).replace("&", "&amp;")
