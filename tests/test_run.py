"""``camcli run`` as its users meet it: what it leaves, what a second run does, what it says and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from tests.conftest import SAMPLES
from tests.folders import TINY, contents_of, failures_of, rows_of, start, state_of
from tests.forks import command_in_shell, forked
from tests.networks import DEEP
from tests.pictures import encoded, photo, scene


def test_the_contract_of_a_run(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    done = camcli("run", imgs, "-o", out, *TINY[:4], "--topk", 2, "--save-maps")
    assert (done.code, done.out) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [
        ".camcli",
        "failures.csv",
        "maps",
        "overlays",
        "predictions.csv",
        "run.json",
    ]
    rows = rows_of(out)
    header = (
        "image,rank,class_index,class_name,logit,probability,predicted_class,predicted_probability,layer,method,status,peak,"
        "box_x,box_y,box_w,box_h,overlay"
    )
    assert ",".join(rows[0]) == header
    names = ["A.JPG", "a.jpg", "a.jpg.png", "a.png", "sub/a.jpg", "sub/b.png"]
    assert [row["image"] for row in rows] == [name for name in names for _ in "12"]
    for bright, dark in zip(rows[::2], rows[1::2], strict=True):
        assert (bright["rank"], bright["class_name"], dark["rank"], dark["class_name"]) == ("1", "bright", "2", "dark")
        assert float(bright["logit"]) == pytest.approx(-float(dark["logit"]))
        assert float(bright["probability"]) + float(dark["probability"]) == pytest.approx(1, abs=1e-5)
        assert {row["predicted_class"] for row in (bright, dark)} == {"bright"}
        assert {row["predicted_probability"] for row in (bright, dark)} == {bright["probability"]}
        assert (bright["status"], dark["status"]) == ("ok", "empty")
        assert bright["overlay"] == f"overlays/{bright['image']}.1-bright.jpg"
        assert dark["overlay"] == "", "an empty map was painted"
        assert PillowImage.open(out / bright["overlay"]).size == (60, 50)
        raw = np.load(out / "maps" / f"{bright['image']}.1-bright.npy")
        assert (raw.shape, raw.dtype) == ((28, 28), np.float32)
        assert float(raw.max()) == pytest.approx(float(bright["peak"]), rel=1e-5)
    assert sum(path.suffix == ".jpg" for path in (out / "overlays").rglob("*")) == 6
    record = json.loads((out / "run.json").read_text())
    assert record["images"] == {"explained": 6, "failed": 0}
    assert record["layers"] == ["cells"]
    assert record["state"] == "finished"
    assert record["versions"]["torch"]


def test_equal_stems_give_different_overlays(camcli, imgs, tmp_path):
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY).code == 0
    overlays = {row["overlay"]: (tmp_path / "out" / row["overlay"]).read_bytes() for row in rows_of(tmp_path / "out")}
    assert len(overlays) == 6
    assert len(set(overlays.values())) == 6


def test_a_second_run_does_nothing_and_says_so(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY)
    before = state_of(tmp_path)
    for _ in "12":
        again = camcli("run", imgs, "-o", out, *TINY)
        assert again.code == 0
        assert "Nothing to do: 6 images" in again.err
        assert state_of(tmp_path) == before


def test_other_settings_are_refused_with_the_difference(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY)
    before = state_of(out)
    refused = camcli("run", imgs, "-o", out, *TINY, "--alpha", 0.7)
    assert refused.code == 2
    assert "alpha: was 0.5, now 0.7" in refused.err
    assert "--overwrite" in refused.err
    other = camcli("run", imgs / "sub", "-o", out, *TINY)
    assert other.code == 2
    assert state_of(out) == before
    assert camcli("run", imgs, "-o", out, *TINY, "--workers", 1, "--batch-size", 2, "--device", "cpu").code == 0


def test_overwrite_starts_again_and_keeps_what_is_not_ours(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY, "--save-maps")
    (out / "notes.txt").write_text("mine")
    (out / "overlays" / "mine.txt").write_text("mine")
    typo = camcli("run", imgs, "-o", out, *TINY, "--overwrite", "--layer", "cels")
    assert typo.code == 2
    assert len(rows_of(out)) == 6, "a typo destroyed the earlier run"
    assert camcli("run", imgs / "sub", "-o", out, *TINY, "--overwrite", "--colormap", "jet").code == 0
    assert [row["image"] for row in rows_of(out)] == ["a.jpg", "b.png"]
    assert (out / "notes.txt").read_text() == (out / "overlays" / "mine.txt").read_text() == "mine"
    assert sorted(p.name for p in (out / "overlays").rglob("*.jpg")) == ["a.jpg.1-bright.jpg", "b.png.1-bright.jpg"]
    assert not (out / "maps").exists()


def test_new_changed_and_deleted_images(camcli, imgs, tmp_path):
    """The folder grows and changes between runs: the end is the table of one run over what is there, plus what was."""
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY)
    untouched = {name: kept for name, kept in state_of(out / "overlays").items() if name.startswith("A.JPG")}
    (imgs / "0-new.jpg").write_bytes(encoded(photo(77), "JPEG"))
    (imgs / "a.png").write_bytes(encoded(photo(78), "PNG"))
    (out / "overlays" / "sub" / "b.png.1-bright.jpg").unlink()
    again = camcli("run", imgs, "-o", out, *TINY)
    assert again.code == 0
    assert "4 images done before, 3 to do" in again.err
    fresh = tmp_path / "fresh"
    camcli("run", imgs, "-o", fresh, *TINY)
    assert contents_of(out) == contents_of(fresh)
    assert {n: k for n, k in state_of(out / "overlays").items() if n.startswith("A.JPG")} == untouched
    (imgs / "a.png").unlink()
    assert camcli("run", imgs, "-o", out, *TINY).code == 0
    assert len(rows_of(out)) == 7, "the row of an image that was deleted later is kept"


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("table", ["predictions.csv", "failures.csv"])
def test_a_cut_table_is_mended(camcli, imgs, tmp_path, table, step):
    """Cut at every byte of its last three rows, as a full disk or a crash leaves it: the next run ends as if nothing had been."""
    for name in ("broken.jpg", "sub/broken.jpg", "sub/c.jpg"):
        (imgs / name).write_text("text")
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", imgs, "-o", whole, *TINY)
    expected = contents_of(whole)
    text = expected[table]
    start = len(text) - len(b"".join(text.splitlines(keepends=True)[-3:]))
    for cut in range(start, len(text), step):
        shutil.copytree(whole, out)
        os.truncate(out / table, cut)
        assert camcli("run", imgs, "-o", out, *TINY).code == 1
        assert contents_of(out) == expected
        shutil.rmtree(out)


def test_a_torn_journal_is_mended(camcli, imgs, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    camcli("run", imgs, "-o", whole, *TINY)
    size = (whole / ".camcli" / "journal.jsonl").stat().st_size
    for cut in range(0, size, 97):
        shutil.copytree(whole, out)
        os.truncate(out / ".camcli" / "journal.jsonl", cut)
        done = camcli("run", imgs, "-o", out, *TINY)
        if done.code == 2:  # not even the settings are left
            assert "no journal" in done.err
            done = camcli("run", imgs, "-o", out, *TINY, "--overwrite")
        assert done.code == 0, done.err
        assert contents_of(out) == contents_of(whole)
        shutil.rmtree(out)


def test_bad_files_are_listed_and_the_others_done(camcli, tmp_path):
    """Twenty good photos, a text file named .jpg, a truncated JPEG, an empty file, with the bundled model."""
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    good = [path for path in SAMPLES.rglob("*") if path.suffix in (".jpg", ".png")]
    for k in range(20):
        source = good[k % len(good)]
        shutil.copy(source, imgs / f"{k:02d}{source.suffix}")
    (imgs / "text.jpg").write_text("this is no picture\n")
    whole = (SAMPLES / "space" / "rocket.jpg").read_bytes()
    (imgs / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (imgs / "empty.jpg").touch()
    (imgs / "readme.txt").write_text("not an image, and not named like one")
    done = camcli("run", imgs, "-o", out)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "3 images could not be explained" in done.err
    rows = rows_of(out)
    assert len(rows) == 20
    assert all((out / row["overlay"]).is_file() for row in rows)
    found = {row["image"]: row for row in failures_of(out)}
    assert {name: row["stage"] for name, row in found.items()} == {
        "text.jpg": "decode",
        "cut.jpg": "decode",
        "empty.jpg": "read",
    }
    assert "text" in found["text.jpg"]["error"]
    assert "truncated" in found["cut.jpg"]["error"]
    assert "empty" in found["empty.jpg"]["error"]
    again = camcli("run", imgs, "-o", out)
    assert again.code == 0, "these failures were told before"
    assert "Nothing to do" in again.err
    assert "3 images failed before" in again.err
    assert "--retry-failed" in again.err


def test_workers_and_batches_change_nothing(camcli, imgs, tmp_path):
    (imgs / "b-broken.jpg").write_text("text")
    found = []
    for workers, batch in ((1, 1), (2, 4), (8, 32)):
        out = tmp_path / f"{workers}-{batch}"
        assert camcli("run", imgs, "-o", out, *TINY, "--workers", workers, "--batch-size", batch).code == 1
        found.append(contents_of(out))
    assert len(found[0]) == 8, "six overlays and two tables"
    assert found[1:] == [found[0]] * 2


def test_maps_that_point_nowhere_are_said_and_not_painted(camcli, tmp_path):
    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    save = {"flat": (90, 90, 90), "black": (0, 0, 0), "burnt": (255, 0, 0)}
    for name, color in save.items():
        (imgs / f"{name}.png").write_bytes(encoded(np.full((40, 40, 3), color, np.uint8), "PNG"))
    (imgs / "photo.png").write_bytes(encoded(photo().point(lambda v: v * 0.9), "PNG"))
    done = camcli("run", imgs, "-o", out, "--model", "tests.networks:breaks", "--layer", "cells", "--class", "bright")
    assert done.code == 0
    assert "2 maps empty and not painted: no positive evidence for that class" in done.err
    assert "1 map not finite and not painted" in done.err
    counts = json.loads((out / "run.json").read_text())["this_run"]
    assert (counts["explained"], counts["empty_maps"], counts["nonfinite_maps"]) == (4, 2, 1)
    status = {row["image"]: (row["status"], row["overlay"] != "") for row in rows_of(out)}
    assert status == {
        "flat.png": ("empty", False),
        "black.png": ("empty", False),
        "burnt.png": ("nonfinite", False),
        "photo.png": ("ok", True),
    }
    assert sum(path.is_file() for path in (out / "overlays").rglob("*")) == 1


def test_classes_by_index_and_name(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    assert camcli("run", imgs, "-o", out, *TINY[:4], "--class", "DARK", "--class", 0, "--limit", 1).code == 0
    assert [(row["class_name"], row["rank"]) for row in rows_of(out)] == [("dark", "2"), ("bright", "1")]
    both = tmp_path / "both"
    assert camcli("run", imgs, "-o", both, *TINY[:4], "--class", "bright", "--topk", 2, "--limit", 1).code == 0
    assert [row["class_name"] for row in rows_of(both)] == ["bright", "dark"], "a class among the best is explained once"


def test_limit_counts_images_from_the_first(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY, "--limit", 2)
    assert len(rows_of(out)) == 2
    camcli("run", imgs, "-o", out, *TINY, "--limit", 4)
    assert len(rows_of(out)) == 4


def test_several_layers_and_targets_get_files_of_their_own(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    done = camcli(
        "run",
        imgs,
        "-o",
        out,
        "--model",
        "tests.networks:with_classes",
        "--layer",
        "0",
        "--layer",
        "1",
        "--topk",
        2,
        "--limit",
        1,
    )
    assert done.code == 0, done.err
    rows = rows_of(out)
    assert [(row["rank"], row["layer"]) for row in rows] == [("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]
    painted = [row for row in rows if row["status"] == "ok"]
    assert len({row["overlay"] for row in painted}) == len(painted) > 0
    assert all(f".{row['layer']}.gradcam.jpg" in row["overlay"] or f".{row['layer']}.jpg" in row["overlay"] for row in painted)


NAMES = [
    "with space.jpg", "line\nbreak.jpg", 'quo"te,comma.jpg', "-rf.jpg", "=1+1.jpg", "esc\x1b[31m.jpg", "100%s.jpg", "🦊.jpg",
    "back\\slash.jpg", "e\u0301.jpg", "\u00e9.jpg", "x" * 251 + ".jpg", "ü" * 125 + ".jpg",
    os.fsdecode(b"not-utf8-\xff\xfe.jpg"),
    "rtl\u202egpj.jpg", "全角\u3000空白.jpg",
]  # fmt: skip


def test_every_name_survives(camcli, tmp_path):
    """The table is UTF-8, a row a line, and the exact name can be had back from it; nothing reaches the terminal raw."""
    from camcli.records import unescape_name

    imgs, out = tmp_path / "imgs", tmp_path / "out"
    imgs.mkdir()
    for k, name in enumerate(NAMES):
        with open(os.path.join(os.fsencode(imgs), os.fsencode(name)), "wb") as file:
            file.write(encoded(photo(k), "JPEG") if k % 3 else b"broken")
    done = camcli("run", imgs, "-o", out, *TINY)
    assert done.code == 1
    assert "\x1b" not in done.err
    text = (out / "predictions.csv").read_text(encoding="utf-8")
    rows = rows_of(out)
    assert len(text.splitlines()) == len(rows) + 1
    failed = failures_of(out)
    assert sorted(unescape_name(row["image"]) for row in rows + failed) == sorted(NAMES)
    for row in rows:
        assert os.path.isfile(os.path.join(out, unescape_name(row["overlay"])))
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY).err


def test_output_inside_the_input_is_never_eaten(camcli, imgs):
    before = contents_of(imgs)
    for output in (imgs / "heat", imgs, imgs / "sub" / "heat"):
        assert camcli("run", imgs, "-o", output, *TINY).code == 0
        again = camcli("run", imgs, "-o", output, *TINY)
        assert "Nothing to do: 6 images" in again.err
        assert len(rows_of(output)) == 6
    assert {name: data for name, data in contents_of(imgs).items() if name in before} == before


def test_inputs_are_walked_in_order_each_once(camcli, imgs, tmp_path):
    (imgs / ".hidden.jpg").write_bytes(b"")
    (imgs / ".git").mkdir()
    (imgs / ".git" / "x.jpg").write_bytes(b"")
    (imgs / "link-to-parent").symlink_to(imgs)
    (imgs / "link.jpg").symlink_to("a.jpg")
    outside = tmp_path / "outside.png"
    outside.write_bytes(encoded(photo(9), "PNG"))
    (imgs / "z.png").symlink_to(outside)
    out = tmp_path / "out"
    assert camcli("run", imgs, imgs / "sub", imgs / "a.jpg", "-o", out, *TINY).code == 0
    assert [row["image"] for row in rows_of(out)] == ["A.JPG", "a.jpg", "a.jpg.png", "a.png", "sub/a.jpg", "sub/b.png", "z.png"]
    files = tmp_path / "files"
    assert camcli("run", imgs / "sub" / "b.png", imgs / "a.png", "-o", files, *TINY).code == 0
    assert [row["image"] for row in rows_of(files)] == ["sub/b.png", "a.png"], "the order given, below the common folder"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 2, "no file or folder 'nowhere'"),
        (["empty"], 2, "nothing to do"),
        (["imgs", "--model", "resnet5"], 2, "'resnet50'"),
        (["imgs", "--model", "timm/resnet5"], 2, "timm/resnet50"),
        (["imgs", "--model", "tests.networks:brightnes"], 2, "Did you mean 'brightness'"),
        (["imgs", "--model", "no.such.module:f"], 2, "cannot import"),
        (["imgs", "--model", "resnet18", "--weights", "IMAGENET1K_V9"], 2, "IMAGENET1K_V1"),
        (["imgs", "--model", "resnet18", "--weights", "gone.pth"], 2, "no file 'gone.pth'"),
        (["imgs", "--layer", "cels"], 2, "Did you mean 'cells'"),
        (["imgs", "--layer", "head"], 2, "not a spatial map. The nearest usable layer is 'cells'"),
        (["imgs", "--class", "brigth"], 2, "Did you mean 'bright'"),
        (["imgs", "--class", "7"], 2, "0 to 1"),
        (["imgs", "--topk", "3"], 2, "has 2 classes"),
        (["imgs", "--topk", "0"], 2, "--topk 0 leaves no class to explain"),
        (["imgs", "--method", "gradcm"], 2, "Did you mean 'gradcam'"),
        (["imgs", "--fit", "squish"], 2, "Did you mean 'squash'"),
        (["imgs", "--colormap", "viridi"], 2, "Did you mean 'viridis'"),
        (["imgs", "--alpha", "1.5"], 2, "between 0.0 and 1.0"),
        (["imgs", "--alpha", "nan"], 2, "between 0.0 and 1.0"),
        (["imgs", "--batch-size", "0"], 2, "between 1 and 65536"),
        (["imgs", "--quality", "high"], 2, "Invalid value for '--quality'"),
        (["imgs", "--device", "cuda:99"], 2, "--device"),
        (["imgs", "--device", "tpu"], 2, "auto, cpu, cuda"),
        (["imgs", "--labels", "gone.txt"], 2, "gone.txt"),
        (["imgs", "--config", "gone.toml"], 2, "gone.toml"),
        (["imgs", "--no-such-option"], 2, "--no-such-option"),
        (["imgs", "-o", "missing/parent"], 3, "missing"),
        (["imgs", "-o", "a-file"], 3, "is a file, not a folder"),
        (["imgs", "-o", "foreign"], 3, "predictions.csv"),
        ([], 2, "INPUTS"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_ends_before_any_work(camcli, imgs, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "predictions.csv").write_text("somebody's")
    model = [] if "--model" in arguments else ["--model", "tests.networks:brightness"]
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    ended = camcli("run", *arguments, *model) if arguments else camcli("run")
    assert ended.code == code, ended.err
    words = " ".join((ended.err + ended.out).replace("│", " ").split())
    assert said in words
    assert "Traceback" not in ended.err
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before, "a refused command left something behind"


def test_options_from_a_file_and_over_it_the_command_line(camcli, imgs, tmp_path):
    preset = tmp_path / "preset.toml"
    preset.write_text('model = "tests.networks:brightness"\nlayer = "cells"\nclass = [1, "bright"]\nlimit = 2\nalpha = 1\n')
    assert camcli("run", imgs, "-o", tmp_path / "a", "--config", preset).code == 0
    rows = rows_of(tmp_path / "a")
    assert [row["class_name"] for row in rows] == ["dark", "bright"] * 2
    assert camcli("run", imgs, "-o", tmp_path / "b", "--config", preset, "--limit", 1, "--class", "bright").code == 0
    assert [row["class_name"] for row in rows_of(tmp_path / "b")] == ["bright"]
    record = json.loads((tmp_path / "b" / "run.json").read_text())
    assert record["settings"]["alpha"] == 1.0
    for wrong, said in (
        ("batchsize = 3", "Did you mean 'batch-size'"),
        ('topk = "five"', "must be a whole number, not 'five'"),
        ("alpha = true", "must be a number"),
        ("fit = 'stretch'", "not one of crop, squash, pad"),
        ("a = = b", "is not valid TOML"),
    ):
        preset.write_text(wrong + "\n")
        refused = camcli("run", imgs, "-o", tmp_path / "c", "--config", preset)
        assert refused.code == 2
        assert said in refused.err
        assert "preset.toml" in refused.err


def test_quiet_says_nothing_but_errors(camcli, imgs, tmp_path):
    done = camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    (imgs / "broken.jpg").write_text("text")
    done = camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--quiet")
    assert done.code == 1
    assert done.err.count("\n") == 1


def test_out_of_memory_halves_the_batch_down_to_one(camcli, imgs, tmp_path, monkeypatch):
    import torch

    from camcli.pipeline import engine

    sizes = []
    real = engine.explain_batch
    limit = [2]

    def scarce(module, inputs, *rest):
        sizes.append(len(inputs))
        if len(inputs) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(module, inputs, *rest)

    monkeypatch.setattr(engine, "explain_batch", scarce)
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY).code == 0
    assert max(sizes) == 6
    assert len(rows_of(tmp_path / "out")) == 6
    limit[0] = 0
    stopped = camcli("run", imgs, "-o", tmp_path / "out2", *TINY)
    assert stopped.code == 3
    assert "is out of memory with a single image" in " ".join(stopped.err.split())


def test_help_is_fast_because_nothing_imports_torch():
    """In a fresh process: neither the package, nor any help, nor a finished run repeated, loads torch, cv2 or numpy."""
    check = (
        "import sys, camcli; from camcli.cli.app import app\n"
        "for arguments in (['--help'], ['run', '--help'], ['models', '--help'], ['--version']):\n"
        "    app(arguments, standalone_mode=False)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'torchvision', 'timm', 'cv2', 'numpy', 'PIL'}))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_kill_at_any_moment_loses_nothing(imgs, tmp_path):
    """SIGKILL while images are being written, then the same command: the same files as without."""
    for k in range(40):
        (imgs / f"more-{k:02d}.png").write_bytes(encoded(photo(k, (700, 500)), "PNG"))
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ("run", imgs, *TINY, "--batch-size", 4, "--quiet")
    assert forked(*arguments, "-o", whole).wait() == 0
    for killed in range(3):
        process = forked(*arguments, "-o", out)
        deadline = time.monotonic() + 60
        while len(list(out.rglob("*.jpg"))) < 10 * killed + 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for row in rows_of(out) if (out / "predictions.csv").exists() else []:
            if row["overlay"] and row["overlay"].endswith(".jpg"):
                PillowImage.open(out / row["overlay"]).load()
    assert forked(*arguments, "-o", out).wait() == 0
    assert contents_of(out) == contents_of(whole)
    assert not list((out / ".camcli" / "scratch").iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly(imgs, tmp_path, number, code):
    for k in range(300):
        (imgs / f"more-{k:03d}.jpg").write_bytes(encoded(photo(k, (300, 200)), "JPEG"))
    out = tmp_path / "out"
    process = forked("run", imgs, *TINY, "-o", out, "--batch-size", 2, "--workers", 1)
    while not (out / "predictions.csv").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    begun = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "run the same command again to resume" in err
    assert 0 < len(rows_of(out)) < 306
    assert not list((out / ".camcli" / "scratch").iterdir())


def test_a_signal_while_the_model_loads(imgs, tmp_path):
    """Sent as soon as a line says that PyTorch is loaded; where it arrives after that, it is sent to another run."""
    for attempt in range(5):
        out = tmp_path / f"out-{attempt}"
        process = start("run", imgs, "-o", out)
        assert process.stderr.readline().startswith("Loading PyTorch")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        if not (out / "predictions.csv").exists():
            return
    pytest.fail("no signal came while the model was loading")


def test_two_runs_do_not_share_a_folder(camcli, imgs, tmp_path):
    from camcli.output.folder import OutputFolder

    with OutputFolder(str(tmp_path / "out"), {}):
        refused = camcli("run", imgs, "-o", tmp_path / "out", *TINY)
    assert refused.code == 3
    assert "another run" in refused.err


def test_a_full_disk_is_named(camcli, imgs, tmp_path, monkeypatch):
    import errno

    from camcli.output import root

    camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--limit", 3)
    before = contents_of(tmp_path / "out")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(root.os, "replace", full)
    stopped = camcli("run", imgs, "-o", tmp_path / "out", *TINY)
    assert stopped.code == 3
    assert "is full" in stopped.err
    monkeypatch.undo()
    assert contents_of(tmp_path / "out") == before
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY).code == 0
    assert len(rows_of(tmp_path / "out")) == 6


def test_no_progress_codes_outside_a_terminal(camcli, imgs, tmp_path):
    done = camcli("run", imgs, "-o", tmp_path / "out", *TINY)
    assert "\r" not in done.err
    assert "\x1b" not in done.err
    assert "%|" not in done.err
    assert "6 images explained" in done.err
    assert "Most frequent: bright (6)" in done.err


def test_a_scene_is_named_as_it_is(camcli, tmp_path):
    """A single file as input, whatever its extension."""
    (tmp_path / "picture.data").write_bytes(encoded(scene(), "PNG"))
    assert camcli("run", tmp_path / "picture.data", "-o", tmp_path / "out", *TINY).code == 0
    assert rows_of(tmp_path / "out")[0]["image"] == "picture.data"


def test_layers_with_long_names_keep_their_overlays_apart(camcli, imgs, tmp_path):
    """Names that differ only behind the fortieth character."""
    out = tmp_path / "out"
    layers = [f"{DEEP}.conv_{letter}" for letter in "ab"]
    assert layers[0][:40] == layers[1][:40]
    done = camcli("run", imgs, "-o", out, "--model", "tests.networks:long_names", "--limit", 1, "--topk", 9,
                  "--layer", layers[0], "--layer", layers[1], "--save-maps")  # fmt: skip
    assert done.code == 0, done.err
    overlays = [row["overlay"] for row in rows_of(out) if row["overlay"]]
    assert {row["layer"] for row in rows_of(out) if row["overlay"]} == {*layers}
    assert len(set(overlays)) == len(overlays)
    assert len(list((out / "maps").rglob("*.npy"))) == len(overlays)


def test_a_changed_image_leaves_no_overlay_of_its_past(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    flags = (*TINY[:4], "--save-maps")
    (imgs / "a.png").write_bytes(encoded(photo(1).point(lambda v: 255 - v), "PNG"))
    camcli("run", imgs, "-o", out, *flags)
    (out / "overlays" / "a.png.7-of-a-killed-run.jpg").write_bytes(b"")
    (out / ".camcli" / "unconfirmed.jsonl").write_text('["overlays/a.png.7-of-a-killed-run.jpg"]\n')
    (imgs / "a.png").write_text("no longer an image")
    (imgs / "a.jpg").write_bytes(encoded(photo(60), "JPEG"))
    assert camcli("run", imgs, "-o", out, *flags).code == 1
    fresh = tmp_path / "fresh"
    camcli("run", imgs, "-o", fresh, *flags)
    assert contents_of(out) == contents_of(fresh)


def test_an_old_output_folder_does_not_hide_the_photos_beside_it(camcli, imgs, tmp_path):
    assert camcli("run", imgs / "sub", "-o", imgs / "sub", *TINY).code == 0
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY).code == 0
    assert [row["image"] for row in rows_of(tmp_path / "out")][-2:] == ["sub/a.jpg", "sub/b.png"]
    assert len(rows_of(tmp_path / "out")) == 6


def test_what_could_not_be_read_is_tried_again_when_it_can(camcli, imgs, tmp_path, monkeypatch):
    """Permission comes back without a change of size or time."""
    from camcli import source

    out = tmp_path / "out"
    real = os.open

    def denied(path, *rest, **options):
        if str(path).endswith("b.png") and "imgs" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **options)

    monkeypatch.setattr(source.os, "open", denied)
    monkeypatch.setattr("camcli.source.Source.is_readable", lambda source: False)
    assert camcli("run", imgs, "-o", out, *TINY).code == 1
    assert failures_of(out) == [{"image": "sub/b.png", "stage": "read", "error": "permission denied"}]
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY).err
    monkeypatch.undo()
    assert camcli("run", imgs, "-o", out, *TINY).code == 0
    assert failures_of(out) == []
    assert len(rows_of(out)) == 6


def test_a_run_killed_before_its_end_is_brought_to_it(camcli, imgs, tmp_path, monkeypatch):
    """All rows written, but not in order and without run.json: not yet "nothing to do"."""
    from camcli.output.writing import ArrangedRun, RunWriter

    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY)
    (imgs / "0.png").write_bytes(encoded(photo(50), "PNG"))
    monkeypatch.setattr(RunWriter, "arrange", lambda writer, _: ArrangedRun(writer._root))
    monkeypatch.setattr(ArrangedRun, "finish", lambda *_: None)
    camcli("run", imgs, "-o", out, *TINY)
    assert rows_of(out)[-1]["image"] == "0.png"
    monkeypatch.undo()
    assert camcli("run", imgs, "-o", out, *TINY).code == 0
    assert rows_of(out)[0]["image"] == "0.png"
    assert json.loads((out / "run.json").read_text())["images"] == {"explained": 7, "failed": 0}
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY).err


def test_the_same_asked_twice_is_done_once(camcli, imgs, tmp_path):
    twice = ("--method", "gradcam", "--method", "gradcam", "--layer", "cells", "--class", "bright", "--class", "0")
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY, *twice).code == 0
    assert len(rows_of(tmp_path / "out")) == 6
    preset = tmp_path / "none.toml"
    preset.write_text("method = []")
    refused = camcli("run", imgs, "-o", tmp_path / "out2", *TINY, "--config", preset)
    assert refused.code == 2
    assert "--method is empty" in refused.err


def test_a_switch_of_a_file_can_be_undone(camcli, imgs, tmp_path):
    preset = tmp_path / "quiet.toml"
    preset.write_text("quiet = true\nsave-maps = true\n")
    done = camcli("run", imgs, "-o", tmp_path / "out", *TINY, "--config", preset, "--no-quiet", "--no-save-maps")
    assert "6 images explained" in done.err
    assert not (tmp_path / "out" / "maps").exists()


def test_a_changed_factory_is_other_settings(camcli, imgs, on_path):
    source = "import tests.networks\ndef net():\n    return tests.networks.brightness()\n"
    (on_path / "own_network.py").write_text(source)
    flags = ("-o", on_path / "out", "--model", "own_network:net", "--layer", "cells")
    assert camcli("run", imgs, *flags, "--limit", 2).code == 0
    (on_path / "own_network.py").write_text(source + "# another network now\n")
    refused = camcli("run", imgs, *flags)
    assert refused.code == 2
    assert "model-sha256" in refused.err


def test_a_name_that_a_folder_already_bears_fails_alone(camcli, imgs, tmp_path):
    (imgs / "a.png.1-bright.jpg").mkdir()
    (imgs / "a.png.1-bright.jpg" / "x.png").write_bytes(encoded(photo(5), "PNG"))
    done = camcli("run", imgs, "-o", tmp_path / "out", *TINY)
    assert done.code == 1
    assert [row["stage"] for row in failures_of(tmp_path / "out")] == ["write"]
    assert len(rows_of(tmp_path / "out")) == 6


def test_a_table_that_another_program_saved_is_refused(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY)
    table = (out / "predictions.csv").read_text()
    for changed in ("\ufeff" + table, table.replace(",", ";")):
        (out / "predictions.csv").write_text(changed)
        refused = camcli("run", imgs, "-o", out, *TINY)
        assert refused.code == 2
        assert "has changed since camcli wrote it" in refused.err
    (out / "predictions.csv").write_text(table)
    (out / "failures.csv").unlink()
    assert "Nothing to do" in camcli("run", imgs, "-o", out, *TINY).err
    (out / "predictions.csv").unlink()
    assert camcli("run", imgs, "-o", out, *TINY).code == 0
    assert (out / "predictions.csv").read_text() == table


def test_a_deleted_map_is_written_again(camcli, imgs, tmp_path):
    out = tmp_path / "out"
    camcli("run", imgs, "-o", out, *TINY, "--save-maps")
    before = contents_of(out)
    (out / "maps" / "a.png.1-bright.npy").unlink()
    assert "1 to do" in camcli("run", imgs, "-o", out, *TINY, "--save-maps").err
    assert contents_of(out) == before


def test_models_that_fail_in_their_own_way(camcli, imgs, on_path):
    """An exception of the user's forward, alone or only in a batch, is told and not traced."""
    (on_path / "moody.py").write_text(
        "import tests.networks, sys\n"
        "class Picky(tests.networks.Brightness):\n"
        "    def forward(self, x):\n"
        "        assert len(x) < 2, 'one at a time'\n"
        "        return super().forward(x)\n"
        "class Never(tests.networks.Brightness):\n"
        "    def forward(self, x):\n"
        "        raise AttributeError('no such thing')\n"
        "def picky(): return Picky(tests.networks.brightness().preprocess)\n"
        "def never(): return Never(tests.networks.brightness().preprocess)\n"
        "def leaves(): sys.exit(7)\n"
    )
    batch = camcli("run", imgs, "-o", on_path / "out", "--model", "moody:picky", "--layer", "cells")
    assert batch.code == 3
    assert "one at a time" in batch.err
    assert "--batch-size 1" in batch.err
    assert camcli("run", imgs, "-o", on_path / "out", "--model", "moody:picky", "--layer", "cells", "--batch-size", 1).code == 0
    for factory, said in (("never", "AttributeError: no such thing"), ("leaves", "SystemExit: 7")):
        refused = camcli("run", imgs, "-o", on_path / "none", "--model", f"moody:{factory}")
        assert refused.code == 2
        assert said in refused.err


