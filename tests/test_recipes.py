"""docs/recipes.md: every block is run as it stands there, in a folder with photographs."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from tests.conftest import ROOT, SAMPLES
from tests.folders import rows_of
from tests.forks import command_in_shell

TEXT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PHOTOS = ("chelsea.png", "coffee.png", "space/rocket.jpg")


INOTIFYWAIT = """
for photo in photos/coffee.png photos/space/rocket.jpg photos/chelsea.png; do
    sleep 0.5
    cp "$photo" incoming
    echo "incoming/$(basename "$photo")"
done
"""
"""Stands in for inotifywait, which would never end: names three files as they appear."""


def blocks(kind, *words):
    found = [text for language, text in BLOCKS if language == kind and all(word in text for word in words)]
    assert found, f"the page has no block of {kind} with {words}"
    return found


@pytest.fixture
def place(tmp_path):
    """A folder with photographs, and one of programs: camcli, and what a bare machine may lack."""
    for name in PHOTOS:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES / name, tmp_path / "photos" / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    run_camcli = f'PYTHONPATH={shlex.quote(str(ROOT))} exec {command_in_shell()} "$@"'
    scripts = {
        "camcli": run_camcli,
        "flock": 'shift 2; exec "$@"',
        "inotifywait": INOTIFYWAIT,
        "jq": f'exec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "tests" / "jq_program.py"))} "$@"',
    }
    for name, script in scripts.items():
        if name in ("camcli", "inotifywait") or shutil.which(name) is None:
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
    return tmp_path


def sh(script, place, shell="bash", **environment):
    """The script's standard output; its end and its errors must be clean."""
    path = f"{place / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-c", script],
        cwd=place,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr
    assert "command not found" not in done.stderr
    return done


def images_in(place, folder="heatmaps"):
    return sorted(row["image"] for row in rows_of(place / folder))


def test_the_page_has_all_recipes_that_it_promises():
    assert Counter(language for language, _ in BLOCKS) == {"crontab": 2, "ini": 2, "make": 1, "bash": 8}


@pytest.mark.parametrize("line", blocks("crontab"), ids=["alone", "with flock"])
def test_cron(place, line):
    """As cron runs it: by sh, in another folder, almost without an environment. A second run has nothing to do, nor to say."""
    *when, command = line.strip().split(None, 5)
    assert len(when) == 5
    assert "%" not in command, "cron takes a percent sign for the end of the line"
    script = command.replace("/srv/camcli", str(place))
    for said in ("3 images explained", "Nothing to do: 3 images"):
        programs = f"{place / '.venv' / 'bin'}:/usr/bin:/bin"
        done = subprocess.run(
            ["/bin/sh", "-c", script], cwd="/", env={"PATH": programs, "HOME": "/"}, capture_output=True, timeout=300
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert said in (place / "camcli.log").read_text()
    assert images_in(place) == sorted(PHOTOS)


def test_systemd(place):
    (service_text,) = blocks("ini", "[Service]")
    (timer_text,) = blocks("ini", "[Timer]")
    service, timer = configparser.ConfigParser(), configparser.ConfigParser()
    service.optionxform = timer.optionxform = str
    service.read_string(service_text.replace("/srv/camcli", str(place)))
    timer.read_string(timer_text)
    assert timer["Timer"]["OnCalendar"] == "*:0/10"
    assert timer["Install"]["WantedBy"] == "timers.target"
    (place / "photos" / "broken.jpg").write_text("text")
    command = shlex.split(service["Service"]["ExecStart"])
    assert os.path.isabs(command[0]), "systemd wants a whole path"
    done = subprocess.run(command, cwd=service["Service"]["WorkingDirectory"], capture_output=True, text=True, timeout=300)
    assert str(done.returncode) == service["Service"]["SuccessExitStatus"]
    assert "1 image could not be explained" in done.stderr
    assert images_in(place) == sorted(PHOTOS)


def test_find(place):
    (script,) = blocks("bash", "find", "-print0 | camcli run - --null")
    assert sh(script, place).returncode == 0
    assert images_in(place, "big") == ["photos/space/rocket.jpg"]


def test_files_as_they_appear(place):
    """The rows of the three files that a slow producer names: those that are JPEGs."""
    (place / "incoming").mkdir()
    (script,) = blocks("bash", "inotifywait")
    header, *rows = sh(script, place).stdout.splitlines()
    assert header.startswith("image,rank,class_index")
    assert [row.split(",")[0] for row in rows] == ["incoming/rocket.jpg"]
    assert images_in(place, "watched") == ["incoming/rocket.jpg"]


def test_xargs(place):
    (script,) = blocks("bash", "xargs")
    assert sh(script, place).returncode == 0
    assert images_in(place, "heatmaps-space") == ["rocket.jpg"]


def test_make(place):
    """Made once, not made again without need, made again for a new photograph; a run that fails leaves no target."""
    (makefile,) = blocks("make")
    (place / "Makefile").write_text(makefile)
    assert sh("make", place).returncode == 0
    assert (place / "classes.csv").read_bytes() == (place / "heatmaps" / "predictions.csv").read_bytes()
    assert "up to date" in sh("make", place).stdout
    (place / "photos" / "broken.png").write_text("text")
    assert sh("touch -d 'next hour' photos/broken.png && make", place).returncode == 0
    assert len((place / "classes.csv").read_text().splitlines()) == 4
    (place / "heatmaps" / "failures.csv").write_text("someone else's table\n" * 9)
    assert sh("touch -d 'next day' photos/broken.png && make", place).returncode == 2
    assert not (place / "classes.csv").exists()


def test_jq(place):
    """Each question over the rows is answered as the table would."""
    shutil.copy(SAMPLES / "chelsea.png", place / "photos" / "again.png")
    unsure, frequent, nowhere = blocks("bash", "jq")
    answers = [sh(script, place) for script in (unsure, frequent, nowhere)]
    assert [answer.returncode for answer in answers] == [0, 0, 0], [answer.stderr for answer in answers]
    rows = rows_of(place / "heatmaps")
    expected = [row for row in rows if float(row["probability"]) < 0.5]
    assert expected, "the photographs do not show what the question is about"
    assert [line.split("\t")[:2] for line in answers[0].stdout.splitlines()] == [
        [row["image"], row["class_name"]] for row in expected
    ]
    counted = {name: int(number) for number, name in (line.split("\t") for line in answers[1].stdout.splitlines())}
    assert counted == Counter(row["predicted_class"] for row in rows)
    assert max(counted.values()) == 2
    assert answers[2].stdout == ""


def test_several_machines(place):
    (script,) = blocks("bash", "--shard")
    assert sh(script, place).returncode == 0
    assert images_in(place) == sorted(PHOTOS)
    assert json.loads((place / "heatmaps" / "run.json").read_text())["state"] == "finished"


def test_in_a_script(place):
    (script,) = blocks("bash", "case $?")
    done = sh(script, place)
    assert done.returncode == 0
    assert "agree" in done.stderr
    held = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom filelock import FileLock\n"
        "with FileLock('heatmaps/.camcli/lock'): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", held], cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    (place / "photos" / "broken.jpg").write_text("text")
    assert "another run is at work" in sh(script, place).stderr
    holder.communicate()
