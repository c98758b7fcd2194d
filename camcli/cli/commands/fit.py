"""``camcli fit``: a classifier of the user's own classes, made to explain itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from camcli.cli.command import command
from camcli.cli.completion import completion_of, models
from camcli.cli.console import Talk, print_table
from camcli.cli.loading import loading
from camcli.cli.signals import SIGNALS
from camcli.cli.summary import count_words
from camcli.fit.config import FITS, FitConfig
from camcli.records import Failure, shown

if TYPE_CHECKING:
    from camcli.fit.metrics import Metrics

_MOST_TOLD = 5
"""Failures that are told one by one."""

_MOST_TAKEN = 12
"""Classes up to which the table says for what images were taken."""


class _Told:
    """What a fitting tells. ``tell``: of a progress bar."""

    def __init__(self, talk: Talk, tell: Callable[..., None]) -> None:
        self._talk, self._failures = talk, 0
        self.images = tell

    def say(self, text: str) -> None:
        self._talk.say_beside_bar(text)

    def warn(self, text: str) -> None:
        self._talk.warn(text)

    def failed(self, failure: Failure) -> None:
        self._failures += 1
        if self._failures <= _MOST_TOLD:
            self._talk.say_beside_bar(f"camcli: {shown(failure.image)}: {shown(failure.reason)}")


@command("fit", "Train and examine networks")
def fit(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder a class, or train/ and val/ with a folder a class each.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="MODEL_DIR", help="Folder for the model.")],
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            "--model",
            "-m",
            metavar="NAME",
            help="Model whose features are used, as --model of camcli run.",
            autocompletion=models,
        ),
    ] = FitConfig.backbone,
    weights: Annotated[
        str, typer.Option("--weights", "-w", metavar="NAME|FILE|none", help="Weights of the backbone; none draws random ones.")
    ] = FitConfig.weights,
    layer: Annotated[
        str | None,
        typer.Option("--layer", "-l", metavar="NAME", help="Where to cut; the last spatial layer if left out.", show_default=False),
    ] = None,
    fit_: Annotated[
        str,
        typer.Option(
            "--fit",
            metavar="|".join(FITS),
            help="How an image becomes the input; kept in the model.",
            autocompletion=completion_of("fit", FITS),
        ),
    ] = FitConfig.fit,
    val: Annotated[
        float, typer.Option("--val", metavar="SHARE", help="Share of each class for validation, where DATA is not divided.")
    ] = FitConfig.val,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the division, and of --unfreeze.")] = FitConfig.seed,
    unfreeze: Annotated[
        int, typer.Option("--unfreeze", metavar="N", min=0, help="Then train the last N blocks too, on varied images.")
    ] = FitConfig.unfreeze,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="At most, of --unfreeze.")] = FitConfig.epochs,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", metavar="R", min=0.0, help="Of --unfreeze; 1e-4, for random weights 1e-3.", show_default=False
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", metavar="N", min=1, help="Images of more pixels are left out.")
    ] = FitConfig.max_pixels,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "-d",
            metavar="DEVICE",
            help="auto, cpu, cuda, cuda:N, mps.",
            autocompletion=completion_of("device"),
        ),
    ] = FitConfig.device,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            metavar="N",
            min=1,
            help="What fits, if left out.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that was fitted otherwise.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the exit code, and errors.")] = False,
) -> None:
    """Train a classifier of your own classes on a frozen network, with class activation maps that are exact.

    [dim]Average pooling and one linear layer (Zhou et al. 2016), trained in seconds. Then: camcli run --model MODEL_DIR[/dim]
    """
    talk = Talk(quiet=quiet)
    with loading(talk, backbone, weights):
        from camcli.fit.trainer import fit_model
        from camcli.images.limits import allow_any_size

    config = FitConfig(
        data,
        output,
        backbone,
        weights,
        layer,
        fit_,
        val,
        seed,
        unfreeze,
        epochs,
        learning_rate,
        max_pixels,
        device,
        batch_size,
        overwrite,
    )
    allow_any_size()
    with SIGNALS.deferred(talk.promise("Stopping after the images in progress")) as stop, talk.bar() as tell:
        result = fit_model(config, _Told(talk, tell), stop)
    if SIGNALS.number is not None:
        talk.complain("interrupted; the same command goes on from here.")
        raise typer.Exit(128 + SIGNALS.number)
    if result.already:
        talk.say(f"Nothing to do: {shown(output)} holds this model already.")
    if result.metrics is not None:
        if not quiet:
            _tell_metrics(result.metrics)
        talk.say(
            f"Accuracy {result.metrics.accuracy:.1%} on {count_words(int(result.metrics.confusion.sum()), 'image')} for validation."
        )
    if not result.already:
        talk.say(f"Use it: camcli run --model {shown(output)} --method cam IMAGES")
    if result.failures:
        place = shown(os.path.join(output, "failures.csv"))
        talk.complain(f"{count_words(len(result.failures), 'image')} could not be read and took no part; see {place}.")
        raise typer.Exit(1)


def _tell_metrics(metrics: Metrics) -> None:
    """A line a class: precision, recall, and for what its images were taken."""
    taken = [f"taken for {shown(name)}" for name in metrics.classes] if len(metrics.classes) <= _MOST_TAKEN else []
    rows = [
        (name, str(sum(own)), _percent(precision), _percent(recall), *(map(str, own) if taken else ()))
        for name, precision, recall, own in zip(
            metrics.classes, metrics.precision, metrics.recall, metrics.confusion.tolist(), strict=True
        )
    ]
    columns = ("class", "images", "precision", "recall", *taken)
    print_table(columns, rows, right=columns[1:])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.4f}"
