"""What must hold whatever happens: kills, signals, failing disks, changing inputs, huge folders. The long versions: test_soak."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from camcli.images import decode
from camcli.records import unescape_name
from tests.failing import CHANGING, FAILS_WITH, LOOKING, READING, Failing
from tests.faults import (
    Whole,
    differences,
    files_below,
    fill_album,
    fill_with_copies,
    has_told,
    leftovers,
    noise_file,
    rows_of,
    violations_of_always,
)
from tests.folders import TINY
from tests.forks import (
    ORDINARY_USER,
    RIGHTS_KEPT,
    ROOT,
    Forks,
    Run,
    fresh,
    listens,
    rows_written,
    survivors,
    wait_for,
    workers_below,
    written,
)  # fmt: skip


@dataclass
class Kills:
    """Kills over one command and what they met. ``fell``: how many in which phase of a run.

    Every third run has two worker processes, and so has every fresh one. ``outlived``: workers two seconds after a kill.
    """

    forks: Forks
    images: Path
    place: Path
    arguments: tuple[object, ...]
    random: random.Random
    fresh_every: int = 10
    whole: Whole = field(default_factory=Whole)
    fell: collections.Counter[str] = field(default_factory=collections.Counter)
    runs: int = 0
    started: int = 0
    outlived: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.fell.values())

    def start(self, out: Path) -> tuple[Run, bool]:
        self.started += 1
        workers = ["--workers", 2] if self.started % 3 == 0 else []
        arguments = ["run", self.images, "-o", out, *self.arguments, *workers]
        is_fresh = self.fresh_every > 0 and self.kills % self.fresh_every == self.fresh_every - 1
        log = self.place / "log"
        return (fresh(arguments, log) if is_fresh else self.forks.start(arguments, log)), is_fresh

    def strike(self, run: Run, out: Path, is_fresh: bool, total: int) -> str:
        """Wait until a moment drawn at random and kill; where that fell, or nothing where the run had ended before."""
        before, phase = written(out), self.random.choices(("start", "write", "end"), (15, 60, 25))[0]
        if phase != "start":
            wait_for(lambda: written(out) != before or run.poll() is not None)
        if phase == "end":
            nearly = total - self.random.randrange(4)
            wait_for(lambda: rows_written(out) >= nearly or run.poll() is not None)
        time.sleep(self.random.uniform(0, {"start": 2.5 if is_fresh else 0.25, "write": 0.4, "end": 0.03}[phase]))
        workers = workers_below(run.pid)
        run.send_signal(signal.SIGKILL)
        if run.wait(30) != -signal.SIGKILL:
            return ""
        self.outlived += [f"worker {pid} outlived kill {self.kills + 1}" for pid in survivors(workers)]
        if any((out / ".camcli" / name).exists() for name in ("draft", "exchange")):
            return "while tables were exchanged"
        if written(out) == before:
            return "before anything was written"
        return "after the last row" if rows_written(out) >= total else "between rows"

    def disturb(self, out: Path) -> frozenset[str]:
        """Now and then lose an overlay or touch an image, so that rows are dropped and tables put in order. What was lost."""
        rows = [row for row in rows_of(out / "predictions.csv") if row["overlay"]]
        chance = self.random.random()
        if not rows or chance > 0.4:
            return frozenset()
        row = self.random.choice(rows)
        if chance < 0.2:
            (out / row["overlay"]).unlink(missing_ok=True)
            return frozenset({row["overlay"]})
        os.utime(self.images / row["image"])
        return frozenset()

    def go_on_until(self, kills: int, expected: Path, code: int) -> list[str]:
        """Kill runs, each of a folder that the one before has left, until there were so many kills. What was violated."""
        violations: list[str] = []
        total = rows_written(expected)
        while self.kills < kills:
            out, gone, ended = self.place / f"out-{self.runs}", frozenset(), False
            while not ended:
                told = has_told(out)
                run, is_fresh = self.start(out)
                fell = self.strike(run, out, is_fresh, total) if self.kills < kills else ""
                if fell:
                    self.fell[fell + (", fresh process" if is_fresh else "")] += 1
                    found = violations_of_always(out, self.whole, gone)
                    violations += [f"kill {self.kills} ({fell}): {words}" for words in found]
                    gone |= self.disturb(out)
                else:
                    ended = True
                    if run.wait(120) != (0 if told else code):  # what failed is told once
                        violations.append(f"after kill {self.kills}: exit code {run.wait(0)}: {(self.place / 'log').read_text()}")
            self.runs += 1
            violations += [f"run {self.runs} after kill {self.kills}: {words}" for words in differences(out, expected)]
            shutil.rmtree(out)
        return violations + self.outlived


def undisturbed(forks: Forks, images: Path, out: Path, *arguments: object) -> int:
    """A run that nothing disturbs; its exit code."""
    return forks.start(["run", images, "-o", out, *arguments], out.parent / "log-undisturbed").wait(1200)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "imgs"
    fill_album(folder, 100)
    return folder


def test_law_1_kills_at_any_moment_lose_nothing_and_tear_nothing(forks, album, tmp_path):
    flags = (*TINY, "--batch-size", 4, "--quiet")
    assert undisturbed(forks, album, tmp_path / "whole", *flags) == 1
    kills = Kills(forks, album, tmp_path, flags, random.Random(1), fresh_every=5)
    assert kills.go_on_until(5, tmp_path / "whole", 1) == []


@dataclass
class Signalled:
    """How a run ended after a signal."""

    code: int
    seconds: float
    said: str


def signalled(run: Run, number: int, log: Path) -> Signalled:
    """Send a signal and wait for the end."""
    begun = time.monotonic()
    run.send_signal(number)
    code = run.wait(60)
    return Signalled(code, time.monotonic() - begun, log.read_text())


def violations_of_a_signal(ended: Signalled, number: int, out: Path, expected: Path, code: int) -> list[str]:
    """What is wrong after a signal: another exit code (unless all was done), more than 5 s, a traceback, temporary files."""
    found = [f"left behind: {name}" for name in leftovers(out)] + violations_of_always(out)
    if ended.seconds > 5:
        found.append(f"ended after {ended.seconds:.1f} s")
    if "Traceback" in ended.said:
        found.append(f"traceback: {ended.said}")
    if ended.code == code:  # it came when the last file was written
        found += differences(out, expected)
    elif ended.code != 128 + number:
        found.append(f"exit code {ended.code}: {ended.said}")
    return found


def signals_at_random(forks: Forks, images: Path, place: Path, count: int, seed: int) -> tuple[list[str], collections.Counter[str]]:
    """``count`` signals over runs of one command, each going on where the last one was stopped; violations, and what was met."""
    flags, draw = (*TINY, "--batch-size", 4), random.Random(seed)
    violations: list[str] = []
    met: collections.Counter[str] = collections.Counter()
    expected, log = place / "whole", place / "log"
    assert undisturbed(forks, images, expected, *flags) == 1
    total, out, rounds = rows_written(expected), place / "out", 0
    for k in range(count):
        number, before, code = draw.choice((signal.SIGINT, signal.SIGTERM)), written(out), 0 if has_told(out) else 1
        run = forks.start(["run", images, "-o", out, *flags], log)
        wait_for(lambda run=run: listens(run))
        phase = draw.choice(("start", "write", "write", "end"))
        if phase != "start":
            wait_for(lambda run=run, before=before: written(out) != before or run.poll() is not None)
        if phase == "end":
            wait_for(lambda run=run: rows_written(out) >= total - 2 or run.poll() is not None)
        time.sleep(draw.uniform(0, {"start": 0.3, "write": 0.3, "end": 0.02}[phase]))
        ended = signalled(run, number, log)
        met[f"{signal.Signals(number).name} -> {ended.code}"] += 1
        violations += [f"signal {k} ({phase}): {w}" for w in violations_of_a_signal(ended, number, out, expected, code)]
        if ended.code == code or phase == "end" or k == count - 1:
            told = has_told(out)
            assert undisturbed(forks, images, out, *flags) == (0 if told else 1)
            violations += [f"after signal {k}: {words}" for words in differences(out, expected)]
            shutil.rmtree(out)
            rounds += 1
    met["runs brought to their end"] = rounds
    return violations, met


def test_law_2_signals_at_any_moment_end_soon_and_leave_nothing(forks, album, tmp_path):
    violations, _ = signals_at_random(forks, album, tmp_path, 5, seed=2)
    assert not violations, "\n".join(violations)


def test_law_2_a_signal_when_all_is_said_traces_nothing(forks, tmp_path):
    """PyTorch is torn down for a second after the last line: what comes then finds the work done, or interrupts nothing."""
    fill_album(tmp_path / "imgs", 5)
    log, out = tmp_path / "log", tmp_path / "out"
    for number, pause in ((signal.SIGINT, 0), (signal.SIGTERM, 0.005), (signal.SIGINT, 0.01), (signal.SIGINT, 0.3)):
        run = forks.start(["run", tmp_path / "imgs", "-o", out, "--overwrite", *TINY], log)
        wait_for(lambda: log.exists() and "Overlays in" in log.read_text())
        time.sleep(pause)
        ended = signalled(run, number, log)
        log.unlink()
        assert "Traceback" not in ended.said, ended.said
        assert ended.code in (1, 128 + number)


def test_law_2_a_signal_while_a_real_network_loads(tmp_path):
    """In a fresh process, from the moment it listens."""
    fill_album(tmp_path / "imgs", 6)
    for number, pause in ((signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGINT, 0.3), (signal.SIGTERM, 1.2)):
        run = fresh(["run", tmp_path / "imgs", "-o", tmp_path / "out"], tmp_path / "log")
        wait_for(lambda run=run: listens(run))
        time.sleep(pause)
        ended = signalled(run, number, tmp_path / "log")
        assert violations_of_a_signal(ended, number, tmp_path / "out", tmp_path / "none", -1) == []


def test_law_2_a_second_interrupt_ends_at_once(forks, tmp_path):
    """While the network is at work on a batch that takes half a minute."""
    images, out, log = tmp_path / "imgs", tmp_path / "out", tmp_path / "log"
    fill_album(images, 4)
    flags = ("--model", "tests.faults:slow", "--layer", "cells", "--class", "bright")
    arguments = ["run", images, "-o", out, *flags, "--batch-size", 3]
    run = forks.start(arguments, log, FAULTS_ASLEEP=str(tmp_path / "asleep"))
    assert wait_for((tmp_path / "asleep").exists)
    run.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert run.poll() is None, "what is in flight is finished"
    ended = signalled(run, signal.SIGINT, log)
    assert ended.code == 130
    assert ended.seconds < 1
    for folder in (out, tmp_path / "whole"):
        assert undisturbed(forks, images, folder, *flags, "--batch-size", 2) == 0
    assert differences(out, tmp_path / "whole") == []


USERS = {"notes.txt": b"mine", "overlays/mine.txt": b"mine", "overlays/sub/mine.jpg": noise_file(99, (20, 20))}
"""Files of the user in the output folder, which no fault may touch."""


class Sweep:
    """One command over a small album, repeated with one file operation failing, and then without.

    ``beginnings``: output folders to start from. ``nothing`` holds files of the user only. ``half`` an interrupted run of five
    images: one has changed since, one has lost its overlay; with a torn row, an overlay without a row, and a forgotten
    temporary file.
    """

    def __init__(self, camcli, place: Path) -> None:
        self.camcli, self.place = camcli, place
        self.images, self.expected, self.out = place / "imgs", place / "whole", place / "out"
        fill_album(self.images, 6, largest=60)
        self.command = ("run", self.images, *TINY, "--batch-size", 2, "--workers", 1)
        half, nothing = place / "half", place / "nothing"
        assert camcli(*self.command, "-o", half, "--limit", 5).code == 1
        rows = rows_of(half / "predictions.csv")
        os.utime(self.images / rows[1]["image"], ns=(10**18, 10**18))
        (half / rows[2]["overlay"]).unlink()
        (half / ".camcli" / "scratch" / "1-2").write_bytes(b"half a file")
        (half / ".camcli" / "unconfirmed.jsonl").write_text('["overlays/nobody.jpg.7-dark.jpg"]\n')
        shutil.copy(half / rows[0]["overlay"], half / "overlays" / "nobody.jpg.7-dark.jpg")
        with open(half / "predictions.csv", "ab") as table:
            table.write(b"sub/torn.jpg,1,0")
        record = (half / "run.json").read_text()
        (half / "run.json").write_text(record.replace('"state": "finished"', '"state": "interrupted"'))
        self.code = camcli(*self.command, "-o", self.expected).code
        assert self.code == 1
        self.beginnings = {"nothing": nothing, "half": half}
        self.kept = {"nothing": {}, "half": {row["image"]: half / row["overlay"] for row in (rows[0], rows[3])}}
        self.users = {"nothing": ("notes.txt",), "half": tuple(USERS)}
        for beginning, name in ((beginning, name) for beginning, names in self.users.items() for name in names):
            path = self.beginnings[beginning] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(USERS[name])

    def run(self, beginning: str, failing: Failing) -> tuple[list[str], bool]:
        """What is violated when ``failing`` strikes, and whether it did."""
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.beginnings[beginning], self.out)
        before = {name: path.read_bytes() for name, path in self._kept_now(beginning).items()}
        with failing:
            ended = self.camcli(*self.command, "-o", self.out)
        violations = self._after_a_fault(beginning, before, ended.code, ended.err)
        failed = rows_of(self.out / "failures.csv")
        told = has_told(self.out) and all(row in failed for row in rows_of(self.expected / "failures.csv"))
        again = self.camcli(*self.command, "-o", self.out)
        if again.code != (0 if told else self.code):
            violations.append(f"the next run: exit code {again.code}: {again.err}")
        else:
            violations += [f"the next run: {words}" for words in differences(self.out, self.expected)]
        struck = failing.number <= len(failing.seen)
        operation = failing.seen[failing.number - 1] if struck and failing.seen else "none"
        words = f"{beginning}, {errno.errorcode[failing.code]} {'for good' if failing.for_good else 'once'}"
        words = f"{words} at {failing.number} ({operation})"
        return [f"{words}: {violation}" for violation in violations], struck

    def _kept_now(self, beginning: str) -> dict[str, Path]:
        overlays = {name: self.out / "overlays" / path.relative_to(self.beginnings[beginning] / "overlays")
                    for name, path in self.kept[beginning].items()}  # fmt: skip
        return overlays | {name: self.out / name for name in self.users[beginning]}

    def _after_a_fault(self, beginning: str, before: dict[str, bytes], code: int, said: str) -> list[str]:
        violations = ["traceback: " + said] if "Traceback" in said or "defect" in said else []
        gone = frozenset() if beginning == "nothing" else frozenset(self._lost())
        violations += violations_of_always(self.out, gone=gone)
        for name, path in self._kept_now(beginning).items():
            if not path.is_file() or path.read_bytes() != before[name]:
                violations.append(f"lost or changed: {name}")
        rows = {row["image"] for row in rows_of(self.out / "predictions.csv")}
        violations += [f"lost its row: {name}" for name in self.kept[beginning] if name not in rows]
        if code == 0:
            violations.append(f"exit code 0: {said}")
        elif code == self.code and self._says_finished():
            violations += [f"exit code {code}, but {words}" for words in self._differences_that_count()]
        return violations

    def _says_finished(self) -> bool:
        return (self.out / "run.json").is_file()

    def _differences_that_count(self) -> list[str]:
        """With exit code 1 an image may have failed for the fault: then it stands in the table of failures."""
        failed = {row["image"] for row in rows_of(self.out / "failures.csv")}
        stated = failed | {row["image"] for row in rows_of(self.out / "predictions.csv")}
        wanted = {row["image"] for name in ("predictions.csv", "failures.csv") for row in rows_of(self.expected / name)}
        below = {
            name for name in wanted for folder in failed if name.startswith(f"{folder}/")
        }  # of a folder that could not be read
        return [f"no state of {name}" for name in sorted(wanted - stated - below)]

    def _lost(self) -> list[str]:
        half = self.beginnings["half"]
        return [row["overlay"] for row in rows_of(half / "predictions.csv") if not (half / unescape_name(row["overlay"])).is_file()]

    def number_of(self, beginning: str, root: Path, operations: frozenset[str]) -> int:
        """How many operations a run without faults makes."""
        failing = Failing(str(root), operations)
        violations, _ = self.run(beginning, failing)
        assert violations == []
        return len(failing.seen)


@pytest.fixture
def sweep(camcli, tmp_path, monkeypatch) -> Sweep:
    monkeypatch.setattr("camcli.cli.app.abandon_stdout", lambda: None, raising=False)  # pytest's own has no descriptor
    return Sweep(camcli, tmp_path)


@pytest.mark.parametrize("beginning", ["nothing", "half"])
@pytest.mark.parametrize("inside", ["out", "imgs"])
def test_law_4_a_failing_file_operation_loses_nothing(sweep, inside, beginning):
    """A sample; test_soak has them all."""
    draw, violations = random.Random(f"{inside} {beginning}"), []
    counts = {code: sweep.number_of(beginning, sweep.place / inside, FAILS_WITH[code]) for code in FAILS_WITH}
    faults = [(code, number, good) for code in FAILS_WITH for number in range(1, counts[code] + 1) for good in (False, True)]
    for code, number, for_good in draw.sample(faults, min(7, len(faults))):
        found, _ = sweep.run(beginning, Failing(str(sweep.place / inside), FAILS_WITH[code], number, code, for_good))
        violations += found
    assert not violations, "\n".join(violations)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of ``size`` in memory; skips where mounting is not allowed."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


COUNTING = ("--model", "tests.faults:counting", "--layer", "cells", "--class", "bright", "--batch-size", 4)


def photos(folder: Path, count: int) -> Path:
    """``count`` JPEGs of about 60 kB whose overlays take about 30 kB."""
    folder.mkdir()
    for k in range(count):
        (folder / f"{k:03d}.jpg").write_bytes(noise_file(k, (200, 150)))
    return folder


def test_law_5_a_full_disk_is_named_soon_and_what_is_there_stays(forks, tmp_path):
    images, seen, log = photos(tmp_path / "imgs", 120), tmp_path / "seen", tmp_path / "log"
    with small_disk(tmp_path / "disk", "1m") as disk:
        out = disk / "out"
        assert forks.start(["run", images, "-o", out, *COUNTING, "--limit", 5], log, FAULTS_SEEN=str(seen)).wait(60) == 0
        before = {name: path.read_bytes() for name, path in files_below(out / "overlays").items()}
        seen.unlink()
        for _ in "12":
            run = forks.start(["run", images, "-o", out, *COUNTING], log, FAULTS_SEEN=str(seen))
            assert run.wait(60) == 3
            assert f"the disk at '{disk}', which contains '{out}" in log.read_text()
            assert "is full" in log.read_text()
            assert seen.stat().st_size < 90, "all images were tried"
            after = files_below(out / "overlays")
            assert {name: after[name].read_bytes() for name in before} == before
            assert violations_of_always(out) == []
            assert not leftovers(out)
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        assert undisturbed(forks, images, out, *COUNTING) == 0
        assert undisturbed(forks, images, tmp_path / "whole", *COUNTING) == 0
        assert differences(out, tmp_path / "whole") == []


@pytest.mark.parametrize(("largest", "what"), [(20_000, "overlays"), (15_000, "predictions.csv")])
def test_law_5_a_file_size_limit_is_named_soon_and_what_is_there_stays(tmp_path, forks, largest, what):
    """Which an overlay exceeds, or the table: as ``ulimit -f`` sets it."""
    images, log, seen = tmp_path / "imgs", tmp_path / "log", tmp_path / "seen"
    if what == "overlays":
        photos(images, 100)
    else:
        fill_with_copies(images, 250, contents=3)
    command = ["run", images, "-o", tmp_path / "out", *COUNTING]
    assert forks.start([*command, "--limit", 3], log, FAULTS_SEEN=str(seen)).wait(60) == 0
    before = {name: path.read_bytes() for name, path in files_below(tmp_path / "out" / "overlays").items()}
    seen.unlink()
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))"
    assert forks.start(command, log, prelude=limit, FAULTS_SEEN=str(seen)).wait(120) == 3
    assert "file-size limit of this process" in log.read_text()
    assert what in log.read_text()
    assert seen.stat().st_size < len(files_below(images)) * 0.9, "all images were tried"
    after = files_below(tmp_path / "out" / "overlays")
    assert {name: after[name].read_bytes() for name in before} == before
    assert violations_of_always(tmp_path / "out") == []
    assert not leftovers(tmp_path / "out")
    assert undisturbed(forks, images, tmp_path / "out", *COUNTING) == 0
    assert undisturbed(forks, images, tmp_path / "whole", *COUNTING) == 0
    assert differences(tmp_path / "out", tmp_path / "whole") == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("read-only", "is not writable"),
        ("read-only/out", "is not writable"),
        ("missing/out", "there is no folder"),
        ("file", "is a file, not a folder"),
        ("file/out", "there is no folder"),
        ("dangling", "is a file, not a folder"),
        ("old", "old/.camcli"),
    ],
)
def test_law_6_an_impossible_output_folder_is_refused_before_the_model_is_loaded(camcli, forks, tmp_path, place, said):
    """The model does not exist: who had looked for it would say that."""
    images = tmp_path / "imgs"
    fill_album(images, 2)
    (tmp_path / "read-only").mkdir(mode=0o555)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    camcli("run", images, "-o", tmp_path / "old", *TINY)
    (tmp_path / "old" / ".camcli").chmod(0o555)
    for path in files_below(tmp_path / "old").values():
        path.chmod(0o444)
    before = sorted(map(str, tmp_path.rglob("*")))
    flags = TINY if place == "old" else ("--model", "no_such_model")
    if place == "old":
        fill_album(images, 4)
    log = tmp_path.parent / f"{tmp_path.name}.log"
    begun = time.monotonic()
    ended = forks.start(["run", images, "-o", tmp_path / place, *flags], log, prelude=ORDINARY_USER).wait(60)
    if ended == RIGHTS_KEPT:
        pytest.skip("root may not give up its rights here")
    assert ended == 3, log.read_text()
    assert said in log.read_text()
    assert "Traceback" not in log.read_text()
    assert time.monotonic() - begun < 10
    if place != "old":
        assert sorted(map(str, tmp_path.rglob("*"))) == before


def _rewrite(path: Path) -> None:
    path.write_bytes(noise_file(1234, (90, 70)))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES = {"rewritten": _rewrite, "deleted": os.unlink, "truncated": _truncate, "a FIFO": _replace_by_fifo}


@pytest.mark.parametrize("moment", ["before", "within", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_law_14_an_image_that_changes_during_the_run_has_the_state_of_the_bytes_read(camcli, tmp_path, monkeypatch, change, moment):
    """Before it is opened, between its being opened and read, or after: the next run redoes it if need be, and nothing else."""
    images, out = tmp_path / "imgs", tmp_path / "out"
    images.mkdir()
    for k in range(8):
        (images / f"{k}.jpg").write_bytes(noise_file(k, (80, 60)))
    assert camcli("run", images, "-o", tmp_path / "old", *TINY).code == 0
    _change_when_read(monkeypatch, images / "4.jpg", CHANGES[change], moment)
    first = camcli("run", images, "-o", out, *TINY)
    monkeypatch.undo()
    assert "Traceback" not in first.err
    assert violations_of_always(out) == []
    others = {name: path.stat().st_mtime_ns for name, path in files_below(out / "overlays").items() if name[0] != "4"}
    assert len(others) == 7
    seen = {row["image"]: row["logit"] for row in rows_of(out / "predictions.csv")}
    old = {row["image"]: row["logit"] for row in rows_of(tmp_path / "old" / "predictions.csv")}
    if moment == "after" or (moment == "within" and change in ("deleted", "a FIFO")):
        assert seen == old, "the bytes that were read were the old ones"
    second = camcli("run", images, "-o", out, *TINY)
    settled = moment == "before" or change == "deleted"
    assert ("to do." not in second.err) == settled, second.err
    if not settled:
        assert "7 images done before, 1 to do" in second.err
    after = {name: path.stat().st_mtime_ns for name, path in files_below(out / "overlays").items() if name[0] != "4"}
    assert after == others, "another image was done again"
    third = camcli("run", images, "-o", out, *TINY)
    assert "Nothing to do" in third.err
    _ends_like_a_fresh_run(camcli, images, out, tmp_path / "fresh", ("4.jpg",) if change == "deleted" else ())


def _ends_like_a_fresh_run(camcli, images: Path, out: Path, other: Path, deleted: tuple[str, ...]) -> None:
    camcli("run", images, "-o", other, *TINY)
    if not deleted:
        assert differences(out, other) == []
        return
    ours = [row for row in rows_of(out / "predictions.csv") if row["image"] not in deleted]  # its row is kept
    assert ours == rows_of(other / "predictions.csv")


def _change_when_read(monkeypatch, path: Path, change, moment: str) -> None:
    read, look = decode.read_source, os.fstat
    target, done = os.stat(path).st_ino, []

    def reading(source, **options):
        if source.path == str(path) and moment == "before":
            change(path)
        try:
            return read(source, **options)
        finally:
            if source.path == str(path) and moment == "after":
                change(path)

    def looking(handle):
        status = look(handle)
        if moment == "within" and status.st_ino == target and not done:
            done.append(True)
            change(path)
        return status

    monkeypatch.setattr(decode, "read_source", reading)
    monkeypatch.setattr(os, "fstat", looking)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bomb.png", b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", b"\0\0\xea\x60" * 2 + b"\x08\x02\0\0\0") + _chunk(b"IDAT", b"")),
        ("bomb.gif", b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"),
        (
            "bomb.bmp",
            b"BM" + bytes(12) + (40).to_bytes(4, "little") + (60000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24),
        ),
        ("bomb.jpg", b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\1\x22\0\2\x11\1\3\x11\1\xff\xd9"),
    ],
    ids=["png", "gif", "bmp", "jpg"],
)
def test_law_17_a_picture_that_claims_billions_of_pixels_is_refused_at_once(camcli, tmp_path, name, data):
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / name).write_bytes(data)
    (tmp_path / "imgs" / "good.jpg").write_bytes(noise_file(0, (50, 50)))
    assert camcli("run", tmp_path / "imgs" / "good.jpg", "-o", tmp_path / "first", *TINY).code == 0  # PyTorch is loaded
    begun = time.monotonic()
    assert camcli("run", tmp_path / "imgs", "-o", tmp_path / "out", *TINY).code == 1
    assert time.monotonic() - begun < 2
    [failure] = rows_of(tmp_path / "out" / "failures.csv")
    assert (failure["image"], failure["stage"]) == (name, "decode")
    assert "--max-pixels" in failure["error"]
    assert len(rows_of(tmp_path / "out" / "predictions.csv")) == 1


DISCOVERY = """
import sys, time
from camcli.images.discover import Search, discover_sources

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024

