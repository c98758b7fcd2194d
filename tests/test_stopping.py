"""A run that is asked to end while a batch is in the network: no method goes on for long, and nothing half-done is kept."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time

import pytest
import torch
from torch import nn

from camcli.cam import METHODS
from camcli.cam.explain import Options, explain_batch
from camcli.cli.signals import SIGNALS
from camcli.config.run import RunConfig
from camcli.listener import SilentListener
from camcli.pipeline import stopping
from camcli.pipeline.job import prepare_module
from camcli.pipeline.progress import RunProgress
from camcli.records import Counts, Grid, Layer, Preprocess, Success
from camcli.sanity.check import check_maps
from camcli.sanity.randomize import find_layer_groups
from camcli.sanity.write import FILES
from tests.conftest import Cam
from tests.faults import differences, fill_album
from tests.folders import contents_of, rows_of
from tests.forks import wait_for
from tests.pictures import noise

VARIATIONS = ({}, {"smooth": 3}, {"augment": True}, {"chunk": 2})


class Recorded(Cam):
    """Notes in ``events`` that a forward pass has begun."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.features.append(nn.ReLU())
        self.events = events

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.events.append("pass")
        return super().forward(x)


def explain(method, options, before_pass, events):
    torch.manual_seed(0)
    module = Recorded(events).eval()
    images = torch.randn(2, 3, 32, 32)
    try:
        explain_batch(
            module, images, [Layer("features", Grid("nchw", 8, 8))], [method], lambda logits: torch.tensor([[0, 3]] * len(logits)),
            Options(**options, before_pass=before_pass),
        )  # fmt: skip
    finally:
        assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules()), "a hook was left"
        assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("rollout", "legrad")])  # of transformers
@pytest.mark.parametrize("options", VARIATIONS, ids=str)
def test_every_method_asks_before_each_pass_and_ends_when_told(method, options):
    events: list[str] = []
    explain(method, options, lambda: events.append("ask"), events)
    assert events.count("pass") >= 1
    assert all(events[place - 1] == "ask" for place, event in enumerate(events) if event == "pass")
    asked = events.count("ask")
    for number in sorted({1, min(2, asked), asked // 2 + 1, asked}):  # a control needs a single pass
        heard: list[str] = []

        def ask(number=number, heard=heard):
            heard.append("ask")
            if heard.count("ask") == number:
                raise stopping.Stopped

        with pytest.raises(stopping.Stopped):
            explain(method, options, ask, heard)
        assert heard[-1] == "ask", "a pass began after the run was told to end"


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (("--method", "scorecam"), "image by image"),
        (("--method", "ablationcam"), "image by image"),
        (("--smooth", 30), ""),
        (("--smooth", 9, "--method", "fullgrad"), "the first batch"),
    ],
)
def test_what_was_in_the_network_is_dropped_and_done_by_the_next_run(camcli, tmp_path, monkeypatch, flags, kept):
    """Equal to a run that was never stopped, byte by byte; images that were finished before are kept."""
    fill_album(tmp_path / "imgs", 4)
    command = ("run", tmp_path / "imgs", "--model", "tests.faults:sluggish", "--layer", "cells", *flags, "--batch-size", 2)
    whole = camcli(*command, "-o", tmp_path / "whole")
    monkeypatch.setattr(stopping, "MAX_SECONDS", 0.0)
    passes = []

    def stop_at_30(progress, number):
        passes.append(number)
        if len(passes) == 30:
            SIGNALS._arrived(signal.SIGINT, None)

    monkeypatch.setattr(RunProgress, "pass_begins", stop_at_30)
    assert camcli(*command, "-o", tmp_path / "out").code == 130
    assert len(passes) == 30, "passes went on"
    left = rows_of(tmp_path / "out")
    assert len(left) < len(rows_of(tmp_path / "whole"))
    assert bool(left) == bool(kept)
    assert camcli(*command, "-o", tmp_path / "out").code == whole.code
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


def test_law_2_an_interrupt_ends_a_slow_method_within_five_seconds(forks, tmp_path):
    """Each image takes eight seconds. The command says at once what it does."""
    fill_album(tmp_path / "imgs", 3)
    command = [
        "run",
        tmp_path / "imgs",
        "--model",
        "tests.faults:sluggish",
        "--layer",
        "cells",
        "--method",
        "scorecam",
        "--batch-size",
        1,
    ]
    log, asleep = tmp_path / "log", tmp_path / "asleep"
    slowly = {"FAULTS_SLEEP": "0.2", "FAULTS_ASLEEP": str(asleep)}
    run = forks.start([*command, "-o", tmp_path / "out"], log, **slowly)
    assert wait_for(lambda: (asleep.exists() and asleep.stat().st_size > 20) or run.poll() is not None)
    run.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert wait_for(lambda: "Finishing the images in progress; press Ctrl-C again to stop now.\n" in log.read_text(), 1)
    assert run.wait(30) == 130, log.read_text()
    assert time.monotonic() - begun < 5
    assert "Traceback" not in log.read_text()
    for folder in ("whole", "out"):
        assert forks.start([*command, "-o", tmp_path / folder, "--quiet"], log).wait(60) == 0
    assert differences(tmp_path / "out", tmp_path / "whole") == []


