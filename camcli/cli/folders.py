"""``camcli verify``, ``merge``, ``render`` and ``report``: look after folders that runs have left."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.options import changed_settings, config_parameters, take_parameters
from camcli.cli.signals import SIGNALS
from camcli.cli.summary import count_words, failed_before_words, failed_words, tell_report
from camcli.cli.talk import Talk, print_table
from camcli.config import LOOKS, RunConfig
from camcli.records import shown

if TYPE_CHECKING:
    from camcli.output.root import Root


def verify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An output folder of camcli run.")] = RunConfig.output,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Also whether the images are still there, and those that were explained.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the exit code, and errors.")] = False,
) -> None:
    """Check that journal, tables and files of an output folder agree: a line for each problem, exit code 1 where there is one.

    [dim]Nothing is changed. What camcli run would mend, the same command as before mends.[/dim]
    """
    from camcli.output.verify import missing_parts, run_folders, verify_folder

    folders = run_folders(folder)
    problems = [
        (os.path.normpath(os.path.join(os.path.relpath(run.path, folder), problem.file)), problem.problem)
        for run in folders
        for problem in verify_folder(run, with_inputs=inputs)
    ]
    talk = Talk(quiet=quiet)
    if problems:
        if not quiet:
            print_table(("file", "problem"), problems)
        talk.say(f"{count_words(len(problems), 'problem')} in {shown(folder)}; the command that made it mends what can be mended.")
        raise typer.Exit(1)
    talk.say(f"{shown(folder)}: journal, tables and files agree{missing_parts(folders)}.")
    failed = _failed_images(folders)
    if failed:
        talk.say(failed_before_words(failed, folder))


def _failed_images(runs: Sequence[Root]) -> int:
    """How many images failed in a folder with these ``runs``, as its records say; in its parts where they are not merged."""
    from camcli.output.names import shard_of_name
    from camcli.output.record import part_of, read_record

    whole = [run for run in runs if not shard_of_name(os.path.basename(run.path))]
    counts = [part_of(read_record(run), "images").get("failed") for run in whole or runs]
    return sum(count for count in counts if type(count) is int)


def merge(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The --output that the parts of a run share.")] = RunConfig.output,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Join the parts that camcli run --shard left in a folder into one run, as if one machine had made it.

    [dim]All parts must be there and finished. They stay and can go on; overlays are hard links where there are such.[/dim]
    """
    from camcli.output.merge import merge_shards

    merged = merge_shards(folder)
    talk = Talk(quiet=quiet)
    talk.say(f"{count_words(merged.parts, 'part')} joined in {shown(folder)}: {count_words(merged.explained, 'image')} explained.")
    if merged.failed:
        talk.complain(failed_words(merged.failed, folder))
        raise typer.Exit(1)  # as the run would have ended


def render_command() -> Callable[..., None]:
    """The command's function, with an option for each setting that overlays depend on."""

    def render(context: typer.Context, folder: str, quiet: bool = False, **values: Any) -> None:
        """Draw the overlays of a run anew, in another style, from its stored maps and without the model.

        [dim]The run must have been made with --save-maps. What is not given stays as it was.[/dim]
        """
        _render(folder, changed_settings(context, values), Talk(quiet=quiet))

    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    about_folder = typer.Argument(metavar="DIR", help="An output folder of camcli run --save-maps.")
    about_quiet = typer.Option("--quiet", "-q", help="Say nothing but errors.")
    parameters = [
        inspect.Parameter("context", positional, annotation=typer.Context),
        inspect.Parameter("folder", positional, default=RunConfig.output, annotation=Annotated[str, about_folder]),
        *config_parameters(LOOKS),
        inspect.Parameter("quiet", keyword, default=False, annotation=Annotated[bool, about_quiet]),
    ]
    return take_parameters(render, parameters)


def _render(folder: str, changes: dict[str, Any], talk: Talk) -> None:
    from camcli.images.limits import allow_any_size
    from camcli.redraw import redraw

    allow_any_size()
    with talk.bar() as tell:
        drawn = redraw(folder, changes, tell)
    talk.say(f"{count_words(drawn.overlays, 'overlay')} redrawn in {shown(folder)}.")
    for image, reason in drawn.left[:5]:
        talk.say(f"camcli: {shown(image)}: {shown(reason)}")
    if drawn.left:
        talk.complain(f"{count_words(len(drawn.left), 'image')} kept the overlays they had.")
        raise typer.Exit(1)


def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An output folder of camcli run.")] = RunConfig.output,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Write a page that shows a run, DIR/report.html, with its data and thumbnails in DIR/report: open it in a browser.

    [dim]It needs no server and no network. Written again, only what has changed is. Values under the mouse, and sorting by entropy
    or share at the border, need the raw maps of camcli run --save-maps.[/dim]
    """
    from camcli.images.limits import allow_any_size
    from camcli.report.write import report_run

    allow_any_size()
    talk = Talk(quiet=quiet)
    with SIGNALS.deferred(talk.promise("Stopping after the images in progress")) as stop:
        written = report_run(folder, stop)
    tell_report(written, folder, talk)
    if SIGNALS.number is not None:
        raise typer.Exit(128 + SIGNALS.number)
