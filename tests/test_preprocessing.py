"""``--mean``, ``--std``, ``--resize``, ``--crop``, ``--interpolation``, and networks of one channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import InterpolationMode

from camcli.config.run import RunConfig
from camcli.errors import ConfigError, ModelError, WeightsError
from camcli.images.geometry import prepare_pixels
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model
from camcli.network.inputs import input_tensor
from camcli.records import Preprocess
from tests.conftest import SAMPLES
from tests.folders import rows_of
from tests.pictures import photo

SIDES = [(300, 200), (97, 260), (224, 224), (31, 40)]


def changed(model="resnet18", **options):
    """The preprocessing of a model with options of RunConfig."""
    config = RunConfig(**options).check()
    return load_model(ModelRequest(model, "none", changes=config.input_changes)).preprocess


def prepared(pixels, preprocess):
    return input_tensor([prepare_pixels(pixels, preprocess, "crop")[1]], preprocess, torch.device("cpu"))[0]


def noise(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# ---- the options


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("resize", "theirs"), [("96", 96), ("80x110", (80, 110))])
def test_the_input_is_that_of_torchvisions_transforms(resize, theirs, interpolation):
    """Bit-equal: the same five settings, given to torchvision."""
    preprocess = changed(resize=resize, crop="64x72", interpolation=interpolation, mean="0.3,0.4,0.5", std="0.2")
    expected = transforms.Compose(
        [
            transforms.Resize(theirs, InterpolationMode(interpolation)),
            transforms.CenterCrop((64, 72)),
            transforms.ToTensor(),
            transforms.Normalize((0.3, 0.4, 0.5), (0.2,) * 3),
        ]
    )
    for width, height in SIDES:
        pixels = noise(width, height)
        assert torch.equal(prepared(pixels, preprocess), expected(PillowImage.fromarray(pixels))), (width, height)


def test_what_is_not_given_stays_as_the_model_has_it():
    before = changed()
    assert changed(mean="0.5") == Preprocess(**{**vars(before), "mean": (0.5,) * 3})
    assert changed(interpolation="lanczos") == Preprocess(**{**vars(before), "interpolation": "lanczos"})
    assert changed(resize="300") == Preprocess(**{**vars(before), "resize_to": (300, 300)})


def test_a_new_crop_alone_shows_the_same_part_of_the_image():
    """As in timm: the share of the image that is cut off stays."""
    before, after = changed(), changed(crop="448")
    assert (after.crop, after.resize_to) == ((448, 448), tuple(2 * side for side in before.resize_to))
    wide = changed(crop="224x448")
    assert (wide.resize, wide.resize_to) == ("cover", (before.resize_to[0], 2 * before.resize_to[1]))


def test_a_fraction_is_the_quotient():
    assert changed(mean="124/255, 116/255, 104/255", std="1/255").mean == (124 / 255, 116 / 255, 104 / 255)
    assert RunConfig(std="1/255").input_changes.std == (1 / 255,)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("mean", "0.5,0.5", "one or three numbers"),
        ("mean", "grey", "one or three numbers"),
        ("mean", "1/0", "one or three numbers"),
        ("mean", "nan", "one or three numbers"),
        ("std", "0", "above 0"),
        ("std", "0.2,-0.2,0.2", "above 0"),
        ("resize", "0", "number of pixels"),
        ("resize", "256X", "HEIGHTxWIDTH"),
        ("crop", "99999", "up to 4096"),
        ("crop", "1" * 10_000, "up to 4096"),
        ("crop", "224x", "HEIGHTxWIDTH"),
        ("interpolation", "cubic", "bicubic"),
    ],
)
def test_what_is_no_such_value_is_refused(option, value, said):
    with pytest.raises(ConfigError, match=said):
        RunConfig(**{option: value}).check()


def test_a_crop_that_the_resized_image_does_not_fill_is_refused():
    with pytest.raises(ConfigError, match="smaller than the network's input of 224 x 224"):
        changed(resize="200")
    with pytest.raises(ConfigError, match="give one value"):
        load_model(ModelRequest("tests.networks:grey", changes=RunConfig(mean="0.1,0.2,0.3").input_changes))


def test_a_run_computes_with_them_and_they_bind_the_folder(tmp_path, camcli):
    """The logit of ``bright`` is the mean of the normalised input: known in closed form from the photo."""
    photo(size=(120, 90)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    options = ["--mean", "0.2,0.3,0.4", "--std", "0.5", "--resize", "72x96", "--crop", "64", "--interpolation", "bicubic"]
    model = ["--model", "tests.networks:brightness"]
    assert camcli("run", tmp_path / "a.png", "-o", out, *model, *options).code == 0
    seen = PillowImage.open(tmp_path / "a.png").convert("RGB").resize((96, 72), PillowImage.Resampling.BICUBIC)
    seen = np.asarray(seen.crop((16, 4, 80, 68))) / 255
    bright = next(iter(rows_of(out)))
    logit = float(bright["logit"]) * (1 if bright["class_name"] == "bright" else -1)
    assert logit == pytest.approx(((seen - (0.2, 0.3, 0.4)) / 0.5).mean(), rel=1e-5)

    same = ["--mean", "0.20,3/10,.4", "--std", "1/2", *options[4:]]
    again = camcli("run", tmp_path / "a.png", "-o", out, *model, *same)
    assert (again.code, "Nothing to do" in again.err or "already" in again.err) == (0, True), again.err
    for option, value in (
        ("--mean", "0.2"),
        ("--std", "0.4"),
        ("--resize", "72"),
        ("--crop", "60"),
        ("--interpolation", "nearest"),
    ):
        other = camcli("run", tmp_path / "a.png", "-o", out, *model, *options, option, value)
        assert (other.code, f"{option[2:]}: was" in other.err) == (2, True), other.err
    refused = camcli("run", tmp_path / "a.png", "-o", out, *model)
    assert "mean: was 0.2,0.3,0.4, now the default" in refused.err


def test_a_sanity_check_takes_them_too(tmp_path, camcli):
    photo(0).save(tmp_path / "a.png"), photo(1).save(tmp_path / "b.png")
    command = ["sanity", tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out", "--model", "tests.networks:colours"]
    assert camcli(*command, "--method", "gradcam", "--mean", "0.5").code == 0
    assert "mean: was 0.5, now 0.4" in camcli(*command, "--method", "gradcam", "--mean", "0.4").err


# ---- one channel


def test_grey_input_is_pillows(tmp_path):
    """Bit-equal to Pillow's grey and torchvision's transforms; a grey photo keeps its values."""
    preprocess = Preprocess("short", (70, 70), (64, 64), "bilinear", (0.4,), (0.2,))
    steps = [transforms.Resize(70), transforms.CenterCrop(64), transforms.ToTensor(), transforms.Normalize((0.4,), (0.2,))]
    for width, height in SIDES:
        picture = PillowImage.fromarray(noise(width, height))
        assert torch.equal(prepared(np.asarray(picture), preprocess), transforms.Compose(steps)(picture.convert("L")))
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    same = Preprocess("squash", (16, 16), (16, 16), "nearest", (0.0,), (1.0,))
    assert np.array_equal(prepare_pixels(ramp, same, "crop")[1][..., 0], ramp[..., 0])
    padded = prepare_pixels(noise(40, 20), preprocess, "pad")[1]
    assert padded.shape == (64, 64, 1)
    assert padded[0, 0, 0] == round(255 * 0.4)


ONE_CHANNEL = (
    "resnet18",
    "squeezenet1_1",
    "googlenet",
    "vit_b_32",
    "timm/resnet18",
    "timm/vit_tiny_patch16_224",
    "efficientnet_lite0",
)


def one_channel(name, classes=5):
    """An architecture whose first convolution takes one channel, as made by hand."""
    import timm

    torch.manual_seed(1)
    if name.startswith("timm/") or name == "efficientnet_lite0":
        short = {"efficientnet_lite0": "tf_efficientnet_lite0"}.get(name, name[5:])
        return timm.create_model(short, in_chans=1, num_classes=classes).eval()
    options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    module = models.get_model(name, weights=None, num_classes=classes, **options)
    where, first = next((where, child) for where, child in module.named_modules() if isinstance(child, nn.Conv2d))
    parent = module.get_submodule(where.rpartition(".")[0])
    setattr(
        parent,
        where.rpartition(".")[2],
        nn.Conv2d(1, first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None),
    )
    return module.eval()


@pytest.mark.parametrize("name", ONE_CHANNEL)
def test_a_checkpoint_of_one_channel_runs(name, tmp_path):
    original = one_channel(name)
    torch.save(original.state_dict(), tmp_path / "grey.pth")
    model = load_model(ModelRequest(name, str(tmp_path / "grey.pth")))
    assert (model.preprocess.channels, len(model.classes)) == (1, 5)
    assert "one channel" in " ".join(model.notes)
    inputs = torch.randn(2, 1, *model.preprocess.crop, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.module(inputs), original(inputs))


def test_a_checkpoint_of_one_channel_from_file_to_table(tmp_path, camcli):
    """Through the command, in worker processes, with mean and std of one value: torchvision's own transforms and captum agree."""
    from captum.attr import LayerGradCam

    original = one_channel("resnet18")
    torch.save(original.state_dict(), tmp_path / "xray.pth")
    out = tmp_path / "out"
    arguments = ["--model", "resnet18", "--weights", tmp_path / "xray.pth", "--mean", "0.45", "--std", "0.25", "--workers", "2"]
    result = camcli("run", SAMPLES / "camera.png", SAMPLES / "chelsea.png", "-o", out, *arguments, "--save-maps")
    assert result.code == 0, result.err
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize((0.45,), (0.25,))]
    for row in rows_of(out):
        inputs = transforms.Compose(steps)(PillowImage.open(SAMPLES / row["image"]).convert("L"))[None]
        with torch.no_grad():
            logits = original(inputs)[0]
        assert int(row["class_index"]) == int(logits.argmax())
        assert float(row["logit"]) == pytest.approx(float(logits.max()), rel=1e-4)
        expected = LayerGradCam(original, original.layer4).attribute(inputs, target=int(logits.argmax()), relu_attributions=True)
        assert float(row["peak"]) == pytest.approx(float(expected.detach().max()), rel=1e-3)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "fullgrad", "guided-backprop", "guided-gradcam", "eigencam"])
