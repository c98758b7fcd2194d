"""Which classes are explained and what their probability is: true classes, sigmoid heads, single logits, all layers, fusing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from camcli.output.folder import OutputFolder
from camcli.output.journal import read_header
from camcli.output.root import Root
from camcli.records import Failure
from camcli.source import Source
from tests.folders import failures_of, rows_of, state_of

NETWORK = ("--model", "tests.networks:brightness", "--layer", "cells")


@pytest.fixture
def labelled(tmp_path):
    """Grey ramps in folders named as the classes; the network always says ``bright``."""
    ramp = np.tile(np.linspace(20, 200, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
    for folder, name in (("Bright", "1.png"), ("Bright", "2.png"), ("dark", "3.png")):
        (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(ramp).save(tmp_path / "data" / folder / name)
    return tmp_path / "data"


def test_the_true_class_from_the_folder(camcli, labelled, tmp_path):
    out = tmp_path / "out"
    done = camcli("run", labelled, "-o", out, *NETWORK, "--class-from", "folder", "--topk", 1)
    assert done.code == 0, done.err
    rows = [(row["image"], row["class_name"], row["label"], row["correct"]) for row in rows_of(out)]
    assert rows == [
        ("Bright/1.png", "bright", "bright", "yes"),
        ("Bright/2.png", "bright", "bright", "yes"),
        ("dark/3.png", "bright", "dark", "no"),
        ("dark/3.png", "dark", "dark", "no"),
    ], "where the network is wrong, its class and the true one stand side by side"
    assert "2 of 3 right" in done.err
    assert list(rows_of(out)[0])[-2:] == ["label", "correct"]
    assert "Nothing to do" in camcli("run", labelled, "-o", out, *NETWORK, "--class-from", "folder", "--topk", 1).err
    only = tmp_path / "only"
    camcli("run", labelled, "-o", only, *NETWORK, "--class-from", "folder")
    assert [row["class_name"] for row in rows_of(only)] == ["bright", "bright", "dark"]


def test_the_true_class_from_a_table(camcli, labelled, tmp_path):
    """An image without a label is no failure: it is left out, and the second run has nothing to do."""
    table = tmp_path / "truth.csv"
    table.write_text("label,image\n1,Bright/1.png\nbright,Bright/2.png\n,dark/3.png\n")
    out = tmp_path / "out"
    done = camcli("run", labelled, "-o", out, *NETWORK, "--class-from", table)
    assert done.code == 0, done.err
    assert f"1 image without a label in {table}: left out." in done.err
    assert "1 of 2 right (50.0%)" in done.err
    assert {row["image"]: (row["label"], row["correct"]) for row in rows_of(out)} == {
        "Bright/1.png": ("dark", "no"),
        "Bright/2.png": ("bright", "yes"),
    }
    assert failures_of(out) == []
    before = state_of(out)
    again = camcli("run", labelled, "-o", out, *NETWORK, "--class-from", table)
    assert (again.code, state_of(out)) == (0, before)
    assert "Nothing to do: 2 images" in again.err
    table.write_text("label,image\n0,Bright/1.png\n")
    changed = camcli("run", labelled, "-o", out, *NETWORK, "--class-from", table)
    assert changed.code == 2
    assert "class-from-sha256" in changed.err


@pytest.mark.parametrize(
    "header", ["", "image,label\n", " Image , Label\n", "file,class\n", "file,label\n", "image,class\n", "\ufeffimage,label\n"]
)
def test_no_row_of_a_table_is_lost(camcli, labelled, tmp_path, header):
    """With any header and with none: every image gets the label that stands beside it."""
    table = tmp_path / "truth.csv"
    table.write_text(header + "Bright/1.png,dark\nBright/2.png,bright\ndark/3.png,dark\n", encoding="utf-8")
    done = camcli("run", labelled, "-o", tmp_path / "out", *NETWORK, "--class-from", table)
    assert done.code == 0, done.err
    assert [row["label"] for row in rows_of(tmp_path / "out")] == ["dark", "bright", "dark"]
    assert "1 of 3 right" in done.err
    assert "without a label" not in done.err


@pytest.mark.parametrize("header", ["label,image", "class,image", "label,file"])
def test_columns_are_found_by_their_names(camcli, labelled, tmp_path, header):
    (tmp_path / "truth.csv").write_text(f"{header}\ndark,Bright/1.png\n")
    done = camcli("run", labelled, "-o", tmp_path / "out", *NETWORK, "--class-from", tmp_path / "truth.csv")
    assert [(row["image"], row["label"]) for row in rows_of(tmp_path / "out")] == [("Bright/1.png", "dark")], done.err


@pytest.mark.parametrize("flags", [("--topk", 1), ("--class", "bright")])
def test_an_image_without_a_label_is_explained_for_the_other_classes(camcli, labelled, tmp_path, flags):
    """Also where it shares a batch with labelled ones; numbers and words about right and wrong are about those alone."""
    (tmp_path / "truth.csv").write_text("Bright/1.png,dark\ndark/3.png,bright\n")
    command = ("run", labelled, "-o", tmp_path / "out", *NETWORK, "--class-from", tmp_path / "truth.csv", *flags)
    for attempt in ("fresh", "from the table"):
        done = camcli(*command, "--format", "jsonl")
        assert done.code == 0, done.err
        found = [(row["image"], row["class_name"], row["label"], row["correct"]) for row in map(json.loads, done.out.splitlines())]
        assert found == [
            ("Bright/1.png", "bright", "dark", False),
            ("Bright/1.png", "dark", "dark", False),
            ("Bright/2.png", "bright", "", None),
            ("dark/3.png", "bright", "bright", True),
        ], attempt
    assert [row["correct"] for row in rows_of(tmp_path / "out")] == ["no", "no", "", "yes"]
    camcli("run", labelled, "-o", tmp_path / "other", *NETWORK, "--class-from", tmp_path / "truth.csv", *flags, "--report")
    assert (tmp_path / "other" / "report.html").is_file()


@pytest.mark.parametrize("flags", [(), ("--topk", 1)])
def test_a_folder_with_images_that_failed_for_want_of_a_label_goes_on(camcli, labelled, tmp_path, flags):
    """As earlier versions left it: the failure goes, and then there is nothing to do."""
    table, out = tmp_path / "truth.csv", tmp_path / "out"
    table.write_text("image,label\nBright/1.png,dark\nBright/2.png,bright\n")
    command = ("run", labelled, "-o", out, *NETWORK, "--class-from", table, *flags)
    assert camcli(*command).code == 0
    image = labelled / "dark" / "3.png"
    if flags:  # the image as if it had not been explained
        cut_last_image(out)
    settings = read_header(Root(str(out))).settings
    with OutputFolder(str(out), settings) as folder:
        folder.ledger.append([Failure("dark/3.png", "label", f"no label in {table}", Source("", str(image)).stamp())])
    assert camcli(*command).code == 0
    assert failures_of(out) == []
    assert len({row["image"] for row in rows_of(out)}) == (3 if flags else 2)
    before = state_of(out)
    again = camcli(*command)
    assert (again.code, state_of(out)) == (0, before)
    assert "Nothing to do" in again.err


def cut_last_image(out):
    """Take the last row and the last line of the journal away."""
    for name in ("predictions.csv", ".camcli/journal.jsonl"):
        lines = (out / name).read_bytes().splitlines(keepends=True)
        (out / name).write_bytes(b"".join(lines[:-1]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the columns image and label"),
        ("Bright/1.png\n", "expected the columns image and label"),
        ("gone.png,bright\n", "labels none of the 3 images"),
        ("bright,Bright/1.png\n", "such as 'Bright/1.png'"),
        ("Bright/1.png,brigt\n", "Did you mean 'bright'"),
        ("image,label\na.png\n", "line 2 has fewer"),
        ("image,label\nBright/1.png,brigt\n", "Did you mean 'bright'"),
    ],
)
def test_tables_that_do_not_fit(camcli, labelled, tmp_path, text, said):
    (tmp_path / "truth.csv").write_text(text)
    refused = camcli("run", labelled, "-o", tmp_path / "out", *NETWORK, "--class-from", tmp_path / "truth.csv")
    assert refused.code == 2
    assert said in refused.err


def test_folders_that_are_no_classes(camcli, labelled, tmp_path):
    (labelled / "dark").rename(labelled / "darkness")
    refused = camcli("run", labelled, "-o", tmp_path / "out", *NETWORK, "--class-from", "folder")
    assert refused.code == 2
    assert "no class 'darkness'. Did you mean 'dark'" in refused.err
    assert camcli("run", labelled, "-o", tmp_path / "out", *NETWORK, "--class-from", "fodler").code == 2


def test_a_sigmoid_head_gives_each_class_its_own_probability(camcli, labelled, tmp_path):
    assert camcli("run", labelled, "-o", tmp_path / "out", *NETWORK, "--head", "sigmoid", "--topk", 2).code == 0
    for row in rows_of(tmp_path / "out"):
        assert float(row["probability"]) == pytest.approx(1 / (1 + np.exp(-float(row["logit"]))), abs=1e-5)


def test_a_single_logit(camcli, labelled, on_path):
    """Softmax of one logit is always 1 and refused; sigmoid gives one class, or two by their names."""
    (on_path / "single.py").write_text(
        "import torch, tests.networks\n"
        "def net():\n"
        "    module = tests.networks.brightness()\n"
        "    module.head = torch.nn.Linear(1, 1)\n"
        "    module.head.weight.data.fill_(3.0); module.head.bias.data.fill_(-4.0)\n"
        "    module.categories = None\n"
        "    return module\n"
    )
    flags = ("--model", "single:net", "--layer", "cells")
    refused = camcli("run", labelled, "-o", on_path / "out", *flags)
    assert refused.code == 2
    assert "--head sigmoid" in refused.err
    assert camcli("run", labelled, "-o", on_path / "one", *flags, "--head", "sigmoid").code == 0
    (row, *_) = rows_of(on_path / "one")
    assert (row["rank"], row["class_name"]) == ("1", "class 0")
    probability = float(row["probability"])
    assert probability == pytest.approx(1 / (1 + np.exp(-float(row["logit"]))), abs=1e-5)
    assert probability < 0.5
    (on_path / "two.txt").write_text("dark\nbright\n")
    done = camcli("run", labelled, "-o", on_path / "two", *flags, "--head", "sigmoid", "--labels", on_path / "two.txt", "--topk", 2)
    assert done.code == 0, done.err
    dark, bright = rows_of(on_path / "two")[:2]
    assert (dark["class_name"], bright["class_name"]) == ("dark", "bright")
    assert float(bright["probability"]) == pytest.approx(probability, abs=1e-5)
    assert float(dark["probability"]) == pytest.approx(1 - probability, abs=1e-5)
    (on_path / "three.txt").write_text("a\nb\nc\n")
    assert camcli("run", labelled, "-o", on_path / "x", *flags, "--head", "sigmoid", "--labels", on_path / "three.txt").code == 2


def test_all_layers_and_their_fusion(camcli, labelled, tmp_path):
    network = ("--model", "tests.networks:with_classes", "--limit", 1)
    assert camcli("run", labelled, "-o", tmp_path / "all", *network, "--layer", "all", "--topk", 4).code == 0
    assert {row["layer"] for row in rows_of(tmp_path / "all")} == {"0", "1"}
    done = camcli("run", labelled, "-o", tmp_path / "fused", *network, "--layer", "all", "--topk", 4, "--fuse", "max",
                  "--method", "layercam", "--method", "fullgrad")  # fmt: skip
    assert done.code == 0, done.err
    assert {(row["layer"], row["method"]) for row in rows_of(tmp_path / "fused")} == {
        ("fuse-max", "layercam"),
        ("input", "fullgrad"),
    }


def test_methods_that_do_not_apply_are_refused_before_any_work(camcli, labelled, tmp_path):
    for flags, said in (
        (("--model", "efficientnet_b0", "--method", "guided-backprop"), "silu"),
        (("--model", "resnet18", "--method", "rollout"), "Vision Transformers"),
        (("--model", "resnet18", "--method", "cam", "--layer", "layer3"), "average pooling"),
        (("--model", "resnet18", "--method", "scorecam", "--counterfactual"), "negates gradients"),
    ):
        refused = camcli("run", labelled, "-o", tmp_path / "out", "--weights", "none", *flags)
        assert refused.code == 2, refused.err
        assert said in refused.err
        assert not (tmp_path / "out").exists()


def test_guided_pictures_come_with_a_warning(camcli, labelled, tmp_path):
    done = camcli(
        "run",
        labelled,
        "-o",
        tmp_path / "out",
        "--model",
        "resnet18",
        "--weights",
        "none",
        "--method",
        "guided-gradcam",
        "--limit",
        1,
    )
    assert done.code == 0
    assert "Adebayo" in done.err
    assert "camcli sanity" in done.err


def test_torch_is_unharmed():
    assert torch.backends.mha.get_fastpath_enabled()
