"""``camcli run``."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli import __version__
from camcli.cli.command import command
from camcli.cli.console import Console, stdout_for_data
from camcli.cli.inputs import explainable_sources, gathered_sources, misspelt_names_first
from camcli.cli.invocation import Invocation
from camcli.cli.loading import loading
from camcli.cli.options import config_parameters, gathered_config, given_options, take_parameters
from camcli.cli.progress import RunProgress
from camcli.cli.row_stream import RowStream
from camcli.cli.signals import BROKEN_PIPE, SIGNALS
from camcli.cli.silence import silent_c_libraries
from camcli.cli.summary import announce, count_words, failed_before_words, summarize, tell_failure, tell_report, tell_stages
from camcli.config.field import with_values
from camcli.config.fingerprint import idle_options, run_settings, with_former_defaults
from camcli.config.run import RunConfig
from camcli.output.writers import prediction_columns
from camcli.records import Counts, Failure, Outcome, Source, escape_name, stamp_of
from camcli.resources import keep_memory
from camcli.runs import coco

if TYPE_CHECKING:
    from camcli.output.folder import OutputFolder
    from camcli.pipeline.job import Job
    from camcli.timing import StageTimer


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


@dataclass(frozen=True)
class _Run:
    """What a run works with. ``sources``: all its images, done or not; ``rows``: where they go besides the table."""

    config: RunConfig
    sources: Sequence[Source]
    folder: OutputFolder
    console: Console
    rows: RowStream | None
    given: Invocation
    stages: StageTimer


@dataclass(frozen=True)
class _Work:
    """What explaining images takes."""

    job: Job
    folder: OutputFolder
    stages: StageTimer
    stop: threading.Event
    tell: Callable[[int], None]


_MOST_DEATHS = 8
"""A file that was alone in hand at so many deaths in a row is set aside, although a process of its own survives it. Fewer could be
chance: a process that is killed again and again may have the same file in hand three times."""


def execute(inputs: Sequence[str], config: RunConfig, named: Collection[str] = ()) -> int:
    """One run from inputs to summary; the exit code. ``named``: fields of ``config`` that stand on the command line, to
    say which have no effect. Raises CamcliError for what stops it.
    """
    from camcli.output.folder import OutputFolder, recorded_settings
    from camcli.timing import StageTimer

    given = Invocation(inputs)
    if config.log_file is not None:
        Console.open_log(config.log_file)
    console = Console(quiet=config.quiet)
    console.log(f"camcli {__version__}: {escape_name(given.command)}")
    for words in idle_options(config, named):
        console.warn(words)
    root, sources = gathered_sources(inputs, config, console)
    sources = explainable_sources(sources, config, console)
    config = with_former_defaults(config, recorded_settings(config.output, config.part, overwrite=config.overwrite))
    if config.precision == "auto":  # what it becomes binds the folder
        with loading(console):
            from camcli.models.device import resolve_device
            from camcli.network.precision import resolve_precision

            config = replace(config, precision=resolve_precision("auto", resolve_device(config.device)))
    settings = run_settings(config, root)
    with (
        misspelt_names_first(config),
        OutputFolder(config.output, settings, overwrite=config.overwrite, shard=config.part) as folder,
        silent_c_libraries(),
        stdout_for_data(quiet=config.quiet) as data,
    ):
        columns = prediction_columns(labelled=config.class_from is not None, boxed=config.boxes is not None)
        rows = RowStream(data, config.format or "csv", columns) if config.streams_rows else None
        if not config.overwrite:
            config = _in_present_look(config, folder, console)
        return _continue(_Run(config, sources, folder, console, rows, given, StageTimer()))


def _in_present_look(config: RunConfig, folder: OutputFolder, console: Console) -> RunConfig:
    """``config`` with the look that ``camcli render`` has given to the folder; a render that was interrupted is finished first."""
    if (look := folder.redrawing) is not None:
        from camcli.images.limits import allow_any_size
        from camcli.runs.rerender import redraw_folder

        console.info(f"Finishing the camcli render that was interrupted in {escape_name(folder.place)}.")
        allow_any_size()
        with console.bar() as tell:
            left = redraw_folder(folder, look, tell).left
        if left:
            console.warn(f"{count_words(len(left), 'image')} gone or changed since; the overlays of before stay.")
    drawn = folder.ledger.drawn
    if drawn:
        words = ", ".join(f"{name} {value}" for name, value in drawn.items())
        console.info(f"Overlays are painted as camcli render left the folder: {words}.")
    return with_values(config, drawn)


def _continue(run: _Run) -> int:
    """Explain what is not done yet; the exit code."""
    folder, console, sources = run.folder, run.console, run.sources
    todo = folder.pending(sources, retry_failed=run.config.retry_failed, hashed=run.config.hash)
    if run.rows is not None:
        waiting = {source.image for source in todo}
        done = [source.image for source in sources if source.image not in waiting and folder.is_explained(source.image)]
        for _, rows in folder.ledger.rows(done):
            run.rows.add_table(rows)
        if run.rows.abandoned and todo:
            return _end_of_the_reader(0, len(todo), console)
    if not todo and folder.is_finished(sources):
        folder.tidy()
        if not folder.root.exists(coco.NAME):
            _write_boxes(run)
        explained, failed = folder.totals(sources)
        console.info(f"Nothing to do: {count_words(explained, 'image')} already explained in {escape_name(folder.place)}.")
        _report(run)
        if failed:
            console.info(failed_before_words(failed, folder.place))
        return 0
    if 0 < len(todo) < len(sources):
        console.info(f"{count_words(len(sources) - len(todo), 'image')} done before, {len(todo)} to do.")
    return _explain(todo, run)


def _explain(todo: Sequence[Source], run: _Run) -> int:
    folder, console, stages, counts = run.folder, run.console, run.stages, Counts()
    stages.add("find", run.given.seconds())
    with stages.work("load"):
        job = _loaded(todo, run)
        told = folder.was_finished()
        suspects = folder.suspects(todo)
        crashed = _crashing(suspects, todo, run)
    with SIGNALS.deferred(console.promise("Finishing the images in progress")) as stop:
        folder.begin(todo, suspects)
        with console.bar(len(todo)) as tell:
            progress = RunProgress(tell, len(todo), counts)
            outcomes = _outcomes(todo, crashed, suspects, _Work(job, folder, stages, stop, progress.pass_begins))
            for outcome in progress.over(outcomes):
                _take(outcome, counts, run, stop)
        with stages.work("finish"):
            folder.arrange(run.sources)
            _write_boxes(run)
        failed = folder.totals(run.sources)[1]
        new = counts.failed if told else failed
        summarize(counts, (new, failed - new), run.given.seconds(), folder.place, console)
        state = "finished" if counts.explained + counts.failed == len(todo) else "interrupted"
        folder.finish(_record(job, counts, state, run))  # after what says that failures were told
    if state == "finished":
        with stages.work("report"):
            _report(run)
    if run.config.verbose:
        tell_stages(stages, run.given.seconds(), console)
    if SIGNALS.number is not None:
        console.error("interrupted; run the same command again to resume.")
        return 128 + SIGNALS.number
    done = counts.explained + counts.failed
    return _end_of_the_reader(done, len(todo), console) if state == "interrupted" else int(new > 0)


def _loaded(todo: Sequence[Source], run: _Run) -> Job:
    """The model, ready to explain ``todo``."""
    keep_memory()
    with loading(run.console, run.config.model, run.config.weights):
        warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata: what matters becomes a failure
        from camcli.images.limits import allow_any_size
        from camcli.pipeline.job import prepare_job

        allow_any_size()
        show = run.console.on_terminal and not run.console.quiet
        job = prepare_job(run.config, run.sources, left=len(todo), show_progress=show, info=run.console.info)
    announce(job, run.console)
    return job


def _take(outcome: Outcome, counts: Counts, run: _Run, stop: threading.Event) -> None:
    """Count an outcome and pass it on; ``stop`` is set where nobody reads the rows any more."""
    counts.add(outcome)
    if isinstance(outcome, Failure):
        tell_failure(outcome, counts, run.console)
    if run.rows is not None:
        run.rows.add(outcome)
        if run.rows.abandoned:
            stop.set()


def _record(job: Job, counts: Counts, state: str, run: _Run) -> dict[str, Any]:
    """What ``run.json`` says. ``state``: ``finished`` or ``interrupted``."""
    from camcli.pipeline.job import run_record

    record = run_record(job, counts, run.folder.totals(), run.given.seconds(), state, run.stages)
    return {**record, "this_run": {**run.given.as_dict(), **record["this_run"]}}


def _end_of_the_reader(done: int, wanted: int, console: Console) -> int:
    """Say that stdout was closed before all was done; the exit code that a broken pipe has."""
    console.info(f"stdout was closed after {done:,} of {count_words(wanted, 'image')}; run the same command again to resume.")
    return BROKEN_PIPE


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
    tell_report(write_report(run.folder.root, SIGNALS.stop), run.folder.place, run.console)


def _crashing(suspects: Mapping[str, int], todo: Sequence[Source], run: _Run) -> list[Failure]:
    """Those of ``suspects`` that took an earlier run down: what kills a process of its own too, or has done so too often."""
    if not suspects:
        return []
    from camcli.pipeline.probe import find_crashing

    run.console.info(f"An earlier run died with {count_words(len(suspects), 'image')} in hand; trying each on its own.")
    often = [
        Failure(source.image, "crashed", f"the process died {_MOST_DEATHS} times with nothing else in hand", stamp_of(source.path))
        for source in todo
        if suspects.get(source.image, 0) >= _MOST_DEATHS
    ]
    others = [source for source in todo if suspects.get(source.image, _MOST_DEATHS) < _MOST_DEATHS]
    return [*often, *find_crashing(others, run.config.max_pixels)]


def _outcomes(todo: Sequence[Source], crashed: Sequence[Failure], suspects: Mapping[str, int], work: _Work) -> Iterator[Outcome]:
    """One outcome for each of ``todo``, recorded: ``crashed`` are set aside, ``suspects`` are explained last, one by one.

    Those with the fewest deaths come first, so that one that kills again keeps no other from being done.
    """
    from camcli.pipeline.stages import explain_images

    for failure in crashed:
        work.folder.record(failure)
        yield failure
    aside = {failure.image for failure in crashed}
    todo = [source for source in todo if source.image not in aside]
    alone = sorted((source for source in todo if source.image in suspects), key=lambda source: suspects[source.image])
    parts = [[source for source in todo if source.image not in suspects], *([source] for source in alone)]
    for part in parts:
        if part and not work.stop.is_set():
            yield from explain_images(part, work.job, work.folder, work.stop, work.stages, work.tell)


command("run", "Heatmaps")(run_command())
