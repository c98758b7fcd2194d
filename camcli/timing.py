"""The stages of a run, and a timer that sums up how long each stage worked and waited."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

_IN_TURN = ("find", "load", "network", "record", "finish", "report")
"""Stages of the main process, one after the other. Together with its waiting times they make up the whole time of a run."""

_MEANWHILE = ("read", "decode", "prepare", "render", "write")
"""Stages in worker processes, in the order in which an image passes through them."""

_AWAITED = ("images", "overlays")
"""What the main process waits for."""

STAGES = (*_IN_TURN, *_MEANWHILE)

_STARVING = 0.25
"""A hint is given if the network waited for more than this share of the time."""


class StageTimer:
    """A timer for each stage, thread-safe. The stages of the workers run in several processes at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worked: dict[str, float] = defaultdict(float)
        self._waited: dict[str, float] = defaultdict(float)

    def work(self, stage: str) -> AbstractContextManager[None]:
        """A context whose time is added to the working time of ``stage``."""
        return self._timed(self._worked, stage)

    def wait(self, what: str) -> AbstractContextManager[None]:
        """A context whose time is added to the network's waiting time for ``what``: ``images`` or ``overlays``."""
        return self._timed(self._waited, what)

    def add(self, stage: str, seconds: float) -> None:
        """Add ``seconds`` to the working time of ``stage``."""
        with self._lock:
            self._worked[stage] += seconds

    def add_all(self, worked: Mapping[str, float]) -> None:
        """Add working times of several stages: stage -> seconds."""
        with self._lock:
            for stage, seconds in worked.items():
                self._worked[stage] += seconds

    def drain(self) -> dict[str, float]:
        """The working times so far: stage -> seconds. They begin at zero again."""
        with self._lock:
            drained = dict(self._worked)
            self._worked.clear()
        return drained

    def in_turn(self, seconds: float) -> dict[str, float]:
        """How the ``seconds`` of a run were spent in the main process: each stage, each waiting time, and the rest as ``other``."""
        with self._lock:
            own = {stage: self._worked[stage] for stage in _IN_TURN}
            own |= {f"wait for {what}": self._waited[what] for what in _AWAITED}
        return own | {"other": max(0.0, seconds - sum(own.values()))}

    def meanwhile(self) -> dict[str, float]:
        """Working time in seconds of the stages in worker processes, summed over the processes."""
        with self._lock:
            return {stage: self._worked[stage] for stage in _MEANWHILE}

    def seconds(self) -> dict[str, float]:
        """Working time in seconds of each stage, summed over its processes, and the network's waiting times."""
        with self._lock:
            worked = {stage: round(self._worked[stage], 3) for stage in STAGES}
            return worked | {f"wait for {what}": round(self._waited[what], 3) for what in _AWAITED}

    def hint(self, seconds: float) -> str:
        """Advice on how to make a run of ``seconds`` faster, if the network waited often; otherwise an empty text."""
        with self._lock:
            images, overlays = self._waited["images"] / seconds, self._waited["overlays"] / seconds
            reading = self._worked["read"] > self._worked["decode"] + self._worked["prepare"]
            writing = self._worked["write"] + self._worked["record"] > self._worked["render"]
        if max(images, overlays) < _STARVING:
            return ""
        if images >= overlays:
            what, why = "images", "reading" if reading else "decoding"
            cure = "try more --workers, or a faster disk" if reading else "smaller image files, or more cores, would help"
        else:
            what, why = "overlays", "writing" if writing else "painting"
            cure = "a faster disk would help" if writing else "a lower --topk, or fewer layers and methods, would help"
        return f"The network waited {max(images, overlays):.0%} of the time for {what}, mostly because of {why}: {cure}."

    @contextmanager
    def _timed(self, sums: dict[str, float], key: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - started
            with self._lock:
                sums[key] += taken
