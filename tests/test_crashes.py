"""A file that takes the process down is found after the restart and set aside; one that was only there when it happened is not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from camcli.output.inflight import InFlight
from camcli.output.root import Root
from camcli.pipeline import probe
from camcli.records import Source
from tests.conftest import ROOT
from tests.folders import TINY, contents_of, failures_of, rows_of
from tests.forks import completed
from tests.pictures import encoded, photo

DEADLY = """
import ctypes, os, signal, sys, time
import cv2
real = cv2.imdecode

def imdecode(data, flags):
    if b"segfault" in bytes(data[-20:]):
        ctypes.string_at(0)
    if b"endless" in bytes(data[-20:]):
        time.sleep(3600)
    if b"greedy" in bytes(data[-20:]) and "run" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if b"exits" in bytes(data[-20:]):
        os._exit(1)
    if b"unlucky" in bytes(data[-20:]) and "UNLUCKY" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return real(data, flags)

cv2.imdecode = imdecode
"""


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """Child processes meet a decoder that dies of some files."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{ROOT}")


def run(*arguments, **environment):
    """A run that meets that decoder, and whose probes do."""
    return completed("run", *arguments, *TINY, "--batch-size", 2, prelude=DEADLY, env={**os.environ, **environment})


@pytest.fixture
def many(imgs):
    for k in range(30):
        (imgs / f"more-{k:02d}.jpg").write_bytes(encoded(photo(k), "JPEG"))
    return imgs


