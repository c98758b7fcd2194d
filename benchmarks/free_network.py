"""What the steps around the network cost: a run with a network that costs nothing, against the bare chain of the same steps.

    python -m benchmarks.free_network bare FOLDER            prints JSON
    python -m benchmarks.free_network run PLACE WORKERS      prints JSON; PLACE: a folder, a tar or a zip

Each is a process of its own. The bare chain is what anyone would write for one photo after another, in one thread: read, decode,
resize, normalize, enlarge a map, colour, blend, encode, write.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_WARM = 0.1
"""Fraction of the photos that are explained before the clocks start."""

WORKERS = (0, 1, 2)


def free_network_module() -> Any:
    """A network of three small layers; about 0.1 million multiplications an image."""
    import torch
    from torch import nn

    from camcli.records import Preprocess

    class FreeNetwork(nn.Module):
        preprocess = Preprocess()

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.cells = nn.Conv2d(3, 8, 32, stride=32)
            self.relu = nn.ReLU()
            self.head = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.head(self.relu(self.cells(x)).mean((2, 3)))
            return scores

    return FreeNetwork()


def measured(photos: Path, rounds: int) -> dict[str, dict[str, float]]:
    """``bare``, and a run for each number of WORKERS, alternating: medians of images a second and of milliseconds of CPU an image.

    ``cpu_ms``: of all processes; ``main_ms``: of the main process, including ``network_ms``, the network's part; ``ratio`` and
    ``cpu_ratio``: images a second and CPU time against the bare chain of the same round.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        bare = _process("bare", str(photos))
        found.setdefault("bare", []).append(bare)
        for workers in WORKERS:
            run = _process("run", str(photos), str(workers))
            run["ratio"], run["cpu_ratio"] = run["rate"] / bare["rate"], run["cpu_ms"] / bare["cpu_ms"]
            found.setdefault(f"workers {workers}", []).append(run)
    return {name: {key: median(one[key] for one in runs) for key in runs[0]} for name, runs in found.items()}


def archives(photos: Path, rounds: int) -> dict[str, dict[str, float]]:
    """A run with two workers over ``photos`` as a folder, tar, zip and compressed tar, alternating: medians as in ``measured``.

    ``ratio`` and ``cpu_ratio``: seconds and CPU time an image against the folder of the same round.
    """
    import shutil

    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as top:
        packed = [shutil.make_archive(f"{top}/photos", kind, photos) for kind in ("tar", "zip", "gztar")]
        for _ in range(rounds):
            folder = _process("run", str(photos), "2")
            found.setdefault("folder", []).append({**folder, "ratio": 1.0, "cpu_ratio": 1.0})
            for place in packed:
                run = _process("run", place, "2")
                run["ratio"], run["cpu_ratio"] = folder["rate"] / run["rate"], run["cpu_ms"] / folder["cpu_ms"]
                found.setdefault(Path(place).name.removeprefix("photos."), []).append(run)
    return {name: {key: median(one[key] for one in runs) for key in runs[0]} for name, runs in found.items()}


