"""``camcli dream``: what a command leaves, repeats and refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image as PillowImage

from camcli.config.field import option_name
from camcli.dream.config import WITH_PRIOR, DreamConfig
from camcli.dream.study import prepare_study, run_study
from camcli.dream.write import COLUMNS, contact_sheet
from camcli.listener import SilentListener
from camcli.models.request import ModelRequest
from camcli.models.sources.bundled import load_module
from tests.conftest import ROOT
from tests.folders import contents_of, state_of
from tests.forks import forked
from tests.walks import pictures_of, run_walk, shortened, walk_commands

BRIGHT = ("dream", "tests.networks:brightness", "--size", 32, "--steps", 3)
PAGE = ROOT / "docs" / "dream.md"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(folder):
    with open(folder / "dreams.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def record_of(path):
    with PillowImage.open(path) as picture:
        return json.loads(picture.text["camcli-dream"])


def test_the_bundled_model_climbs_and_the_row_is_a_plain_forward_of_the_file(camcli, place):
    """A few steps; then timm's network, without anything of ours, says the same of the written PNG."""
    done = camcli("dream", "--class", "goose", "--layer", "blocks.4", "--channel", 7, "--steps", 24, "--size", 96, "-o", "out")
    assert done.code == 0, done.err
    goose, channel = (next(row for row in table(place / "out") if row["target"] == kind) for kind in ("class", "channel"))
    assert (goose["picture"], goose["class_index"], goose["class_name"]) == ("goose.png", "99", "goose")
    assert (channel["picture"], channel["layer"], channel["channel"]) == ("blocks.4.channel-7.png", "blocks.4", "7")
    module = load_module().eval()
    kept = {}
    module.get_submodule("blocks.4").register_forward_hook(lambda _m, _i, output: kept.update(map=output.clone()))
    for row in (goose, channel):
        assert float(row["activation_end"]) > float(row["activation_start"]) + 0.5
        with PillowImage.open(place / "out" / row["picture"]) as picture:
            assert picture.size == (96, 96)
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = module((pixels / 255.0 - 0.5) / 0.5)
        found = logits[0, 99] if row is goose else kept["map"][0, 7].mean()
        assert float(row["activation_end"]) == pytest.approx(float(found), rel=1e-3, abs=1e-3)
        if row is goose:
            assert float(row["probability"]) == pytest.approx(float(logits.softmax(1)[0, 99]), rel=1e-2)
    assert channel["probability"] == channel["probability_moved"] == ""


