"""Where the time of one run goes, stage by stage.

python -m benchmarks.stage_times [--model resnet50] [--images 320] [--width 4000 --height 3000] [--compile on] [--topk 5]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.corpus import make_corpus
from benchmarks.variants import BATCH, Subject, explain_files
from camcli.images.discover import Search, discover_sources
from camcli.models.sources import bundled
from camcli.pipeline.job import prepare_job
from camcli.timing import STAGES, StageTimer


def stage_table(seconds: Mapping[str, float], wall: float, images: int) -> str:
    """Lines: seconds of each stage summed over its processes, as a part of the run's ``wall`` seconds, and ms an image."""
    lines = [f"{'':20}{'seconds':>10}{'of the run':>12}{'ms an image':>13}"]
    for stage, taken in {**seconds, "the run": wall}.items():
        lines.append(f"{stage:20}{taken:10.2f}{taken / wall:12.0%}{taken / images * 1000:13.2f}")
    return "\n".join(lines)


def main() -> None:
    """Run once to warm up, once with the clocks on, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=bundled.NAME)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--topk", type=int, default=1)
    parser.add_argument("--compile", choices=("on", "off"), default="off")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="camcli-profile-") as top:
        photos = make_corpus(Path(top) / "photos", arguments.images, arguments.width, arguments.height)
        sources = discover_sources([str(photos)], Search(str(Path(top) / "heatmaps")))
        subject = Subject(arguments.model, arguments.device, sources, Path(top))
        config = subject.config(topk=arguments.topk, compile=arguments.compile, precision=arguments.precision)
        job, stages = prepare_job(config, left=len(sources)), StageTimer()
        explain_files(job, sources[: 2 * BATCH], subject.folder)
        wall = explain_files(job, sources, subject.folder, stages).seconds
    how = job.network.description or "fp32, not compiled"
    print(f"{arguments.model} ({how}) on {job.device}: {len(sources)} photos, {len(sources) / wall:.1f} a second")
    print(stage_table(stages.seconds(), wall, len(sources)))
    print(f"The network runs in one process, the other stages ({', '.join(s for s in STAGES if s != 'network')}) in several.")
    if hint := stages.hint(wall):
        print(hint)


if __name__ == "__main__":
    main()