def test_a_file_that_kills_the_process_is_set_aside(deadly, many, tmp_path):
    """One death, one restart: the killer is named, all others are explained as if it had not been there."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run(many, "-o", whole, "--save-maps").returncode == 0
    killer = many / "more-07-x.jpg"
    killer.write_bytes(encoded(photo(), "JPEG") + b"segfault")
    assert run(many, "-o", out, "--save-maps").returncode == -signal.SIGSEGV
    restarted = run(many, "-o", out, "--save-maps")
    assert restarted.returncode == 1, restarted.stderr
    assert "trying each in a separate process" in restarted.stderr
    assert failures_of(out) == [
        {"image": "more-07-x.jpg", "stage": "crashed", "error": "a separate process failed on this image: SIGSEGV (signal 11)"}
    ]
    without = ("run.json", "journal.jsonl", "lock", "failures.csv")
    assert contents_of(out, without) == contents_of(whole, without)
    assert "Nothing to do: 36 images" in run(many, "-o", out, "--save-maps").stderr
    retried = run(many, "-o", out, "--save-maps", "--retry-failed")
    assert retried.returncode == 1, "what had been set aside was tried inside the run"
    assert len(failures_of(out)) == 1
    killer.write_bytes(encoded(photo(), "JPEG"))
    assert run(many, "-o", out, "--save-maps").returncode == 0
    assert len(rows_of(out)) == 37


def test_a_file_that_was_in_hand_when_the_process_was_killed_is_not_blamed(deadly, many, tmp_path):
    (many / "more-07-x.jpg").write_bytes(encoded(photo(), "JPEG") + b"unlucky")
    assert run(many, "-o", tmp_path / "out", UNLUCKY="1").returncode == -signal.SIGKILL
    assert run(many, "-o", tmp_path / "out").returncode == 0
    assert run(many, "-o", tmp_path / "whole").returncode == 0
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


def test_what_kills_only_inside_a_run_keeps_nothing_else_from_being_done_and_is_set_aside(deadly, many, tmp_path):
    """As lack of memory does: a process of its own survives the file. It is put last, and given up after eight more deaths.

    The first death leaves several names. The second run takes those last, one by one, and dies at the culprit, maybe before it came
    to an innocent one; it leaves the culprit's name alone, so the third does all the rest.
    """
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run(many, "-o", whole).returncode == 0
    (many / "more-07-x.jpg").write_bytes(encoded(photo(), "JPEG") + b"greedy")
    ends = [run(many, "-o", out).returncode]
    in_hand = InFlight(Root(str(out))).left_over()
    assert "more-07-x.jpg" in in_hand
    ends.append(run(many, "-o", out).returncode)
    assert len(rows_of(out)) >= 36 - len(in_hand) + 1, "what was not in hand was not done"
    assert InFlight(Root(str(out))).left_over() == ["more-07-x.jpg"]
    ends.append(run(many, "-o", out).returncode)
    assert ends == [-signal.SIGKILL] * 3
    assert len(rows_of(out)) == 36, "what can be done was not done"
    for _ in range(8):
        ends.append(run(many, "-o", out).returncode)
        if ends[-1] >= 0:
            break
    assert ends == [*[-signal.SIGKILL] * len(ends[:-1]), 1]
    assert len(ends) <= 10
    assert [(row["image"], row["stage"]) for row in failures_of(out)] == [("more-07-x.jpg", "crashed")]
    without = ("run.json", "journal.jsonl", "lock", "failures.csv")
    assert contents_of(out, without) == contents_of(whole, without)
    assert "Nothing to do" in run(many, "-o", out).stderr


def test_overwrite_does_not_forget_what_kills(deadly, many, tmp_path):
    (many / "more-07-x.jpg").write_bytes(encoded(photo(), "JPEG") + b"segfault")
    ends = [run(many, "-o", tmp_path / "out", "--overwrite").returncode for _ in range(4)]
    assert ends == [-signal.SIGSEGV, 1, 1, 1]


def test_each_of_several_culprits_is_found_and_nobody_else(deadly, tmp_path, monkeypatch):
    """Among good files, broken ones, and one that does not come back."""
    monkeypatch.setattr(probe, "MAX_SECONDS", 4)
    ends = {"a": b"", "b": b"segfault", "c": b"", "d": b"endless", "e": b"exits", "f": b""}
    for name, end in ends.items():
        (tmp_path / f"{name}.jpg").write_bytes(encoded(photo(), "JPEG") + end)
    (tmp_path / "broken.jpg").write_text("text")
    (tmp_path / "line\nbreak.jpg").write_bytes(encoded(photo(), "JPEG") + b"segfault")
    names = [*(f"{name}.jpg" for name in ends), "gone.jpg", "broken.jpg", "line\nbreak.jpg"]
    found = list(probe.find_crashing([Source(str(tmp_path), name) for name in names], 10**7))
    assert [failure.image for failure in found] == ["b.jpg", "d.jpg", "e.jpg", "line\nbreak.jpg"]
    assert {failure.stage for failure in found} == {"crashed"}
    assert [failure.reason.split(": ")[1] for failure in found] == [
        "SIGSEGV (signal 11)", "it did not end within 4 seconds", "it ended with exit code 1", "SIGSEGV (signal 11)",
    ]  # fmt: skip
    assert list(probe.find_crashing([], 10**7)) == []


def test_a_probe_that_cannot_run_blames_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(probe.sys, "executable", shutil.which("false"))
    assert list(probe.find_crashing([Source(str(tmp_path), "a.jpg")], 10**7)) == []


def test_what_is_in_hand_outlives_the_process(tmp_path):
    """A process that dies between entry and exit leaves the names of what its threads had in hand, and only those."""
    names = ["plain.jpg", "line\nbreak.jpg", os.fsdecode(b"\xff.jpg"), "d/" * 2000 + "x.jpg"]
    script = (
        "import os, sys, threading\nfrom camcli.output.inflight import InFlight\nfrom camcli.output.root import Root\n"
        "flight = InFlight(Root(sys.argv[1])); flight.begin({})\n"
        "with flight.mark('done.jpg'): pass\n"
        "gate = threading.Barrier(5)\n"
        "def hold(name):\n"
        "    with flight.mark('earlier-' + name): pass\n"
        "    with flight.mark(name): gate.wait(); threading.Event().wait()\n"
        "for name in sys.argv[2:]: threading.Thread(target=hold, args=(name,), daemon=True).start()\n"
        "gate.wait(); os._exit(9)"
    )
    (tmp_path / ".camcli" / "scratch").mkdir(parents=True)
    arguments = [sys.executable, "-c", script, tmp_path, *map(os.fsencode, names)]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == 9
    assert sorted(InFlight(Root(str(tmp_path))).left_over()) == sorted(names)
    flight = InFlight(Root(str(tmp_path)))
    flight.begin({})
    assert flight.left_over() == []
    flight.end()
    assert not (tmp_path / ".camcli" / "in-flight").exists()
