"""``camcli dream``: feature visualization by activation maximization."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, stdout_for_data
from camcli.cli.listener import console_listener
from camcli.cli.loading import loading
from camcli.cli.options import MODEL_ARGUMENT, MODEL_OPTION, config_parameters, named_model, take_parameters
from camcli.cli.signals import SIGNALS
from camcli.dream.config import DreamConfig
from camcli.records import count_words, escape_name

if TYPE_CHECKING:
    from camcli.dream.study import Study

_RUN_OPTIONS = ("weights", "labels", "device")
"""Options shared with ``camcli run``."""


def dream_command() -> Callable[..., None]:
    """The command's function, with an option for each field of DreamConfig, and the options shared with ``camcli run``."""

    def dream(name: str | None = None, model: str | None = None, **values: Any) -> None:
        """Make the picture that activates a class, a channel or a unit most (feature visualization by activation maximization).

        [dim]The picture shows what the network looks for, not what is in your images. Pictures that exist already are kept.[/dim]
        """
        shared = {name: values.pop(name) for name in _RUN_OPTIONS}
        options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        raise typer.Exit(_execute(named_model(name, model), shared, DreamConfig(**options)))

    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter("name", either, default=None, annotation=Annotated[str | None, MODEL_ARGUMENT]),
        inspect.Parameter("model", either, default=None, annotation=Annotated[str | None, MODEL_OPTION]),
        *config_parameters(config=DreamConfig),
        *config_parameters(_RUN_OPTIONS),
    ]
    return take_parameters(dream, parameters)


def _execute(model: str, shared: dict[str, Any], config: DreamConfig) -> int:
    """Make the missing pictures. Returns the exit code. Raises CamcliError."""
    config = config.check()
    console = Console(quiet=config.quiet)
    with stdout_for_data(quiet=config.quiet):
        with loading(console, model, shared["weights"]):
            from camcli.dream.study import prepare_study, run_study
            from camcli.models.request import ModelRequest
            from camcli.resources import keep_memory

            keep_memory()
            show = console.on_terminal and not console.quiet
            study = prepare_study(config, ModelRequest(model, shared["weights"], shared["labels"], show), shared["device"])
        _announce(study, console)
        with (
            SIGNALS.deferred(console.interrupt_message("Stopping at the next step")) as stop,
            console_listener(console, unit="step") as listener,
        ):
            result = run_study(study, listener, stop)
    if SIGNALS.number is not None:
        console.error(
            "interrupted; finished pictures are kept. Run the same command again to make the missing ones; the picture in progress "
            "starts again."
        )
        return 128 + SIGNALS.number
    if study.todo:
        console.info(f"Pictures and their table in {escape_name(config.output)}.")
    return 1 if result.failures else 0


def _announce(study: Study, console: Console) -> None:
    done = len(study.targets) - len(study.todo)
    if not study.todo:
        console.info(f"Nothing to do: {count_words(done, 'picture')} already in {escape_name(study.config.output)}.")
        return
    if done:
        console.info(f"{count_words(done, 'picture')} done before, {len(study.todo)} to do.")
    height, width = study.model_view.size
    model = study.model
    console.info(f"{model.name} ({model.weights}), pictures of {width} x {height} pixels, on {study.model_view.device}")
    for note in model.notes:
        console.warn(note)


command("dream", "Train and examine networks")(dream_command())
