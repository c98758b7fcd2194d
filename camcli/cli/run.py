"""``camcli run``."""

from __future__ import annotations

import contextlib
import inspect
import os
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli import __version__
from camcli.cli.inputs import explainable_sources, gathered_sources, misspelt_names_first
from camcli.cli.options import config_parameters, gathered_config, take_parameters
from camcli.cli.progress import RunProgress
from camcli.cli.rows import RowStream
from camcli.cli.signals import SIGNALS
from camcli.cli.summary import announce, count_words, failed_words, summarize, tell_failure, tell_report, tell_stages
from camcli.cli.talk import Talk, stdout_for_data
from camcli.config import RunConfig
from camcli.machine import keep_memory
from camcli.option import with_values
from camcli.output import coco
from camcli.output.writers import prediction_columns
from camcli.records import Counts, Failure, Outcome, Source, shown, stamp_of
from camcli.settings import run_settings

if TYPE_CHECKING:
    from camcli.job import Job
    from camcli.output.folder import OutputFolder
    from camcli.stages import Stages


def run_command() -> Callable[..., None]:
    """The command's function, with an option for each field of RunConfig."""

    def run(context: typer.Context, inputs: list[str], config: str | None = None, **values: Any) -> None:
        raise typer.Exit(execute(inputs, gathered_config(context, config, values)))

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


@dataclass(frozen=True)
class _Run:
    """What a run works with. ``sources``: all its images, done or not; ``rows``: where they go besides the table."""

    config: RunConfig
    sources: Sequence[Source]
    folder: OutputFolder
    talk: Talk
    rows: RowStream | None


@dataclass(frozen=True)
class _Work:
    """What explaining images takes."""

    job: Job
    folder: OutputFolder
    stop: threading.Event
    stages: Stages
    tell: Callable[[int], None]


_MOST_DEATHS = 8
"""A file that was alone in hand at so many deaths in a row is set aside, although a process of its own survives it. Fewer could be
chance: a process that is killed again and again may have the same file in hand three times."""


def execute(inputs: Sequence[str], config: RunConfig) -> int:
    """One run from inputs to summary; the exit code. Raises CamcliError for what stops it."""
    from camcli.output.folder import OutputFolder

    if config.log_file is not None:
        Talk.open_log(config.log_file)
    talk = Talk(quiet=config.quiet)
    talk.note_down(f"camcli {__version__}: {shlex.join(map(shown, sys.argv[1:]))}")
    root, sources = gathered_sources(inputs, config, talk)
    sources = explainable_sources(sources, config, talk)
    if config.precision == "auto":  # what it becomes binds the folder
        from camcli.models.device import resolve_device
        from camcli.network.precision import resolve_precision

        config = replace(config, precision=resolve_precision("auto", resolve_device(config.device)))
    settings = run_settings(config, root)
    with (
        misspelt_names_first(config),
        OutputFolder(config.output, settings, overwrite=config.overwrite, shard=config.part) as folder,
        _silent_c_libraries(),
        stdout_for_data(quiet=config.quiet) as data,
    ):
        columns = prediction_columns(labelled=config.class_from is not None, boxed=config.boxes is not None)
        rows = RowStream(data, config.format or "csv", columns) if config.streams_rows else None
        if not config.overwrite:
            config = _in_present_look(config, folder, talk)
        return _continue(_Run(config, sources, folder, talk, rows))


def _in_present_look(config: RunConfig, folder: OutputFolder, talk: Talk) -> RunConfig:
    """``config`` with the look that ``camcli render`` has given to the folder; a render that was interrupted is finished first."""
    if (look := folder.redrawing) is not None:
        from camcli.images.limits import allow_any_size
        from camcli.redraw import redraw_folder

        talk.say(f"Finishing the camcli render that was interrupted in {shown(folder.place)}.")
        allow_any_size()
        with talk.bar() as tell:
            redraw_folder(folder, look, tell)
    drawn = folder.ledger.drawn
    if drawn:
        words = ", ".join(f"{name} {value}" for name, value in drawn.items())
        talk.say(f"Overlays are painted as camcli render left the folder: {words}.")
    return with_values(config, drawn)


def _continue(run: _Run) -> int:
    """Explain what is not done yet; the exit code."""
    folder, talk, sources = run.folder, run.talk, run.sources
    todo = folder.pending(sources, retry_failed=run.config.retry_failed, hashed=run.config.hash)
    if run.rows is not None:
        waiting = {source.image for source in todo}
        done = [source.image for source in sources if source.image not in waiting and folder.is_explained(source.image)]
        for _, rows in folder.ledger.rows(done):
            run.rows.add_table(rows)
    if not todo and folder.is_finished(sources):
        folder.tidy()
        if not folder.root.exists(coco.NAME):
            _write_boxes(run)
        explained, failed = folder.totals(sources)
        talk.say(f"Nothing to do: {count_words(explained, 'image')} already explained in {shown(folder.place)}.")
        _report(run)
        if failed:
            talk.complain(failed_words(failed, folder.place))
        return 1 if failed else 0
    if 0 < len(todo) < len(sources):
        talk.say(f"{count_words(len(sources) - len(todo), 'image')} done before, {len(todo)} to do.")
    return _explain(todo, run)