def test_methods_run_on_one_channel(method):
    import camcli

    model = camcli.load("tests.networks:grey")
    assert model.model.preprocess.channels == 1
    found = camcli.explain(model, [SAMPLES / "camera.png"], methods=method)[0]
    assert np.isfinite(found.heatmaps[0].values).all()
    whole = camcli.explain(model, torch.zeros(2, 1, 224, 224))
    assert len(whole) == 2


def test_two_channels_are_refused_with_the_reason(tmp_path, camcli):
    module = models.resnet18(weights=None)
    state = {**module.state_dict(), "conv1.weight": torch.zeros(64, 2, 7, 7)}
    torch.save(state, tmp_path / "two.pth")
    with pytest.raises(WeightsError, match=r"images of 2 channels: conv1\.weight is 64 x 2 x 7 x 7.*factory"):
        load_model(ModelRequest("resnet18", str(tmp_path / "two.pth")))
    with pytest.raises(ModelError, match=r"takes images of 2 channels\. .*factory"):
        load_model(ModelRequest("tests.networks:two_channels"))
    photo(size=(120, 90)).save(tmp_path / "a.png")
    result = camcli("run", tmp_path / "a.png", "-o", tmp_path / "out", "--model", "resnet18", "--weights", tmp_path / "two.pth")
    assert (result.code, "Traceback" in result.err) == (2, False)


def test_a_network_of_one_channel_is_not_painted_in_colour(tmp_path, camcli):
    result = camcli("dream", "tests.networks:grey", "--class", "0", "-o", tmp_path / "out")
    assert result.code == 2
    assert "one channel" in result.err
