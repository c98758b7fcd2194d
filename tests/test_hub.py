"""Image classifiers of Hugging Face transformers, from folders and from a cache of the hub; without a network."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from safetensors.torch import load_file, save_file

import camcli
from camcli.errors import ModelError, WeightsError
from camcli.images.geometry import prepare_pixels
from camcli.models.request import ModelRequest
from camcli.models.sources import all_sources, class_names, load_model
from camcli.network.inputs import input_tensor
from tests.conftest import SAMPLES
from tests.folders import rows_of
from tests.hub_models import CLASSES, FAMILIES, save

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'camcli[hf]'")

PHOTOS = [SAMPLES / name for name in ("chelsea.png", "coffee.png")]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with a model each, made when they are asked for."""
    place = tmp_path_factory.mktemp("models")

    def folder(family, **changes):
        found = place / "-".join([family, *map(str, changes.values())])
        return found if found.exists() else save(family, found, **changes)

    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Puts a folder into a cache of the hub, where it is ``hf/tests/NAME``."""
    import huggingface_hub.constants

    place = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))

    def put(folder, name):
        root = place / f"models--tests--{name}"
        shutil.copytree(folder, root / "snapshots" / COMMIT)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(COMMIT)
        return f"hf/tests/{name}"

    return put


def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def changed_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def explained(model, photos):
    return [(one.best.logit, one.heatmaps[0].values) for one in camcli.explain(model, photos, batch_size=len(photos))]


# ---- what is promised for every family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_through_the_command(family, models, tmp_path, camcli):
    """Classes by their names, maps at the default layer that are finite and not constant, logits of the model itself."""
    folder = models(family)
    out = tmp_path / "out"
    result = camcli("run", *PHOTOS, "-o", out, "--model", folder, "--save-maps", "--workers", "0")
    assert result.code == 0, result.err
    rows = rows_of(out)
    assert len(rows) == 2
    network = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    for row in rows:
        inputs = processor(images=PillowImage.open(SAMPLES / row["image"]).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            logits = network(**inputs).logits[0]
        assert (row["class_name"], row["status"]) == (CLASSES[int(logits.argmax())], "ok")
        assert float(row["logit"]) == pytest.approx(float(logits.max()), abs=0.02 * float(logits.abs().max()) + 0.01)
    for path in out.rglob("*.npy"):
        values = np.load(path)
        assert np.isfinite(values).all()
        assert values.max() > values.min()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_input_is_the_processors_own(family, models):
    """To one level of 255, for photos of every shape."""
    folder = models(family)
    preprocess = load_model(ModelRequest(str(folder), "none")).preprocess
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    levels = 255 * torch.tensor(preprocess.std).view(3, 1, 1)
    for path in (*PHOTOS, SAMPLES / "astronaut.png", SAMPLES / "retina.jpg", SAMPLES / "space" / "rocket.jpg"):
        picture = PillowImage.open(path).convert("RGB")
        for shown in (picture, picture.transpose(PillowImage.Transpose.TRANSPOSE), picture.crop((0, 0, 251, 173))):
            theirs = processor(images=shown, return_tensors="pt")["pixel_values"][0]
            ours = input_tensor([prepare_pixels(np.asarray(shown), preprocess, "crop")[1]], preprocess, torch.device("cpu"))[0]
            ours = ours.flip(0) if family == "mobilevit" else ours  # blue first: the network is turned round instead
            assert ((ours - theirs) * levels).abs().max() < 1.01, path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_from_the_cache_is_the_folder_and_a_batch_is_its_images(family, models, cache):
    folder = models(family)
    model = camcli.load(cache(folder, family))
    assert COMMIT in model.model.weights
    assert model.model.classes == CLASSES
    together = explained(model, PHOTOS)
    alone = [explained(model, [photo])[0] for photo in PHOTOS]
    of_folder = explained(camcli.load(str(folder)), PHOTOS)
    for other in (alone, of_folder):
        for (logit, values), (other_logit, other_values) in zip(together, other, strict=True):
            assert logit == pytest.approx(other_logit, rel=1e-4, abs=1e-5)
            np.testing.assert_allclose(values, other_values, rtol=1e-3, atol=1e-4 * np.abs(values).max())


DEFAULT_LAYERS = {
    "vit": "vit.layers.2.layernorm_before",
    "deit": "deit.layers.2.layernorm_before",
    "beit": "beit.layers.2",
    "swin": "swin.layernorm",
    "swinv2": "swinv2.layernorm",
    "convnext": "convnext.encoder.stages.3",
    "resnet": "resnet.encoder.stages.3",
    "mobilenet_v2": "mobilenet_v2.conv_1x1",
    "levit": "levit.encoder.stages.2",
    "pvt": "pvt.encoder.block.3.0.layer_norm_1",
    "dinov2": "dinov2.layernorm",
    "mobilevit": "mobilevit.conv_1x1_exp",
}
"""The last layer whose cells reach the logits: of convolutions the last, of a class token the input of the last attention."""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_layer_of_each_family(family, models):
    """By the last part of its name, since transformers renames the parts around it from version to version."""
    found = camcli.load(str(models(family)), weights="none").layers[0].name
    assert found.split(".")[-1] == DEFAULT_LAYERS[family].split(".")[-1]


@pytest.mark.parametrize("method", ["rollout", "legrad"])
@pytest.mark.parametrize("family", ["vit", "deit", "beit", "dinov2"])
def test_methods_for_transformers(family, method, models):
    model = camcli.load(str(models(family)))
    values = camcli.explain(model, PHOTOS[1], methods=method)[0].heatmaps[0].values
    assert np.isfinite(values).all()
    assert values.max() > values.min()


def test_legrad_equals_a_calculation_by_hand(models):
    """The last block alone: transformers' own layer norm and head on the mean token, and its own eager attention."""
    folder = models("vit")
    model = camcli.load(str(folder))
    found = camcli.explain(model, PHOTOS[1], classes=["dog"], methods="legrad")[0].heatmaps[0].values
    network = model.model.module
    preprocess = model.model.preprocess
    pixels = np.asarray(PillowImage.open(PHOTOS[1]).convert("RGB"))
    inputs = input_tensor([prepare_pixels(pixels, preprocess, "crop")[1]], preprocess, torch.device("cpu"))
    eager = transformers.AutoModelForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    outputs = eager(inputs, output_attentions=True, output_hidden_states=True)
    total = torch.zeros(65)
    states = [*outputs.hidden_states[1:]]
    for attention, tokens in zip(outputs.attentions, states, strict=True):
        logits = eager.classifier(eager.vit.layernorm(tokens.mean(1)))
        (gradient,) = torch.autograd.grad(logits[0, CLASSES.index("dog")], attention, retain_graph=True)
        total += gradient.relu().mean((1, 2))[0]
    expected = (total / len(states))[1:].view(8, 8)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4 * float(expected.max()))
    assert not any("forward" in vars(child) for child in network.modules())


