"""Which classes are explained and what their probability is: true classes, sigmoid heads, single logits, all layers, fusing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from tests.folders import failures_of, rows_of

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
    table = tmp_path / "truth.csv"
    table.write_text("label,image\n1,Bright/1.png\nbright,Bright/2.png\n")
    out = tmp_path / "out"
    done = camcli("run", labelled, "-o", out, *NETWORK, "--class-from", table)
    assert done.code == 1
    assert {row["image"]: (row["label"], row["correct"]) for row in rows_of(out)} == {
        "Bright/1.png": ("dark", "no"),
        "Bright/2.png": ("bright", "yes"),
    }
    assert failures_of(out) == [{"image": "dark/3.png", "stage": "label", "error": f"no label in {table}"}]
    table.write_text("label,image\n0,Bright/1.png\n")
    changed = camcli("run", labelled, "-o", out, *NETWORK, "--class-from", table)
    assert changed.code == 2
    assert "class-from-sha256" in changed.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a header"),
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
