"""What a user tries first: other settings into the same folder, misspelt names, a command without what it needs."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
import torch
from rich.cells import cell_len
from typer.main import get_command

from camcli.cli.app import app
from camcli.cli.console import _draw_table
from camcli.cli.help import COMMON, COMMON_PANEL
from tests.folders import TINY, contents_of, rows_of

PROPOSED = re.compile(r"another folder: -o (\S+)\.")


@pytest.fixture
def made(camcli, imgs, monkeypatch):
    """A run in ``heatmaps`` of the current folder, with its maps."""
    monkeypatch.chdir(imgs.parent)
    assert camcli("run", imgs, *TINY, "--save-maps").code == 0
    return imgs


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (("--model", "tests.networks:red"), "heatmaps-red"),
        (("--topk", 1), "heatmaps-topk-1"),
        (("--class", "dark"), "heatmaps-bright"),  # the first of two classes
        (("--masks",), "heatmaps-masks"),
        (("--fit", "pad"), "heatmaps-pad"),
        (("--no-save-maps",), "heatmaps-2"),
    ],
)
def test_other_settings_come_with_a_free_folder_that_works(camcli, made, options, folder):
    """As it is proposed, the name works; once it is taken, the next one is proposed."""
    command = ("run", made, *TINY, "--save-maps", *options)
    refused = camcli(*command)
    assert (refused.code, PROPOSED.search(refused.err)[1]) == (2, folder)
    assert "render" not in refused.err
    assert camcli(*command, "-o", folder).code == 0
    assert PROPOSED.search(camcli(*command, "--quality", 50).err)[1] not in ("heatmaps", folder)


def test_where_only_the_look_differs_the_proposed_render_gives_it(camcli, made, tmp_path):
    look = ("--style", "contour", "--legend", "--no-outline", "--quality", 40)
    wanted = ("run", made, *TINY, "--save-maps", *look)
    refused = camcli(*wanted)
    if refused.code == 2:  # a folder may also take the look that it is given
        command = re.search(r"(camcli render .*?)\. ", refused.err)[1]
        assert camcli(*shlex.split(command)[1:]).code == 0
    camcli(*wanted, "-o", tmp_path / "direct")
    assert rows_of(tmp_path / "heatmaps") == rows_of(tmp_path / "direct")
    assert contents_of(tmp_path / "heatmaps" / "overlays") == contents_of(tmp_path / "direct" / "overlays")


def test_no_render_is_proposed_where_it_would_not_work(camcli, imgs, monkeypatch):
    monkeypatch.chdir(imgs.parent)
    assert camcli("run", imgs, *TINY).code == 0
    refused = camcli("run", imgs, *TINY, "--style", "contour")
    assert "camcli render" not in refused.err


def test_a_shard_proposes_a_folder_for_all_shards(camcli, imgs, monkeypatch):
    monkeypatch.chdir(imgs.parent)
    assert camcli("run", imgs, *TINY, "--shard", "0/2", "-o", "parts").code == 0
    refused = camcli("run", imgs, *TINY, "--shard", "0/2", "-o", "parts", "--fit", "pad")
    assert PROPOSED.search(refused.err)[1] == "parts-pad"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "resnet5"), "there is no model 'resnet5'. Did you mean 'resnet50'"),
        (("--model", "tests.networks:brightnes"), "Did you mean 'brightness'"),
        (("--model", "resnet18"), "there is no class 'bright'"),
        (("--layer", "cels"), "has no layer 'cels'. Did you mean 'cells'"),
        (("--class", "brigth"), "there is no class 'brigth'. Did you mean 'bright'"),
        (("--class", "2"), "there is no class 2"),
        (("--method", "gradcm"), "Did you mean 'gradcam'"),
        (("--model", "resnet18", "--weights", "IMAGENET1K_V9", "--layer", "layer4"), "no weights 'IMAGENET1K_V9'"),
    ],
)
def test_a_misspelt_name_is_told_before_other_settings(camcli, made, options, words):
    """Without weights from anywhere: only names are looked up."""
    before = contents_of(made.parent / "heatmaps")
    refused = camcli("run", made, *TINY, *options)
    assert refused.code == 2
    assert words in refused.err
    assert "other settings" not in refused.err
    assert contents_of(made.parent / "heatmaps") == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "resnet5"), "Did you mean 'resnet50'"),
        (("-l", "cels"), "Did you mean 'cells'"),
        (("-c", "brigth"), "Did you mean 'bright'"),
        (("--method", "gradcm"), "Did you mean 'gradcam'"),
        (("--seed", 3), "-o sanity-seed-3."),
    ],
)
def test_sanity_tells_misspelt_names_first_too(camcli, imgs, monkeypatch, options, words):
    """Its folder holds a check with other settings, whatever it found."""
    monkeypatch.chdir(imgs.parent)
    base = ("sanity", imgs, *TINY[:4], "--limit", 2, "--method", "gradcam")
    assert camcli(*base).code == 0
    refused = camcli(*base, *options)
    assert (refused.code, words in refused.err) == (2, True), refused.err
    assert ("other settings" in refused.err) == (options[0] == "--seed")


def test_the_classes_that_contain_a_word_are_named(camcli, made, tmp_path):
    done = camcli("run", made, "--class", "cat", "-o", tmp_path / "new")
    assert done.code == 2
    assert "there is no class 'cat'. These contain it: tiger cat, Persian cat, Siamese cat, Egyptian cat, " in done.err
    assert re.search(r"These contain it: (.*?) and \d+ more\.", camcli("run", made, "--class", "er", "-o", tmp_path / "new").err)


@pytest.mark.parametrize("name", ["five.pth", "five.pt", "Five.SAFETENSORS"])
def test_a_file_of_weights_as_a_model_says_what_to_write(camcli, imgs, tmp_path, name):
    torch.save({}, tmp_path / name)
    done = camcli("run", imgs, "--model", tmp_path / name, "-o", tmp_path / "out")
    assert done.code == 2
    assert f"--model ARCH --weights {tmp_path / name}" in done.err


ALL = sorted(get_command(app).commands.items())
REQUIRING = [name for name, command in ALL if any(parameter.required for parameter in command.params)]


def test_what_requires_something():
    assert REQUIRING == ["cluster", "diff", "evaluate", "fit", "run", "sanity"]


@pytest.mark.parametrize("name", REQUIRING)
def test_what_is_missing_is_said_in_a_few_lines(camcli, name):
    """Not two hundred lines of help: the usage, where the help is, and the error."""
    done = camcli(name)
    assert (done.code, done.out) == (2, "")
    lines = [line for line in done.err.splitlines() if line]
    assert len(lines) == 3
    assert lines[0].startswith(f"Usage: camcli {name} ")
    assert re.match(r"camcli: error: Missing argument '(INPUTS|DATA|A|RUNS)'", lines[2])


@pytest.mark.parametrize(("name", "command"), ALL)
def test_help_names_every_option_whole_at_eighty_columns(camcli, monkeypatch, name, command):
    """The common options first, in the same order everywhere; nothing is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    text = camcli(name, "--help").out
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "[dim]" not in text
    lines = [line.strip() for line in text.splitlines() if re.match(r"  \S", line)]
    for parameter in command.params:
        if parameter.param_type_name == "option":
            for word in (*parameter.opts, *parameter.secondary_opts):
                assert any(re.search(rf"(^|[ ,/]){re.escape(word)}($|[ ,])", line) for line in lines), word
    sections = re.findall(r"^([A-Z]\w[\w ]*):$", text, re.MULTILINE)
    if name in ("run", "sanity", "dream", "fit", "layers", "classes"):
        assert next(section for section in sections if section != "Arguments") == COMMON_PANEL
        common = text.partition(f"{COMMON_PANEL}:\n")[2].partition("\n\n")[0]
        lines = re.findall(r"^  (?:-\w, )?--.*", common, re.MULTILINE)
        found = [word for line in lines for word in re.findall(r"--([\w-]+)", line) if word in COMMON]
        assert found == sorted(found, key=COMMON.index)
        assert found


