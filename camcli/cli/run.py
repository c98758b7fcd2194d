"""``camcli run``."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli.cli.options import config_parameters, gathered_config
from camcli.cli.signals import SIGNALS
from camcli.cli.talk import Talk, stdout_for_data
from camcli.config import RunConfig
from camcli.errors import InputError
from camcli.machine import keep_memory
from camcli.records import Counts, Failure, Outcome, Source, shown
from camcli.settings import run_settings

if TYPE_CHECKING:
    from camcli.job import Job
    from camcli.output.folder import OutputFolder
    from camcli.stages import Stages

_SHOWN_FAILURES = 5


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
                typer.Argument(metavar="INPUTS", help="Folders and image files.", show_default=False),
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
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def execute(inputs: Sequence[str], config: RunConfig) -> int:
    """One run from inputs to summary; the exit code. Raises CamcliError for what stops it."""
    from camcli.images.discover import discover_sources

    talk = Talk(quiet=config.quiet)
    sources = discover_sources(inputs, config.output)[: config.limit]
    if not sources:
        raise InputError("nothing to do: no input.")
    _refuse_output_among_inputs(sources, config.output)
    if config.precision == "auto":  # what it becomes binds the folder
        from camcli.models.device import resolve_device
        from camcli.network.precision import resolve_precision

        config = replace(config, precision=resolve_precision("auto", resolve_device(config.device)))
    from camcli.output.folder import OutputFolder

    with OutputFolder(config.output, run_settings(config, sources[0].root), overwrite=config.overwrite) as folder:
        todo = folder.pending(sources)
        if not todo and folder.is_finished(sources):
            explained, failed = folder.totals(sources)
            talk.say(f"Nothing to do: {_count(explained, 'image')} already explained in {shown(config.output)}.")
            if failed:
                talk.complain(_failed_words(failed, config.output))
            return 1 if failed else 0
        if 0 < len(todo) < len(sources):
            talk.say(f"{_count(len(sources) - len(todo), 'image')} done before, {len(todo)} to do.")
        return _explain(todo, sources, config, folder, talk)


def _explain(todo: Sequence[Source], sources: Sequence[Source], config: RunConfig, folder: OutputFolder, talk: Talk) -> int:
    started = time.monotonic()
    keep_memory()
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the limit is --max-pixels, and decode checks it before anything is decoded
    if config.model != RunConfig.model:
        talk.say(f"Loading {config.model}, weights {config.weights}.")
    warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata: what matters becomes a failure
    with _silent_c_libraries(), stdout_for_data(quiet=config.quiet):
        from camcli.job import prepare_job, run_record
        from camcli.pipeline import explain_images
        from camcli.stages import Stages

        show = talk.on_terminal and not talk.quiet
        job = prepare_job(config, sources, left=len(todo), show_progress=show, say=talk.say)
        _announce(job, talk)
        counts, stages = Counts(), Stages()
        with SIGNALS.deferred() as stop:
            folder.begin(todo)
            for outcome in _with_progress(explain_images(todo, job, folder, stop, stages), len(todo), counts, talk):
                counts.add(outcome)
                if isinstance(outcome, Failure) and not talk.quiet:
                    _tell_failure(outcome, counts, talk)
            totals = folder.totals(sources)
            state = "interrupted" if stop.is_set() else "finished"
            seconds = time.monotonic() - started
            folder.finish(sources, run_record(job, counts, totals, seconds, state, stages))
    _summarize(counts, totals, seconds, config, talk)
    if config.verbose:
        _tell_stages(stages, seconds, talk)
    if SIGNALS.number is not None:
        talk.complain("interrupted; the same command goes on from here.")
        return 128 + SIGNALS.number
    return 1 if totals[1] else 0


def _refuse_output_among_inputs(sources: Sequence[Source], output: str) -> None:
    path = os.path.abspath(output)
    for source in sources:
        if source.path == path:
            raise InputError(f"--output {shown(output)!r} is one of the images.")


def _announce(job: Job, talk: Talk) -> None:
    layers = ", ".join(layer.name for layer in job.layers)
    how = f", {job.network.words}" if job.network.words else ""
    talk.say(f"{job.model.name} ({job.model.weights}), layer {layers}, on {job.device}{how}")
    for note in job.model.notes:
        talk.warn(note)


def _with_progress(outcomes: Iterator[Outcome], total: int, counts: Counts, talk: Talk) -> Iterator[Outcome]:
    """The same outcomes, with a bar on stderr while a person watches."""
    if talk.quiet or not talk.on_terminal:
        yield from outcomes
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="img", dynamic_ncols=True, file=sys.stderr, smoothing=0.1) as bar:
        for outcome in outcomes:
            yield outcome
            bar.update()
            if counts.failed:
                bar.set_postfix_str(f"{counts.failed} failed", refresh=False)


def _tell_failure(failure: Failure, counts: Counts, talk: Talk) -> None:
    if counts.failed <= _SHOWN_FAILURES:
        line = f"camcli: {shown(failure.image)}: {shown(failure.reason)}"
    elif counts.failed == _SHOWN_FAILURES + 1:
        line = "camcli: further failures go to failures.csv only."
    else:
        return
    if talk.on_terminal:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        talk.say(line)


def _summarize(counts: Counts, totals: tuple[int, int], seconds: float, config: RunConfig, talk: Talk) -> None:
    done = counts.explained + counts.failed
    rate = f", {done / seconds:.1f} a second with loading" if seconds > 0 and done else ""
    talk.say(f"{_count(counts.explained, 'image')} explained in {seconds:.1f} s{rate}.")
    common = sorted(counts.top_classes.items(), key=lambda item: (-item[1], item[0]))[:5]
    if common:
        talk.say("Most frequent: " + ", ".join(f"{shown(name)} ({number})" for name, number in common) + ".")
    if counts.labelled:
        share = f"{counts.correct / counts.labelled:.1%}"
        talk.say(f"{counts.correct:,} of {counts.labelled:,} right ({share}); see the column correct.")
    if counts.empty_maps:
        talk.say(f"{_count(counts.empty_maps, 'map')} empty or not finite and not painted; see the column status.")
    if totals[1]:
        talk.complain(_failed_words(totals[1], config.output))
    overlays, table = (os.path.join(config.output, name) for name in ("overlays", "predictions.csv"))
    talk.say(f"Overlays in {shown(overlays)}, table in {shown(table)}.")


def _tell_stages(stages: Stages, seconds: float, talk: Talk) -> None:
    talk.say(f"Seconds, summed over the threads of each stage ({seconds:.1f} in all):")
    for stage, taken in stages.seconds().items():
        talk.say(f"  {stage:18}{taken:9.1f}")
    hint = stages.hint(seconds)
    if hint:
        talk.say(hint)


def _failed_words(failed: int, output: str) -> str:
    return f"{_count(failed, 'image')} could not be explained; see {shown(os.path.join(output, 'failures.csv'))}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


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
