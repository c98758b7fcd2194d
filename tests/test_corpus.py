"""Every file of the corpus ends in one known state, alone and in a run; bombs cost little; the fuzzer finds what is planted."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from camcli.images import decode
from camcli.images.decode import decode_image
from camcli.records import Failure, Image
from camcli.source import Source
from tests.conftest import ROOT, Result
from tests.corpus import Case, corpus
from tests.folders import TINY, failures_of, rows_of, state_of
from tests.fuzz import format_of, planted

LIMIT = 178_000_000
PLANTED = "tests.fuzz:planted"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole corpus as files."""
    top = tmp_path_factory.mktemp("corpus")
    for case in corpus():
        case.make(top / case.name)
    return top


def test_names_are_given_once() -> None:
    names = [case.name for case in corpus()]
    assert len(set(names)) == len(names)
    assert sum(case.expected is None for case in corpus()) < len(names) / 10, "too many cases that nothing can fail"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", corpus(), ids=lambda case: case.name)
def test_each_file_is_decoded_as_its_standard_says_or_refused_with_a_reason(case: Case, folder: Path) -> None:
    outcome = decode_image(Source(str(folder), case.name), LIMIT)
    if isinstance(outcome, Failure):
        assert case.expected in (outcome.stage, None), outcome.reason
        assert outcome.reason.strip(" :")
        return
    assert case.expected in ("explained", None)
    assert outcome.pixels.dtype == np.uint8
    if case.pixels is not None:
        assert outcome.pixels.shape == case.pixels.shape
        assert np.abs(outcome.pixels.astype(int) - case.pixels).max() <= case.tolerance


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_picture_is_larger_than_the_limit(folder: Path) -> None:
    """Whatever a file says of its size, and wherever: a limit below the size of most lets only the small ones through."""
    for case in corpus():
        outcome = decode_image(Source(str(folder), case.name), 400)
        if isinstance(outcome, Image):
            assert outcome.pixels.shape[0] * outcome.pixels.shape[1] <= 400, case.name


def full(*_: object) -> None:
    raise MemoryError


def full_opencv(*_: object) -> None:
    error = cv2.error("Failed to allocate")
    error.code = cv2.Error.StsNoMem
    raise error


@pytest.mark.parametrize(("room", "name", "stand_in"), [(decode, "_decode", full), (cv2, "imdecode", full_opencv)])
def test_lack_of_memory_is_no_fault_of_the_file(
    room: ModuleType, name: str, stand_in: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of its own kind, not recorded with a stamp, so that the next run tries again."""
    monkeypatch.setattr(room, name, stand_in)
    outcome = decode_image(Source(str(folder), "grey.jpg"), LIMIT)
    assert isinstance(outcome, Failure)
    assert (outcome.stage, outcome.reason, outcome.stamp) == ("memory", "out of memory; the next run tries again", None)


def check_states(out: Path) -> None:
    """Exactly one state for each file that a walk finds, and the right one."""
    explained = [row["image"] for row in rows_of(out)]
    failed = {row["image"]: row["stage"] for row in failures_of(out)}
    walked = {case.name: case.expected for case in corpus() if case.walked}
    assert sorted([*explained, *failed]) == sorted(walked)
    assert len(failures_of(out)) == len(failed)
    states = dict.fromkeys(explained, "explained") | failed
    assert {name: states[name] for name, state in walked.items() if state} == {
        name: state for name, state in walked.items() if state
    }
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        assert all((out / row["overlay"]).is_file() for row in csv.DictReader(file) if row["status"] == "ok")


def test_a_run_over_everything_leaves_one_state_each_and_a_second_run_does_nothing(
    camcli: Callable[..., Result], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = os.listdir(folder)
    done = camcli("run", folder, "-o", out, *TINY)
    assert (done.code, done.out) == (1, "")
    assert "Traceback" not in done.err
    check_states(out)
    assert os.listdir(folder) == before
    kept = state_of(out)
    again = camcli("run", folder, "-o", out, *TINY)
    assert (again.code, again.out) == (0, ""), "these failures were told before"
    assert "Nothing to do" in again.err
    assert state_of(out) == kept


def test_a_run_over_everything_lets_no_library_speak_to_the_terminal(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "camcli", "run", folder, "-o", out, *TINY, "--quiet"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONFAULTHANDLER": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    failed = len(failures_of(out))
    assert done.stderr == f"camcli: {failed} images could not be explained; see {out / 'failures.csv'}.\n"
    check_states(out)


MEASURE = """
import json, resource, sys, time
from camcli.images.decode import PillowImage, decode_image
from camcli.source import Source
from tests.corpus import corpus

def peak():  # of this program alone: what getrusage says begins at the size of the process that started it
    if sys.platform == "linux":
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

PillowImage.MAX_IMAGE_PIXELS = None  # as the command has it
bombs = [case.name for case in corpus() if case.bomb]
decode_image(Source(sys.argv[1], "scene.png"), 178_000_000)
for name in bombs:
    before, begun = peak(), time.monotonic()
    decode_image(Source(sys.argv[1], name), 178_000_000)
    print(json.dumps([name, time.monotonic() - begun, peak() - before]))
"""


def test_bombs_cost_less_than_two_seconds_and_600_megabytes(folder: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    costs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(costs) == sum(case.bomb for case in corpus()) > 20
    assert [cost for cost in costs if cost[1] >= 2] == []
    assert 0 < sum(growth for _, _, growth in costs) < 600e6, costs


def divide() -> None:
    raise ZeroDivisionError


def test_the_fuzzer_finds_a_planted_crash_and_a_planted_exception_and_keeps_the_inputs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--runs",
        "600",
        "--jobs",
        "2",
        "--documents",
        "0",
        "--save",
        str(tmp_path),
        "--target",
        PLANTED,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name.rpartition("-")[0] for name in saved} == {f"signal-{int(signal.SIGSEGV)}", "ZeroDivisionError"}
    for name, data in saved.items():
        assert format_of(data) == ("GIF" if "Zero" in name else "BMP"), name
        with pytest.raises(ZeroDivisionError):
            planted(data, LIMIT, crash=divide)
    assert done.stdout.splitlines()[1].startswith("600 runs")