def archives_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: the measurements of ``archives``."""
    lines = ["| photos in | images a second | time, x folder | CPU, ms an image | x folder |", "| --- | --: | --: | --: | --: |"]
    for name, row in found.items():
        numbers = [f"{row['rate']:.0f}", f"{row['ratio']:.2f}", f"{row['cpu_ms']:.2f}", f"{row['cpu_ratio']:.2f}"]
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _process(*arguments: str) -> dict[str, float]:
    environment = {**os.environ, **(_ONE_THREAD if arguments[0] == "bare" else {})}
    command = [sys.executable, "-m", "benchmarks.free_network", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _bare(photos: Sequence[Path]) -> dict[str, float]:
    import cv2
    import numpy as np
    from PIL import Image

    from camcli.images.geometry import input_window
    from camcli.records import Preprocess

    cv2.setNumThreads(1)
    values = np.random.default_rng(0).random((7, 7), np.float32)
    mean, std = np.array(Preprocess().mean, np.float32), np.array(Preprocess().std, np.float32)
    warm = int(_WARM * len(photos))
    with tempfile.TemporaryDirectory() as top:
        clocks = (0.0, 0.0)
        for number, photo in enumerate(photos):
            if number == warm:
                clocks = time.perf_counter(), time.process_time()
            pixels = cv2.imdecode(np.frombuffer(photo.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
            assert pixels is not None
            view = input_window((pixels.shape[1], pixels.shape[0]), Preprocess(), "crop")
            small = np.asarray(Image.fromarray(pixels).resize(view.resized, Image.Resampling.BILINEAR))
            cut = small[view.top : view.top + view.window[1], view.left : view.left + view.window[0]]
            _ = (cut.astype(np.float32) / np.float32(255) - mean) / std
            seen = view.pixels
            heat = cv2.resize(values, (seen.w, seen.h), interpolation=cv2.INTER_LINEAR)
            colors = cv2.applyColorMap(cv2.convertScaleAbs(heat, alpha=255), cv2.COLORMAP_TURBO)
            picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            region = picture[seen.y : seen.y + seen.h, seen.x : seen.x + seen.w]
            region[:] = cv2.addWeighted(region, 0.5, colors, 0.5, 0)
            _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
            Path(top, f"{photo.name}.jpg").write_bytes(data.tobytes())
        return _rates(clocks, (time.perf_counter(), time.process_time()), len(photos) - warm)


def _rates(first: tuple[float, float], last: tuple[float, float], images: int) -> dict[str, float]:
    return {"rate": images / (last[0] - first[0]), "cpu_ms": 1000 * (last[1] - first[1]) / images}


def _run(place: str, count: int, workers: int) -> dict[str, float]:
    """A run over ``place`` with ``count`` photos as the command does it, measured from the first photos to the last."""
    from camcli.resources import keep_memory, wait_without_spinning

    keep_memory()
    wait_without_spinning()
    import camcli
    from camcli.pipeline.engine import Engine
    from camcli.pipeline.summary import SilentRunListener
    from camcli.records import Success

    warm, ticks = int(_WARM * count), os.sysconf("SC_CLK_TCK")
    clocks: list[tuple[float, float, float, float]] = []
    in_network = [0.0]

    def children() -> float:
        seconds = 0.0
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                words = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[1]) == os.getpid():
                seconds += (int(words[11]) + int(words[12])) / ticks
        return seconds

    def timed(name: str) -> None:
        real = getattr(Engine, name)

        def method(*arguments: Any) -> Any:
            started = time.process_time()
            try:
                return real(*arguments)
            finally:
                in_network[0] += time.process_time() - started

        setattr(Engine, name, method)

    class Clock(SilentRunListener):
        def __init__(self) -> None:
            self.done = 0

        def explained(self, outcome: Success) -> None:
            self.done += 1
            if self.done in (warm, count - 1):
                clocks.append((time.perf_counter(), time.process_time(), children(), in_network[0]))

    timed("explain")
    with tempfile.TemporaryDirectory() as top:
        camcli.run(
            [place],
            output=os.path.join(top, "heatmaps"),
            model="benchmarks.free_network:free_network_module",
            workers=workers,
            listener=Clock(),
        )
    (wall, main, rest, network), last = clocks
    images = count - 1 - warm
    found = _rates((wall, main + rest), (last[0], last[1] + last[2]), images)
    return {**found, "main_ms": 1000 * (last[1] - main) / images, "network_ms": 1000 * (last[3] - network) / images}


def latency(photos: Path, count: int) -> list[float]:
    """Seconds from the writing of a path to stdin until its row has come, for ``count`` paths, after loading."""
    with tempfile.TemporaryDirectory() as top:
        command = [sys.executable, "-m", "camcli", "run", "-", "-o", os.path.join(top, "heatmaps"), "--quiet", "--csv", "-"]
        command += ["--model", "benchmarks.free_network:free_network_module"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            seconds: list[float] = []
            for photo in sorted(photos.iterdir())[: count + 1]:
                started = time.perf_counter()
                run.stdin.write(f"{photo}\n".encode())
                run.stdin.flush()
                while photo.name.encode() not in run.stdout.readline():
                    pass
                seconds.append(time.perf_counter() - started)
                time.sleep(0.5)
            run.stdin.close()
    return seconds[1:]  # the first one waits for the model


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown: the measurements of each kind of photo."""
    lines = [
        "| a network that costs nothing | images a second | x bare chain | CPU, ms an image | x bare chain | main process, ms | "
        "network, ms |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for kind, rows in found.items():
        for name, row in rows.items():
            numbers = [f"{row['rate']:.0f}", f"{row.get('ratio', 1):.2f}", f"{row['cpu_ms']:.2f}", f"{row.get('cpu_ratio', 1):.2f}"]
            numbers += [f"{row['main_ms'] - row['network_ms']:.2f}", f"{row['network_ms']:.2f}"] if "main_ms" in row else ["", ""]
            lines.append(f"| {kind}, {name} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def arithmetic(row: Mapping[str, float], cores: int = 16) -> str:
    """How many images a second ``cores`` cores could take beside a GPU, from the measurements of a run."""
    main = row["main_ms"] - row["network_ms"]
    each = row["cpu_ms"] - row["main_ms"]
    rate = min(1000 / main, 1000 * (cores - 1) / each)
    return (
        f"{cores} cores beside a GPU: the main process takes {main:.2f} ms an image, so at most {1000 / main:,.0f} a second; "
        f"{cores - 1} workers take {each:.2f} ms an image, so {1000 * (cores - 1) / each:,.0f} a second; together {rate:,.0f}."
    )


def main() -> None:
    """Measure once in this process, and print JSON."""
    kind, place, *rest = sys.argv[1:]
    if kind == "bare":
        print(json.dumps(_bare(sorted(Path(place).iterdir()))))
    else:
        from camcli.images.discover import Search, discover_sources

        print(json.dumps(_run(place, len(discover_sources([place], Search("heatmaps"))), int(rest[0]))))


if __name__ == "__main__":
    main()
