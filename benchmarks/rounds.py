"""Variants in turns, each in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from types import TracebackType
from typing import cast

import torch

from benchmarks.variants import BATCH, Subject, Taken, build_variant, peer_agreement
from camcli.resources import available_cores


class Worker:
    """A process that holds one variant and runs it when asked: a context manager, ready when it is entered.

    Not all in one process: memory that one variant has freed spares the next its page faults. On two cores the plain forward pass
    of resnet50 makes 12 to 15 images a second in a process of its own and 24 to 27 after others (torch 2.15, glibc 2.36).
    """

    def __init__(self, subject: Subject, name: str) -> None:
        self.name, self.note = name, ""
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, subject, name), daemon=True)
        self._other = other

    def __enter__(self) -> Worker:
        self._process.start()
        self._other.close()
        self.note = cast(str, self._answer())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()  # which ends its loop
        self._process.join()

    def run(self, count: int) -> Taken:
        """What ``count`` images take. Raises RuntimeError where the process has ended, having said why."""
        self._connection.send(count)
        return cast(Taken, self._answer())

    def _answer(self) -> object:
        try:
            return self._connection.recv()
        except EOFError as error:
            raise RuntimeError(f"{self.name} failed, see above") from error


def _serve(connection: Connection, subject: Subject, name: str) -> None:
    torch.set_num_threads(available_cores())
    variant = build_variant(subject, name, lambda words: print(words, file=sys.stderr, flush=True))
    connection.send(variant.note)
    while True:
        try:
            count = connection.recv()
        except EOFError:
            return
        gc.collect()
        connection.send(variant.run(count))


@dataclass(frozen=True)
class Measured:
    """A variant's images a second, round by round, how many overlays an image it wrote, and how its network ran."""

    rates: list[float]
    overlays: float
    note: str


def measure(subject: Subject, names: Sequence[str], count: int, rounds: int, say: Callable[[str], None]) -> dict[str, Measured]:
    """What each variant takes for ``count`` images, round by round, after a warm-up; each round begins with another one."""
    with ExitStack() as stack:
        workers: list[Worker] = []
        for name in names:
            say(f"preparing: {name}")
            workers.append(stack.enter_context(Worker(subject, name)))
            workers[-1].run(min(count, 2 * BATCH))
        taken: dict[str, list[Taken]] = {name: [] for name in names}
        for number in range(rounds):
            first = number % len(workers)
            for worker in [*workers[first:], *workers[:first]]:
                taken[worker.name].append(worker.run(count))
                rate = count / taken[worker.name][-1].seconds
                say(f"round {number + 1} of {rounds}: {worker.name}, {rate:.1f} images a second")
        return {
            worker.name: Measured(
                [count / run.seconds for run in taken[worker.name]], taken[worker.name][-1].overlays / count, worker.note
            )
            for worker in workers
        }


def agreement(subject: Subject, names: Sequence[str]) -> dict[str, float]:
    """``peer_agreement`` in a process of its own, whose memory is free again afterwards."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peer_agreement, (subject, names))


def ratio(rates: Mapping[str, Sequence[float]], name: str, base: str) -> float | None:
    """The median over the rounds of ``name``'s rate divided by that of ``base`` in the same round; None where one is missing."""
    if not rates.get(name) or not rates.get(base):
        return None
    return median(one / other for one, other in zip(rates[name], rates[base], strict=True))
