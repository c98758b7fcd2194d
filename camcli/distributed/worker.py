"""A worker: a Ray actor that loads the model once and explains one shard after another, each as an ordinary run."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from camcli.addresses import is_address
from camcli.config.run import RunConfig
from camcli.distributed.coordinator import GIVE_UP, GO, CoordinatorHandle
from camcli.distributed.plan import Plan, sample_of, what_is_missing
from camcli.distributed.results import ShardResult
from camcli.distributed.scratch import scratch_folder
from camcli.distributed.shards import Shard, shard_config
from camcli.distributed.stored import fetch_run, set_output, write_run
from camcli.errors import CamcliError, ImageError, InUseError, OutputError, RunError, first_line
from camcli.images.remote.folder import output_at
from camcli.images.remote.store import NotThereError, RefusedError
from camcli.layout import JOURNAL
from camcli.output.root import Root
from camcli.pipeline.inputs import Inputs
from camcli.pipeline.invocation import Invocation
from camcli.pipeline.runner import Prepared, announce, run_images
from camcli.pipeline.summary import RunSummary, SilentRunListener
from camcli.records import Failure, Success
from camcli.resources import keep_memory, wait_without_spinning

if TYPE_CHECKING:
    from camcli.pipeline.job import Job

_EVERY = 1.0
"""Seconds between two reports to the coordinator, and so the time until a worker learns that it is to stop."""

_LONGEST_LOCKED = 60.0
"""Seconds to wait for the lock of a shard whose last worker is not quite gone."""


_UPLOADS, _BETWEEN_UPLOADS = 5, 60.0
"""How often a shard is written to a store that does not answer, beside the tries of each object, and the seconds in between."""


class ShardWorker:
    """The class that Ray Data starts as actors. ``plan``: a pickled Plan. ``coordinator``: the Ray handle of the Coordinator.

    Nothing here fails at the start, because Ray would try that again for ever; what is wrong becomes a ShardResult.
    """

    def __init__(self, plan: bytes, coordinator: Any) -> None:
        self._plan: Plan = pickle.loads(plan)
        self._coordinator = CoordinatorHandle(coordinator)
        self._messages: list[tuple[bool, str]] = []
        self._job: Job | None = None
        self._is_checked = False
        keep_memory()
        wait_without_spinning()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Explain the shard that is pickled in the only row of ``batch``. Returns a row with the pickled ShardResult."""
        shard: Shard = pickle.loads(batch["shard"][0])
        try:
            result = self._explain(shard)
        except InUseError as error:
            result = ShardResult(shard.index, "given up", error=error)
        except CamcliError as error:
            result = ShardResult(shard.index, "given up" if _may_pass(error) else "error", error=error)
        except Exception as error:
            # the state of the process is unknown now: after an error of CUDA no shard would succeed; Ray starts another one
            with contextlib.suppress(Exception):
                text = f"{first_line(error)} ({_last_place(error)})"
                self._coordinator.call("dying", shard.index, text)
            os._exit(1)
        messages, self._messages = tuple(self._messages), []
        return {"result": [pickle.dumps(replace(result, messages=messages))]}

    def _explain(self, shard: Shard) -> ShardResult:
        """Explain ``shard`` if the coordinator allows it."""
        plan = self._plan
        if not self._is_checked:
            missing = what_is_missing(plan, is_start=False)
            if missing:
                raise RunError(f"the node {node_name()} {missing}.")
            self._is_checked = True
        if shard.sources and plan.sample.size is not None and sample_of(shard.sources).size is None:
            raise RunError(f"the node {node_name()} sees none of the images of {shard.name}.")
        is_stored = is_address(plan.config.output)
        recorded = 0 if is_stored else _recorded(plan.config.output, shard)
        permission = self._coordinator.call("begin", shard.index, recorded)
        if permission.answer == GIVE_UP:
            why = f": {permission.reason}" if permission.reason else ""
            return ShardResult(shard.index, "given up", error=RunError(f"its workers died again and again{why}"))
        if permission.answer != GO:
            return ShardResult(shard.index, "interrupted")
        listener = _Listener()
        with self._reporting(shard, listener) as stop:
            if is_stored:
                summary = self._run_to_store(shard, permission.number, listener, stop)
                if summary is None:
                    return ShardResult(shard.index, "interrupted")
            else:
                config = replace(shard_config(plan.config, shard), overwrite=plan.config.overwrite and permission.is_first)
                summary = self._run(config, shard, listener, stop)
        return ShardResult(
            shard.index,
            summary.state,
            summary.explained,
            summary.failed,
            summary.new_failures,
            summary.counts,
            tuple(listener.failures),
        )

    def _run_to_store(self, shard: Shard, number: int, listener: _Listener, stop: threading.Event) -> RunSummary | None:
        """Run ``shard`` in a temporary folder and write it to the store, whole; None if it was stopped, and nothing was written.

        A shard that is in the store as a whole is continued; ``overwrite`` has already made it one that is not. ``number``: of this
        beginning of the shard.
        """
        output = output_at(self._plan.config.output)
        folder = output.below(shard.name)
        with scratch_folder() as place:
            root = Root(place).below(shard.name)
            fetched = fetch_run(folder, root, dict(folder.files()))
            config = replace(shard_config(self._plan.config, shard), output=place, overwrite=False)
            summary = self._run(config, shard, listener, stop)
            if summary.state != "finished" or not self._coordinator.call("is_last", shard.index, number):
                return None
            set_output(root, output.shown)
            for left in reversed(range(_UPLOADS)):
                try:
                    write_run(root, folder, fetched)
                    break
                except OutputError as error:  # hours of work may be lost here
                    if not left or not _may_pass(error) or stop.wait(_BETWEEN_UPLOADS):
                        raise
        return summary

    def _run(self, config: RunConfig, shard: Shard, listener: _Listener, stop: threading.Event) -> RunSummary:
        """Run ``shard``, and wait while another process still holds its lock: a worker that is dying on a node that was lost."""
        plan = self._plan
        root = str(plan.settings["inputs"])
        prepared = Prepared(self._loaded, plan.settings, shard.labels)
        invocation = Invocation(f"camcli run --engine ray, shard {shard.index} of {shard.count}", [root])
        end = time.monotonic() + _LONGEST_LOCKED
        while True:
            try:
                inputs = Inputs(root, list(shard.sources))
                return run_images(config, inputs, listener, contextlib.nullcontext(stop), invocation=invocation, prepared=prepared)
            except InUseError:
                if time.monotonic() > end or stop.wait(1.0):
                    raise

    def _loaded(self) -> Job:
        """The model, which is loaded by the first shard that has something to do."""
        if self._job is None:
            from camcli.pipeline.job import prepare_job

            config = replace(self._plan.config, class_from=None, topk=self._plan.config.top_count)
            messages = _MessageList(self._messages)
            self._job = prepare_job(config, left=self._plan.images, info=messages.info)
            announce(self._job, messages)
        return self._job

    @contextlib.contextmanager
    def _reporting(self, shard: Shard, listener: _Listener) -> Iterator[threading.Event]:
        """Context in which a thread reports the progress. Yields the event that it sets when the worker is to stop."""
        stop, ended = threading.Event(), threading.Event()

        def report(is_last: bool = False) -> None:
            with contextlib.suppress(Exception):  # a report that is lost is followed by another one
                if self._coordinator.call("report", shard.index, listener.left, len(listener.failures), is_last):
                    stop.set()

        def report_often() -> None:
            while not ended.wait(_EVERY):
                report()

        thread = threading.Thread(target=report_often, name="camcli-report", daemon=True)
        thread.start()
        try:
            yield stop
        finally:
            ended.set()
            thread.join()
            report(is_last=True)


