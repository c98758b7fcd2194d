"""``camcli sanity``: does a method's map depend on what the network has learned?"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.command import command
from camcli.cli.console import Console, print_table, stdout_for_data
from camcli.cli.loading import loading
from camcli.cli.options import config_parameters, options_of, take_parameters
from camcli.cli.stdin import paths_on_stdin
from camcli.config.run import RunConfig
from camcli.pipeline.inputs import find_inputs, misspelt_names_first
from camcli.pipeline.runner import announce
from camcli.records import Failure, Source, count_words, escape_name
from camcli.sanity.config import SanityConfig

if TYPE_CHECKING:
    from camcli.sanity.study import Study

_OF_RUN = ("model", "weights", "labels", "device", "layer", "fit", "batch-size", "threads", "max-pixels")
"""Options that are those of ``camcli run``."""

_COLUMNS = ("method", "layer", "verdict", "kept", "similarity", "last", "chance", "comparable")


def sanity_command() -> Callable[..., None]:
    """The command's function, with an option for each field of SanityConfig, and those of the model."""

    def sanity(inputs: list[str], **values: Any) -> None:
        """Check whether the maps of a method depend on what the network has learned (Adebayo et al. 2018).

        [dim]The weights are redrawn at random, from the top layer down and layer by layer. A map that stays as it was explains
        nothing. A few images are enough; the network is not changed on disk.[/dim]
        """
        options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        of_run = {name: options.pop(name) for name in options_of(_OF_RUN)}
        config = SanityConfig(**options).check()
        run = RunConfig(**of_run, output=config.output, limit=config.limit, quiet=config.quiet).check()
        raise typer.Exit(_execute(inputs, config, run))

    about = typer.Argument(
        metavar="INPUTS", help="Folders and image files; - reads paths from stdin, one a line.", show_default=False
    )
    parameters = [
        inspect.Parameter("inputs", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[list[str], about]),
        *config_parameters(config=SanityConfig),
        *config_parameters(_OF_RUN),
    ]
    return take_parameters(sanity, parameters)


def _execute(inputs: Sequence[str], config: SanityConfig, run: RunConfig) -> int:
    """One check from inputs to verdicts; the exit code. Raises CamcliError for what stops it."""
    console = Console(quiet=config.quiet)
    found = find_inputs(inputs, run, console, paths_on_stdin(inputs, console, null=False))
    with loading(console):
        from camcli.sanity.study import check_settings_of, images_of
        from camcli.sanity.write import sanity_folder

    with stdout_for_data(quiet=config.quiet):
        settings, images = check_settings_of(config, run, found.root), images_of(found.sources)
        asked = replace(run, method=config.method, class_=() if config.class_ is None else (config.class_,))
        with (
            misspelt_names_first(asked),
            sanity_folder(config.output, settings, overwrite=config.overwrite) as earlier,
        ):
            if earlier is not None and earlier.get("images") == images:
                console.info(f"Nothing to do: this check is in {escape_name(config.output)}.")
                record = earlier
            else:
                if earlier is not None:
                    console.info("The images have changed since; checking anew.")
                record = _check(found.sources, config, run, {"settings": settings, "images": images}, console)
    _show(config, record, console)
    return 1 if record["failed"] else 0


def _check(
    sources: Sequence[Source], config: SanityConfig, run: RunConfig, record: dict[str, Any], console: Console
) -> dict[str, Any]:
    """Make the check; its record, as it was written."""
    from camcli.images.limits import allow_any_size
    from camcli.resources import keep_memory
    from camcli.sanity.study import prepare_study, read_inputs, run_study

    keep_memory()
    allow_any_size()
    warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata: what matters becomes a failure
    show = console.on_terminal and not console.quiet
    with loading(console, run.model, run.weights):
        study = prepare_study(config, run, console.info, show_progress=show)
    _announce(study, console)
    inputs, failures = read_inputs(sources, study.job)
    for failure in failures:
        console.error(f"{escape_name(failure.image)}: {escape_name(failure.reason)}")
    if len(inputs) == 1:
        console.warn("with one image there is no other to tell what chance gives; 0 is taken for it.")
    failed = [_as_json(failure) for failure in failures]
    with console.bar(unit="step") as tell:
        return run_study(study, inputs, {**record, "failed": failed}, tell)


def _announce(study: Study, console: Console) -> None:
    announce(study.job, console)
    for method, reason in study.refused.items():
        console.warn(f"{method} is not checked: {reason}")
    names = ", ".join(escape_name(stage.name) for stage in study.groups)
    console.info(f"{count_words(len(study.groups), 'step')} from the top: {names}")


def _as_json(failure: Failure) -> dict[str, str]:
    return {"image": failure.image, "stage": failure.stage, "error": failure.reason}


def _show(config: SanityConfig, record: dict[str, Any], console: Console) -> None:
    if not console.quiet:
        rows = [{key: _words(value) for key, value in verdict.items()} for verdict in record["verdicts"]]
        rows = [{**row, "comparable": f"{row['comparable']}/{row['maps']}"} for row in rows]
        print_table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows], right=_COLUMNS[3:])
    if record["failed"]:
        console.error(f"{count_words(len(record['failed']), 'image')} could not be read and took no part.")
    curves, strip, table = (os.path.join(config.output, name) for name in ("curves.png", "strip.png", "sanity.csv"))
    console.info(f"Curves in {escape_name(curves)}, maps to look at in {escape_name(strip)}, all figures in {escape_name(table)}.")


def _words(value: Any) -> str:
    if value is None:
        return ""
    return f"{round(value, 2) + 0.0:.2f}" if isinstance(value, float) else str(value)


command("sanity", "Train and examine networks")(sanity_command())
