"""``camcli.run``: the run of the command line as a function, in a script and in a session that goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from functools import partial

import cv2
import pytest
import torch
from PIL import Image as PillowImage

import camcli as package
from camcli.errors import ConfigError, SettingsError
from camcli.pipeline.summary import SilentRunListener
from tests.conftest import ROOT
from tests.folders import TINY, contents_of, rows_of, state_of

OPTIONS = {"model": "tests.networks:brightness", "layer": "cells", "class_": "bright", "save_maps": True, "batch_size": 1}
COMMAND = (*TINY, "--save-maps", "--batch-size", "1")


@pytest.fixture
def imgs(imgs):
    """Images that are an hour old: of younger ones the journal also records the SHA-256, as long as they are young."""
    for path in imgs.rglob("*"):
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    return imgs


class StopsAt(SilentRunListener):
    """Sets ``stop`` once ``count`` images are explained; remembers what it received."""

    def __init__(self, count: int) -> None:
        self.stop, self.count = threading.Event(), count
        self.images: list[str] = []
        self.begun: list[int] = []

    def begins(self, todo):
        self.begun.append(todo)

    def explained(self, outcome):
        self.images.append(outcome.image)
        if len(self.images) == self.count:
            self.stop.set()


def as_one_run(folder):
    """What a folder holds, but for the seconds in ``run.json``; the journal too, which names sizes, times and checksums."""
    return contents_of(folder, without=("run.json", "lock"))


@pytest.mark.parametrize("count", [1, 3])
def test_interrupted_and_called_again_it_leaves_the_folder_of_the_command(camcli, imgs, tmp_path, monkeypatch, count):
    monkeypatch.chdir(ROOT)
    listener = StopsAt(count)
    first = package.run(imgs, output=tmp_path / "python", listener=listener, stop=listener.stop, **OPTIONS)
    assert (first.state, first.pending > 0, first.failed) == ("interrupted", True, 0)
    assert first.explained == len(listener.images) >= count
    assert json.loads((tmp_path / "python" / "run.json").read_text())["state"] == "interrupted"
    kept = {name: state for name, state in state_of(tmp_path / "python").items() if name.startswith(("overlays", "maps"))}
    again = StopsAt(-1)
    second = package.run(imgs, output=tmp_path / "python", listener=again, stop=again.stop, **OPTIONS)
    assert (second.state, second.explained, second.pending) == ("finished", 6, 0)
    assert again.begun == [6 - first.explained]
    assert listener.images + again.images == [row["image"] for row in rows_of(tmp_path / "python")]
    after = state_of(tmp_path / "python")
    assert kept == {name: after[name] for name in kept}, "what was done is not done again"
    assert camcli("run", imgs, "-o", tmp_path / "command", *COMMAND).code == 0
    assert as_one_run(tmp_path / "python") == as_one_run(tmp_path / "command")


def test_python_and_the_command_go_on_with_each_other(camcli, imgs, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    listener = StopsAt(2)
    done = package.run(imgs, output=tmp_path / "a", listener=listener, stop=listener.stop, **OPTIONS).explained
    assert f"{done} images done before, {6 - done} to do" in camcli("run", imgs, "-o", tmp_path / "a", *COMMAND).err
    before = state_of(tmp_path / "a")

    class Collects(SilentRunListener):
        earlier_rows = True
        rows = b""

        def done_before(self, rows):
            self.rows += rows

    listener = Collects()
    summary = package.run(str(imgs), output=str(tmp_path / "a"), listener=listener, **OPTIONS)
    assert listener.rows == (tmp_path / "a" / "predictions.csv").read_bytes().partition(b"\n")[2]
    assert (summary.state, summary.explained, summary.counts.explained) == ("finished", 6, 0)
    assert state_of(tmp_path / "a") == before
    with pytest.raises(SettingsError, match="alpha"):
        package.run(imgs, output=tmp_path / "a", alpha=0.3, **OPTIONS)


SCRIPT = """
import signal, sys, camcli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts programs in the background has them ignore it
from camcli.pipeline.summary import SilentRunListener