before, begun = peak(), time.monotonic()
names = [source.image for source in discover_sources([sys.argv[1]], Search("/nonexistent/out"))]
print(len(names), all(a < b for a, b in zip(names, names[1:])), names[0], names[-1], peak() - before, time.monotonic() - begun)
"""


@dataclass(frozen=True)
class Discovered:
    """What a fresh process found, the growth of its largest memory in MB, and its seconds."""

    count: int
    ordered: bool
    first: str
    last: str
    growth: float
    seconds: float


def discovered(folder: Path, count: int) -> Discovered:
    """The images of a folder of ``count`` entries, made in an order that is not theirs; the folder is removed again."""
    folder.mkdir()
    try:
        for k in range(count):
            os.close(os.open(folder / f"IMG_{k * 7919 % count:07d}.jpg", os.O_CREAT | os.O_WRONLY))
        done = subprocess.run([sys.executable, "-c", DISCOVERY, folder], capture_output=True, text=True, check=True, cwd=ROOT)
    finally:
        shutil.rmtree(folder)
    number, ordered, first, last, growth, seconds = done.stdout.split()
    return Discovered(int(number), ordered == "True", first, last, float(growth), float(seconds))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_law_20_discovery_takes_300_bytes_an_entry(tmp_path):
    """In a fresh process, with 5 MB for Python itself; 7919 is prime to the number of entries."""
    found = discovered(tmp_path / "many", 50_000)
    assert (found.count, found.ordered) == (50_000, True)
    assert (found.first, found.last) == ("IMG_0000000.jpg", "IMG_0049999.jpg")
    assert found.growth < 5 + 300 * 50_000 / 1e6


@dataclass(frozen=True)
class Sample:
    """One look at a run: how many bytes its table has, memory in kB of its own, open descriptors, threads."""

    table: int
    memory: int
    descriptors: int
    threads: int


def watched(run: Run, out: Path) -> Iterator[Sample]:
    """Looks at a run, twenty a second, from its first row to its end."""
    while run.poll() is None:
        with contextlib.suppress(OSError, StopIteration, ValueError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{run.pid}/status").read_text().splitlines())
            size, descriptors = (out / "predictions.csv").stat().st_size, len(os.listdir(f"/proc/{run.pid}/fd"))
            if "RssAnon" in status:
                yield Sample(size, int(status["RssAnon"].split()[0]), descriptors, int(status["Threads"]))
        time.sleep(0.05)


def growth(samples: list[Sample], images: int) -> tuple[float, int]:
    """Bytes of memory an image, between the first third and the end, and how many descriptors came in that time."""
    final = samples[-1].table
    early = [sample for sample in samples if 0.30 <= sample.table / final <= 0.36]
    late = [sample for sample in samples if sample.table / final >= 0.94]
    memory = (max(sample.memory for sample in late) - max(sample.memory for sample in early)) * 1024
    descriptors = max(sample.descriptors for sample in late) - max(sample.descriptors for sample in early)
    return memory / (images * 0.64), descriptors


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="memory and descriptors are read from /proc")
def test_law_21_memory_and_descriptors_do_not_grow_with_the_images(forks, tmp_path):
    """At 1,500 images with a bound for noise; test_soak has 100,000 and the bytes an image."""
    fill_with_copies(tmp_path / "imgs", 1500)
    run = forks.start(["run", tmp_path / "imgs", "-o", tmp_path / "out", *TINY, "--batch-size", 16], tmp_path / "log")
    samples = list(watched(run, tmp_path / "out"))
    assert run.wait(10) == 0
    per_image, descriptors = growth(samples, 1500)
    assert per_image < 20_000
    assert descriptors <= 4, "as many as workers may have open at one time"


def combinations_that_differ(forks: Forks, images: Path, place: Path, combinations: list[tuple[int, int]]) -> list[str]:
    """What differs between runs with (workers, batch size): overlays by the byte at equal batch size."""
    found: list[str] = []
    first: dict[int, Path] = {}
    for workers, batch in combinations:
        out = place / f"{workers}-{batch}"
        code = undisturbed(forks, images, out, *TINY, "--workers", workers, "--batch-size", batch)
        same = first.setdefault(batch, out)
        found += [f"{workers} workers, batch {batch}: exit code {code}"] * (code not in (0, 1))
        found += [f"{workers} workers, batch {batch}: {words}" for words in differences(out, same)]
    one, *rest = first.values()
    return found + [f"{other.name}: {words}" for other in rest for words in differences(other, one, same_bytes=False)]


def test_law_21_workers_and_batch_sizes_change_nothing(forks, album, tmp_path):
    assert combinations_that_differ(forks, album, tmp_path, [(1, 32), (8, 32), (2, 1)]) == []


def test_the_faults_of_these_tests_do_happen(tmp_path):
    """A sweep that lets nothing fail would find nothing."""
    with Failing(str(tmp_path), CHANGING, 2, errno.ENOSPC) as failing:
        file = open(tmp_path / "a", "wb")  # noqa: SIM115 - what closes it is looked at
        with pytest.raises(OSError, match="No space"):
            file.write(b"abcd")
        file.close()
    assert failing.seen == ["create a", "write a", "close a"]
    assert (tmp_path / "a").read_bytes() == b"ab"
    with Failing(str(tmp_path), READING | LOOKING, 1, errno.EACCES, for_good=True):
        assert not os.path.exists(tmp_path / "a")
        with pytest.raises(PermissionError):
            os.scandir(tmp_path)