def _explain(todo: Sequence[Source], run: _Run) -> int:
    started = time.monotonic()
    config, folder, talk = run.config, run.folder, run.talk
    keep_memory()
    if config.model != RunConfig.model:
        talk.say(f"Loading {shown(config.model)}, weights {shown(config.weights)}.")
    warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata: what matters becomes a failure
    from camcli.images.limits import allow_any_size
    from camcli.job import prepare_job, run_record
    from camcli.stages import Stages

    allow_any_size()
    show = talk.on_terminal and not talk.quiet
    job = prepare_job(config, run.sources, left=len(todo), show_progress=show, say=talk.say)
    announce(job, talk)
    suspects = folder.suspects(todo)
    crashed = _crashing(suspects, todo, run)
    counts, stages = Counts(), Stages()
    with SIGNALS.deferred(talk.promise("Finishing the images in progress")) as stop:
        folder.begin(todo, suspects)
        with talk.bar(len(todo)) as tell:
            progress = RunProgress(tell, len(todo), counts)
            outcomes = _outcomes(todo, crashed, suspects, _Work(job, folder, stop, stages, progress.pass_begins))
            for outcome in progress.over(outcomes):
                counts.add(outcome)
                if isinstance(outcome, Failure):
                    tell_failure(outcome, counts, talk)
                if run.rows is not None:
                    run.rows.add(outcome)
                    if run.rows.abandoned:
                        stop.set()
        folder.arrange(run.sources)
        totals = folder.totals(run.sources)
        state = "finished" if counts.explained + counts.failed == len(todo) else "interrupted"
        seconds = time.monotonic() - started
        _write_boxes(run)
        folder.finish(run_record(job, counts, folder.totals(), seconds, state, stages))
    summarize(counts, totals, seconds, folder.place, talk)
    if config.verbose:
        tell_stages(stages, seconds, talk)
    if state == "finished":
        _report(run)
    if SIGNALS.number is not None:
        talk.complain("interrupted; the same command goes on from here.")
        return 128 + SIGNALS.number
    if state == "interrupted":  # the reader of the rows has what it wanted
        talk.say("The reader of the rows has left; the same command goes on from here.")
        return 0
    return 1 if totals[1] else 0


def _write_boxes(run: _Run) -> None:
    """Write ``boxes.json``, where it is asked for. Raises OutputError."""
    if run.config.boxes_json:
        run.folder.write(coco.NAME, coco.coco_boxes(run.folder.ledger))


def _report(run: _Run) -> None:
    """Write the report, where it is asked for; the folder's lock is held."""
    if not run.config.report:
        return
    from camcli.images.limits import allow_any_size
    from camcli.report.write import write_report

    allow_any_size()
    tell_report(write_report(run.folder.root, SIGNALS.stop), run.folder.place, run.talk)


def _crashing(suspects: Mapping[str, int], todo: Sequence[Source], run: _Run) -> list[Failure]:
    """Those of ``suspects`` that took an earlier run down: what kills a process of its own too, or has done so too often."""
    if not suspects:
        return []
    from camcli.probe import find_crashing

    run.talk.say(f"An earlier run died with {count_words(len(suspects), 'image')} in hand; trying each on its own.")
    often = [
        Failure(source.image, "crashed", f"the process died {_MOST_DEATHS} times with nothing else in hand", stamp_of(source.path))
        for source in todo
        if suspects.get(source.image, 0) >= _MOST_DEATHS
    ]
    others = [source for source in todo if suspects.get(source.image, _MOST_DEATHS) < _MOST_DEATHS]
    return [*often, *find_crashing(others, run.config.max_pixels)]


def _outcomes(todo: Sequence[Source], crashed: Sequence[Failure], alone: Collection[str], work: _Work) -> Iterator[Outcome]:
    """One outcome for each of ``todo``, recorded: ``crashed`` are set aside, ``alone`` are explained last and one by one."""
    from camcli.pipeline import explain_images

    for failure in crashed:
        work.folder.record(failure)
        yield failure
    aside = {failure.image for failure in crashed}
    todo = [source for source in todo if source.image not in aside]
    parts = [[source for source in todo if source.image not in alone], *([source] for source in todo if source.image in alone)]
    for part in parts:
        if part and not work.stop.is_set():
            yield from explain_images(part, work.job, work.folder, work.stop, work.stages, work.tell)


@contextlib.contextmanager
def _silent_c_libraries() -> Iterator[None]:
    """Keep libjpeg and other C code from writing to the terminal: they print to file descriptor 2 what our tables say better.

    Python's own ``sys.stderr`` goes on writing to where it did.
    """
    try:
        number = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(number)
    original = sys.stderr
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stderr = os.fdopen(os.dup(kept), "w", buffering=1, encoding=original.encoding, errors="backslashreplace")
        os.dup2(sink, number)
        yield
    finally:
        sys.stderr.close()
        sys.stderr = original
        os.dup2(kept, number)
        os.close(kept)
        os.close(sink)
