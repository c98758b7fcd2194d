"""The stages of a run, and the seconds that each worked and waited."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

_IN_TURN = ("find", "load", "network", "record", "finish", "report")
"""What the run's own thread does, one after the other. With what it waits for they are all of a run's time."""

_MEANWHILE = ("read", "decode", "prepare", "render", "write")
"""What other threads do in the meantime, in the order in which an image passes them."""

_AWAITED = ("images", "overlays")
"""What the run's own thread waits for."""

STAGES = (*_IN_TURN, *_MEANWHILE)

_STARVING = 0.25
"""The part of a run's time that the network may wait before a hint is given."""


class StageTimer:
    """A clock for each stage, safe to use from many threads. Those that are not of the run's own thread run in several at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worked: dict[str, float] = defaultdict(float)
        self._waited: dict[str, float] = defaultdict(float)

    def work(self, stage: str) -> AbstractContextManager[None]:
        """Time during which ``stage`` works."""
        return self._timed(self._worked, stage)

    def wait(self, what: str) -> AbstractContextManager[None]:
        """Time during which the network waits: for ``images`` that are not read yet, or ``overlays`` that are not written."""
        return self._timed(self._waited, what)

    def add(self, stage: str, seconds: float) -> None:
        """Count ``seconds`` that ``stage`` has worked."""
        with self._lock:
            self._worked[stage] += seconds

    def in_turn(self, seconds: float) -> dict[str, float]:
        """Where the ``seconds`` of a run went, one thing after the other; ``other`` is the rest of them."""
        with self._lock:
            own = {stage: self._worked[stage] for stage in _IN_TURN}
            own |= {f"wait for {what}": self._waited[what] for what in _AWAITED}
        return own | {"other": max(0.0, seconds - sum(own.values()))}

    def meanwhile(self) -> dict[str, float]:
        """Seconds that the stages of other threads worked, summed over these."""
        with self._lock:
            return {stage: self._worked[stage] for stage in _MEANWHILE}

    def seconds(self) -> dict[str, float]:
        """Seconds that each stage worked, summed over its threads, and that the network waited for images and for overlays."""
        with self._lock:
            worked = {stage: round(self._worked[stage], 3) for stage in STAGES}
            return worked | {f"wait for {what}": round(self._waited[what], 3) for what in _AWAITED}

    def hint(self, seconds: float) -> str:
        """What would make a run of ``seconds`` faster, where a stage keeps the network waiting; else nothing."""
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
        return f"The network waited {max(images, overlays):.0%} of the time for {what}, most of it {why}: {cure}."

    @contextmanager
    def _timed(self, sums: dict[str, float], key: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - started
            with self._lock:
                sums[key] += taken