@pytest.mark.parametrize(
    "command",
    [
        ("sanity", "imgs", "-m", "tests.faults:sluggish", "-l", "cells", "--method", "scorecam"),
        ("dream", "tests.faults:sluggish", "--class", 0, "--steps", 10_000),
    ],
    ids=["sanity", "dream"],
)
def test_law_2_holds_for_studies_too(forks, tmp_path, command):
    """In the middle of what takes minutes."""
    fill_album(tmp_path / "imgs", 3)
    log, asleep = tmp_path / "log", tmp_path / "asleep"
    arguments = [tmp_path / "imgs" if word == "imgs" else word for word in command]
    slowly = {"FAULTS_SLEEP": "0.2", "FAULTS_ASLEEP": str(asleep)}
    run = forks.start([*arguments, "-o", tmp_path / "out"], log, **slowly)
    assert wait_for(lambda: (asleep.exists() and asleep.stat().st_size > 20) or run.poll() is not None)
    run.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert run.wait(30) == 130, log.read_text()
    assert time.monotonic() - begun < 5
    assert "Traceback" not in log.read_text()


def test_an_interrupted_check_says_so_writes_nothing_and_starts_again(forks, tmp_path):
    """After the restart the folder equals that of a check that was never interrupted."""
    fill_album(tmp_path / "imgs", 3)
    command = ["sanity", tmp_path / "imgs", "-m", "tests.faults:sluggish", "-l", "cells", "--method", "scorecam"]
    log, asleep, out = tmp_path / "log", tmp_path / "asleep", tmp_path / "out"
    slowly = {"FAULTS_SLEEP": "0.2", "FAULTS_ASLEEP": str(asleep)}
    check = forks.start([*command, "-o", out], log, **slowly)
    assert wait_for(lambda: (asleep.exists() and asleep.stat().st_size > 20) or check.poll() is not None)
    check.send_signal(signal.SIGINT)
    assert wait_for(lambda: "Stopping after the maps in progress; press Ctrl-C again to stop now.\n" in log.read_text(), 1)
    assert check.wait(30) == 130, log.read_text()
    assert "interrupted; nothing was written" in log.read_text()
    assert not out.exists()
    for folder in ("whole", "out"):
        assert forks.start([*command, "-o", tmp_path / folder, "--quiet"], log).wait(60) == 0
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_check_that_is_stopped_puts_the_weights_back():
    """Whichever pass it is stopped at."""
    module = Cam().eval()
    config = dataclasses.replace(RunConfig(device="cpu", layer=("features",), method=("gradcam",)).check())
    job = prepare_module(module, config, Preprocess(resize_to=(32, 32), crop=(32, 32)))
    images = {f"{k}.png": noise(k, (32, 32)) for k in range(2)}
    groups = find_layer_groups(module, torch.zeros(1, 3, 32, 32), "all")
    before = {name: values.clone() for name, values in module.state_dict().items()}

    class Stops(SilentListener):
        def __init__(self, at, stop):
            self.at, self.stop = at, stop

        def progress(self, done, of, note=""):
            if done == self.at:
                self.stop.set()

    for at in range(len(groups) * 2 + 2):
        stop = threading.Event()
        with pytest.raises(stopping.Stopped):
            check_maps(job, images, groups, seed=0, listener=Stops(at, stop), stop=stop)
        assert all(torch.equal(values, before[name]) for name, values in module.state_dict().items())


def test_a_batch_that_takes_a_moment_is_finished(monkeypatch):
    """Within the patience; and it counts from when the signal may have come, not from when it was noticed."""
    now = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    stop, heard = stopping.threading.Event(), []
    watch = stopping.Watch(stop, heard.append)
    watch.before_pass()
    stop.set()
    now[0] += 0.9 * stopping.MAX_SECONDS
    watch.before_pass()
    now[0] += 0.2 * stopping.MAX_SECONDS
    with pytest.raises(stopping.Stopped):
        watch.before_pass()
    assert heard == [1, 2]


def test_the_bar_moves_within_a_batch_that_takes_long(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr("camcli.pipeline.progress.time.monotonic", lambda: now[0])
    counts = Counts(failed=2)
    progress = RunProgress(lambda *words: said.append(words), 9, counts)
    for number in range(1, 31):
        progress.pass_begins(number)
        now[0] += 0.125
    assert len(said) == 11, "silent in the first second, then five times a second"
    assert said[-1] == (0, 9, "2 failed, pass 29 of this batch")
    assert list(progress.over(iter([Success("a", None, ())]))) != []
    assert said[-1] == (1, 9, "2 failed")
