"""``camcli run``."""

from __future__ import annotations

import contextlib
import inspect
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, BinaryIO

import typer

from camcli import __version__
from camcli.cli.command import command
from camcli.cli.console import Console, stdout_for_data
from camcli.cli.listener import ConsoleListener
from camcli.cli.loading import loading
from camcli.cli.options import config_parameters, gathered_config, given_options, take_parameters
from camcli.cli.row_stream import RowStream
from camcli.cli.signals import BROKEN_PIPE, SIGNALS
from camcli.cli.silence import silent_c_libraries
from camcli.cli.stdin import paths_on_stdin
from camcli.cli.summary import failed_before_words, summarize, tell_report, tell_stages
from camcli.config.run import RunConfig
from camcli.output.writers import prediction_columns
from camcli.pipeline.inputs import find_inputs
from camcli.pipeline.invocation import Invocation
from camcli.pipeline.runner import RunSummary, run_images
from camcli.records import Success, count_words, escape_name
from camcli.resources import keep_memory


def run_command() -> Callable[..., None]:
    """The command's function, with an option for each field of RunConfig."""

    def run(context: typer.Context, inputs: list[str], config: str | None = None, **values: Any) -> None:
        raise typer.Exit(execute(inputs, gathered_config(context, config, values), given_options(context, values)))

    run.__doc__ = """Write a heatmap overlay for every image, and a table of predictions.

    [dim]Folders are walked recursively; hidden files are left out. Running the same command again does what is missing.[/dim]
    """
    head = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        inspect.Parameter(
            "inputs",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=Annotated[
                list[str],
                typer.Argument(
                    metavar="INPUTS", help="Folders and image files; - reads paths from stdin, one a line.", show_default=False
                ),
            ],
        ),
    ]
    config = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            str | None,
            typer.Option(
                "--config",
                metavar="FILE.toml",
                help="Read options from a TOML file; those on the command line win.",
                rich_help_panel="Output",
                show_default=False,
            ),
        ],
    )
    parameters = [*head, *config_parameters(), config]
    return take_parameters(run, parameters)


class _ReaderLeftError(Exception):
    """Nobody reads stdout any more, and the model is not loaded yet."""


class _RunConsole(ConsoleListener):
    """The listener of ``camcli run``: stderr, a progress bar, and rows on ``data`` where the config asks for them."""

    def __init__(self, console: Console, config: RunConfig, data: BinaryIO) -> None:
        self._held = contextlib.ExitStack()
        super().__init__(console, self._held.enter_context(console.bar()), listed_in="failures.csv")
        self._config, self._data = config, data
        self._rows: RowStream | None = None
        self.todo = 0

    @property
    def abandoned(self) -> bool:
        """Whether the reader of the rows has left."""
        return self._rows is not None and self._rows.abandoned

    def loading(self, config: RunConfig) -> AbstractContextManager[None]:
        """Say what is loaded where it takes long."""
        return loading(self._console, config.model, config.weights)

    def begins(self, todo: int) -> None:
        """Write the first line of the rows."""
        self.todo = todo
        if self._config.streams_rows:
            columns = prediction_columns(labelled=self._config.class_from is not None, boxed=self._config.boxes is not None)
            self._rows = RowStream(self._data, self._config.format or "csv", columns)

    def done_before(self, rows: bytes) -> None:
        """Write the rows of an image that an earlier run explained."""
        if self._rows is not None:
            self._rows.add_table(rows)
            if self.abandoned and self.todo:
                raise _ReaderLeftError

    def explained(self, outcome: Success) -> None:
        """Write the rows of an image; where nobody reads them any more, the run is to end."""
        if self._rows is not None:
            self._rows.add(outcome)
            if self.abandoned:
                SIGNALS.stop.set()

    def summary(self, summary: RunSummary) -> None:
        """Take the bar away, and say what the run did."""
        self.close()
        summarize(summary, self._console)

    def close(self) -> None:
        """Take the progress bar away."""
        self._held.close()


def execute(inputs: Sequence[str], config: RunConfig, named: Collection[str] = ()) -> int:
    """One run from inputs to summary; the exit code. ``named``: fields of ``config`` that stand on the command line, to
    say which have no effect. Raises CamcliError for what stops it.
    """
    invocation = Invocation(shlex.join(["camcli", *sys.argv[1:]]), inputs)
    if config.log_file is not None:
        Console.open_log(config.log_file)
    console = Console(quiet=config.quiet)
    console.log(f"camcli {__version__}: {escape_name(invocation.command)}")
    keep_memory()
    paths = paths_on_stdin(inputs, console, null=config.null)
    with (
        silent_c_libraries(),
        stdout_for_data(quiet=config.quiet) as data,
        contextlib.closing(_RunConsole(console, config, data)) as listener,
    ):
        found = find_inputs(inputs, config, listener, paths)
        try:
            summary = run_images(
                config,
                found,
                listener,
                SIGNALS.deferred(console.promise("Finishing the images in progress")),
                invocation=invocation,
                named=named,
                show_downloads=console.on_terminal and not console.quiet,
            )
        except _ReaderLeftError:
            return _reader_has_left(0, listener.todo, console)
    return _end(summary, listener, config, console)


def _end(summary: RunSummary, listener: _RunConsole, config: RunConfig, console: Console) -> int:
    """Say what is left to be said; the exit code."""
    if summary.report is not None:
        tell_report(summary.report, summary.folder, console)
    if not listener.todo and summary.failed and not summary.new_failures:
        console.info(failed_before_words(summary.failed, summary.folder))
    if config.verbose and listener.todo:
        tell_stages(summary.timer, summary.seconds, console)
    if SIGNALS.number is not None:
        console.error("interrupted; run the same command again to resume.")
        return 128 + SIGNALS.number
    if summary.pending:
        return _reader_has_left(listener.todo - summary.pending, listener.todo, console)
    return int(summary.new_failures > 0)


def _reader_has_left(done: int, wanted: int, console: Console) -> int:
    """Say that stdout was closed before all was done; the exit code that a broken pipe has."""
    console.info(f"stdout was closed after {done:,} of {count_words(wanted, 'image')}; run the same command again to resume.")
    return BROKEN_PIPE


command("run", "Heatmaps")(run_command())
