"""A run on a Ray cluster, from images to the merged folder: the counterpart of ``pipeline.runner`` on several machines."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from camcli.addresses import is_address
from camcli.config.fingerprint import options_without_effect, run_settings, with_former_defaults
from camcli.config.run import RunConfig
from camcli.distributed.cluster import Shards, Workers, check_nodes, connected, coordinator, find_workers, require_ray
from camcli.distributed.coordinator import CoordinatorHandle
from camcli.distributed.mirror import Mirror, mirrored
from camcli.distributed.plan import Plan, sample_of
from camcli.distributed.results import ShardResult
from camcli.distributed.shards import Shard, ShardState, check_shards, count_shards, divide, is_finished
from camcli.errors import ConfigError, OutputError, RunError, first_line
from camcli.layout import CLUSTER, JOURNAL, OUTPUT_NAMES, RUN_RECORD
from camcli.output.checks import check_place, check_settings
from camcli.output.folder import OutputFolder, recorded_settings
from camcli.output.journal import read_header
from camcli.output.locks import claimed
from camcli.output.names import shard_of_name
from camcli.output.record import part_of, read_record
from camcli.output.root import Root
from camcli.pipeline.inputs import Inputs, explainable, misspelt_names_first
from camcli.pipeline.invocation import Invocation
from camcli.pipeline.summary import RunListener, RunSummary
from camcli.records import Counts, count_words, escape_name
from camcli.report.write import Report, write_report
from camcli.runs.merge import merge_shards
from camcli.timing import StageTimer

_POLL = 0.5
"""Seconds between two looks at the progress of the workers."""

_LONG_WAIT = 30.0
"""Seconds without any worker at work, after which a message says so."""

_LAST_RESULTS = 5.0
"""Seconds in which the last results come from the workers when a run is interrupted."""

_MOST_NAMED = 5
"""Maximum number of unfinished shards that an error names."""


@dataclass(frozen=True)
class _Run:
    """A run whose output folder is locked. ``states``: of ``shards``, before the run. ``was_merged``: all shards were merged.

    ``config``: its output is the folder on this machine: ``mirror.root`` if the output is in a store, otherwise the output itself.
    """

    config: RunConfig
    settings: Mapping[str, Any]
    shards: list[Shard]
    states: list[ShardState]
    was_merged: bool
    listener: RunListener
    invocation: Invocation
    mirror: Mirror | None
    timer: StageTimer = field(default_factory=StageTimer)

    @property
    def place(self) -> str:
        """The path of the output folder, or its address in a store."""
        return self.config.output if self.mirror is None else self.mirror.folder.shown

    @property
    def todo(self) -> list[Shard]:
        """The shards that have something to do."""
        return [shard for shard, state in zip(self.shards, self.states, strict=True) if not state.is_done]


def run_on_cluster(
    config: RunConfig,
    inputs: Inputs,
    listener: RunListener,
    stop: AbstractContextManager[threading.Event],
    *,
    invocation: Invocation,
    named: Collection[str] = (),
) -> RunSummary:
    """Explain every image of ``inputs`` that is not in ``config.output`` yet, on a Ray cluster. Returns the summary.

    The output may be the address of a folder in a store. The counterpart of ``run_images``, with the same parameters. ``listener``
    receives the failures of a shard when the shard is done, and no explained images. Raises CamcliError if the run cannot start or
    go on; RunError also for shards that could not be finished, after all others were.
    """
    require_ray()
    if inputs.later is not None:
        raise ConfigError("--engine ray cannot read paths from stdin: name folders and files.")
    for sentence in options_without_effect(config, named):
        listener.warn(sentence)
    sources = explainable(inputs.sources, config, listener)
    inputs = replace(inputs, sources=sources)
    if is_address(config.output):
        with mirrored(config.output) as mirror:
            return _run_in(mirror.root, config, inputs, listener, stop, invocation, mirror)
    root = Root(config.output)
    check_place(root.path)
    return _run_in(root, config, inputs, listener, stop, invocation, None)


def _run_in(
    root: Root,
    config: RunConfig,
    inputs: Inputs,
    listener: RunListener,
    stop: AbstractContextManager[threading.Event],
    invocation: Invocation,
    mirror: Mirror | None,
) -> RunSummary:
    """The run in the folder ``root``, which is that of ``mirror`` if the output is in a store. Returns the summary."""
    config = replace(config, output=root.path)
    with misspelt_names_first(config):
        with claimed(root, "run", lambda: _is_used(root)):
            if mirror is not None:
                mirror.update()
            run = _prepared(config, inputs, root, listener, invocation, mirror)
            listener.begins(sum(state.todo for state in run.states))
            results, is_interrupted = _explained(run, root, stop) if run.todo else ([], False)
        if is_interrupted:
            summary = _summary(run, results, "interrupted")
            listener.info(
                f"{count_words(summary.explained, 'image')} explained so far, {summary.failed:,} failed. Their shards are in "
                f"{escape_name(run.place)} and are merged when all are finished."
            )
            return summary
        return _merged(run, root, results)


def _is_used(root: Root) -> bool:
    return any(map(root.exists, (JOURNAL, *OUTPUT_NAMES))) or any(map(shard_of_name, root.names()))


def _prepared(
    config: RunConfig, inputs: Inputs, root: Root, listener: RunListener, invocation: Invocation, mirror: Mirror | None
) -> _Run:
    """The run, with the shards and what they have to do. Raises SettingsError if the folder holds a run with other settings."""
    timer = StageTimer()
    timer.add("find", invocation.seconds())
    labels = None
    if config.class_from is not None:
        from camcli.pipeline.true_labels import true_labels

        labels = true_labels(config.class_from, inputs.sources)
    shards = divide(inputs.sources, count_shards(root, len(inputs.sources), config.images_per_shard), labels)
    first = next((shard for shard in shards if root.is_folder(shard.name)), None)
    if first is not None:
        config = with_former_defaults(config, recorded_settings(root.path, (first.index, first.count), overwrite=config.overwrite))
    settings = run_settings(config, inputs.root)
    header = None if config.overwrite else read_header(root)
    if header is not None:
        check_settings(root.path, header, settings)
    with timer.work("find"):
        states = check_shards(shards, config, settings)
    record = read_record(root)
    was_merged = record.get("state") == "finished" and part_of(record, "this_run").get("parts") == len(shards)
    return _Run(config, settings, shards, states, was_merged, listener, invocation, mirror, timer)


def _explained(run: _Run, root: Root, stop: AbstractContextManager[threading.Event]) -> tuple[list[ShardResult], bool]:
    """The results of the shards that had something to do, and whether the run was interrupted before all were done.

    Raises the error of a worker that ends the run, and RunError if a shard is not finished.
    """
    config, listener, todo = run.config, run.listener, run.todo
    done = len(run.shards) - len(todo)
    before = f", {done:,} of them done before" if done else ""
    listener.info(f"{count_words(len(run.shards), 'shard')}{before}.")
    with connected(config.address), _marked(run, root) as mark:
        workers = find_workers(config)
        config = _worker_config(config, workers)
        if run.mirror is not None:
            config = replace(config, output=run.mirror.folder.address)
        images = sum(state.todo for state in run.states)
        sources = (source for shard in run.shards for source in shard.sources)
        plan = Plan(config, run.settings, os.getcwd(), mark, images, sample_of(sources))
        with run.timer.work("load"):
            check_nodes(plan, workers)
        count = min(workers.count, len(todo))
        listener.info(f"{count_words(count, 'worker')} with {_resources_in_words(workers)} each on the Ray cluster.")
        with coordinator() as handle, stop as event:
            _begin(run, root)
            collected = _Collected(run)
            with run.timer.work("network"):
                shards = Shards(todo, plan, workers, handle, collected.add)
                _follow(run, shards, handle, collected, event)
    collected.raise_error()
    finished = {result.index for result in collected.results if result.state != "interrupted"}
    if event.is_set() and any(shard.index not in finished for shard in todo):
        return collected.results, True
    if run.mirror is not None:
        run.mirror.update()
    _refuse_unfinished(run, collected.results, shards.error)
    return collected.results, False


@contextlib.contextmanager
def _marked(run: _Run, root: Root) -> Iterator[str]:
    """Context in which the output has a mark that the workers look for. Yields the contents of the mark."""
    mark = secrets.token_hex(16)
    if run.mirror is None:
        root.write(CLUSTER, mark.encode("ascii"))
        try:
            yield mark
        finally:
            root.remove(CLUSTER)
        return
    if run.mirror.has_mark:
        run.listener.warn(
            f"{escape_name(run.place)} has the mark of a run that was killed or still goes on. Two runs at the same time spoil "
            "each other there: make sure that it has ended."
        )
    run.mirror.folder.write_bytes(CLUSTER, mark.encode("ascii"))
    try:
        yield mark
    finally:
        with contextlib.suppress(OutputError):
            run.mirror.folder.remove(CLUSTER)


def _worker_config(config: RunConfig, workers: Workers) -> RunConfig:
    """``config`` for workers: device, threads and processes are given, because they do not have a machine of their own."""
    return replace(
        config,
        device="cuda" if workers.gpus else "cpu",
        threads=config.threads or workers.cpus,
        workers=workers.cpus if config.workers is None else config.workers,
        log_file=None,
    )


def _resources_in_words(workers: Workers) -> str:
    cores = count_words(workers.cpus, "CPU core")
    return f"{cores} and {workers.gpus:g} GPU" if workers.gpus else cores


def _begin(run: _Run, root: Root) -> None:
    """Remove the record of the merged run: it states that everything is merged, and that all failures were reported.

    With ``overwrite``, remove the merged run itself; the workers remove the shards. In a store, the shards no longer count.
    """
    if run.mirror is not None:
        run.mirror.forget_merged()
        if run.config.overwrite:
            run.mirror.forget_shards()
    if run.config.overwrite and root.exists(JOURNAL):
        with contextlib.ExitStack() as stack:
            folder = OutputFolder(root.path, run.settings, overwrite=True)
            stack.push(folder)  # only its end: the folder is locked already
            folder.begin([])
    root.remove(RUN_RECORD)


@dataclass
class _Collected:
    """The results of shards, as they come from another thread."""

    run: _Run
    results: list[ShardResult] = field(default_factory=list)
    told: int = 0
    seen: set[str] = field(default_factory=set)

    def add(self, result: ShardResult) -> None:
        """Take a result."""
        self.results.append(result)

    def tell(self) -> None:
        """Send the messages and failures of new results to the listener; each message only once."""
        while self.told < len(self.results):
            result = self.results[self.told]
            self.told += 1
            for is_warning, text in result.messages:
                if text not in self.seen:
                    self.seen.add(text)
                    (self.run.listener.warn if is_warning else self.run.listener.info)(text)
            for failure in result.failures:
                self.run.listener.failed(failure)

    @property
    def has_error(self) -> bool:
        """Whether a shard met something that ends the run."""
        return any(result.state == "error" for result in self.results)

    def raise_error(self) -> None:
        """Raise the first error that ends the run, if there is one."""
        for result in self.results:
            if result.state == "error" and result.error is not None:
                raise result.error


def _follow(run: _Run, shards: Shards, handle: CoordinatorHandle, collected: _Collected, stop: threading.Event) -> None:
    """Report the progress until all shards are done. After ``stop``, or an error, let the workers finish what is in progress."""
    todo = {shard.index: state.todo for shard, state in zip(run.shards, run.states, strict=True) if not state.is_done}
    total, begun = sum(todo.values()), time.monotonic()
    is_waiting = False
    while True:
        ended = shards.ended.wait(_POLL)
        collected.tell()
        try:
            if (stop.is_set() or collected.has_error) and not handle.call("stop"):
                shards.ended.wait(_LAST_RESULTS)  # the shards that have not begun may wait for a worker for ever
                collected.tell()
                return
            progress: Mapping[int, tuple[int, int]] = handle.call("progress")
            if not is_waiting and time.monotonic() - begun > _LONG_WAIT:
                is_waiting = True
                if not handle.call("has_begun"):
                    run.listener.info("Waiting for the Ray cluster: other jobs may use its resources; see ray status.")
        except Exception as error:
            if shards.ended.wait(_POLL):
                return
            raise RunError(f"the Ray cluster does not answer any more: {first_line(error)}") from error
        done = sum(max(0, todo[index] - left) for index, (left, _) in progress.items())
        failed = sum(failed for _, failed in progress.values())
        finished = sum(result.state == "finished" for result in collected.results)
        note = f"{finished:,} of {count_words(len(todo), 'shard')}" + (f", {failed:,} failed" if failed else "")
        run.listener.progress(done, total, note)
        if ended:
            return


def _refuse_unfinished(run: _Run, results: Sequence[ShardResult], error: BaseException | None) -> None:
    """Raise RunError if a shard is not finished. What the folders hold decides, not what Ray has returned."""
    reasons = {result.index: str(result.error) for result in results if result.error is not None}
    missing = [shard for shard in run.todo if shard.index in reasons or not is_finished(run.config.output, shard)]
    if not missing:
        return
    words = "; ".join(f"{shard.name}: {reasons.get(shard.index, 'its workers were lost')}" for shard in missing[:_MOST_NAMED])
    more = f"; and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    cause = f" Ray: {first_line(error)}." if error is not None else ""
    raise RunError(
        f"{count_words(len(missing), 'shard')} of {len(run.shards)} could not be finished ({words}{more}).{cause} All others are "
        "kept; run the same command again to resume."
    )


def _summary(run: _Run, results: Sequence[ShardResult], state: str, report: Report | None = None) -> RunSummary:
    """The summary of the run: what the shards say, and for the others what was there before."""
    by_index = {result.index: result for result in results if result.explained or result.failed or result.state == "finished"}
    counts = Counts()
    explained = failed = 0
    for shard, before in zip(run.shards, run.states, strict=True):
        result = by_index.get(shard.index)
        explained += before.explained if result is None else result.explained
        failed += before.failed if result is None else result.failed
        if result is not None:
            _add_counts(counts, result, before)
    images = sum(len(shard.sources) for shard in run.shards)
    new = sum(result.new_failures for result in results)
    pending = max(0, images - explained - failed) if state != "finished" else 0
    seconds = run.invocation.seconds()
    return RunSummary(run.place, state, explained, failed, pending, new, seconds, counts, run.timer, report)


def _add_counts(counts: Counts, result: ShardResult, before: ShardState) -> None:
    """Add the counts of a shard. A worker that replaced a dead one has not counted the images of the dead one."""
    found = result.counts
    counts.explained += max(found.explained, result.explained - before.explained)
    counts.failed += max(found.failed, result.failed - before.failed)
    for name in ("empty_maps", "nonfinite_maps", "labelled", "correct"):
        setattr(counts, name, getattr(counts, name) + getattr(found, name))
    for name, number in found.top_classes.items():
        counts.top_classes[name] = counts.top_classes.get(name, 0) + number


def _merged(run: _Run, root: Root, results: list[ShardResult]) -> RunSummary:
    """Merge the shards, unless that was done and nothing has changed since, and write the report. Returns the summary."""
    listener = run.listener
    if not results and run.was_merged:
        explained = sum(state.explained for state in run.states)
        listener.info(f"Nothing to do: {count_words(explained, 'image')} already explained in {escape_name(run.place)}.")
        return _summary(run, results, "finished", _report(run, root))
    with run.timer.work("finish"):
        merge_shards(root.path)
        if run.mirror is not None:
            run.mirror.write_merged()
    summary = _summary(run, results, "finished")
    if not run.was_merged:
        summary = replace(summary, new_failures=summary.failed)
    listener.summary(summary)
    with run.timer.work("report"):
        report = _report(run, root)
    return replace(summary, report=report, seconds=run.invocation.seconds())


def _report(run: _Run, root: Root) -> Report | None:
    if not run.config.report:
        return None
    with claimed(root, "report", lambda: True):
        return write_report(root)
