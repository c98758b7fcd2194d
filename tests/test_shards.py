"""Parts of a run on several machines, and what comes of joining them: the run that one machine would have made."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess

import pytest

from camcli.images.discover import shard_of
from tests.conftest import ROOT
from tests.folders import TINY, contents_of, failures_of, rows_of, state_of
from tests.pictures import encoded, photo

PARTS = [f"{index}/3" for index in range(3)]


@pytest.fixture
def many(imgs):
    """Enough images for three parts, in folders, with broken ones and names that matter to sorting."""
    for k in range(12):
        (imgs / f"more-{k:02d}.jpg").write_bytes(encoded(photo(k), "JPEG"))
    for name in ("a.d/x.png", "a/x.png", "a-b/x.png", "é/x.png", os.fsdecode(b"\xff/x.png")):
        path = os.fsencode(imgs / name)
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(encoded(photo(len(name)), "PNG"))
    for name in ("0.jpg", "sub/broken.jpg", "z.png"):
        (imgs / name).write_text("text")
    return imgs


def run_parts(camcli, imgs, out, *flags):
    return [camcli("run", imgs, "-o", out, *TINY, *flags, "--shard", part).code for part in PARTS]


def results_in(folder):
    """Tables, overlays and maps of the joined run, without the parts beside it."""
    return {name: data for name, data in contents_of(folder).items() if not name.startswith("shard-")}


def test_joined_parts_are_the_run_of_one_machine(camcli, many, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert camcli("run", many, "-o", whole, *TINY, "--save-maps").code == 1
    assert set(run_parts(camcli, many, out, "--save-maps")) <= {0, 1}
    images = [row["image"] for part in range(3) for row in rows_of(out / f"shard-{part}-of-3")]
    assert sorted(images) == sorted(row["image"] for row in rows_of(whole)), "each image belongs to exactly one part"
    merged = camcli("merge", out)
    assert merged.code == 1
    assert "3 shards combined" in merged.err
    assert results_in(out) == contents_of(whole)
    for row in rows_of(out)[:2]:
        part = next(folder for folder in out.glob("shard-*") if (folder / row["overlay"]).exists())
        assert os.path.samefile(part / row["overlay"], out / row["overlay"])
    before = state_of(out)
    for _ in "12":
        assert "Nothing to do" in camcli("run", many, "-o", out, *TINY, "--save-maps").err
    assert state_of(out) == before
    assert camcli("verify", out).code == 0


def test_parts_grow_and_are_joined_again(camcli, many, tmp_path):
    """New, changed and broken images: no image moves to another part, and the second joining is again the run of one machine."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    run_parts(camcli, many, out)
    camcli("merge", out)
    before = {part: {row["image"] for row in rows_of(out / f"shard-{part}-of-3")} for part in range(3)}
    for k in range(9):
        (many / f"0-new-{k}.jpg").write_bytes(encoded(photo(50 + k), "JPEG"))
    (many / "more-03.jpg").write_bytes(encoded(photo(77), "JPEG"))
    (many / "more-04.jpg").write_text("no longer an image")
    (many / "z.png").write_bytes(encoded(photo(78), "PNG"))
    run_parts(camcli, many, out)
    for part in range(3):
        assert before[part] - {"more-04.jpg"} <= {row["image"] for row in rows_of(out / f"shard-{part}-of-3")}
    camcli("merge", out)
    camcli("run", many, "-o", whole, *TINY)
    assert results_in(out) == contents_of(whole)
    assert camcli("verify", out, "--inputs").code == 0


def test_a_run_and_parts_in_one_folder(camcli, many, tmp_path):
    """What the folder holds already stays; a part that has the same image again wins."""
    out = tmp_path / "out"
    camcli("run", many, "-o", out, *TINY, "--limit", 5)
    (many / "more-03.jpg").write_bytes(encoded(photo(77), "JPEG"))
    run_parts(camcli, many, out)
    camcli("merge", out)
    camcli("run", many, "-o", tmp_path / "whole", *TINY)
    assert results_in(out) == contents_of(tmp_path / "whole")


