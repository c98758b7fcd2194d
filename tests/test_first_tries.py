"""What a user tries first: other settings into the same folder, misspelt names, a command without what it needs."""

from __future__ import annotations

import re
import shlex

import pytest
import torch

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
