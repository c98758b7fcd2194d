"""How fast camcli is, against the plain forward pass of the same network and against its peers: one table, and JSON.

    python -m benchmarks.bench [--models resnet50] [--rounds 5] [--only PATTERN] [--quick]

All variants of a model take turns, round by round, each in a process of its own; a ratio is the median over the rounds of two
rates of the same round, so that a machine that slows down slows both. Nothing else should run on the machine, and its ten
processes take about 15 GB of memory. The tables go to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import free_network
from benchmarks.corpus import make_corpus
from benchmarks.peers import PEERS
from benchmarks.processes import first_overlay, peak_memory
from benchmarks.rendering import rendering
from benchmarks.rounds import agreement, measure
from benchmarks.variants import PLAIN, Subject, variant_names
from benchmarks.verdict import rates_table, verdict_table, verdicts
from camcli.images.discover import Search, discover_sources
from camcli.models.sources import bundled
from camcli.resources import available_cores

_IMAGES = {bundled.NAME: 320}
"""Of a timed run, where it is not 160: a fast network needs more for a run of some seconds."""

_DISTINCT = 36
"""Photos of 12 megapixels that are made; a run over thousands takes them under many names."""

_LEAST_AGREEMENT = 0.99
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python", "grad-cam", "torchcam", "captum")


def say(words: str) -> None:
    """Tell the person who waits."""
    print(words, file=sys.stderr, flush=True)


def machine_record() -> dict[str, Any]:
    """Processor, cores, versions: what a number is worth nothing without."""
    names = re.findall(r"model name\s*:\s*(.+)", _read(Path("/proc/cpuinfo")))
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def bench_model(model: str, arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Rates of every variant of ``model`` that is wanted; the table of them is printed. Empty where none is."""
    names = [name for name in variant_names(model) if wanted(f"{model}: {name}", arguments)]
    if not names:
        return {}
    count = images_of(model, arguments)
    photos = make_corpus(place / "small", count)
    sources = discover_sources([str(photos)], Search(str(place / "heatmaps")))[:count]
    subject = Subject(model, arguments.device, sources, place)
    peers = [name for name in names if name in PEERS]
    agreed = agreement(subject, peers) if peers else {}
    for peer, least in agreed.items():
        verdict = "" if least > _LEAST_AGREEMENT else ": IT DOES NOT DO THE SAME JOB"
        say(f"{model}: maps of {peer} correlate at least {least:.4f} with camcli's{verdict}")
    names = list(dict.fromkeys([PLAIN, *names]))
    measured = measure(subject, names, count, arguments.rounds, lambda words: say(f"{model}, {words}"))
    print(rates_table(f"{model}, {count} photos", measured), end="\n\n", flush=True)
    return {
        "images": count,
        "images_per_second": {name: found.rates for name, found in measured.items()},
        "overlays_an_image": {name: found.overlays for name, found in measured.items()},
        "network": {name: found.note for name, found in measured.items()},
        "peer_agreement": agreed,
    }


