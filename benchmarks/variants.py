"""What is timed: the plain forward pass, camcli from files to files in its modes, and the peers with the same files."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import PEERS, PeerEngine, least_agreement, taking_the_engines_place
from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.models.request import ModelRequest
from camcli.models.sources import bundled, load_model
from camcli.output.folder import OutputFolder
from camcli.pipeline.job import Job, prepare_job
from camcli.pipeline.pool import Pool, count_workers
from camcli.pipeline.stages import InputImage, explain_images, prepared_batches
from camcli.records import Failure, LoadedModel
from camcli.resources import keep_memory
from camcli.source import Source
from camcli.timing import StageTimer

BATCH = 16

PLAIN = "plain forward pass"
DEFAULT = "camcli"
TOP_5 = "camcli, top-5"
COMPILED = "camcli, compiled"
BF16 = "camcli, bf16"
COMPILED_BF16 = "camcli, compiled, bf16"
THREE_LAYERS = "camcli, three layers"

_THREE = {"resnet50": ("layer2", "layer3", "layer4"), bundled.NAME: ("blocks.3", "blocks.5", "bn2")}

_MODES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    COMPILED: {"compile": "on"},
    BF16: {"precision": "bf16"},
    COMPILED_BF16: {"compile": "on", "precision": "bf16"},
    TOP_5: {"topk": 5},
}


@dataclass(frozen=True)
class Subject:
    """What is measured: a model on a device, and the photos it gets. ``folder``: for what a run writes."""

    model: str
    device: str
    sources: Sequence[Source]
    folder: Path

    def config(self, **changes: Any) -> RunConfig:
        """The options of a run with this model; the bundled one has its weights, others are random."""
        weights = "DEFAULT" if self.model == bundled.NAME else "none"
        return RunConfig(model=self.model, weights=weights, device=self.device, **changes).check()

    def load(self) -> LoadedModel:
        """A copy of the model as a user gets it: eager, float32, default memory layout."""
        config = self.config()
        return load_model(ModelRequest(config.model, config.weights), config.device)


@dataclass(frozen=True)
class Taken:
    """What a timed run took, and the overlays that it wrote: a map that points nowhere is not painted."""

    seconds: float
    overlays: int = 0


@dataclass(frozen=True)
class Variant:
    """One way to spend the time. ``run``: number of images -> what it took. ``note``: how the network runs."""

    name: str
    run: Callable[[int], Taken]
    note: str


def variant_names(model: str) -> list[str]:
    """All that can be measured of a model, the yardstick first."""
    return [PLAIN, *_MODES, *([THREE_LAYERS] if model in _THREE else []), *PEERS]


def build_variant(subject: Subject, name: str, say: Callable[[str], None]) -> Variant:
    """The variant ``name``, ready to run. ``say`` is told what takes long, and what could not be done."""
    if name == PLAIN:
        return _plain(subject)
    if name in PEERS:
        return _peer(subject, name)
    modes = {**_MODES, THREE_LAYERS: {"layer": _THREE.get(subject.model, ())}}
    return _camcli(subject, name, subject.config(**modes[name]), say)


def _plain(subject: Subject) -> Variant:
    """The yardstick: nothing but the network, on a batch that is in memory."""
    model = subject.load()
    inputs = torch.randn((BATCH, 3, *model.preprocess.crop), generator=torch.Generator().manual_seed(0)).to(subject.device)

    def run(count: int) -> Taken:
        started = time.perf_counter()
        with torch.no_grad():
            for _ in range(count // BATCH):
                model.module(inputs)
        if inputs.is_cuda:
            torch.cuda.synchronize()
        return Taken(time.perf_counter() - started)

    return Variant(PLAIN, run, "fp32, in memory")


def _camcli(subject: Subject, name: str, config: RunConfig, say: Callable[[str], None]) -> Variant:
    keep_memory()  # as the command does
    job = prepare_job(config, left=len(subject.sources))
    if config.compile == "on" and job.network.batch is None:
        say(" ".join(["NOT COMPILED:", *job.model.notes]))
    return Variant(
        name, lambda count: explain_files(job, subject.sources[:count], subject.folder), job.network.description or "fp32"
    )


def _peer(subject: Subject, name: str) -> Variant:
    module, job = subject.load().module.requires_grad_(True), prepare_job(subject.config())

    def run(count: int) -> Taken:
        with PEERS[name](module, job.layers[0].name) as explain, taking_the_engines_place(PeerEngine(job, explain)):
            return explain_files(job, subject.sources[:count], subject.folder)

    return Variant(name, run, "fp32")


def explain_files(job: Job, sources: Sequence[Source], place: Path, timer: StageTimer | None = None) -> Taken:
    """The time from files to overlays on disk, in a fresh folder below ``place`` that is deleted afterwards.

    The workers have started before. Raises RuntimeError for a photo that fails.
    """
    with (
        tempfile.TemporaryDirectory(dir=place) as top,
        OutputFolder(os.path.join(top, "heatmaps"), run_settings(job.config, sources[0].root)) as folder,
        Pool(count_workers(job.config.workers, len(sources))) as pool,
    ):
        pool.wait_until_ready()
        writer = folder.begin(sources)
        started = time.perf_counter()
        outcomes = list(explain_images(sources, job, writer, pool, timer=timer))
        seconds = time.perf_counter() - started
    overlays = 0
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise RuntimeError(f"{job.model.name}, {outcome.image}: {outcome.reason}")
        overlays += sum(bool(row.overlay) for row in outcome.rows)
    return Taken(seconds, overlays)


def peer_agreement(subject: Subject, names: Sequence[str]) -> dict[str, float]:
    """How far the maps of the peers ``names`` correlate with camcli's: the least over the first batch of photos."""
    job = prepare_job(subject.config())
    [items] = prepared_batches(subject.sources[:BATCH], job.inputs, BATCH)
    inputs = [item.input for item in items if isinstance(item, InputImage)]
    found: dict[str, float] = {}
    for name in names:
        with PEERS[name](subject.load().module.requires_grad_(True), job.layers[0].name) as explain:
            found[name] = least_agreement(job, PeerEngine(job, explain), inputs)
    return found