def test_the_list_of_commands_is_whole_at_eighty_columns(camcli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = camcli("--help").out
    assert "..." not in text.replace("[ARGS]...", "")
    assert set(re.findall(r"^  (\w+)  +[A-Z]", text, re.MULTILINE)) >= {name for name, _ in ALL}


SHORT = {"model": "-m", "layer": "-l", "class": "-c", "output": "-o", "device": "-d", "batch-size": "-b", "weights": "-w"}


@pytest.mark.parametrize(("name", "command"), ALL)
def test_the_same_option_has_the_same_names_in_every_command(name, command):
    options = [parameter.opts for parameter in command.params if parameter.param_type_name == "option"]
    for words in options:
        for long, short in SHORT.items():
            assert (f"--{long}" in words) == (short in words), (name, words)
    places = [parameter for parameter in command.params if parameter.param_type_name == "argument" and parameter.metavar == "DIR"]
    assert [place.default for place in places] == ["heatmaps"] * len(places)
    assert bool(places) == (name in ("verify", "merge", "render", "report"))
    takes_model = any("--model" in words for words in options)
    assert takes_model == (name in ("run", "layers", "classes", "sanity", "dream", "fit", "evaluate"))


def test_the_model_is_named_in_either_way(camcli):
    """``layers MODEL``, ``layers --model MODEL``: the same; left out it is the model of camcli run; two are refused."""
    for command in ("layers", "classes"):
        by_place = camcli(command, "tests.networks:brightness")
        assert by_place.code == 0
        assert camcli(command, "--model", "tests.networks:brightness").out == by_place.out
        assert camcli(command).out == camcli(command, "-m", "efficientnet_lite0").out
    both = camcli("layers", "tests.networks:brightness", "-m", "tests.networks:red")
    assert (both.code, "are two models" in both.err) == (2, True)
    assert camcli("layers", "tests.networks:red", "-m", "tests.networks:red").code == 0
    assert camcli("classes", "-m", "tests.networks:red", "dark").out.splitlines()[1:] == ["1\tdark"]


def test_dream_and_fit_take_the_model_as_run_does(camcli, imgs, tmp_path):
    small = ("--size", 32, "--steps", 1, "-c", "bright", "-d", "cpu")
    assert camcli("dream", "-m", "tests.networks:brightness", *small, "-o", tmp_path / "a").code == 0
    assert camcli("dream", "tests.networks:brightness", *small, "-o", tmp_path / "b").code == 0
    assert (tmp_path / "a" / "bright.png").read_bytes() == (tmp_path / "b" / "bright.png").read_bytes()
    shutil.copytree(imgs / "sub", imgs / "other")
    missing = camcli("fit", imgs, "-o", tmp_path / "model", "--model", "resnet5")
    assert "Did you mean 'resnet50'" in missing.err


def test_a_class_given_as_the_model_is_recognised(camcli):
    done = camcli("classes", "cat")
    assert done.code == 2
    assert "there is no model 'cat'" in done.err
    assert "camcli classes --model efficientnet_lite0 cat. These contain it: tiger cat, " in done.err
    assert "These contain" not in camcli("classes", "rsnet50").err


@pytest.mark.parametrize("page", ["x.png", "page", "", "folder.html", "nowhere/x.html"])
def test_a_page_of_diff_that_cannot_be_is_refused_before_anything_is_compared(camcli, tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    done = camcli("diff", "a", "b", "--report", page)  # which are not there
    assert done.code == 2
    assert "name an HTML file, such as changes.html" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


def drawn(columns, rows, right, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    capsys.readouterr()
    _draw_table(columns, rows, right)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("key", ["cat.jpg", "animals/cats/holiday/IMG_20240501_120301.jpg", "very-long/" * 9 + "x.jpg", "猫" * 15])
def test_a_drawn_table_never_breaks_its_first_column(capsys, monkeypatch, key, width):
    """Nor a number. What has no room is folded, or left out and named; at least the second column is there."""
    columns = ("image", "predicted_a", "predicted_b", "probability_a", "probability_b", "correlation", "overlap")
    numbers = ("0.1234", "0.9876", "-0.1235", "0.5321")
    text = drawn(columns, [(key, "golden retriever", "tiger cat", *numbers)] * 2, columns[3:], width, capsys, monkeypatch)
    assert text.count(key) == 2
    assert "…" not in text
    if cell_len(key) + 12 <= width:
        assert max(map(cell_len, text.splitlines())) <= width
    left_out = re.search(r"Left out, for lack of room: (.*)\.", " ".join(text.split()))
    names = left_out[1].split(", ") if left_out else []
    assert names == list(columns[len(columns) - len(names) :])
    assert "predicted_a" not in names
    for column, number in zip(columns[3:], numbers, strict=True):
        assert text.count(number) == (0 if column in names else 2)
    if width == 200 and len(key) < 60:
        assert not names


def test_a_table_of_two_columns_is_always_whole(capsys, monkeypatch):
    name, problem = "overlays/" + "sub/" * 30 + "x.jpg", "is not there, although a row names it"
    text = drawn(("file", "problem"), [(name, problem)], (), 80, capsys, monkeypatch)
    assert name in text
    assert problem in " ".join(text.split())
