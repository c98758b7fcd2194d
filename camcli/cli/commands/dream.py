"""``camcli dream``."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Talk, stdout_for_data
from camcli.cli.loading import loading
from camcli.cli.options import MODEL_ARGUMENT, MODEL_OPTION, config_parameters, named_model, take_parameters
from camcli.cli.signals import SIGNALS
from camcli.cli.summary import count_words
from camcli.dream.config import DreamConfig
from camcli.records import Failure, shown

if TYPE_CHECKING:
    from camcli.dream.session import Dreamt, Session
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
    talk = Talk(quiet=config.quiet)
    with stdout_for_data(quiet=config.quiet):
        with loading(talk, model, of_run["weights"]):
            from camcli.dream.session import make_dreams, prepare_session
            from camcli.models.request import ModelRequest
            from camcli.resources import keep_memory

            keep_memory()
            show = talk.on_terminal and not talk.quiet
            session = prepare_session(config, ModelRequest(model, of_run["weights"], of_run["labels"], show), of_run["device"])
        _announce(session, talk)
        failed = 0
        with SIGNALS.deferred(talk.promise("Stopping at the next step")) as stop, _bar(session, talk) as tell:
            for outcome in make_dreams(session, stop, tell):
                if isinstance(outcome, Failure):
                    failed += 1
                    talk.complain(f"{shown(outcome.image)} was not made: {shown(outcome.reason)}")
                else:
                    talk.say_beside_bar(_words(outcome))
    if SIGNALS.number is not None:
        talk.complain(
            "interrupted; finished pictures are kept. The same command makes the missing ones; the one in progress starts again."
        )
        return 128 + SIGNALS.number
    if session.todo:
        talk.say(f"Pictures and their table in {shown(config.output)}.")
    return 1 if failed else 0


def _announce(session: Session, talk: Talk) -> None:
    there = len(session.targets) - len(session.todo)
    place = shown(session.config.output)
    if not session.todo:
        talk.say(f"Nothing to do: {count_words(there, 'picture')} already in {place}.")
        return
    if there:
        talk.say(f"{count_words(there, 'picture')} done before, {len(session.todo)} to do.")
    height, width = session.viewer.size
    model = session.model
    talk.say(f"{model.name} ({model.weights}), pictures of {width} x {height}, on {session.viewer.device}")
    for note in model.notes:
        talk.warn(note)


def _words(dreamt: Dreamt) -> str:
    """One line: the activation, and how sure the network is of the class."""
    figures = dreamt.dream.figures
    sure = "" if figures.probability_moved is None else f", probability {figures.probability_moved:.3f} (median over random moves)"
    return f"{shown(dreamt.target.words)}: {figures.start:.3g} to {figures.end:.3g}{sure}, {dreamt.seconds:.1f} s"


@contextlib.contextmanager
def _bar(session: Session, talk: Talk) -> Iterator[Callable[[Target, float], None]]:
    """What hears of each step: a bar while a person watches."""
    total, steps = len(session.todo) * session.config.steps, itertools.count(1)
    with talk.bar(unit="step") as show:
        yield lambda target, activation: show(next(steps), total, f"{shown(target.words)} {activation:.1f}")


command("dream", "Train and examine networks")(dream_command())
