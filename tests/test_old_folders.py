"""Folders that an earlier version wrote: every command continues them. tests/old holds one archive a version; see make.sh there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.folders import failures_of, rows_of, state_of

OLD = sorted((Path(__file__).parent / "old").glob("*.zip"))
MADE_AT = "/tmp/camcli-old"
MODEL = ("--model", "network:colours", "--weights", "none", "--layer", "4", "--device", "cpu")
RUN = (
    "run", "imgs", "-o", "run", *MODEL, "--method", "gradcam", "--method", "layercam", "--topk", "2", "--save-maps", "--masks",
    "--boxes", "all", "--boxes-json", "--class-from", "folder", "--smooth", "2", "--legend", "--report", "--labels", "labels.txt",
)  # fmt: skip
SHARD = ("run", "imgs", "-o", "parts", *MODEL, "--save-maps", "--shard")
FIT = ("fit", "imgs", "-o", "model", "--backbone", "network:colours", "--weights", "none", "--layer", "4")
SANITY = ("sanity", "imgs/red/0.png", "imgs/blue/0.png", "-o", "sanity", *MODEL, "--method", "gradcam")
DREAM = ("dream", "network:colours", "--weights", "none", "--class", "1", "--size", "32", "--steps", "4", "-o", "dreams")


def moved(line: bytes, place: Path) -> bytes:
    """The first line of a journal as if its run had been made at ``place``."""
    body, _, _ = line.rpartition(b',"check":')
    body = body.replace(MADE_AT.encode(), json.dumps(str(place))[1:-1].encode())
    return b'%s,"check":%d}' % (body, zlib.crc32(body))


def unpack(archive: Path, place: Path) -> None:
    """The folders of ``archive`` at ``place``: as if they had been made there, and images not touched since."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(place)
    for journal in place.glob("**/journal.jsonl"):
        first, _, rest = journal.read_bytes().partition(b"\n")
        journal.write_bytes(moved(first, place) + b"\n" + rest)
    for record in (place / "sanity" / "sanity.json", place / "model" / "model.json"):
        record.write_text(record.read_text().replace(MADE_AT, json.dumps(str(place))[1:-1]))
    for image in (place / "imgs").glob("*/*"):
        os.utime(image, ns=(1767225600 * 10**9,) * 2)


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def old(request, on_path):
    unpack(request.param, on_path)
    return on_path


def test_there_is_an_old_folder():
    assert [path.stem for path in OLD][:1] == ["0.1.0"]


@pytest.mark.parametrize("command", [RUN, (*SHARD, "0/2"), (*SHARD, "1/2"), FIT, SANITY, DREAM], ids=" ".join)
def test_the_same_command_finds_nothing_to_do(old, camcli, command):
    folder = old / command[command.index("-o") + 1]
    before = state_of(folder)
    done = camcli(*command)
    assert "Nothing to do" in done.err
    assert done.code == (1 if command == FIT else 0)  # which names the images it left out every time
    report = ("report.html", "report/", ".camcli/report")
    assert {name: state for name, state in state_of(folder).items() if not name.startswith(report)} == {
        name: state for name, state in before.items() if not name.startswith(report)
    }


def test_a_run_does_what_is_missing(old, camcli):
    """An overlay that is gone and an image that is new: the other rows and files stay as they are, to the byte."""
    before, rows = state_of(old / "run"), rows_of(old / "run")
    gone = rows[0]["overlay"]
    (old / "run" / gone).unlink()
    shutil.copy(old / "imgs" / "red" / "1.png", old / "imgs" / "red" / "9.png")
    done = camcli(*RUN)
    assert done.code == 0
    assert "2 images explained" in done.err
    after, now = state_of(old / "run"), rows_of(old / "run")
    redone = {rows[0]["image"], "red/9.png"}
    assert [row for row in now if row["image"] not in redone] == [row for row in rows if row["image"] not in redone]
    assert {row["image"] for row in now} == {row["image"] for row in rows} | redone
    assert [row["overlay"] for row in now if row["image"] == rows[0]["image"]].count(gone) == 1
    untouched = {name for row in rows if row["image"] not in redone for name in [row["overlay"]]}
    assert {name: before[name] for name in untouched} == {name: after[name] for name in untouched}
    assert [failure["image"] for failure in failures_of(old / "run")] == ["red/broken.jpg"]
    assert camcli("verify", "run").code == 0


