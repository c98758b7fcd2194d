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
from camcli.cli.stdin import STDIN, paths_on_stdin
from camcli.cli.summary import failed_before_words, summarize, tell_report, tell_stages
from camcli.config.run import RunConfig
from camcli.errors import ConfigError
from camcli.output.parquet import require_pyarrow_of
from camcli.output.writers import prediction_columns
from camcli.pipeline.inputs import find_inputs
from camcli.pipeline.invocation import Invocation
from camcli.pipeline.runner import run_images
from camcli.pipeline.summary import RunSummary
from camcli.records import Success, count_words, escape_name
from camcli.resources import keep_memory, wait_without_spinning


def run_command() -> Callable[..., None]:
    """The function of the command, with an option for each field of RunConfig."""

    def run(context: typer.Context, inputs: list[str], config: str | None = None, **values: Any) -> None:
        raise typer.Exit(execute(inputs, gathered_config(context, config, values), given_options(context, values)))

    run.__doc__ = """Write a heatmap overlay for every image, and a table of predictions.

    [dim]Folders are walked recursively; hidden files are left out. Run the same command again to explain what is missing.[/dim]
    """
    head = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        inspect.Parameter(
            "inputs",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=Annotated[
                list[str],
                typer.Argument(
                    metavar="INPUTS",
                    help="Folders, image files, archives (tar, zip), addresses (s3://, gs://, https://), or - for paths on stdin.",
                    show_default=False,
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
                help="Read options from a TOML file. Options on the command line override it.",
                rich_help_panel="Output",
                show_default=False,
            ),
        ],
    )
    parameters = [*head, *config_parameters(), config]
    return take_parameters(run, parameters)


class _StdoutClosedError(Exception):
    """stdout was closed before the model was loaded."""


class _RunConsole(ConsoleListener):
    """The listener of ``camcli run``: writes to stderr, moves the progress bar, and writes rows to ``data`` if asked for."""

    def __init__(self, console: Console, config: RunConfig, data: BinaryIO) -> None:
        self._held = contextlib.ExitStack()
        super().__init__(console, self._held.enter_context(console.bar()), listed_in="failures.csv")
        self._config, self._data = config, data
        self.earlier_rows = config.streams_rows
        self._rows: RowStream | None = None
        self.todo = 0

    @property
    def stdout_closed(self) -> bool:
        """Whether the reader has closed stdout."""
        return self._rows is not None and self._rows.closed

    def loading(self, config: RunConfig) -> AbstractContextManager[None]:
        """Print what is loaded if it takes long."""
        return loading(self._console, config.model, config.weights)

    def begins(self, todo: int) -> None:
        """Start to write rows, with the header line."""
        self.todo = todo
        if self._config.streams_rows:
            labelled, boxed = self._config.class_from is not None, self._config.boxes is not None
            columns = prediction_columns(labelled=labelled, boxed=boxed, metrics=self._config.metrics)
            self._rows = RowStream(self._data, self._config.stream_format, columns)

    def done_before(self, rows: bytes) -> None:
        """Write the rows of an image that an earlier run explained."""
        if self._rows is not None:
            self._rows.add_table(rows)
            if self.stdout_closed and self.todo:
                raise _StdoutClosedError

    def explained(self, outcome: Success) -> None:
        """Write the rows of an image, and stop the run if stdout is closed."""
        if self._rows is not None:
            self._rows.add(outcome)
            if self.stdout_closed:
                SIGNALS.stop.set()

    def summary(self, summary: RunSummary) -> None:
        """Remove the progress bar and print the summary."""
        self.close()
        summarize(summary, self._console)

    def close(self) -> None:
        """Remove the progress bar."""
        self._held.close()


def execute(inputs: Sequence[str], config: RunConfig, named: Collection[str] = ()) -> int:
    """Run ``config`` over ``inputs`` and return the exit code. Raises CamcliError if the run cannot start or go on.

    ``named``: the fields of ``config`` that are given on the command line, for messages about options without effect.
    """
    invocation = Invocation(shlex.join(["camcli", *sys.argv[1:]]), inputs)
    if config.log_file is not None:
        Console.open_log(config.log_file)
    console = Console(quiet=config.quiet)
    console.log(f"camcli {__version__}: {escape_name(invocation.command)}")
    require_pyarrow_of(config)  # before a million files are found
    keep_memory()
    wait_without_spinning()
    if config.engine == "ray" and STDIN in inputs:
        raise ConfigError("--engine ray cannot read paths from stdin: name folders and files.")
    paths = paths_on_stdin(inputs, console, null=config.null)
    with (
        silent_c_libraries(),
        stdout_for_data(quiet=config.quiet) as data,
        contextlib.closing(_RunConsole(console, config, data)) as listener,
    ):
        found = find_inputs(inputs, config, listener, paths)
        stop = SIGNALS.deferred(console.interrupt_message("Finishing the images in progress"))
        show_downloads = console.on_terminal and not console.quiet
        try:
            if config.engine == "ray":
                from camcli.distributed.run import run_on_cluster

                summary = run_on_cluster(config, found, listener, stop, invocation=invocation, named=named)
            else:
                summary = run_images(
                    config, found, listener, stop, invocation=invocation, named=named, show_downloads=show_downloads
                )
        except _StdoutClosedError:
            return _stdout_was_closed(0, listener.todo, console)
    return _end(summary, listener, config, console)


def _end(summary: RunSummary, listener: _RunConsole, config: RunConfig, console: Console) -> int:
    """Print the last messages and return the exit code."""
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
        return _stdout_was_closed(listener.todo - summary.pending, listener.todo, console)
    return int(summary.new_failures > 0)


def _stdout_was_closed(done: int, wanted: int, console: Console) -> int:
    """Print that stdout was closed early, and return the exit code of a broken pipe."""
    console.info(f"stdout was closed after {done:,} of {count_words(wanted, 'image')}; run the same command again to resume.")
    return BROKEN_PIPE


command("run", "Heatmaps")(run_command())
