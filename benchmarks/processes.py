"""What only a fresh process can show: the time to the first overlay, and the peak of memory."""

from __future__ import annotations

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

# A process of its own between this one and the measured: Linux counts what a child shares with its parent before it becomes
# another program, and this parent holds gigabytes of models.
_PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


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
    """Number of images -> the largest resident set of a run over so many with the bundled model, in MiB.

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
            command = [sys.executable, "-c", _PEAK, *_run_command(inputs, output, device)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            unit = 1 if sys.platform == "darwin" else 1024
            peaks[count] = int(printed.split()[-1]) * unit / 2**20
            say(f"{count} images of {photos.name}: {peaks[count]:.0f} MiB")
    return peaks
