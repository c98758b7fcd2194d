"""``camcli fit``: train a classifier for your own classes, a linear probe on a frozen backbone."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, print_table
from camcli.cli.listener import console_listener
from camcli.cli.loading import loading
from camcli.cli.options import config_parameters, take_parameters
from camcli.cli.signals import SIGNALS
from camcli.fit.config import FitConfig
from camcli.records import count_words, escape_name

if TYPE_CHECKING:
    from camcli.fit.metrics import Metrics

_MOST_CONFUSED = 12
"""Maximum number of classes for which the table shows the confusion matrix."""


def fit_command() -> Callable[..., None]:
    """The command's function, with an option for each field of FitConfig that has one."""

    def fit(data: str, **values: Any) -> None:
        """Train a classifier for your own classes: a linear probe on a frozen backbone, with exact class activation maps.

        [dim]Training takes seconds once the features are computed (Zhou et al. 2016). Then: camcli run --model MODEL_DIR[/dim]
        """
        raise typer.Exit(_execute(FitConfig(data, **values).check()))

    about = typer.Argument(
        metavar="DATA", help="A folder with one folder per class, or with train/ and val/ that have one folder per class each."
    )
    parameters = [
        inspect.Parameter("data", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[str, about]),
        *config_parameters(config=FitConfig),
    ]
    return take_parameters(fit, parameters)


command("fit", "Train and examine networks")(fit_command())


def _execute(config: FitConfig) -> int:
    """Train a model and write its folder. Returns the exit code. Raises CamcliError."""
    console = Console(quiet=config.quiet)
    with loading(console, config.backbone, config.weights):
        from camcli.fit.study import fit_model

    with (
        SIGNALS.deferred(console.interrupt_message("Stopping after the images in progress")) as stop,
        console_listener(console, listed_in="failures.csv") as listener,
    ):
        result = fit_model(config, listener, stop)
    if SIGNALS.number is not None:
        console.error("interrupted; run the same command again to resume.")
        return 128 + SIGNALS.number
    if result.already:
        console.info(f"Nothing to do: {escape_name(config.output)} already holds this model.")
    if result.metrics is not None:
        if not config.quiet:
            _print_metrics(result.metrics)
        images = count_words(int(result.metrics.confusion.sum()), "validation image")
        console.info(f"Accuracy {result.metrics.accuracy:.1%} on {images}.")
    if not result.already:
        console.info(f"Use it: camcli run --model {escape_name(config.output)} --method cam IMAGES")
    if result.failures:
        place = escape_name(os.path.join(config.output, "failures.csv"))
        console.error(f"{count_words(len(result.failures), 'image')} could not be read and took no part; see {place}.")
        return 1
    return 0


def _print_metrics(metrics: Metrics) -> None:
    """Print a row per class: precision, recall, and as which classes its images were classified."""
    predicted = [f"taken for {escape_name(name)}" for name in metrics.classes] if len(metrics.classes) <= _MOST_CONFUSED else []
    rows = [
        (name, str(sum(own)), _percent(precision), _percent(recall), *(map(str, own) if predicted else ()))
        for name, precision, recall, own in zip(
            metrics.classes, metrics.precision, metrics.recall, metrics.confusion.tolist(), strict=True
        )
    ]
    columns = ("class", "images", "precision", "recall", *predicted)
    print_table(columns, rows, right=columns[1:])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.4f}"
