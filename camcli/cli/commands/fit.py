"""``camcli fit``: a classifier of the user's own classes, made to explain itself."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, print_table
from camcli.cli.loading import loading
from camcli.cli.options import config_parameters, take_parameters
from camcli.cli.signals import SIGNALS
from camcli.fit.config import FitConfig
from camcli.records import Failure, count_words, escape_name

if TYPE_CHECKING:
    from camcli.fit.metrics import Metrics

_MOST_TOLD = 5
"""Failures that are told one by one."""

_MOST_TAKEN = 12
"""Classes up to which the table says for what images were taken."""


class _Told:
    """The listener of a training. ``tell``: moves the progress bar."""

    def __init__(self, console: Console, tell: Callable[..., None]) -> None:
        self._talk, self._failures = console, 0
        self.images = tell

    def info(self, text: str) -> None:
        self._talk.info(text)

    def warn(self, text: str) -> None:
        self._talk.warn(text)

    def failed(self, failure: Failure) -> None:
        self._failures += 1
        if self._failures <= _MOST_TOLD:
            self._talk.info(f"camcli: {escape_name(failure.image)}: {escape_name(failure.reason)}")


def fit_command() -> Callable[..., None]:
    """The command's function, with an option for each option field of FitConfig."""

    def fit(data: str, **values: Any) -> None:
        """Train a classifier of your own classes on a frozen backbone, with class activation maps that are exact.

        [dim]A linear probe on pooled features (Zhou et al. 2016), trained in seconds. Then: camcli run --model MODEL_DIR[/dim]
        """
        raise typer.Exit(_execute(FitConfig(data, **values).check()))

    about = typer.Argument(
        metavar="DATA", help="A folder with a folder for each class, or train/ and val/ with a folder for each class."
    )
    parameters = [
        inspect.Parameter("data", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[str, about]),
        *config_parameters(config=FitConfig),
    ]
    return take_parameters(fit, parameters)


command("fit", "Train and examine networks")(fit_command())


def _execute(config: FitConfig) -> int:
    """One training from images to a model's folder; the exit code. Raises CamcliError for what stops it."""
    console = Console(quiet=config.quiet)
    with loading(console, config.backbone, config.weights):
        from camcli.fit.trainer import fit_model
        from camcli.images.limits import allow_any_size

    allow_any_size()
    with SIGNALS.deferred(console.promise("Stopping after the images in progress")) as stop, console.bar() as tell:
        result = fit_model(config, _Told(console, tell), stop)
    if SIGNALS.number is not None:
        console.error("interrupted; run the same command again to resume.")
        return 128 + SIGNALS.number
    if result.already:
        console.info(f"Nothing to do: {escape_name(config.output)} holds this model already.")
    if result.metrics is not None:
        if not config.quiet:
            _tell_metrics(result.metrics)
        images = count_words(int(result.metrics.confusion.sum()), "validation image")
        console.info(f"Accuracy {result.metrics.accuracy:.1%} on {images}.")
    if not result.already:
        console.info(f"Use it: camcli run --model {escape_name(config.output)} --method cam IMAGES")
    if result.failures:
        place = escape_name(os.path.join(config.output, "failures.csv"))
        console.error(f"{count_words(len(result.failures), 'image')} could not be read and took no part; see {place}.")
        return 1
    return 0


def _tell_metrics(metrics: Metrics) -> None:
    """A line a class: precision, recall, and for what its images were taken."""
    taken = [f"taken for {escape_name(name)}" for name in metrics.classes] if len(metrics.classes) <= _MOST_TAKEN else []
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
