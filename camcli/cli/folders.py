"""``camcli verify`` and ``camcli merge``: look after folders that runs have left."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from camcli.cli.summary import count_words, failed_words
from camcli.cli.talk import Talk, print_table
from camcli.config import RunConfig
from camcli.records import shown


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
        (os.path.normpath(os.path.join(os.path.relpath(run, folder), problem.file)), problem.problem)
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


def merge(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The --output that the parts of a run share.")],
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
