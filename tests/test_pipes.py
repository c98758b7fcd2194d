"""camcli in pipelines and in cron: paths on stdin, rows on stdout, the log, and streams that break."""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from camcli.records import unescape_name
from tests.conftest import ROOT
from tests.folders import TINY, contents_of, failures_of, rows_of
from tests.forks import command_in_shell, forked, wait_for
from tests.pictures import encoded, photo
from tests.test_run import NAMES

RUN = f"$camcli run {shlex.join(TINY)}"
FRESH = f"$fresh run {shlex.join(TINY)}"


def sh(script, cwd):
    """A pipeline as a user types it, by bash with pipefail; ``$camcli`` is the command, ``$fresh`` too, in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "fresh": f"{sys.executable} -m camcli", "camcli": command_in_shell()}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=cwd, capture_output=True, env=environment, timeout=120, check=False
    )


@pytest.fixture
def feed(tmp_path_factory, monkeypatch):
    """Bytes for stdin of the next command."""

    def give(data: bytes):
        path = tmp_path_factory.mktemp("stdin") / "paths"
        path.write_bytes(data)
        monkeypatch.setattr(sys, "stdin", path.open(encoding="utf-8"))

    return give


def test_paths_on_stdin_are_explained_as_files_given(camcli, imgs, tmp_path, monkeypatch, feed):
    """Lines and NULs, folders and files, twice the same, blank lines: names are relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    feed(b"imgs/a.jpg\n\nimgs/sub\nimgs/a.jpg\r\n" + os.fsencode(imgs / "A.JPG"))
    assert camcli("run", "-", "-o", "lines", *TINY).code == 0
    assert [row["image"] for row in rows_of(tmp_path / "lines")] == ["imgs/a.jpg", "imgs/sub/a.jpg", "imgs/sub/b.png", "imgs/A.JPG"]
    feed(b"imgs/a.jpg\0imgs/sub\0imgs/A.JPG\0")
    assert camcli("run", "-", "--null", "-o", "nuls", *TINY).code == 0
    assert contents_of(tmp_path / "nuls") == contents_of(tmp_path / "lines")
    feed(b"imgs/A.JPG\n")
    assert "Nothing to do: 1 image " in camcli("run", "-", "-o", "lines", *TINY).err, "a shorter list is the same run"


def test_a_path_on_stdin_that_is_gone_fails_alone(camcli, imgs, tmp_path, monkeypatch, feed):
    monkeypatch.chdir(tmp_path)
    feed(b"imgs/a.jpg\nimgs/gone.jpg\nimgs/a.png\n")
    assert camcli("run", "-", "-o", "out", *TINY).code == 1
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["imgs/a.jpg", "imgs/a.png"]
    assert failures_of(tmp_path / "out") == [{"image": "imgs/gone.jpg", "stage": "read", "error": "no such file or directory"}]


def test_overlays_among_the_paths_are_never_explained(camcli, imgs, tmp_path, monkeypatch, feed):
    """What find finds in the output folder, in one of another run, and in a part: the second time there is nothing to do."""
    monkeypatch.chdir(tmp_path)
    camcli("run", "imgs", "-o", "imgs/other", *TINY)
    (tmp_path / "imgs" / "overlays").mkdir()
    (tmp_path / "imgs" / "overlays" / "mine.jpg").write_bytes(encoded(photo(3), "JPEG"))
    for said in ("7 images explained", "Nothing to do: 7 images"):
        found = [str(path.relative_to(tmp_path)) for path in sorted((tmp_path / "imgs").rglob("*.*[gG]"))]
        feed("\n".join([*found, "imgs/other/overlays", "imgs/other"]).encode())
        assert said in camcli("run", "-", "-o", "imgs/out", *TINY).err
    assert "imgs/overlays/mine.jpg" in {row["image"] for row in rows_of(tmp_path / "imgs" / "out")}


def test_paths_outside_the_current_folder_keep_their_whole_path(camcli, imgs, tmp_path, monkeypatch, feed):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    feed(os.fsencode(imgs / "a.jpg") + b"\n")
    assert camcli("run", "-", "-o", "out", *TINY).code == 0
    assert [row["image"] for row in rows_of(Path("out"))] == [str(imgs / "a.jpg").lstrip("/")]