@pytest.mark.parametrize("broken", ["2>&-", "2>/dev/full", "2>&1 >/dev/null | head -c 1 >/dev/null"])
def test_a_stderr_that_breaks_stops_nothing(imgs, tmp_path, broken):
    (imgs / "broken.jpg").write_text("text")
    camcli = f"{sys.executable} -m camcli" if broken == "2>&-" else command_in_shell()  # a fresh process opens no stream of its own
    command = f"{camcli} run {imgs} -o {tmp_path / 'out'} {' '.join(TINY)} --batch-size 1 {broken}"
    subprocess.run(command, shell=True, cwd=Path(__file__).parent.parent, timeout=60)
    assert len(rows_of(tmp_path / "out")) == 6
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "finished"
    journal = (tmp_path / "out" / ".camcli" / "journal.jsonl").read_text()
    assert all(json.loads(line) for line in journal.splitlines()), "something else was written into the journal"


def test_inputs_given_twice_in_different_ways(camcli, imgs, tmp_path):
    (tmp_path / "again").symlink_to(imgs)
    (imgs / "sub" / "twin.png").symlink_to("b.png")
    assert camcli("run", imgs, tmp_path / "again", imgs / "sub" / "twin.png", "-o", tmp_path / "out", *TINY).code == 0
    assert len(rows_of(tmp_path / "out")) == 6


