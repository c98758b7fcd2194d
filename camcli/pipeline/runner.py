"""A run, from images to summary. The command line and ``camcli.run`` in Python both call ``run_images``.

``run_images`` is a function of (config, inputs, listener, stop) without state of its own. All messages go to the listener. After an
interruption it can be called again: it explains only the images that are not in the output folder yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from camcli.config.field import with_values
from camcli.config.fingerprint import options_without_effect, run_settings, with_former_defaults
from camcli.config.run import RunConfig
from camcli.images.limits import pillow_unlimited
from camcli.layout import BOXES
from camcli.listener import Listener, Messages
from camcli.output.folder import OutputFolder, recorded_settings
from camcli.output.parquet import require_pyarrow_for, require_pyarrow_of, write_parquet
from camcli.output.writing import RunWriter
from camcli.pipeline.incoming import LaterSources, StreamedSources
from camcli.pipeline.inputs import Inputs, explainable, misspelt_names_first
from camcli.pipeline.invocation import Invocation
from camcli.pipeline.progress import RunProgress
from camcli.pipeline.summary import RunListener, RunSummary
from camcli.records import Counts, Failure, Outcome, count_words, escape_name
from camcli.runs import coco
from camcli.source import Source
from camcli.timing import StageTimer

if TYPE_CHECKING:
    from camcli.pipeline.job import Job
    from camcli.pipeline.pool import Pool
    from camcli.report.write import Report


@dataclass(frozen=True)
class Prepared:
    """What several runs with the same options have in common, such as the shards of a run, and what is known of their images.

    ``job``: returns the loaded model, the same at each call. ``settings``: of all the runs, from ``run_settings``, except for the
    shard. ``labels``: the true labels of the images of this run, image -> label; None without ``--class-from``.
    """

    job: Callable[[], Job]
    settings: Mapping[str, Any]
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True)
class _Run:
    """A run whose folder is locked.

    ``sources``: all its images, explained or not. ``later``: images that are still to come; they are added to ``sources`` then.
    """

    config: RunConfig
    sources: list[Source]
    later: LaterSources | None
    folder: OutputFolder
    listener: RunListener
    invocation: Invocation
    show_downloads: bool
    prepared: Prepared | None
    timer: StageTimer = field(default_factory=StageTimer)


def run_images(
    config: RunConfig,
    inputs: Inputs,
    listener: RunListener,
    stop: AbstractContextManager[threading.Event],
    *,
    invocation: Invocation,
    named: Collection[str] = (),
    show_downloads: bool = False,
    prepared: Prepared | None = None,
) -> RunSummary:
    """Explain every image of ``inputs`` that is not in the folder ``config.output`` yet. Returns the summary.

    ``stop`` is entered when the first image begins; after its event is set, the images in progress are finished and the run ends.
    ``named``: the fields of ``config`` that the user gave, for messages about options without effect. ``show_downloads``: show the
    progress of downloads on stderr. ``prepared``: what a caller has done already that explains several shards; it has chosen the
    images by their labels and resolved ``precision`` too. Raises CamcliError if the run cannot start or go on.
    """
    require_pyarrow_of(config)
    if prepared is not None:
        sources, settings = inputs.sources, {**prepared.settings, "shard": config.settings()["shard"]}
    else:
        for sentence in options_without_effect(config, named):
            listener.warn(sentence)
        sources = explainable(inputs.sources, config, listener)
        config = with_former_defaults(config, recorded_settings(config.output, config.part, overwrite=config.overwrite))
        if config.precision == "auto":  # the settings of the folder contain the resolved precision
            with listener.loading(replace(config, model="")):
                config = replace(config, precision=_resolved_precision(config))
        settings = run_settings(config, inputs.root)
    with (
        misspelt_names_first(config),
        pillow_unlimited(),
        OutputFolder(config.output, settings, overwrite=config.overwrite, shard=config.part) as folder,
    ):
        if not config.overwrite:
            require_pyarrow_for(folder.root, folder.ledger.settings)
            config = _with_redrawn_look(config, folder, listener)
        run = _Run(config, sources, inputs.later, folder, listener, invocation, show_downloads, prepared)
        todo = folder.pending(sources, retry_failed=config.retry_failed, hashed=config.hash)
        listener.begins(len(todo))
        _send_earlier_rows(todo, run)
        if not todo and inputs.later is None and folder.is_finished(sources):
            return _nothing_to_do(run)
        if 0 < len(todo) < len(sources):
            listener.info(f"{count_words(len(sources) - len(todo), 'image')} done before, {len(todo)} to do.")
        return _explain(todo, run, stop)


def _resolved_precision(config: RunConfig) -> str:
    from camcli.models.device import resolve_device
    from camcli.network.precision import resolve_precision

    return resolve_precision("auto", resolve_device(config.device))


def _with_redrawn_look(config: RunConfig, folder: OutputFolder, listener: Listener) -> RunConfig:
    """``config`` with the look that ``camcli render`` has given to the folder. Finishes an interrupted render first."""
    if (look := folder.redrawing) is not None:
        from camcli.runs.rerender import redraw_folder

        listener.info(f"Finishing the camcli render that was interrupted in {escape_name(folder.place)}.")
        left = redraw_folder(folder, look, listener.progress).left
        if left:
            listener.warn(f"{count_words(len(left), 'image')} missing or changed since; their earlier overlays are kept.")
    drawn = folder.ledger.redrawn
    if drawn:
        look_words = ", ".join(f"{name} {value}" for name, value in drawn.items())
        listener.info(f"Overlays are painted as camcli render left the folder: {look_words}.")
    return with_values(config, drawn)


def _send_earlier_rows(todo: Sequence[Source], run: _Run) -> None:
    """Send the rows of images that earlier runs explained to the listener."""
    if not run.listener.earlier_rows:
        return
    waiting = {source.image for source in todo}
    done = [source.image for source in run.sources if source.image not in waiting and run.folder.is_explained(source.image)]
    for _, rows in run.folder.ledger.rows(done):
        run.listener.done_before(rows)


def _nothing_to_do(run: _Run) -> RunSummary:
    folder = run.folder
    folder.tidy()
    if run.config.boxes_json and not folder.root.exists(BOXES):
        folder.root.write(BOXES, coco.coco_boxes(folder.ledger))
    write_parquet(folder.root, folder.ledger, asked=run.config.format == "parquet")
    explained, failed = folder.totals(run.sources)
    run.listener.info(f"Nothing to do: {count_words(explained, 'image')} already explained in {escape_name(folder.place)}.")
    report = _report(run, threading.Event())
    return RunSummary(folder.place, "finished", explained, failed, 0, 0, run.invocation.seconds(), report=report)


def _explain(todo: list[Source], run: _Run, stop: AbstractContextManager[threading.Event]) -> RunSummary:
    from camcli.pipeline.pool import Pool, count_workers

    folder, listener, timer, counts = run.folder, run.listener, run.timer, Counts()
    timer.add("find", run.invocation.seconds())
    count = count_workers(run.config.workers, len(todo) if run.later is None else None)
    with Pool(count) as pool:  # they start while PyTorch is imported
        with timer.work("load"):
            job = _loaded(todo, run)
            failures_were_reported = folder.was_finished()
        with stop as event:
            writer = folder.begin(todo)
            progress = RunProgress(listener.progress, len(todo), counts)
            for outcome in progress.over(_outcomes(todo, job, writer, pool, event, progress, run)):
                counts.add(outcome)
                if isinstance(outcome, Failure):
                    listener.failed(outcome)
                else:
                    listener.explained(outcome)
            pool.close()
            with timer.work("finish"):
                arranged = writer.arrange(run.sources)
                if run.config.boxes_json:
                    arranged.write(BOXES, coco.coco_boxes(folder.ledger))
                write_parquet(folder.root, folder.ledger, asked=run.config.format == "parquet")
            summary = _summary(todo, counts, run, reported=failures_were_reported)
            listener.summary(summary)
            arranged.finish(_record(job, summary, run))
            if summary.state == "finished":
                with timer.work("report"):
                    summary = replace(summary, report=_report(run, event))
    return replace(summary, seconds=run.invocation.seconds())


def _outcomes(
    todo: list[Source], job: Job, writer: RunWriter, pool: Pool, stop: threading.Event, progress: RunProgress, run: _Run
) -> Iterator[Outcome]:
    """Explain ``todo``, and the images of ``run`` that are still to come, which are added to ``todo``."""
    from camcli.pipeline.stages import explain_images

    if run.later is None:
        return explain_images(todo, job, writer, pool, stop, run.timer, progress.pass_begins)

    folder, retry, hashed = run.folder, run.config.retry_failed, run.config.hash

    def choose(found: list[Source | Failure]) -> list[Source | Failure]:
        """Those of ``found`` that are to be explained, or whose failure is to be recorded. Removes their old rows."""
        sources = [one if isinstance(one, Source) else Source("", one.image) for one in found]
        run.sources.extend(sources)
        pending = {source.image for source in folder.pending(sources, retry_failed=retry, hashed=hashed)}
        folder.drop(pending & folder.ledger.entries.keys())
        todo.extend(source for source in sources if source.image in pending)
        progress.total = len(todo)
        return [one for one in found if one.image in pending]

    return explain_images(StreamedSources(todo, run.later, choose), job, writer, pool, stop, run.timer, progress.pass_begins)


def _summary(todo: Sequence[Source], counts: Counts, run: _Run, *, reported: bool) -> RunSummary:
    """The summary of a run. ``reported``: whether earlier runs have reported their failures."""
    explained, failed = run.folder.totals(run.sources)
    pending = len(todo) - counts.explained - counts.failed
    return RunSummary(
        folder=run.folder.place,
        state="interrupted" if pending or not (run.later is None or run.later.ended) else "finished",
        explained=explained,
        failed=failed,
        pending=pending,
        new_failures=counts.failed if reported else failed,
        seconds=run.invocation.seconds(),
        counts=counts,
        timer=run.timer,
        has_overlays=run.config.overlays,
    )


def _loaded(todo: Sequence[Source], run: _Run) -> Job:
    """The loaded model, ready to explain ``todo``."""
    listener, prepared = run.listener, run.prepared
    if prepared is not None:
        from camcli.pipeline.true_labels import label_classes

        job, table = prepared.job(), run.config.class_from
        labels = None if table is None else label_classes(table, prepared.labels or {}, job.model.classes)
        return replace(job, config=run.config, labels=labels)
    with listener.loading(run.config):
        from camcli.pipeline.job import prepare_job

        job = prepare_job(run.config, run.sources, left=len(todo), show_progress=run.show_downloads, info=listener.info)
    announce(job, listener)
    return job


def announce(job: Job, listener: Messages) -> None:
    """Send ``listener`` the model, layers and device that are about to run, and notes about the model."""
    layers = ", ".join(layer.name for layer in job.layers)
    how = f", {job.network.description}" if job.network.description else ""
    listener.info(f"{job.model.name} ({job.model.weights}), layer {layers}, on {job.device}{how}")
    for note in job.model.notes:
        listener.warn(note)


def _record(job: Job, summary: RunSummary, run: _Run) -> dict[str, Any]:
    """The contents of ``run.json``."""
    from camcli.pipeline.job import run_record

    record = run_record(job, summary.counts, run.folder.totals(), run.invocation.seconds(), summary.state, run.timer)
    return {**record, "this_run": {**run.invocation.as_dict(), **record["this_run"]}}


def _report(run: _Run, stop: threading.Event) -> Report | None:
    """Write the report if the config asks for it. The folder is locked already."""
    if not run.config.report:
        return None
    from camcli.report.write import write_report

    return write_report(run.folder.root, stop)
