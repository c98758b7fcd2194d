"""``camcli dream``."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, stdout_for_data
from camcli.cli.loading import loading
from camcli.cli.options import MODEL_ARGUMENT, MODEL_OPTION, config_parameters, named_model, take_parameters
from camcli.cli.signals import SIGNALS
from camcli.dream.config import DreamConfig
from camcli.records import Failure, count_words, escape_name

if TYPE_CHECKING:
    from camcli.dream.study import Dreamt, Study
    from camcli.dream.targets import Target

_OF_RUN = ("weights", "labels", "device")
"""Options that are those of ``camcli run``."""


def dream_command() -> Callable[..., None]:
    """The command's function, with an option for each field of DreamConfig, and those of the model."""

    def dream(name: str | None = None, model: str | None = None, **values: Any) -> None:
        """Make the picture that a class, a channel or a unit of a network responds to most: gradient ascent from noise.

        [dim]It shows what the network looks for, not what is there. Pictures that are there already are left alone.[/dim]
        """
        of_run = {name: values.pop(name) for name in _OF_RUN}
        options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        raise typer.Exit(_execute(named_model(name, model), of_run, DreamConfig(**options)))

    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter("name", either, default=None, annotation=Annotated[str | None, MODEL_ARGUMENT]),
        inspect.Parameter("model", either, default=None, annotation=Annotated[str | None, MODEL_OPTION]),
        *config_parameters(config=DreamConfig),
        *config_parameters(_OF_RUN),
    ]
    return take_parameters(dream, parameters)


def _execute(model: str, of_run: dict[str, Any], config: DreamConfig) -> int:
    """One command from names to pictures; the exit code. Raises CamcliError for what stops it."""
    config = config.check()
    console = Console(quiet=config.quiet)
    with stdout_for_data(quiet=config.quiet):
        with loading(console, model, of_run["weights"]):
            from camcli.dream.study import make_dreams, prepare_study
            from camcli.models.request import ModelRequest
            from camcli.resources import keep_memory

            keep_memory()
            show = console.on_terminal and not console.quiet
            study = prepare_study(config, ModelRequest(model, of_run["weights"], of_run["labels"], show), of_run["device"])
        _announce(study, console)
        failed = 0
        with SIGNALS.deferred(console.promise("Stopping at the next step")) as stop, _bar(study, console) as tell:
            for outcome in make_dreams(study, stop, tell):
                if isinstance(outcome, Failure):
                    failed += 1
                    console.error(f"{escape_name(outcome.image)} was not made: {escape_name(outcome.reason)}")
                else:
                    console.info(_words(outcome))
    if SIGNALS.number is not None:
        console.error(
            "interrupted; finished pictures are kept. The same command makes the missing ones; the one in progress starts again."
        )
        return 128 + SIGNALS.number
    if study.todo:
        console.info(f"Pictures and their table in {escape_name(config.output)}.")
    return 1 if failed else 0


def _announce(study: Study, console: Console) -> None:
    there = len(study.targets) - len(study.todo)
    place = escape_name(study.config.output)
    if not study.todo:
        console.info(f"Nothing to do: {count_words(there, 'picture')} already in {place}.")
        return
    if there:
        console.info(f"{count_words(there, 'picture')} done before, {len(study.todo)} to do.")
    height, width = study.model_view.size
    model = study.model
    console.info(f"{model.name} ({model.weights}), pictures of {width} x {height}, on {study.model_view.device}")
    for note in model.notes:
        console.warn(note)


def _words(dreamt: Dreamt) -> str:
    """One line: the activation, and how sure the network is of the class."""
    metrics = dreamt.dream.metrics
    sure = "" if metrics.probability_moved is None else f", probability {metrics.probability_moved:.3f} (median over random moves)"
    return f"{escape_name(dreamt.target.words)}: {metrics.start:.3g} to {metrics.end:.3g}{sure}, {dreamt.seconds:.1f} s"


@contextlib.contextmanager
def _bar(study: Study, console: Console) -> Iterator[Callable[[Target, float], None]]:
    """What hears of each step: a bar while a person watches."""
    total, steps = len(study.todo) * study.config.steps, itertools.count(1)
    with console.bar(unit="step") as show:
        yield lambda target, activation: show(next(steps), total, f"{escape_name(target.words)} {activation:.1f}")


command("dream", "Train and examine networks")(dream_command())