def test_weights_that_cannot_come_end_in_one_message(camcli, imgs, tmp_path, monkeypatch):
    """PyTorch announces its download on stdout, where only data may go."""
    import urllib.error

    def offline(*_args, **_options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    ended = camcli("run", imgs, "-o", tmp_path / "out", "--model", "resnet18", "--layer", "layer4")
    assert (ended.code, ended.out) == (2, "")
    assert "resnet18-f37072fd.pth" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_flood_of_broken_files_is_recorded_as_it_comes(imgs, tmp_path):
    """Failures do not wait for a batch of images that may never come: a kill in the middle keeps most of them."""
    for k in range(20_000):
        (imgs / f"broken-{k:05d}.jpg").write_bytes(b"text")
    out = tmp_path / "out"
    process = forked("run", imgs, *TINY, "-o", out, "--quiet")
    journal = out / ".camcli" / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 150_000):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert 500 < len(failures_of(out)) < 20_000


def test_a_defect_of_ours_is_not_taken_for_failed_images(camcli, imgs, tmp_path, monkeypatch):
    monkeypatch.setattr("camcli.pipeline.reading.prepare_pixels", lambda *_: 1 / 0)
    ended = camcli("run", imgs, "-o", tmp_path / "out", *TINY)
    assert ended.code == 3
    assert "ZeroDivisionError" in ended.err
    assert "please report" in ended.err
