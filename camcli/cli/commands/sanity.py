"""``camcli sanity``: the model parameter randomization test, a sanity check for attribution methods."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, print_table, stdout_for_data
from camcli.cli.listener import console_listener
from camcli.cli.loading import loading
from camcli.cli.options import config_parameters, options_of, take_parameters
from camcli.cli.signals import SIGNALS
from camcli.cli.stdin import paths_on_stdin
from camcli.config.run import RunConfig
from camcli.pipeline.inputs import find_inputs, misspelt_names_first
from camcli.pipeline.runner import announce
from camcli.records import Failure, count_words, escape_name
from camcli.sanity.config import SanityConfig
from camcli.source import Source

if TYPE_CHECKING:
    from camcli.sanity.study import Study

_RUN_OPTIONS = (
    "model", "weights", "labels", "mean", "std", "resize", "crop", "interpolation", "device", "layer", "fit", "batch-size",
    "threads", "max-pixels",
)  # fmt: skip
"""Options shared with ``camcli run``."""

_COLUMNS = ("method", "layer", "verdict", "kept", "similarity", "last", "chance", "comparable")


def sanity_command() -> Callable[..., None]:
    """The command's function, with an option for each field of SanityConfig, and the options shared with ``camcli run``."""

    def sanity(inputs: list[str], **values: Any) -> None:
        """Test whether the maps of a method depend on the network's weights (model parameter randomization test).

        [dim]The weights are randomized from the top layer down, and layer by layer (Adebayo et al. 2018). A map that does not
        change explains nothing that the network has learned. A few images are enough. No file of the model is changed.[/dim]
        """
        options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        shared = {name: options.pop(name) for name in options_of(_RUN_OPTIONS)}
        config = SanityConfig(**options).check()
        run = RunConfig(**shared, output=config.output, limit=config.limit, quiet=config.quiet).check()
        raise typer.Exit(_execute(inputs, config, run))

    about = typer.Argument(
        metavar="INPUTS", help="Folders and image files; - reads paths from stdin, one per line.", show_default=False
    )
    parameters = [
        inspect.Parameter("inputs", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[list[str], about]),
        *config_parameters(config=SanityConfig),
        *config_parameters(_RUN_OPTIONS),
    ]
    return take_parameters(sanity, parameters)


def _execute(inputs: Sequence[str], config: SanityConfig, run: RunConfig) -> int:
    """Make one check, or show the one in the folder. Returns the exit code. Raises CamcliError."""
    console = Console(quiet=config.quiet)
    found = find_inputs(inputs, run, console, paths_on_stdin(inputs, console, null=False))
    with loading(console):
        from camcli.sanity.study import image_stamps, study_settings
        from camcli.sanity.write import sanity_folder

    record: dict[str, Any] | None
    with stdout_for_data(quiet=config.quiet):
        settings, images = study_settings(config, run, found.root), image_stamps(found.sources)
        named = replace(run, method=config.method, class_=() if config.class_ is None else (config.class_,))
        with (
            misspelt_names_first(named),
            sanity_folder(config.output, settings, overwrite=config.overwrite) as earlier,
        ):
            if earlier is not None and earlier.get("images") == images:
                console.info(f"Nothing to do: {escape_name(config.output)} already holds this check.")
                record = earlier
            else:
                if earlier is not None:
                    console.info("The images have changed since the last check; checking again.")
                record = _check(found.sources, config, run, {"settings": settings, "images": images}, console)
    if record is None:
        console.error("interrupted; nothing was written. Run the same command again to start over.")
        return 128 + (SIGNALS.number or 2)
    _show(config, record, console)
    if SIGNALS.number is not None:
        return 128 + SIGNALS.number
    return 1 if record["failed"] else 0


def _check(
    sources: Sequence[Source], config: SanityConfig, run: RunConfig, record: dict[str, Any], console: Console
) -> dict[str, Any] | None:
    """Make the check and write it. Returns its record as it was written, or None if it was interrupted."""
    from camcli.images.limits import pillow_unlimited
    from camcli.resources import keep_memory
    from camcli.sanity.study import prepare_study, read_inputs, run_study, write_study

    keep_memory()
    show = console.on_terminal and not console.quiet
    with pillow_unlimited(), console_listener(console, unit="step") as listener:
        with loading(console, run.model, run.weights):
            study = prepare_study(config, run, listener, show_progress=show)
        _announce(study, console)
        inputs, failures = read_inputs(sources, study.job)
        for failure in failures:
            listener.failed(failure)
        if len(inputs) == 1:
            listener.warn(
                "a single image gives no chance level, because there is no other image to compare with; it is taken as 0."
            )
        with SIGNALS.deferred(console.interrupt_message("Stopping after the maps in progress")) as stop:
            check = run_study(study, inputs, listener, stop)
            if check is None:
                return None
            return write_study(study, check, {**record, "failed": [_as_json(failure) for failure in failures]})


def _announce(study: Study, console: Console) -> None:
    announce(study.job, console)
    for method, reason in study.refused.items():
        console.warn(f"{method} is not checked: {reason}")
    names = ", ".join(escape_name(group.name) for group in study.groups)
    console.info(f"{count_words(len(study.groups), 'step')} from the top layer down: {names}")


def _as_json(failure: Failure) -> dict[str, str]:
    return {"image": failure.image, "stage": failure.stage, "error": failure.reason}


def _show(config: SanityConfig, record: dict[str, Any], console: Console) -> None:
    if not console.quiet:
        rows = [{key: _cell(value) for key, value in verdict.items()} for verdict in record["verdicts"]]
        rows = [{**row, "comparable": f"{row['comparable']}/{row['maps']}"} for row in rows]
        print_table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows], right=_COLUMNS[3:])
    if record["failed"]:
        console.error(f"{count_words(len(record['failed']), 'image')} could not be read and took no part.")
    curves, strip, table = (os.path.join(config.output, name) for name in ("curves.png", "strip.png", "sanity.csv"))
    console.info(f"Curves in {escape_name(curves)}, maps in {escape_name(strip)}, all measurements in {escape_name(table)}.")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{round(value, 2) + 0.0:.2f}" if isinstance(value, float) else str(value)


command("sanity", "Train and examine networks")(sanity_command())