class _MessageList:
    """Collects messages in a list of (whether it is a warning, text)."""

    def __init__(self, messages: list[tuple[bool, str]]) -> None:
        self._messages = messages

    def info(self, text: str) -> None:
        """Keep a message."""
        self._messages.append((False, text))

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self._messages.append((True, text))


class _Listener(SilentRunListener):
    """Counts what is left of a shard, and keeps its failures."""

    def __init__(self) -> None:
        self.left = 0
        self.failures: list[Failure] = []

    def begins(self, todo: int) -> None:
        """Start to count."""
        self.left = todo

    def failed(self, failure: Failure) -> None:
        """Keep a failure."""
        self.left -= 1
        self.failures.append(failure)

    def explained(self, outcome: Success) -> None:
        """Count an image."""
        self.left -= 1


def _may_pass(error: CamcliError) -> bool:
    """Whether ``error`` is that of a store that may answer later."""
    cause = error.__cause__
    return isinstance(error, OutputError) and isinstance(cause, ImageError) and not isinstance(cause, (NotThereError, RefusedError))


def _recorded(output: str, shard: Shard) -> int:
    """How many lines the journal of ``shard`` has, one for each finished image; 0 if there is none."""
    try:
        with Root(output).below(shard.name).open(JOURNAL) as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0


def node_name() -> str:
    """The address of this node."""
    import ray

    return str(ray.util.get_node_ip_address())


def _last_place(error: BaseException) -> str:
    """File and line where ``error`` was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "unknown place"