def test_an_empty_part_is_a_finished_one(camcli, imgs, tmp_path):
    """Six images in forty parts."""
    out = tmp_path / "out"
    count = 40
    empty = next(part for part in range(count) if part not in {shard_of(name, count) for name in ("a.jpg", "A.JPG", "a.png")})
    done = camcli("run", imgs, "-o", out, *TINY, "--limit", 3, "--shard", f"{empty}/{count}")
    assert done.code == 0, done.err
    assert rows_of(out / f"shard-{empty}-of-{count}") == []
    assert json.loads((out / f"shard-{empty}-of-{count}" / "run.json").read_text())["state"] == "finished"
    again = camcli("run", imgs, "-o", out, *TINY, "--limit", 3, "--shard", f"{empty}/{count}")
    assert "Nothing to do" in again.err


def test_parts_depend_on_nothing_but_the_name():
    """The same on every machine and in every version: these numbers must never change."""
    assert [shard_of(name, 8) for name in ("a.jpg", "sub/b.png", "é.jpg", os.fsdecode(b"\xff"))] == [2, 3, 4, 0]
    sizes = [sum(shard_of(f"{k}.jpg", 8) == part for k in range(8000)) for part in range(8)]
    assert 850 < min(sizes) <= max(sizes) < 1150


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("8/8", "the last of 8 is 7/8"),
        ("1", "must have the form I/N"),
        ("-1/8", "must have the form I/N"),
        ("0/0", "at least one"),
        ("a/b", "must have the form"),
    ],
)
def test_wrong_parts_are_refused_with_the_reason(camcli, imgs, tmp_path, shard, said):
    refused = camcli("run", imgs, "-o", tmp_path / "out", *TINY, f"--shard={shard}")
    assert refused.code == 2
    assert said in refused.err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_joined_is_told_why_and_left_alone(camcli, imgs, tmp_path):
    from camcli.output.folder import OutputFolder

    out = tmp_path / "out"
    assert "no folder" in camcli("merge", out).err
    out.mkdir()
    assert "holds no shards" in camcli("merge", out).err
    for part in PARTS[:2]:
        camcli("run", imgs, "-o", out, *TINY, "--shard", part)
    lacking = camcli("merge", out)
    assert (lacking.code, "lacks the shards 2/3" in lacking.err) == (2, True)
    camcli("run", imgs, "-o", out, *TINY, "--shard", "2/3", "--alpha", 0.9)
    different = camcli("merge", out)
    assert (different.code, "alpha: was 0.5, now 0.9" in different.err) == (2, True)
    camcli("run", imgs, "-o", out, *TINY, "--shard", "2/3", "--overwrite")
    (out / "shard-1-of-3" / "run.json").rename(tmp_path / "kept")
    assert "is not finished" in camcli("merge", out).err
    (tmp_path / "kept").rename(out / "shard-1-of-3" / "run.json")
    with OutputFolder(str(out / "shard-1-of-3"), {}, overwrite=True):
        held = camcli("merge", out)
    assert (held.code, "still writing" in held.err) == (3, True)
    shutil.copytree(out / "shard-0-of-3", out / "shard-0-of-4")
    assert "shards of several runs" in camcli("merge", out).err
    shutil.rmtree(out / "shard-0-of-4")
    assert not (out / "predictions.csv").exists()
    assert camcli("merge", out).code == 0
    assert len(rows_of(out)) == 6