@pytest.mark.parametrize(("name", "white"), [("bright", True), ("dark", False)])
def test_the_optimum_of_brightness_is_white_and_of_its_negative_black(camcli, place, name, white):
    done = camcli(*BRIGHT[:-1], 200, "--class", name, "--prior", "none", "--rate", 0.3, "-o", "out", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    with PillowImage.open(place / "out" / f"{name}.png") as picture:
        values = np.asarray(picture)
    assert values.min() >= 250 if white else values.max() <= 5
    (row,) = table(place / "out")
    assert float(row["activation_end"]) == pytest.approx((1 if white else -1) * values.mean() / 255, abs=1e-4)
    assert float(row["probability"]) == pytest.approx(1 / (1 + np.exp(-2 * float(row["activation_end"]))), abs=1e-4)


def test_a_seed_repeats_every_byte_alone_and_in_company(camcli, place):
    both = camcli(*BRIGHT, "-c", "bright", "-c", "dark", "--frames", 3, "-o", "both")
    alone = camcli(*BRIGHT, "-c", "dark", "-o", "alone")
    other = camcli(*BRIGHT, "-c", "dark", "-o", "other", "--seed", 1)
    assert (both.code, alone.code, other.code) == (0, 0, 0)
    assert (place / "both" / "dark.png").read_bytes() == (place / "alone" / "dark.png").read_bytes()
    pixels = [np.asarray(PillowImage.open(place / folder / "dark.png")) for folder in ("alone", "other")]
    assert not np.array_equal(*pixels)


def test_the_picture_says_how_it_was_made(camcli, place):
    assert camcli(*BRIGHT, "-c", 0, "--seed", 5, "--blur", 0.5, "-o", "out").code == 0
    record = record_of(place / "out" / "bright.png")
    expected = {
        "target": "class 0 (bright)",
        "model": "tests.networks:brightness",
        "weights": "DEFAULT",
        "prior": "fourier",
        "steps": 3,
    }
    assert expected.items() <= record["settings"].items()
    assert record["settings"] | {"size": [32, 32], "seed": 5, "blur": 0.5, "tv": 0.05, "jitter": 0.1} == record["settings"]
    assert len(record["settings"]["model-sha256"]) == 64
    row = table(place / "out")[0]
    assert tuple(row) == COLUMNS
    assert float(row["activation_end"]) == pytest.approx(record["row"]["activation_end"], rel=1e-5)


def test_hostile_class_names_break_neither_picture_nor_table(camcli, place):
    names = ['=cmd|"/c calc"!A1', "Gänse\u202e\x1b[31m, über\\Wasser", "sheet", "../../etc/passwd"]
    (place / "labels.json").write_text(json.dumps(names))
    done = camcli(
        "dream", "tests.networks:with_classes", "--labels", "labels.json", "--size", 32, "--steps", 1, "-o", "out",
        *(word for index in range(4) for word in ("-c", index)),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "\x1b" not in done.err
    pictures = {path.name for path in (place / "out").iterdir() if path.suffix == ".png"}
    assert pictures == {"cmd-c-calc-A1.png", "Gänse-31m-über-Wasser.png", "sheet-2.png", "etc-passwd.png", "sheet.png"}
    rows = {int(row["class_index"]): row["class_name"] for row in table(place / "out")}
    assert rows[0] == '\\x3dcmd|"/c calc"!A1'
    assert rows[1] == r"Gänse\xe2\x80\xae\x1b[31m, über\\Wasser"
    assert record_of(place / "out" / "Gänse-31m-über-Wasser.png")["settings"]["target"] == f"class 1 ({names[1]})"


def test_classes_of_one_name_have_files_of_their_own(camcli, place):
    (place / "labels.txt").write_text("crane\nCrane!\nheron\nstork\n")
    words = ("--labels", "labels.txt", "--size", 32, "--steps", 1, "-o", "out")
    assert camcli("dream", "tests.networks:with_classes", "-c", 1, *words).code == 0
    assert camcli("dream", "tests.networks:with_classes", "-c", 0, "-c", "heron", *words).code == 0
    assert [row["picture"] for row in table(place / "out")] == ["Crane-1.png", "crane-0.png", "heron.png"]


def test_again_there_is_nothing_to_do_and_what_is_missing_is_made(camcli, place):
    words = (*BRIGHT, "-c", "bright", "-c", "dark", "-o", "out")
    assert camcli(*words).code == 0
    before = state_of(place / "out")
    again = camcli(*words)
    assert (again.code, state_of(place / "out")) == (0, before)
    assert "Nothing to do: 2 pictures already in out." in again.err
    (place / "out" / "dark.png").unlink()
    (place / "out" / "bright.png").touch()
    mended = camcli(*words)
    assert "1 picture done before, 1 to do." in mended.err
    assert {name: data for name, (data, _) in state_of(place / "out").items()} == {name: data for name, (data, _) in before.items()}
    assert camcli(*words, "--frames", 3).code == 0
    with PillowImage.open(place / "out" / "bright.webp") as animation:
        assert (animation.n_frames, animation.info["loop"]) == (3, 0)
    assert "Nothing to do" in camcli(*words, "--frames", 3).err
    assert "Nothing to do" in camcli(*words).err


def test_a_damaged_picture_is_made_again(camcli, place):
    words = (*BRIGHT, "-c", "bright", "-o", "out")
    assert camcli(*words).code == 0
    path = place / "out" / "bright.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused = camcli(*words)
    assert refused.code == 3
    assert "was not written by camcli dream" in refused.err
    path.unlink()
    assert camcli(*words).code == 0
    assert path.read_bytes() == whole


def test_other_settings_are_refused_and_overwritten_when_asked(camcli, place):
    words = ("-c", "bright", "-o", "out")
    assert camcli(*BRIGHT, *words, "--frames", 2).code == 0
    before = state_of(place / "out")
    refused = camcli(*BRIGHT, *words, "--seed", 4)
    assert refused.code == 2
    assert "made with other settings (seed: was 0, now 4)" in refused.err
    assert state_of(place / "out") == before
    assert camcli(*BRIGHT, *words, "--seed", 4, "--overwrite").code == 0
    assert record_of(place / "out" / "bright.png")["settings"]["seed"] == 4
    assert not (place / "out" / "bright.webp").exists(), "an animation of another picture"
    assert "Nothing to do" in camcli(*BRIGHT, *words, "--seed", 4, "--overwrite").err
    assert "model-sha256" not in refused.err


@pytest.mark.parametrize("name", ["bright.png", "dreams.csv", "sheet.png", "bright.webp"])
def test_what_others_wrote_is_left_alone(camcli, place, name):
    (place / "out").mkdir()
    (place / "out" / name).write_bytes(b"mine")
    done = camcli(*BRIGHT, "-c", "bright", "-c", "dark", "-o", "out", "--overwrite")
    assert done.code == 3
    assert name in done.err
    assert [(path.name, path.read_bytes()) for path in (place / "out").iterdir()] == [(name, b"mine")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--steps", 3), 2, "nothing to maximize"),
        (("-c", "brigth"), 2, "Did you mean 'bright'?"),
        (("-c", 2), 2, "there is no class 2"),
        (("-c", 0, "--layer", "cells"), 2, "--layer needs --channel"),
        (("--layer", "cell", "--channel", 0), 2, "Did you mean 'cells'?"),
        (("--layer", "cells", "--channel", 1), 2, "has no channel 1: it has 1, 0 to 0"),
        (("--layer", "cells", "--channel", "x"), 2, "--channel 'x' is not a channel's number"),
        (("--layer", "cells", "--unit", "0,4,0"), 2, "its map is 4 x 4, rows 0 to 3"),
        (("--layer", "cells", "--unit", "0,4"), 2, "--unit '0,4' is not channel, row and column"),
        (("-c", 0, "--prior", "furier"), 2, "Did you mean 'fourier'?"),
        (("-c", 0, "--jitter", -1), 2, "--jitter -1.0 must be between"),
        (("-c", 0, "--frames", 1), 2, "--frames 1 must be between"),
        (("-c", 0, "--rate", "nan"), 2, "--rate nan must be between"),
        (("-c", 0, "-o", "no/where"), 3, "create it first"),
        (("-c", 0, "--device", "gpu"), 2, "--device 'gpu'"),
    ],
)
def test_what_cannot_be_had_is_said_and_nothing_is_written(camcli, place, words, code, said):
    done = camcli("dream", "tests.networks:brightness", "--size", 32, *words)
    assert (done.code, said in done.err) == (code, True), done.err
    assert list(place.iterdir()) == []


def test_a_network_of_one_size_says_so(camcli, on_path):
    (on_path / "fixed.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(150528, 2))\n"
    )
    done = camcli("dream", "fixed:net", "-c", 0, "--size", 32, "--steps", 1)
    assert done.code == 2
    assert "Its input size is 224 x 224: leave --size out." in done.err
    assert camcli("dream", "fixed:net", "-c", 0, "--steps", 1).code == 0


def test_a_unit_that_never_fires_is_a_failure_and_the_others_are_made(camcli, on_path):
    (on_path / "dead.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    module = nn.Sequential(nn.Conv2d(3, 2, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))\n"
        "    module[0].bias.data[0], module[0].bias.data[1] = -1e6, 1e2\n"
        "    return module\n"
    )
    done = camcli("dream", "dead:net", "--layer", 1, "--channel", 0, "--channel", 1, "--size", 32, "--steps", 2, "-o", "out")
    assert done.code == 1
    assert "1.channel-0.png: its activation is zero" in done.err
    assert [row["picture"] for row in table(on_path / "out")] == ["1.channel-1.png"]


def test_the_sheet_shows_every_picture_in_order():
    pictures = [np.full((40, 60, 3), value, np.uint8) for value in (10, 60, 110, 160, 210)]
    sheet = contact_sheet(pictures, ["a", "b", "c", "d" * 99, "\x1b"])
    seen = [value for row in sheet[:, :, 0].tolist() for value in row]
    assert [value for value in dict.fromkeys(seen) if value in (10, 60, 110, 160, 210)] == [10, 60, 110, 160, 210]
    assert all(seen.count(value) >= 40 * 60 for value in (10, 60, 110, 160, 210))
    assert max(sheet.shape[:2]) < 2 * min(sheet.shape[:2])


def test_stopped_it_keeps_what_is_finished_and_goes_on(camcli, place):
    """In the middle of the second picture, wherever that is."""
    config = DreamConfig(class_=("bright", "dark"), size=32, steps=3, output="out")
    study = prepare_study(config, ModelRequest("tests.networks:brightness"), "cpu")
    stop, heard = threading.Event(), []

    class Stops(SilentListener):
        def progress(self, done, of, note=""):
            heard.append(note.split()[0])
            if heard.count("dark") == 2:
                stop.set()

    result = run_study(study, Stops(), stop)
    assert ([target.stem for target in result.written], result.failures) == (["bright"], ())
    assert [row["picture"] for row in table(place / "out")] == ["bright.png"]
    assert not (place / "out" / "dark.png").exists()
    again = camcli(*BRIGHT, "-c", "bright", "-c", "dark", "-o", "out")
    assert "1 picture done before, 1 to do." in again.err
    assert camcli(*BRIGHT, "-c", "bright", "-c", "dark", "-o", "whole").code == 0
    assert contents_of(place / "out") == contents_of(place / "whole")


def test_an_interrupt_ends_with_its_exit_code(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ("dream", "tests.networks:brightness", "--size", 32, "-c", "bright", "-o", tmp_path / "out", "--steps", 100_000)
    running = forked(*words)
    while not (tmp_path / "out" / ".camcli" / "lock").exists():  # the optimization begins
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    said = running.communicate()[1]
    assert running.returncode == 130
    assert (
        "finished pictures are kept. Run the same command again to make the missing ones; the picture in progress starts again."
        in said
    )
    assert not (tmp_path / "out" / "bright.png").exists()


def test_a_folder_in_which_another_dreams_is_refused(camcli, place):
    (place / "out" / ".camcli").mkdir(parents=True)
    with FileLock(place / "out" / ".camcli" / "lock"):
        done = camcli(*BRIGHT, "-c", "bright", "-o", "out")
    assert done.code == 3
    assert "another camcli dream is writing into" in done.err
    assert not (place / "out" / "bright.png").exists()


def test_every_option_stands_in_usage_with_its_default_and_every_column_in_the_page():
    section = re.split(r"^## ", (ROOT / "docs" / "usage.md").read_text(), flags=re.MULTILINE)
    (section,) = (part for part in section if part.startswith("camcli dream\n"))
    rows = {cells[0]: cells for cells in (re.findall(r"`([^`]*)`", line) for line in section.splitlines() if "| `--" in line)}
    for field in dataclasses.fields(DreamConfig):
        name = f"--{option_name(field)}"
        default = WITH_PRIOR.get(field.name, field.default)
        assert name in rows
        if default not in (None, (), False):
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert shown in rows[name], name
    assert all(f"`{column}`" in PAGE.read_text() for column in COLUMNS)


def test_every_command_of_the_page_runs(camcli, place):
    """With two steps at 64 pixels, whatever the page says; the pictures that it shows are there and small."""
    done = run_walk(PAGE, camcli, {"dream": {"--steps": "2", "--size": "64"}})
    assert sum(command.startswith("camcli dream") for command, _ in done) >= 5
    assert (place / "dreams" / "goose.png").exists()
    assert (place / "dreams" / "sheet.png").exists()
    files = pictures_of(PAGE)
    assert len(files) >= 4
    assert all(file.stat().st_size < 100_000 for file in files)


def test_a_walks_commands_are_found_and_only_their_options_changed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```bash\ncamcli run a \\\n  --topk 3   # why\n# no command\ncamcli dream -c 'a b'\n```\n```python\nx\n```\n"
    )
    commands = walk_commands(page)
    assert commands == ["camcli run a    --topk 3", "camcli dream -c 'a b'"]
    assert shortened(commands[0], {"run": {"--topk": "1", "--limit": "2"}}) == "camcli run a --topk 1 --limit 2"
    assert shortened(commands[1], {"run": {"--topk": "1"}}) == "camcli dream -c 'a b'"


def test_a_picture_too_large_for_the_memory_is_refused_before_the_kernel_kills(camcli, place, monkeypatch):
    monkeypatch.setattr("camcli.dream.study.available_memory", lambda: 10**9)
    refused = camcli("dream", "--class", "goose", "--size", 2000, "--steps", 1)
    assert (refused.code, "try a smaller --size" in refused.err) == (3, True)
    assert not (place / "dreams").exists()
    assert camcli("dream", "--class", "goose", "--size", 64, "--steps", 1).code == 0


def test_a_fitted_model_is_no_place_for_pictures(camcli, place):
    (place / "model").mkdir()
    (place / "model" / "model.json").write_text("{}")
    for command in (("dream", "--class", "goose", "--steps", 1), ("sanity", "model")):
        refused = camcli(*command, "-o", "model")
        assert refused.code in (2, 3)
    assert os.listdir(place / "model") == ["model.json"]


@pytest.mark.gpu
def test_a_gpu_dreams_too(camcli, place):
    """Not the same bytes: the backward pass of grid_sample adds up in any order there."""
    done = camcli("dream", "--class", "goose", "--steps", 32, "--size", 128, "--device", "cuda")
    assert done.code == 0, done.err
    (row,) = table(place / "dreams")
    assert float(row["activation_end"]) > float(row["activation_start"]) + 5
