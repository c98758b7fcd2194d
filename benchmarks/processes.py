"""What only a fresh process can show: the time to the first overlay, and the peak of memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median

_IMPORTS = [sys.executable, "-c", "import torch, torchvision, timm"]

_OFTEN = 0.02
"""Seconds between two looks at the memory of a run."""


def _run_command(inputs: Path, output: Path, device: str) -> list[str]:
    return [sys.executable, "-m", "camcli", "run", str(inputs), "-o", str(output), "--device", device, "--quiet"]


def first_overlay(photo: Path, device: str, rounds: int, place: Path) -> dict[str, list[float]]:
    """Seconds of a run over one photo with the bundled model, and of the bare imports, alternating after a warm-up of each."""
    seconds: dict[str, list[float]] = {"one photo": [], "imports": []}
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory(dir=place) as top:
            commands = {"one photo": _run_command(photo, Path(top) / "heatmaps", device), "imports": _IMPORTS}
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, check=True)
                if number:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


def first_overlay_ratio(seconds: dict[str, list[float]]) -> float:
    """The median over the rounds of the run's seconds divided by the imports'."""
    return median(run / bare for run, bare in zip(seconds["one photo"], seconds["imports"], strict=True))


def peak_memory(
    photos: Path, counts: Sequence[int], device: str, place: Path, say: Callable[[str], None] = lambda _: None
) -> dict[int, float]:
    """Number of images -> the peak memory of a run over so many with the bundled model, all its processes together, in MiB.

    The photos are those of the folder ``photos`` under many names: hard links, so that thousands take no room.
    """
    originals = sorted(photos.iterdir())
    peaks: dict[int, float] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(dir=place) as top:
            inputs, output = Path(top) / "photos", Path(top) / "heatmaps"
            inputs.mkdir()
            for number, original in enumerate(islice(cycle(originals), count)):
                os.link(original, inputs / f"{number:06d}.jpg")
            with subprocess.Popen(_run_command(inputs, output, device)) as run:
                while run.poll() is None:
                    peaks[count] = max(peaks.get(count, 0.0), _memory(run.pid) / 2**20)
                    time.sleep(_OFTEN)
            if run.returncode:
                raise subprocess.CalledProcessError(run.returncode, run.args)
            say(f"{count} images of {photos.name}: {peaks[count]:.0f} MiB")
    return peaks


def _memory(pid: int) -> int:
    """The memory of a process and of those that it has started, in bytes; what they share counts once."""
    total = _own_pages(pid, shared=True)
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(place.read_text().rpartition(")")[2].split()[1]) == pid:
                total += _own_pages(int(place.parent.name), shared=False)
    return total


def _own_pages(pid: int, *, shared: bool) -> int:
    kinds = ("RssAnon:", "RssShmem:") if shared else ("RssAnon:",)
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(kinds))
    return 0