class Tells(SilentRunListener):
    def explained(self, outcome):
        print(outcome.image, flush=True)
        sys.stdin.readline()

options = dict(model="tests.networks:brightness", layer=["cells"], class_="bright", save_maps=True, batch_size=1)
print(camcli.run(sys.argv[1], output=sys.argv[2], listener=Tells(), **options).state)
"""


def test_a_script_is_interrupted_and_run_again(camcli, imgs, tmp_path, monkeypatch):
    """Ctrl-C raises KeyboardInterrupt in the script; what was finished is kept, and the folder ends as that of the command."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = [sys.executable, script, imgs, tmp_path / "python"]
    options = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "text": True}
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as running:
        assert running.stdout.readline() == "A.JPG\n"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
    assert "KeyboardInterrupt" in said
    assert running.returncode != 0
    done = subprocess.run(arguments, input="\n" * 9, capture_output=True, check=True, **options)
    assert done.stdout.splitlines()[-1] == "finished"
    assert "A.JPG" not in done.stdout.splitlines(), "it was done before"
    monkeypatch.chdir(ROOT)
    assert camcli("run", imgs, "-o", tmp_path / "command", *COMMAND).code == 0
    assert as_one_run(tmp_path / "python") == as_one_run(tmp_path / "command")


def test_a_session_goes_on_as_before(imgs, tmp_path, monkeypatch, request):
    """As in a notebook: in a thread, below a running event loop, again and again; nothing of the process is left changed."""
    monkeypatch.chdir(ROOT)
    (imgs / "broken.jpg").write_bytes(b"not a picture")
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    request.addfinalizer(partial(cv2.setNumThreads, cv2.getNumThreads()))
    torch.set_num_threads(1)
    cv2.setNumThreads(2)
    before = (PillowImage.MAX_IMAGE_PIXELS, list(warnings.filters), torch.get_num_threads(), cv2.getNumThreads())
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def cells():
        return [await asyncio.to_thread(package.run, imgs, output=tmp_path / name, **OPTIONS) for name in ("a", "a", "b")]

    first, second, other = asyncio.run(cells())
    assert [run.state for run in (first, second, other)] == ["finished"] * 3
    assert [run.counts.explained for run in (first, second, other)] == [6, 0, 6]
    assert [(run.explained, run.failed, run.new_failures) for run in (first, second)] == [(6, 1, 1), (6, 1, 0)]
    assert (first.predictions, first.failures) == (str(tmp_path / "a" / "predictions.csv"), str(tmp_path / "a" / "failures.csv"))
    assert os.path.isdir(first.overlays)
    assert first.report_page is None
    assert before == (PillowImage.MAX_IMAGE_PIXELS, list(warnings.filters), torch.get_num_threads(), cv2.getNumThreads())
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    reported = package.run(imgs, output=tmp_path / "a", report=True, **OPTIONS)
    assert os.path.isfile(reported.report_page)


def test_failures_are_told_before_the_record_says_so(imgs, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (imgs / "broken.jpg").write_bytes(b"not a picture")
    record = tmp_path / "out" / "run.json"

    class Dies(SilentRunListener):
        def summary(self, summary):
            assert (summary.failed, summary.new_failures) == (1, 1)
            assert not record.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        package.run(imgs, output=tmp_path / "out", listener=Dies(), **OPTIONS)
    again = package.run(imgs, output=tmp_path / "out", **OPTIONS)
    assert (again.counts.explained, again.new_failures) == (0, 1), "nobody was told of it"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"modle": "resnet50"}, TypeError, "no option 'modle'. Did you mean 'model'"),
        ({"quiet": True}, TypeError, "no option 'quiet'"),
        ({"topk": "two"}, ConfigError, "topk cannot be 'two'"),
        ({"alpha": 3}, ConfigError, "between 0.0 and 1.0"),
        ({"model": None}, ConfigError, "model cannot be None"),
        ({"fit": "stretch"}, ConfigError, "crop, squash, pad"),
    ],
)
def test_wrong_options_are_told_before_anything_is_loaded(imgs, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        package.run(imgs, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