def test_a_joining_that_ends_early_can_be_repeated(camcli, imgs, tmp_path):
    """An overlay of a part is gone: nothing is joined, and what the message advises works."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    run_parts(camcli, imgs, out)
    lost = sorted((out / "shard-2-of-3").rglob("*.jpg"))[-1]
    lost.unlink()
    refused = camcli("merge", out)
    assert refused.code == 3
    assert "run the command of its shard again" in refused.err
    assert not (out / "predictions.csv").exists()
    assert camcli("run", imgs, "-o", out, *TINY, "--shard", "2/3").code == 0
    assert camcli("merge", out).code == 0
    camcli("run", imgs, "-o", whole, *TINY)
    assert results_in(out) == contents_of(whole)


def test_a_part_that_was_killed_is_not_joined_although_it_had_finished_before(camcli, imgs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_parts(camcli, imgs, out)
    assert camcli("merge", out).code == 0
    for k in range(9):
        (imgs / f"0-new-{k}.jpg").write_bytes(encoded(photo(50 + k), "JPEG"))

    def killed(*_):
        raise KeyboardInterrupt  # which nothing of camcli expects

    monkeypatch.setattr("camcli.output.writing.ArrangedRun.finish", killed)
    for part in PARTS:
        with contextlib.suppress(KeyboardInterrupt):  # a part without a new image has nothing to do
            camcli("run", imgs, "-o", out, *TINY, "--shard", part)
    monkeypatch.undo()
    assert "is not finished" in camcli("merge", out).err


def cut_journal(part):
    """As a loss of power may leave it: the last image's line is gone."""
    journal = part / ".camcli" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))


def set_state(part, **changes):
    record = json.loads((part / "run.json").read_text())
    (part / "run.json").write_text(json.dumps({**record, **changes}))


UNFINISHED = {
    "interrupted": lambda part: set_state(part, state="interrupted"),
    "never came to its end": lambda part: (part / "run.json").unlink(),
    "its record is torn": lambda part: (part / "run.json").write_bytes((part / "run.json").read_bytes()[:40]),
    "less than it recorded": cut_journal,
    "partly rerendered": lambda part: (part / ".camcli" / "redrawing").touch(),
}


@pytest.mark.parametrize("what", UNFINISHED)
def test_a_part_that_is_not_finished_is_not_joined(camcli, imgs, tmp_path, what):
    """Whatever it lacks: the part is named, nothing is joined, and what the message advises mends it."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    run_parts(camcli, imgs, out, "--save-maps")
    part = max(out.glob("shard-*"), key=lambda folder: len(rows_of(folder)))
    UNFINISHED[what](part)
    refused = camcli("merge", out)
    assert refused.code == 2
    assert part.name in refused.err
    assert "again" in refused.err or "Finish it with" in refused.err
    assert results_in(out) == {}
    if "camcli render" in refused.err:
        assert camcli("render", part).code == 0
    run_parts(camcli, imgs, out, "--save-maps")
    assert camcli("merge", out).code == 0
    camcli("run", imgs, "-o", whole, *TINY, "--save-maps")
    assert results_in(out) == contents_of(whole)


@pytest.mark.parametrize("table", ["predictions.csv", "failures.csv"])
def test_damaged_rows_of_a_part_are_not_joined(camcli, imgs, tmp_path, table):
    """Nothing is joined before the part has mended them; then it is the run of one machine."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    (imgs / "broken.jpg").write_text("text")
    camcli("run", imgs, "-o", whole, *TINY)
    run_parts(camcli, imgs, out)
    part = next(folder for folder in out.glob("shard-*") if len((folder / table).read_bytes().splitlines()) > 1)
    header, rows = (part / table).read_bytes().split(b"\n", 1)
    (part / table).write_bytes(header + b"\n" + b"?" + rows[1:])
    refused = camcli("merge", out)
    assert (refused.code, part.name in refused.err, "run its command again" in refused.err) == (3, True, True)
    assert not (out / "predictions.csv").exists()
    run_parts(camcli, imgs, out)
    camcli("merge", out)
    assert results_in(out) == contents_of(whole)