def test_it_is_verified_rendered_reported_and_compared(old, camcli):
    assert camcli("verify", "run").code == 0
    rendered = camcli("render", "run", "--style", "heatmap")
    assert rendered.code == 0
    assert f"{len(rows_of(old / 'run'))} overlays redrawn" in rendered.err
    assert camcli("report", "run").code == 0
    assert camcli("verify", "run").code == 0
    assert "Nothing to do" in camcli(*RUN).err, "the look does not bind"
    compared = camcli("diff", "run", "parts/shard-0-of-2")
    assert compared.code == 0
    assert "5 images in both runs" in compared.err


def test_its_parts_are_joined(old, camcli):
    assert camcli("merge", "parts").code == 1  # one image had failed
    assert camcli("verify", "parts").code == 0
    assert len({row["image"] for row in rows_of(old / "parts")}) == 6
    assert [failure["image"] for failure in failures_of(old / "parts")] == ["red/broken.jpg"]


def test_its_model_is_run(old, camcli):
    done = camcli("run", "imgs/red/0.png", "-o", "fitted", "--model", "model", "--weights", "network:colours", "--method", "cam")
    assert done.code == 0
    assert {row["predicted_class"] for row in rows_of(old / "fitted")} == {"red"}


LATER = """
from __future__ import annotations
import dataclasses, importlib, json, sys
from camcli.config.field import option

def grows(module, name):
    module = importlib.import_module(module)
    @dataclasses.dataclass(frozen=True)
    class Later(getattr(module, name)):
        gamma: float = option(1.0, "Gamma of the heatmap.", "Later", at_least=0.0)
    setattr(module, name, Later)

grows("camcli.config.run", "RunConfig")
for study in ("Fit", "Sanity", "Dream"):
    grows(f"camcli.{study.lower()}.config", f"{study}Config")
from camcli.cli.app import main
for command in json.load(sys.stdin):
    try:
        main(command)
    except SystemExit as ended:
        print(json.dumps(ended.code), flush=True)
        print("END", file=sys.stderr, flush=True)
"""
"""camcli as a later version may be: run, fit, sanity and dream have an option more. Runs the commands that it reads, one by one."""


@pytest.mark.parametrize("archive", OLD[-1:], ids=lambda path: path.stem)
def test_a_later_version_with_a_new_option_goes_on(tmp_path, archive):
    """An option that the folder's record does not name had its default; with another value the folder is refused."""
    unpack(archive, tmp_path)
    (tmp_path / "later.py").write_text(LATER)

    def later(*commands):
        """(exit code, what it said) of each command."""
        environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent.parent}:{tmp_path}"}
        done = subprocess.run(
            [sys.executable, "later.py"], cwd=tmp_path, env=environment, input=json.dumps(commands), capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        codes = [int(line) for line in done.stdout.splitlines() if re.fullmatch(r"\d+", line)]
        return list(zip(codes, done.stderr.split("END\n")[:-1], strict=True))

    same = [RUN, FIT, SANITY, DREAM]
    others = [("verify", "run"), ("render", "run", "--style", "contour"), ("report", "run"), ("merge", "parts")]
    found = later(*same, *([*command, "--gamma", "2"] for command in same), *others)
    assert len(found) == 12
    for command, (code, said) in zip(same, found[:4], strict=True):
        assert (code, "Nothing to do" in said) == (int(command == FIT), True), said
    for code, said in found[4:8]:
        assert (code, "gamma" in said) == (2, True), said
    for command, (code, said) in zip(others, found[8:], strict=True):
        assert code == (1 if command[0] == "merge" else 0), said


@pytest.mark.parametrize(
    ("record", "field", "command"),
    [
        ("sanity/sanity.json", "format", SANITY),
        ("model/model.json", "camcli-fit", FIT),
        ("model/model.json", "camcli-fit", ("run", "imgs", "-o", "new", "--model", "model", "--weights", "network:colours")),
    ],
)
def test_a_newer_format_is_refused_with_both_versions_and_the_way_out(old, camcli, record, field, command):
    path = old / record
    path.write_text(json.dumps({**json.loads(path.read_text()), field: 2, "camcli": "9.9"}))
    refused = camcli(*command)
    assert refused.code == 2
    for said in ("camcli 9.9", "format 2", "format 1", "Update camcli", "another folder"):
        assert said in refused.err
