"""What a run says of itself, in words, in its exit code, and in run.json."""

from __future__ import annotations

import datetime
import json
import os
import re
import time

import pytest

from camcli.cli.console import Console
from camcli.cli.loading import loading
from camcli.timing import StageTimer
from tests.folders import TINY, failures_of, start
from tests.forks import forked
from tests.pictures import encoded, photo


def test_a_failure_is_told_once_by_the_run_in_which_it_came(camcli, imgs, tmp_path):
    """Exit code 1 for new failures alone, whatever else the run does; --retry-failed and verify still tell of the others."""
    command = ("run", imgs, "-o", tmp_path / "out", *TINY)
    (imgs / "broken.jpg").write_text("text")
    first = camcli(*command, "--quiet")
    assert (first.code, first.err) == (1, f"camcli: 1 image could not be explained; see {tmp_path / 'out' / 'failures.csv'}.\n")
    quiet = camcli(*command, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    again = camcli(*command)
    assert again.code == 0
    assert "1 image failed before" in again.err
    (imgs / "new.jpg").write_bytes(encoded(photo(9), "JPEG"))
    grown = camcli(*command)
    assert grown.code == 0, "new images, and only the old failure"
    assert "1 image explained" in grown.err
    assert "1 image failed before" in grown.err
    (imgs / "worse.jpg").write_text("text")
    worse = camcli(*command)
    assert worse.code == 1
    assert "1 image could not be explained" in worse.err
    assert "1 image failed before" in worse.err
    assert camcli(*command, "--quiet").code == 0
    retried = camcli(*command, "--retry-failed", "--quiet")
    assert retried.code == 1
    assert "2 images could not be explained" in retried.err
    verified = camcli("verify", tmp_path / "out")
    assert verified.code == 0
    assert "2 images failed before" in verified.err
    assert len(failures_of(tmp_path / "out")) == 2


def test_failures_of_a_run_that_never_came_to_its_end_are_told_by_the_next(camcli, imgs, tmp_path):
    """As after a kill between the last row and run.json: nobody was told yet."""
    command = ("run", imgs, "-o", tmp_path / "out", *TINY)
    (imgs / "broken.jpg").write_text("text")
    assert camcli(*command).code == 1
    (tmp_path / "out" / "run.json").unlink()
    resumed = camcli(*command, "--quiet")
    assert resumed.code == 1
    assert "1 image could not be explained" in resumed.err
    assert camcli(*command, "--quiet").code == 0


def test_limit_says_what_it_left_and_failures_do_not_count_into_the_rate(camcli, imgs, tmp_path, monkeypatch):
    for k in range(40):
        (imgs / f"broken-{k}.jpg").write_text("text")
    done = camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--limit", 3)
    assert "3 of 46 images; --limit left 43 out." in done.err
    assert "--limit left" not in camcli("run", imgs, "-o", tmp_path / "all", *TINY, "--limit", 46, "--quiet").err
    whole = camcli("run", imgs, "-o", tmp_path / "whole", *TINY)
    explained, seconds, rate = re.search(r"(\d+) images explained in ([\d.]+) s, ([\d.]+) a second", whole.err).groups()
    assert explained == "6"
    shortest, longest = max(float(seconds) - 0.06, 1e-3), float(seconds) + 0.06  # one decimal is told
    assert 6 / longest - 0.1 <= float(rate) <= 6 / shortest + 0.1


def test_verbose_accounts_for_every_second(camcli, imgs, on_path):
    """Loading and all: what the run's own thread did adds up to what it took."""
    (on_path / "lazy.py").write_text(
        "import time\nfrom tests.networks import brightness\ndef model():\n    time.sleep(0.7); return brightness()\n"
    )
    begun = time.monotonic()
    done = camcli("run", imgs, "-o", on_path / "out", "--model", "lazy:model", "--layer", "cells", "--report", "--verbose")
    taken = time.monotonic() - begun
    head, _, rest = done.err.partition("seconds went:\n")
    own = dict(re.findall(r"^  (\S.*?) +([\d.]+)$", rest.partition("Meanwhile")[0], re.MULTILINE))
    told = float(re.search(r"Where the ([\d.]+) $", head).group(1))
    assert told == pytest.approx(taken, abs=0.5)
    assert float(own["loading"]) >= 0.7
    assert {"finding images", "network", "waiting for images", "writing tables", "finishing", "report", "other"} <= own.keys()
    assert sum(map(float, own.values())) == pytest.approx(told, abs=0.05 * (len(own) + 1))
    assert float(own["other"]) < 0.3


def test_what_a_run_does_in_turn_adds_up():
    stages = StageTimer()
    for number, stage in enumerate(("find", "load", "network", "record", "finish"), 1):
        stages.add(stage, number)
    stages.add("decode", 100)
    with stages.wait("images"):
        pass
    in_turn = stages.in_turn(20.0)
    assert sum(in_turn.values()) == pytest.approx(20)
    assert in_turn["other"] == pytest.approx(5, abs=0.01)
    assert stages.meanwhile()["decode"] == 100


def test_run_json_says_how_and_when_the_command_was_given(imgs, tmp_path):
    """The command as it can be given again, with names that are not UTF-8."""
    odd = os.fsencode(imgs) + b"/caf\xe9"
    os.mkdir(odd)
    with open(odd + b"/x y.jpg", "wb") as file:
        file.write(encoded(photo(), "JPEG"))
    before = datetime.datetime.now().astimezone()
    process = forked("run", os.fsdecode(odd), imgs / "sub", *TINY, "-o", tmp_path / "out", "--quiet")
    assert process.wait(60) == 0
    this_run = json.loads((tmp_path / "out" / "run.json").read_text("ascii"))["this_run"]
    assert this_run["inputs"] == [os.fsdecode(odd), str(imgs / "sub")]
    started = datetime.datetime.fromisoformat(this_run["started"])
    assert started.tzinfo is not None
    assert before - datetime.timedelta(seconds=1) <= started <= datetime.datetime.now().astimezone()
    assert this_run["seconds"] > 0
    words = this_run["command"].split()
    assert words[:2] == ["camcli", "run"]
    assert words[-3:] == ["-o", str(tmp_path / "out"), "--quiet"]
    assert "caf\udce9" in this_run["command"]


@pytest.mark.parametrize(("seconds", "quiet", "said"), [(0.0, False, ""), (0.5, False, "Loading PyTorch and m"), (0.5, True, "")])
def test_what_takes_long_to_load_is_said_meanwhile(capsys, seconds, quiet, said):
    with loading(Console(quiet=quiet), "m", "none"):
        time.sleep(seconds)
        while_it_loads = capsys.readouterr().err
    assert while_it_loads == (f"{said} with weights none.\n" if said else "")
    time.sleep(0.4)
    assert capsys.readouterr().err == "", "it came too late"


@pytest.mark.parametrize(
    "command",
    [("run", "imgs", "-o", "out"), ("sanity", "imgs", "-o", "s"), ("dream", "-o", "d", "--class", "0"), ("layers", "resnet18")],
)
def test_every_command_that_loads_says_so_before_pytorch_is_there(imgs, tmp_path, command):
    """The line comes within a second or two, from a fresh process, long before the model."""
    process = start(*[str(tmp_path / word) if word in ("imgs", "out", "s", "d") else word for word in command])
    try:
        assert process.stderr.readline().startswith("Loading PyTorch")
    finally:
        process.kill()
        process.communicate()
