"""The Ray cluster: connecting to it, its resources, and running the workers. The only module that knows Ray Data."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camcli.config.run import RunConfig
from camcli.distributed.coordinator import Coordinator, CoordinatorHandle
from camcli.distributed.plan import Plan, what_is_missing
from camcli.distributed.shards import Shard
from camcli.errors import ConfigError, RunError, first_line

_PROBE_SECONDS = 5.0
"""Seconds that the address of a cluster has for an answer."""

_NODE_SECONDS = 300.0
"""Seconds that a node has to start a process and to import camcli."""

_CPUS = 4
"""CPU cores of one worker without a GPU, if the nodes have as many."""

_DEFAULT_PORT = 6379


@dataclass(frozen=True)
class Workers:
    """The workers that fit on the cluster. ``count``: how many; ``cpus`` and ``gpus``: of each."""

    count: int
    cpus: int
    gpus: float


def require_ray() -> None:
    """Raise ConfigError if Ray Data is not installed."""
    try:
        importlib.import_module("ray")
        importlib.import_module("pyarrow")
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}): pip install 'camcli[ray]'") from error


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Context in which this process is connected to the cluster at ``address``: ``auto`` or HOST:PORT. Ray prints nothing.

    Raises ConfigError for an impossible address, and RunError if no cluster answers.
    """
    import ray
    import ray.data  # its import decides where it logs to

    place = _found_address(address)
    _refuse_silent_address(place)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    in_main_thread = threading.current_thread() is threading.main_thread()
    _silence()
    try:
        try:
            ray.init(address=place, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=True)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            raise RunError(f"cannot join the Ray cluster at {place}: {first_line(error, with_type=False)}") from error
        finally:
            if in_main_thread:  # Ray replaces them
                for number, handler in before.items():
                    signal.signal(number, handler)
        _silence()
        yield
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def _found_address(address: str) -> str:
    """``address`` as HOST:PORT; for ``auto``, that of the cluster of this machine."""
    if address == "auto":
        found = os.environ.get("RAY_ADDRESS") or ""
        if found in ("", "auto"):
            from ray._private.utils import read_ray_address

            found = read_ray_address() or ""
        if not found:
            raise RunError(
                "no Ray cluster runs on this machine. Start one with ray start --head, join one with ray start --address "
                "HOST:PORT, or name one with --address."
            )
        address = found
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon:
        raise ConfigError(f"--address {address!r} must have the form HOST:PORT, such as 10.0.0.1:{_DEFAULT_PORT}.")
    if not port.isdecimal() or not host or not 0 < int(port) < 65536:
        raise ConfigError(f"--address {address!r} must have the form HOST:PORT, such as 10.0.0.1:{_DEFAULT_PORT}.")
    return address


def _refuse_silent_address(place: str) -> None:
    """Raise RunError if nothing answers at ``place``. Ray itself would try for minutes."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS).close()
    except OSError as error:
        raise RunError(
            f"no Ray cluster answers at {place} ({error.strerror or error}). Check the address with ray status on its first node."
        ) from error


def _silence() -> None:
    """Let Ray print nothing: camcli says what is to be said. Ray's own log files keep their messages."""
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
        logger.addHandler(logging.NullHandler())  # without any handler, Python prints warnings
        logger.propagate = False
    with contextlib.suppress(ImportError, AttributeError):  # messages of Ray's services, about workers that died
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

        for name, _ in list(dispatcher.handlers):
            dispatcher.remove_handler(name)
    with contextlib.suppress(ImportError, AttributeError):
        from ray._private import worker

        worker.print_to_stdstream = lambda *_, **__: None


