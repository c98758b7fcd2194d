"""What ``--metrics`` costs, in forward passes: ``python -m benchmarks.metrics [--images N] [--rounds R]``.

Runs go from files to files in one process, with the bundled model. Processor time is compared, not the clock, so that other work on
the machine matters little. Runs with and without metrics and bare forward passes take turns; of each the fastest round counts.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import camcli
from camcli.pipeline.job import Job

BATCH = 16
CASES = {
    "drop, increase, gain": (("drop", "increase", "gain"), 1.0, 1.15),
    "deletion, insertion": (("deletion", "insertion"), 39.0, 1.1 * 39),
}
"""Metrics, the passes that they need for each image, and the most that they may cost."""


def forward_seconds(job: Job, images: int) -> float:
    """Processor seconds of one forward pass of one image, in batches of BATCH."""
    inputs = job.network.cast_inputs(torch.randn(BATCH, 3, *job.model.preprocess.crop))
    with torch.no_grad():
        job.network.run(inputs, ())
        started = time.process_time()
        for _ in range(images // BATCH):
            job.network.run(inputs, ())
    return (time.process_time() - started) / images


def run_seconds(photos: Path, metrics: tuple[str, ...]) -> float:
    """Processor seconds of a run over ``photos``, with loading the model."""
    with tempfile.TemporaryDirectory() as place:
        started = time.process_time()
        camcli.run(photos, output=Path(place) / "out", metrics=metrics, batch_size=BATCH, workers=0, threads=1, overlays=False)
        return time.process_time() - started


def fastest(rounds: int, measure: Callable[[], float]) -> float:
    """The least of several measurements."""
    return min(measure() for _ in range(rounds))


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)  # threads that wait for one another take processor time too
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=64)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    samples = sorted(
        path for path in (Path(__file__).parent.parent / "sample_images").rglob("*") if path.suffix in (".png", ".jpg")
    )
    with tempfile.TemporaryDirectory() as place:
        for number in range(given.images):
            source = samples[number % len(samples)]
            shutil.copy(source, Path(place) / f"{number:04}{source.suffix}")
        job = camcli.load()
        forward = fastest(given.rounds, lambda: forward_seconds(job, 4 * BATCH))
        plain = fastest(given.rounds, lambda: run_seconds(Path(place), ()))
        print(f"forward pass {1000 * forward:.1f} ms of processor time an image; {given.images} images")
        for name, (metrics, needed, most) in CASES.items():
            rounds = given.rounds if needed < 10 else 1
            more = (fastest(rounds, lambda metrics=metrics: run_seconds(Path(place), metrics)) - plain) / given.images  # type: ignore[misc]
            print(f"{name}: {more / forward:.2f} passes an image more, {needed:g} needed, at most {most:g}")


if __name__ == "__main__":
    main()