# ---- weights, labels, channels


def test_weights_of_ones_own_and_random_ones(models, tmp_path):
    folder = models("resnet")
    state = load_file(folder / "model.safetensors")
    head = {"classifier.1.weight": torch.randn(7, 40), "classifier.1.bias": torch.zeros(7)}
    save_file({**state, **head}, tmp_path / "seven.safetensors")
    seven = load_model(ModelRequest(str(folder), str(tmp_path / "seven.safetensors")))
    assert seven.classes == tuple(f"class {index}" for index in range(7))
    own = load_model(ModelRequest(str(folder), str(folder / "model.safetensors")))
    assert own.classes == CLASSES
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(own.module(inputs).logits, load_model(ModelRequest(str(folder))).module(inputs).logits)
        first, second = (load_model(ModelRequest(str(folder), "none")) for _ in "ab")
        assert torch.equal(first.module(inputs).logits, second.module(inputs).logits)
    assert "random" in first.notes[0]
    with pytest.raises(WeightsError, match="no weights 'IMAGENET1K_V1'"):
        load_model(ModelRequest(str(folder), "IMAGENET1K_V1"))


def test_placeholders_are_no_names(models, tmp_path):
    folder = copied(models("resnet"), tmp_path)
    changed_config(folder, id2label={str(index): f"LABEL_{index}" for index in range(5)})
    assert class_names(ModelRequest(str(folder))) == tuple(f"class {index}" for index in range(5))
    assert class_names(ModelRequest(str(models("resnet")))) == CLASSES


def test_a_model_of_one_channel_gets_grey_images(models, tmp_path, camcli):
    folder = save("vit", tmp_path / "grey", num_channels=1)
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.4], image_std=[0.2], resample=2)
    processor.save_pretrained(folder)
    model = load_model(ModelRequest(str(folder)))
    assert (model.preprocess.mean, model.preprocess.std) == ((pytest.approx(0.4),), (pytest.approx(0.2),))
    assert camcli("run", PHOTOS[0], "-o", tmp_path / "out", "--model", folder).code == 0
    two = save("vit", tmp_path / "two", num_channels=2)
    with pytest.raises(ModelError, match="takes images of 2 channels"):
        load_model(ModelRequest(str(two)))


def test_a_model_without_a_processor_says_so(models, tmp_path):
    folder = copied(models("vit"), tmp_path)
    (folder / "preprocessor_config.json").unlink()
    model = load_model(ModelRequest(str(folder)))
    assert model.preprocess.crop == (64, 64)
    assert "no image processor" in model.notes[0]