def find_workers(config: RunConfig) -> Workers:
    """The workers that the nodes of the cluster have room for. Raises RunError if there is none."""
    import ray

    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 0.0 if config.device == "cpu" else 1.0
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return fitting_workers([(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in nodes], gpus, config.cpus_per_worker)


def fitting_workers(nodes: Sequence[tuple[int, float]], gpus: float, cpus: int | None) -> Workers:
    """The workers with ``gpus`` GPUs and ``cpus`` cores each that fit on ``nodes``, given as (cores, GPUs).

    ``cpus`` None: with GPUs as many as all nodes have for each worker, otherwise four or all cores of the smallest node. Raises
    RunError if no worker fits.
    """
    if gpus:
        usable = [(cores, math.floor(found / gpus + 1e-6)) for cores, found in nodes if found >= gpus]
        if not usable:
            raise RunError(
                f"no node of the Ray cluster has {'a GPU' if gpus == 1 else f'{gpus:g} GPUs'} ({_in_words(nodes)}). To run on "
                "CPUs: --gpus-per-worker 0."
            )
        each = cpus or max(1, min(cores // count for cores, count in usable))
        fit = sum(min(count, cores // each) for cores, count in usable)
    else:
        with_cores = [cores for cores, _ in nodes if cores]
        each = cpus or min([_CPUS, *with_cores])
        fit = sum(cores // each for cores in with_cores)
    if not fit:
        raise RunError(f"no node of the Ray cluster has {each} CPU cores for a worker ({_in_words(nodes)}): use --cpus-per-worker.")
    return Workers(fit, each, gpus)


def _in_words(nodes: Sequence[tuple[int, float]]) -> str:
    cores, gpus = sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {cores} CPU cores, {gpus:g} GPUs"


def check_nodes(plan: Plan, workers: Workers) -> None:
    """Raise RunError if a node that can hold workers does not see the files of the run, or has another camcli."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    data = pickle.dumps(plan)
    asked: dict[Any, str] = {}
    for node in ray.nodes():
        resources = node["Resources"]
        if node["Alive"] and resources.get("CPU", 0) >= workers.cpus and resources.get("GPU", 0) >= workers.gpus:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(_probe).options(num_cpus=0, max_retries=1, scheduling_strategy=there)
            asked[task.remote(data)] = str(node["NodeManagerAddress"])
    _, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=_NODE_SECONDS)
    if waiting:
        raise RunError(f"the node {asked[waiting[0]]} of the Ray cluster does not answer.")
    for answer, name in asked.items():
        try:
            missing = ray.get(answer)
        except Exception as error:  # every error of a library on that node, and those of Ray
            raise RunError(f"the node {name} cannot run camcli: {_cause(error)}. Install the same camcli on all nodes.") from error
        if missing:
            raise RunError(f"the node {name} {missing}.")


def _probe(plan: bytes) -> str:
    """Runs on a node: why it cannot explain images for the pickled ``plan``."""
    return what_is_missing(pickle.loads(plan), is_start=True)


def _cause(error: BaseException) -> str:
    """The last line of an error of a task, which names its cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


@contextlib.contextmanager
def coordinator() -> Iterator[CoordinatorHandle]:
    """Context in which a Coordinator runs on the node of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(Coordinator).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=1, scheduling_strategy=here
    )
    handle = actor.remote()
    try:
        yield CoordinatorHandle(handle)
    finally:
        with contextlib.suppress(Exception):
            ray.kill(handle)


class Shards:
    """The shards of a run while workers explain them. A thread passes each result to ``on_result``.

    ``ended``: set when all are done, or when nothing more will come. ``error``: what ended them early, if anything did.
    """

    def __init__(
        self, shards: Sequence[Shard], plan: Plan, workers: Workers, handle: CoordinatorHandle, on_result: Callable[[Any], None]
    ) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._arguments = (shards, plan, workers, handle)
        self._on_result = on_result
        self._thread = threading.Thread(target=self._collect, name="camcli-ray", daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        try:
            for row in _results(*self._arguments):
                self._on_result(pickle.loads(row["result"]))
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


def _results(shards: Sequence[Shard], plan: Plan, workers: Workers, handle: CoordinatorHandle) -> Iterator[Mapping[str, Any]]:
    """Yield a row for each shard when it is done. One that Ray has lost has no row."""
    import ray.data

    from camcli.distributed.worker import ShardWorker

    context = ray.data.DataContext.get_current()
    for name, value in _SETTINGS.items():
        if hasattr(context, name):
            setattr(context, name, value)
    rows = [{"shard": pickle.dumps(shard)} for shard in shards]
    count = min(workers.count, len(rows))
    explained = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ShardWorker,
        fn_constructor_args=(pickle.dumps(plan), handle.actor),
        batch_size=1,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count, max_tasks_in_flight_per_actor=1),
    )
    yield from explained.iter_rows()


_SETTINGS = {
    "enable_progress_bars": False,
    "enable_operator_progress_bars": False,
    "enable_rich_progress_bars": False,
    "print_on_execution_start": False,
    "max_errored_blocks": -1,  # a shard that is lost does not end the others; it is missed on disk at the end
    "execution_no_progress_timeout_s": -1,  # a shard may take hours
}
"""Settings of Ray Data, as far as the installed version has them."""