def images_of(model: str, arguments: argparse.Namespace) -> int:
    """How many images a timed run of ``model`` takes: whole batches."""
    if arguments.quick:
        return 32
    count = arguments.images or _IMAGES.get(model, 160)
    return max(16, count // 16 * 16)


def wanted(name: str, arguments: argparse.Namespace) -> bool:
    """Whether ``name`` matches --only."""
    return arguments.only is None or re.search(arguments.only, name) is not None


def bench_rest(arguments: argparse.Namespace, place: Path, report: dict[str, Any]) -> None:
    """Rendering, time to the first overlay, and memory, each into ``report``; all with the bundled model."""
    rounds = 1 if arguments.quick else max(3, arguments.rounds)
    if wanted("free network", arguments):
        bench_free_network(arguments, place, report, rounds)
    small = make_corpus(place / "500x375", _DISTINCT)
    if wanted("first overlay", arguments):
        say("time to the first overlay")
        report["first_overlay_seconds"] = first_overlay(small / "000000.jpg", arguments.device, rounds, place)
    measure_memory = wanted("memory", arguments) and not arguments.skip_memory
    if not (measure_memory or wanted("rendering", arguments)):
        return
    say("making photos of 12 megapixels")
    large = make_corpus(place / "4000x3000", 4 if arguments.quick else _DISTINCT, 4000, 3000)
    if wanted("rendering", arguments):
        say("rendering them")
        report["rendering"] = rendering(large, rounds)
    if measure_memory:
        counts = [8, 32] if arguments.quick else arguments.memory_counts
        report["peak_memory_mib"] = {
            photos.name: peak_memory(photos, counts, arguments.device, place, say) for photos in (small, large)
        }


def bench_free_network(arguments: argparse.Namespace, place: Path, report: dict[str, Any], rounds: int) -> None:
    """What the steps around the network cost, for photos of two sizes and formats, and how soon a row comes. Prints the table."""
    found: dict[str, Any] = {}
    for kind, count, width, height in (
        ("JPEG", 1600, 500, 375),
        ("PNG", 600, 500, 375),
        ("JPEG", 96, 4000, 3000),
        ("PNG", 48, 4000, 3000),
    ):
        name = f"{width}x{height} {kind}"
        say(f"a network that costs nothing, {name}")
        photos = make_corpus(place / f"free-{name}", 32 if arguments.quick else count, width, height, kind=kind.lower())
        found[name] = free_network.measured(photos, rounds)
        if name == "500x375 JPEG":
            report["archives"] = free_network.archives(photos, rounds)
            print(free_network.archives_table(report["archives"]), end="\n\n", flush=True)
        shutil.rmtree(photos)
    report["free_network"] = found
    print(free_network.table(found), end="\n\n", flush=True)
    print(free_network.arithmetic(found["500x375 JPEG"]["workers 2"]), end="\n\n", flush=True)
    report["row_after_seconds"] = free_network.latency(make_corpus(place / "500x375", _DISTINCT), 4 if arguments.quick else 20)


def parsed_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", bundled.NAME], metavar="NAME")
    parser.add_argument("--images", type=int, metavar="N", help="photos a timed run; default 320 for the bundled model, else 160")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="tiny numbers: shows that it works, measures nothing")
    parser.add_argument("--skip-memory", action="store_true", help="leave out the runs over thousands of photos")
    parser.add_argument(
        "--memory-counts", type=lambda text: [int(part) for part in text.split(",")], default=[400, 4000], metavar="N,N"
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help="only what matches a regular expression: 'MODEL: VARIANT', 'free network', 'first overlay', 'rendering', 'memory'",
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    return arguments


def main() -> int:
    """Measure what is wanted, print the tables, write the JSON file after every part of it."""
    arguments = parsed_arguments()
    torch.set_num_threads(available_cores())
    report: dict[str, Any] = {"machine": machine_record(), "device": arguments.device, "quick": arguments.quick, "models": {}}
    print("\n".join(f"{key}: {value}" for key, value in report["machine"].items()), end="\n\n", flush=True)
    if report["machine"]["load before"] > 0.2 * available_cores():
        say("Something else is running here: wait for it, or the numbers mean nothing.")
    with tempfile.TemporaryDirectory(prefix="camcli-bench-") as top:
        for model in arguments.models:
            found = bench_model(model, arguments, Path(top))
            if found:
                report["models"][model] = found
                write_report(report, arguments.json)
        try:
            bench_rest(arguments, Path(top), report)
        finally:
            write_report(report, arguments.json)
    lines = verdicts(report)
    report["done_when"] = [{**asdict(line), "holds": line.holds} for line in lines]
    write_report(report, arguments.json)
    print(verdict_table(lines))
    say(f"Written to {arguments.json}." + (" A quick run: its numbers mean nothing." if arguments.quick else ""))
    return 0


def write_report(report: dict[str, Any], path: Path) -> None:
    """``report`` as a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