def test_folders_that_can_be_read_again_leave_no_row_in_parts(camcli, imgs, tmp_path, monkeypatch):
    """The part that has the row of the folder may have none of its images."""
    real = os.scandir
    for k in range(6):
        (imgs / f"d{k}").mkdir()
        (imgs / f"d{k}" / "x.jpg").write_bytes(encoded(photo(k), "JPEG"))

    def denied(path):
        if os.path.basename(path).startswith("d"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    out, whole = tmp_path / "out", tmp_path / "whole"
    monkeypatch.setattr("camcli.images.discover.os.scandir", denied)
    monkeypatch.setattr("camcli.output.order.is_listable", lambda path: False)
    run_parts(camcli, imgs, out)
    assert camcli("merge", out).code == 1
    assert {row["image"] for row in failures_of(out)} == {f"d{k}" for k in range(6)}
    monkeypatch.undo()
    assert run_parts(camcli, imgs, out) == [0, 0, 0]
    assert camcli("merge", out).code == 0
    camcli("run", imgs, "-o", whole, *TINY)
    assert results_in(out) == contents_of(whole)


def label_table(folder, label):
    return "image,label\n" + "".join(f"{path.relative_to(folder)},{label}\n" for path in sorted(folder.rglob("*.*[gG]")))


def test_machines_may_have_their_files_at_different_places(camcli, imgs, tmp_path):
    """Images and labels elsewhere, with the same contents: one run all the same."""
    shutil.copytree(imgs, tmp_path / "elsewhere" / "imgs")
    for name in ("here.csv", "there.csv"):
        (tmp_path / name).write_text(label_table(imgs, "bright"))
    out, flags = tmp_path / "out", (*TINY[:4], "--class-from")
    for part, folder, labels in (("0/2", imgs, "here.csv"), ("1/2", tmp_path / "elsewhere" / "imgs", "there.csv")):
        assert camcli("run", folder, "-o", out, *flags, tmp_path / labels, "--shard", part).code == 0
    assert camcli("merge", out).code == 0
    camcli("run", imgs, "-o", tmp_path / "whole", *flags, tmp_path / "here.csv")
    assert results_in(out) == contents_of(tmp_path / "whole")
    (tmp_path / "there.csv").write_text(label_table(imgs, "dark"))
    camcli("run", imgs, "-o", out, *flags, tmp_path / "there.csv", "--shard", "1/2", "--overwrite")
    assert "class-from-sha256" in camcli("merge", out).err


def test_joining_without_hard_links_copies(camcli, imgs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_parts(camcli, imgs, out)

    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert camcli("merge", out).code == 0
    camcli("run", imgs, "-o", tmp_path / "whole", *TINY)
    assert results_in(out) == contents_of(tmp_path / "whole")
    assert failures_of(out) == []


def test_parts_inside_the_images_are_never_their_input(camcli, imgs):
    run_parts(camcli, imgs, imgs / "out")
    for part in PARTS:
        assert "Nothing to do" in camcli("run", imgs, "-o", imgs / "out", *TINY, "--shard", part).err
    camcli("merge", imgs / "out")
    assert len(rows_of(imgs / "out")) == 6


def test_the_script_for_slurm_explains_each_shard_once():
    """The array has the shards 0 to N - 1, and a task with its number runs the command of its shard."""
    path = ROOT / "configs" / "slurm-array.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.MULTILINE))
    assert len(options) == text.count("\n#SBATCH ")
    assert options.keys() >= {"array", "gres", "cpus-per-task", "mem", "time", "signal"}
    assert re.fullmatch(r"0-\d+", options["array"])
    assert text.index("\n#SBATCH") < text.index("\nsrun "), "Slurm reads no option behind the first command"
    for code, expected in ((0, 0), (1, 0), (2, 2), (3, 3), (143, 143)):
        stub = f'srun() {{ echo "$@"; return {code}; }}\n'
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
        done = subprocess.run(["bash", "-c", stub + text], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, "--shard 3/16" in done.stdout) == (expected, True)


def test_the_job_for_kubernetes_explains_each_shard_once():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    job = yaml.safe_load((ROOT / "configs" / "kubernetes-job.yaml").read_text(encoding="utf-8"))
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert pod["restartPolicy"] == "Never", "backoffLimitPerIndex asks for it"
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    (script,) = container["args"]
    assert f'--shard "$JOB_COMPLETION_INDEX/{spec["completions"]}"' in script
    for code, expected in ((0, 0), (1, 0), (3, 3)):
        stub = f'camcli() {{ echo "$@"; return {code}; }}\n'
        environment = {**os.environ, "JOB_COMPLETION_INDEX": "3"}
        done = subprocess.run([*container["command"], stub + script], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, "--shard 3/16" in done.stdout) == (expected, True), done.stderr