@pytest.mark.parametrize(
    ("arguments", "data", "said"),
    [
        (("-",), b"", "no image among the paths on stdin"),
        (("-",), b"imgs/a.jpg\0imgs/a.png\0", "add --null"),
        (("-", "imgs"), b"imgs/a.jpg\n", "must be the only input"),
        (("imgs", "--null"), b"", "--null needs paths on stdin"),
        (("imgs", "--csv", "rows.csv"), b"", "--csv 'rows.csv' is not one of -"),
        (("imgs", "--format", "xml"), b"", "csv, jsonl"),
        (("imgs", "--log-file", "no/such/folder.log"), b"", "--log-file no/such/folder.log"),
    ],
)
def test_wrong_pipelines_are_told_why(camcli, imgs, tmp_path, monkeypatch, feed, arguments, data, said):
    monkeypatch.chdir(tmp_path)
    feed(data)
    ended = camcli("run", *arguments, "-o", "out", *TINY)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert not (tmp_path / "out").exists()


def test_rows_on_stdout_are_the_table(imgs, tmp_path):
    """Of a first run, of one that goes on, and of one with nothing to do; failures stay out, and so does all that others print."""
    (imgs / "broken.jpg").write_text("text")
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "import os\nfrom tests.networks import brightness\n"
        "def model():\n    print('printed'); os.write(1, b'written'); return brightness()\n"
    )
    command = f"$camcli run --model noisy:model --layer cells --class bright {imgs} -o out --csv -"
    first = sh(f"{command} --limit 3", tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout == (tmp_path / "out" / "predictions.csv").read_bytes()
    second = sh(command, tmp_path)
    assert second.returncode == 1
    assert second.stdout == (tmp_path / "out" / "predictions.csv").read_bytes()
    third = sh(command + " --quiet", tmp_path)
    assert third.stdout == second.stdout
    assert len(rows_of(tmp_path / "out")) == 6


def test_json_lines_say_what_the_table_says(camcli, tmp_path):
    """Names exactly as they are, numbers as numbers, truth as truth; what is not finite is null."""
    for k, name in enumerate(NAMES):
        path = os.path.join(os.fsencode(tmp_path), b"imgs", b"bright", os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(encoded(photo(k).point(lambda v: 255 - v // 9) if k == 3 else photo(k, (30, 30)), "PNG"))
    (tmp_path / "imgs" / "bright" / "burnt.png").write_bytes(encoded(photo().point(lambda v: 255), "PNG"))
    flags = ("--model", "tests.networks:breaks", "--layer", "cells", "--class-from", "folder", "--topk", 1)
    for attempt in ("fresh", "from the table"):
        done = camcli("run", tmp_path / "imgs", "-o", tmp_path / "out", *flags, "--format", "jsonl", "--csv", "-")
        assert done.code == 0, (attempt, done.err)
        lines = [json.loads(line) for line in done.out.splitlines()]
        table = rows_of(tmp_path / "out")
        assert {os.path.basename(line["image"]) for line in lines} == {*NAMES, "burnt.png"}
        assert [line["image"] for line in lines] == [unescape_name(row["image"]) for row in table]
        for line, row in zip(lines, table, strict=True):
            assert list(line) == list(row)
            assert line["correct"] is (row["correct"] == "yes")
            for column in ("rank", "box_x", "logit", "probability", "peak"):
                number = float(row[column])
                assert line[column] == number if math.isfinite(number) else line[column] is None
        assert sum(line["logit"] is None for line in lines) >= 1


def test_rows_come_as_images_finish(imgs, tmp_path):
    """The first row is there long before the last image is done."""
    for k in range(400):
        (imgs / f"more-{k:03d}.jpg").write_bytes(encoded(photo(k, (300, 200)), "JPEG"))
    process = forked("run", imgs, *TINY, "-o", tmp_path / "out", "--csv", "-", "--batch-size", 2, "--workers", 1, "--quiet")
    lines = [process.stdout.readline() for _ in range(2)]
    assert not (tmp_path / "out" / "run.json").exists(), "the run was over before the first row came"
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert len(lines) + rest.count("\n") == 407


def test_a_reader_that_leaves_ends_the_run_cleanly(imgs, tmp_path):
    for k in range(300):
        (imgs / f"more-{k:03d}.jpg").write_bytes(encoded(photo(k, (300, 200)), "JPEG"))
    done = sh(f"{RUN} imgs -o out --csv - --batch-size 2 | head -2", tmp_path)
    assert done.returncode == 141, done.stderr
    assert done.stdout.count(b"\n") == 2
    assert b"Traceback" not in done.stderr
    assert b"run the same command again to resume" in done.stderr
    assert len(rows_of(tmp_path / "out")) < 306
    assert not list((tmp_path / "out" / ".camcli" / "scratch").iterdir())
    assert sh(f"{RUN} imgs -o out --quiet", tmp_path).returncode == 0
    assert sh(f"{RUN} imgs -o whole --quiet", tmp_path).returncode == 0
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("stream", "code", "said"),
    [(">/dev/full", 3, "cannot write the rows to stdout"), (">&-", 0, "6 images explained"), ("2>/dev/full | cat", 0, None)],
)
def test_streams_that_cannot_be_written(imgs, tmp_path, stream, code, said):
    done = sh(f"{FRESH} imgs -o out --csv - {stream}", tmp_path)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if said is not None:
        assert said in done.stderr.decode()
    assert sh(f"{RUN} imgs -o out --quiet", tmp_path).returncode == 0
    assert len(rows_of(tmp_path / "out")) == 6


def test_quiet_runs_are_silent_and_cron_gets_no_mail(imgs, tmp_path):
    """Without a terminal, without an environment; the second run has nothing to do and says nothing either."""
    for _ in "12":
        done = sh(f"{RUN} imgs -o out --quiet --log-file run.log", tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (imgs / "broken.jpg").write_text("text")
    done = sh(f"{RUN} imgs -o out --quiet --log-file run.log", tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"camcli: 1 image could not be explained; see out/failures.csv.\n"
    for _ in "12":
        done = sh(f"{RUN} imgs -o out --quiet --log-file run.log", tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), "the failure was told before"
    log = (tmp_path / "run.log").read_text().splitlines()
    assert sum("Nothing to do: 6 images" in line for line in log) == 3
    assert sum("broken.jpg: not an image" in line for line in log) == 1
    assert all(line[:4].isdigit() and line[10] == "T" for line in log), "every line begins with the time"


def test_the_log_holds_every_failure_and_the_error_that_ended_a_run(camcli, imgs, tmp_path):
    log = tmp_path / "run.log"
    for k in range(9):
        (imgs / f"broken-{k}\x1b.jpg").write_text("text")
    camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--log-file", log)
    text = log.read_text()
    assert all(f"broken-{k}\\x1b.jpg: not an image" in text for k in range(9))
    assert "\x1b" not in text
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--log-file", log, "--alpha", 0.9).code == 2
    assert "alpha: was 0.5, now 0.9" in log.read_text()
    before = log.read_text()
    camcli("run", imgs, "-o", tmp_path / "other", *TINY)
    assert log.read_text() == before, "the log of one command went on in another"


def test_a_log_on_a_full_disk_stops_nothing(imgs, tmp_path):
    done = sh(f"{RUN} imgs -o out --log-file /dev/full", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(rows_of(tmp_path / "out")) == 6


def test_no_cell_is_a_formula(camcli, on_path):
    """Names, classes and reasons that a spreadsheet would run begin with an escape, from which they can be had back."""
    (on_path / "evil.py").write_text(
        "from tests.networks import brightness\n"
        "def model():\n    module = brightness(); module.categories = ('=cmd|calc', '@SUM(1)'); return module\n"
    )
    (on_path / "imgs").mkdir()
    for name in ("=1+1.jpg", "+a.jpg", "-rf.jpg", "@x.jpg"):
        (on_path / "imgs" / name).write_bytes(encoded(photo(), "JPEG"))
    (on_path / "imgs" / "=broken.jpg").write_text("text")
    assert camcli("run", "imgs", "-o", "out", "--model", "evil:model", "--layer", "cells").code == 1
    for table in ("predictions.csv", "failures.csv"):
        with open(on_path / "out" / table, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        texts = [cell for row in rows for cell in row if not cell.replace("e-", "").lstrip("-").replace(".", "").isdigit()]
        assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@"))]
    assert {unescape_name(row["image"]) for row in rows_of(on_path / "out")} == {"=1+1.jpg", "+a.jpg", "-rf.jpg", "@x.jpg"}
    assert {unescape_name(row["class_name"]) for row in rows_of(on_path / "out")} == {"=cmd|calc"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_paths_are_awaited(tmp_path, number, code):
    """One line has been read, and nobody writes another: the signal ends the wait."""
    reader, writer = os.pipe()
    process = forked("run", "-", "-o", tmp_path / "out", *TINY, stdin=reader)
    os.write(writer, b"a.jpg\n")
    assert wait_for(lambda: not unread(reader)), "nobody reads the paths"
    process.send_signal(number)
    assert process.wait(10) == code
    os.close(writer)
    os.close(reader)
    assert "Traceback" not in process.communicate()[1]


def unread(pipe):
    """How many bytes lie in a pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