def test_a_processor_that_cannot_be_reproduced_is_refused(models, tmp_path):
    folder = copied(models("vit"), tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_resize": False}))
    with pytest.raises(ModelError, match=r"inputs of different sizes.*factory"):
        load_model(ModelRequest(str(folder)))
    path.write_text("[1, 2")
    model = load_model(ModelRequest(str(folder)))
    assert "no image processor" in model.notes[0]


# ---- the catalogue


def test_models_of_the_cache_are_listed_and_proposed(models, cache, camcli):
    name = cache(models("vit"), "vit")
    listed = camcli("models", "hf/*")
    assert name in listed.out
    assert "yes" in listed.out
    source = next(source for source in all_sources() if source.name == "hf")
    assert list(source.complete_names()) == [name]
    assert source.complete_classes(str(models("vit"))) == list(CLASSES)
    layers = camcli("layers", name)
    assert "layernorm_before" in layers.out
    assert "tripod" in camcli("classes", name).out


# ---- what cannot be done, with the reason


def test_what_is_not_on_this_machine_and_cannot_be_fetched(tmp_path, monkeypatch, camcli):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    result = camcli("run", PHOTOS[0], "-o", tmp_path / "out", "--model", "hf/microsoft/resnet-50")
    assert result.code == 2
    errors = [line for line in result.err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "hf/microsoft/resnet-50 is not on this machine" in errors[0]
    assert "`hf download microsoft/resnet-50`" in errors[0]
    for name in ("hf/", "hf/a/b/c", "hf/../../etc", "hf/a b", "hf/\x1b[1m"):
        with pytest.raises(ModelError, match="name on the hub"):
            load_model(ModelRequest(name))


@pytest.mark.parametrize("by_name", [True, False])
def test_without_the_extra_it_is_named(by_name, models, tmp_path, monkeypatch, camcli):
    name = "hf/microsoft/resnet-50" if by_name else models("vit")
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = camcli("run", PHOTOS[0], "-o", tmp_path / "out", "--model", name)
    assert result.code == 2
    assert "pip install 'camcli[hf]'" in result.err
    assert "Traceback" not in result.err


class Bait:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_code_of_a_repository_runs(models, tmp_path):
    """Neither pickled weights, nor modules beside the configuration, nor attention kernels that it names."""
    trap = tmp_path / "executed"
    folder = copied(models("vit"), tmp_path)
    (folder / "model.safetensors").unlink()
    for save_bait in (pickle.dump, torch.save):
        with open(folder / "pytorch_model.bin", "wb") as file:
            save_bait(Bait(str(trap)), file)
        with pytest.raises(WeightsError, match=r"no model\.safetensors.*pickles can run code"):
            load_model(ModelRequest(str(folder)))
    shutil.rmtree(folder)

    folder = copied(models("vit"), tmp_path)
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(trap)!r})\n")
    changed_config(
        folder,
        model_type="own",
        auto_map={"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model", "AutoImageProcessor": "own.P"},
    )
    with pytest.raises(ModelError, match="code from its repository, which camcli never runs"):
        load_model(ModelRequest(str(folder)))
    changed_config(folder, model_type="vit")
    load_model(ModelRequest(str(folder)))  # the code that transformers has for it is used
    shutil.rmtree(folder)

    folder = copied(models("vit"), tmp_path)
    changed_config(folder, _attn_implementation="tests/kernels", attn_implementation="tests/kernels")
    assert load_model(ModelRequest(str(folder))).module.config._attn_implementation == "sdpa"
    assert not trap.exists()


def test_a_network_without_a_trained_head_is_refused(models, tmp_path):
    folder = copied(models("vit"), tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file(
        {key: value for key, value in state.items() if "classifier" not in key}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(WeightsError, match=r"no weights for classifier\.bias and 1 more: it is not trained as a classifier"):
        load_model(ModelRequest(str(folder)))
    save_file({**state, "classifier.weight": torch.zeros(9, 32)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises((WeightsError, ModelError)):
        load_model(ModelRequest(str(folder)))


def test_other_tasks_and_quantized_models_are_refused(models, tmp_path):
    folder = copied(models("vit"), tmp_path)
    changed_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(ModelError, match="quantized"):
        load_model(ModelRequest(str(folder)))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(ModelError, match="not an image classifier"):
        load_model(ModelRequest(str(folder)))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '"vit"', "[" * 100_000, '{"model_type": 7}', '{"model_type": "vit", "hidden_size": "x"}',
     '{"model_type": "vit", "num_labels": 999999999999}', '{"model_type": "vit", "num_channels": -1}', '{"model_type": "no such"}',
     '{"model_type": "vit", "id2label": [1, 2]}', '{"model_type": "vit", "image_size": null}', "\0"],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_configuration_that_a_stranger_has_written(text, models, tmp_path, camcli):
    folder = copied(models("vit"), tmp_path)
    (folder / "config.json").write_text(text)
    result = camcli("run", PHOTOS[0], "-o", tmp_path / "out", "--model", folder)
    assert result.code == 2, result.err
    assert "Traceback" not in result.err


def test_a_changed_model_is_another_run(models, tmp_path, camcli):
    folder = copied(models("resnet"), tmp_path)
    arguments = ["run", PHOTOS[0], "-o", tmp_path / "out", "--model", folder]
    assert camcli(*arguments).code == 0
    assert camcli(*arguments).code == 0
    path = folder / "preprocessor_config.json"
    before = path.read_text()
    path.write_text(before.replace("0.9", "0.8"))
    assert "model-sha256" in camcli(*arguments).err
    path.write_text(before)
    assert camcli(*arguments).code == 0
    state = load_file(folder / "model.safetensors")
    save_file({key: value * 1.01 for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"})
    assert camcli(*arguments).code == 2
