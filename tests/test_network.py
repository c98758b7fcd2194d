"""Faster ways to run a network give what the plain way gives: logits, activations and gradients, at every layer."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.models.resnet import BasicBlock

from camcli.cam import METHODS
from camcli.cam.explain import Options, explain_batch
from camcli.errors import ConfigError, LayerError
from camcli.network import eager, run_hooked
from camcli.network.fold import fold_batch_norms
from camcli.network.hooks import capture_outputs, forward_hooks, forward_pre_hooks, gradients_of, override_output
from camcli.network.memory import fitting_batch_size
from camcli.network.partition import partition_network
from camcli.network.precision import resolve_precision, set_precision
from camcli.network.prepare import COMPILE_PAYS, Preparation, prepare_network, worth_compiling
from camcli.network.probe import probe_input, random_direction
from camcli.network.threads import torch_threads
from camcli.records import Grid, Layer, LoadedModel, Preprocess

CPU = torch.device("cpu")


def lively(module):
    """The module with BatchNorm statistics, weights and biases as after training: far from 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.copy_(torch.randn(child.num_features, generator=generator) * 0.3)
            child.running_var.copy_(torch.rand(child.num_features, generator=generator) + 0.2)
            if child.weight is not None:
                child.weight.data.copy_(torch.rand(child.num_features, generator=generator) + 0.5)
                child.bias.data.copy_(torch.randn(child.num_features, generator=generator) * 0.3)
    return module.eval()


SMALLER = {
    "resnet10": lambda: torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=20),
    "resnet4": lambda: nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(3, 8, 7, 4, 3), nn.BatchNorm2d(8), nn.ReLU()),
            block=BasicBlock(8, 8), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(8, 20),
        )
    ),
    "maxvit_t": lambda: torchvision.models.MaxVit((96, 96), 16, 3, [16, 32, 64, 128], [2, 2, 5, 2], 8, 0.2, num_classes=20),
    "swin_t": lambda: torchvision.models.SwinTransformer([4, 4], 24, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7], num_classes=20),
    "densenet21": lambda: torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=20),
    "vit_b_32": lambda: torchvision.models.VisionTransformer(96, 32, 12, 4, 64, 128, num_classes=20),
}  # fmt: skip
"""Torchvision's blocks, fewer or with fewer channels: the operations are the same, and cost a tenth."""


def network_of(name, **options):
    torch.manual_seed(2)
    if name in SMALLER:
        return lively(SMALLER[name]())
    return lively(torchvision.models.get_model(name, weights=None, num_classes=20, **options))


def assert_same_explanation(found, expected, tolerance):
    """Logits, outputs and the gradients of a mixture of logits, each to ``tolerance`` of its largest value."""
    gradients = [
        gradients_of((one.logits[:, :7] ** 2).sum() + one.logits[:, 7].sum(), one.outputs, keep_graph=False)
        for one in (found, expected)
    ]
    pairs = [(found.logits, expected.logits), *zip(found.outputs, expected.outputs, strict=True), *zip(*gradients, strict=True)]
    for one, other in pairs:
        assert one.shape == other.shape
        assert (one - other).detach().abs().max() <= tolerance * other.detach().abs().max()


FOLDED = {  # network -> layers, BatchNorms that a convolution takes in, of how many
    "resnet18": (["layer2", "layer4.1.bn2", "layer4.1.conv1"], 19, 20),
    "mobilenet_v3_small": (["features.4", "features"], 34, 34),
    "densenet121": (["features"], 59, 121),
    "shufflenet_v2_x0_5": (["stage3", "conv5"], 56, 56),
    "googlenet": (["inception4a"], 57, 57),
    "maxvit_t": (["blocks.0"], 23, 34),  # one convolution's output is taken by a shortcut as well
    "squeezenet1_1": (["features"], 0, 0),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folding_changes_nothing(name):
    layers, folds, norms = FOLDED[name]
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    module = network_of(name, **options).double()  # in float32 a ReLU's input of almost zero may change its sign
    assert sum(isinstance(child, nn.BatchNorm2d) for child in module.modules()) == norms
    before = {key: value.clone() for key, value in module.state_dict().items()}
    inputs = torch.randn(2, 3, 96, 96).double()
    folded, count = fold_batch_norms(module, inputs[:1], layers)
    assert count == folds
    assert_same_explanation(run_hooked(folded, inputs, layers), run_hooked(module, inputs, layers), 2e-5)
    assert (folded is module) == (folds == 0)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    for network in (module, folded):
        assert not any(child._forward_hooks or child._forward_pre_hooks for child in network.modules())


class Awkward(nn.Module):
    """Convolutions before BatchNorms that must not take them in, each for another reason, and one that may."""

    def __init__(self):
        super().__init__()
        self.shortcut, self.shortcut_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.twice, self.twice_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.between, self.between_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.weighted = parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.weighted_norm = nn.BatchNorm2d(8)
        self.running = nn.Conv2d(8, 8, 3, padding=1)
        self.running_norm = nn.BatchNorm2d(8, track_running_stats=False)
        self.chosen, self.chosen_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.plain, self.plain_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, affine=False)
        self.head = nn.Linear(8, 9)

    def forward(self, x):
        kept = self.shortcut(x)
        x = self.shortcut_norm(kept) + kept
        x = self.twice_norm(self.twice(torch.relu(self.twice_norm(self.twice(x)))))
        x = self.between_norm(torch.relu_(self.between(x)))
        x = self.running_norm(self.running(self.weighted_norm(self.weighted(x))))
        x = self.chosen_norm(self.chosen(torch.relu(x)))
        return self.head(torch.relu(self.plain_norm(self.plain(x))).mean((2, 3)))


def test_a_convolution_takes_in_only_what_nobody_else_sees():
    """Taken by a shortcut, run twice, an activation between, weights made on the fly, statistics of the batch, a chosen layer."""
    torch.manual_seed(0)
    module, inputs = Awkward().double(), torch.randn(1, 3, 16, 16).double()
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None:
            child.running_mean.normal_()
            child.running_var.uniform_(0.3, 2)
    module.eval()
    folded, count = fold_batch_norms(module, inputs, ["chosen"])
    assert count == 1
    assert isinstance(folded.plain_norm, nn.Identity)
    assert_same_explanation(run_hooked(folded, inputs, ["chosen"]), run_hooked(module, inputs, ["chosen"]), 2e-5)


def test_folding_that_changes_results_is_not_used(monkeypatch):
    """Whatever the reason: the proof on a pass of its own decides, and the run says so."""
    module = network_of("resnet10")

    def wrong(root, conv, norm):
        root.get_submodule(conv).weight = nn.Parameter(root.get_submodule(conv).weight.detach() * 2)

    monkeypatch.setattr("camcli.network.fold._fold", wrong)
    kept, count = fold_batch_norms(module, torch.randn(1, 3, 64, 64), ["layer4"])
    assert (kept is module, count) == (True, -1)
    said = []
    model = LoadedModel("resnet18", module, Preprocess(), tuple(map(str, range(20))), "none")
    network = prepare_network(model, ["layer4"], CPU, Preparation(), said.append)
    assert "runs as it is" in said[0]
    image = torch.randn(1, 3, 224, 224)
    assert_same_explanation(network.run(image, ["layer4"]), run_hooked(module, image, ["layer4"]), 1e-6)


class Flattening(nn.Module):
    """``view`` on a map: right in the default memory format only."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 62 * 62, 20)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(x.view(x.size(0), -1))


class Collecting(nn.Module):
    """Keeps a layer's output by a hook that knows this very object: a copy of it would go on with what the first one saw."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 20)
        self.kept = {}
        self.norm.register_forward_hook(lambda _m, _i, output: self.kept.update(found=output))

    def forward(self, x):
        self.norm(self.conv(x))
        return self.head(torch.relu(self.kept["found"]).mean((2, 3)))


class Masked(Flattening):
    """A buffer of five dimensions, as the masks of a Swin that was cut."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.zeros(1, 2, 1, 4, 4))


class Locked(Flattening):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, (self.weight - self.weight.mean()) / self.weight.std(), self.bias)


class BatchNormAct2d(nn.BatchNorm2d):
    """Of the name, but not of the kind."""

    def forward(self, x):
        return torch.relu(super().forward(x))


def chain(conv, norm):
    torch.manual_seed(5)
    return nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 20))


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (Flattening, "conv"),
        (Flattening, "norm"),
        (Collecting, "norm"),
        (Locked, "norm"),
        (Masked, "conv"),
        (lambda: chain(Standardised(3, 8, 3), nn.BatchNorm2d(8)), "1"),
        (lambda: chain(nn.Conv2d(3, 8, 3), BatchNormAct2d(8)), "1"),
    ],
)
def test_a_network_that_resists_runs_as_it_is(make, layer):
    """Every image its own explanation, equal to the plain one, alone and in a batch."""
    torch.manual_seed(4)
    module, images = lively(make()), torch.randn(3, 3, 64, 64)
    expected = [run_hooked(module, image[None], [layer]).logits.clone() for image in images]
    network = prepare_network(model_of(module), [layer], CPU, Preparation(), lambda _: None)
    for image, logits in zip(images, expected, strict=True):
        found = network.run(network.cast_inputs(image[None]), [layer])
        assert torch.allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
    together = network.run(network.cast_inputs(images), [layer]).logits
    assert torch.allclose(together, torch.cat(expected), rtol=1e-4, atol=1e-5)


PARTITIONED = {
    "resnet18": ["layer4.1.bn2", "layer2", "layer3.0.conv1"],  # out of order, inside a residual block, rewritten in place
    "densenet21": ["features.denseblock3", "features"],  # an in-place ReLU follows
    "googlenet": ["inception4a.branch2", "inception5b"],  # branches that do not follow from each other
    "vit_b_32": ["encoder.layers.encoder_layer_11.ln_1", "encoder.layers.encoder_layer_5"],
    "swin_t": ["features.3", "norm"],
    "squeezenet1_1": ["features.3", "classifier.1"],
}


@pytest.mark.parametrize("name", PARTITIONED)
def test_cutting_the_network_in_two_changes_nothing(name):
    layers = PARTITIONED[name]
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    module = network_of(name, **options)
    inputs = torch.randn(2, 3, 96, 96)
    partition = partition_network(module, inputs, layers)
    for images in (inputs, inputs.flip(0)):
        assert_same_explanation(partition.run(images), run_hooked(module, images, layers), 1e-5)
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())


def test_what_does_not_follow_from_the_layer_is_left_to_the_trunk():
    """At the last stage of a residual network the head is pooling and one linear layer, whatever order it is recorded in."""
    module = network_of("resnet10")
    partition = partition_network(module, torch.randn(1, 3, 64, 64), ["layer4"])
    operations = [str(node.target) for node in partition.head.graph.nodes if node.op == "call_function"]
    assert not [name for name in operations if "conv" in name]
    assert any("linear" in name for name in operations)
    assert not [node for node in partition.trunk.graph.nodes if "linear" in str(node.target)]


def test_a_layer_that_does_not_run_is_said_by_every_way():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 9)

        def forward(self, x):
            return self.head(self.used(x).mean((2, 3)))

    module = Blind().eval()
    with pytest.raises(LayerError, match="unused"):
        eager(module).run(torch.randn(1, 3, 8, 8), ["unused"])
    with pytest.raises(ValueError, match="unused"):
        partition_network(module, torch.randn(1, 3, 8, 8), ["unused"])


def model_of(module, size=64, classes=20):
    preprocess = Preprocess(resize_to=(size, size), crop=(size, size))
    return LoadedModel("small", module, preprocess, tuple(map(str, range(classes))), "none")


def test_a_network_that_does_not_compile_runs_without(monkeypatch):
    """Where there is no compiler, or it fails, a sentence says so and the results are the plain ones."""

    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    said, module, image = [], network_of("resnet10"), torch.randn(4, 3, 64, 64)
    network = prepare_network(model_of(module), ["layer4"], CPU, Preparation(compile=True, batch_size=4), said.append)
    assert said == ["small could not be compiled (RuntimeError: no C++ compiler); it runs without."]
    assert_same_explanation(network.run(image, ["layer4"]), run_hooked(module, image, ["layer4"]), 2e-5)


@pytest.mark.parametrize("wrong", [lambda t: t * 1.01, lambda t: t * float("nan")])
def test_a_compiler_that_changes_results_is_not_used(monkeypatch, wrong):
    monkeypatch.setattr(torch, "compile", lambda trunk, **_: lambda images: tuple(wrong(t) for t in trunk(images)))
    said = []
    prepare_network(model_of(network_of("resnet10")), ["layer4"], CPU, Preparation(compile=True, batch_size=2), said.append)
    assert "gives other results" in said[0]


def test_a_compiled_network_takes_any_number_of_images(monkeypatch):
    """Other sizes than the compiled one, other layers than the prepared ones: by the plain way, with the same results."""
    sizes = []

    def recorded(trunk, **_):
        def run(images):
            sizes.append(len(images))
            return trunk(images)

        return run

    monkeypatch.setattr(torch, "compile", recorded)
    module, images = network_of("resnet10"), torch.randn(5, 3, 64, 64)
    network = prepare_network(model_of(module), ["layer4"], CPU, Preparation(compile=True, batch_size=4), lambda _: None)
    assert network.batch == 4
    sizes.clear()
    for count, layers in ((4, ["layer4"]), (3, ["layer4"]), (5, ["layer4"]), (4, ["avgpool"])):
        found = network.run(images[:count], layers)
        assert_same_explanation(found, run_hooked(module, images[:count], layers), 2e-5)
    assert sizes == [4]


class StraightThrough(torch.autograd.Function):
    """Rounds forward; backward, every gradient passes. A graph that is recorded without gradients knows nothing of it."""

    @staticmethod
    def forward(context, x):
        return x.round()

    @staticmethod
    def backward(context, gradient):
        return gradient


@pytest.mark.parametrize("kind", ["a region without gradients", "a backward pass of its own"])
def test_a_compiled_network_with_other_gradients_is_not_used(monkeypatch, kind):
    class Special(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.more, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 20)

        def forward(self, x):
            x = self.conv(x)
            if kind == "a backward pass of its own":
                return self.head((StraightThrough.apply(8 * x)).mean((2, 3)))
            with torch.no_grad():
                gate = self.more(x).sigmoid().mean((2, 3), keepdim=True)
            return self.head((gate * x * x).mean((2, 3)))

    monkeypatch.setattr(torch, "compile", lambda trunk, **_: trunk)
    torch.manual_seed(4)
    module, said = Special().eval(), []
    network = prepare_network(model_of(module), ["conv"], CPU, Preparation(compile=True, batch_size=2), said.append)
    assert "other results" in said[0]
    assert network.batch is None


def test_code_is_compiled_once_for_the_threads_that_will_run_it(monkeypatch):
    """Compiled code is made for a number of threads and for strides: neither may change between the proof and the run."""
    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda trunk, **_: lambda images: seen.append((torch.get_num_threads(), images.stride())) or trunk(images)
    )
    module, images = network_of("resnet10"), torch.randn(2, 3, 64, 64)
    before = torch.get_num_threads()
    network = prepare_network(model_of(module), ["layer4"], CPU, Preparation(compile=True, batch_size=2, threads=3), print)
    assert torch.get_num_threads() == before
    torch.set_num_threads(3)
    try:
        network.run(images, ["layer4"])
        network.run(images.contiguous(memory_format=torch.channels_last), ["layer4"])
    finally:
        torch.set_num_threads(before)
    assert len(seen) >= 3
    assert len(set(seen)) == 1


def test_compiling_changes_nothing(monkeypatch, tmp_path):
    """The real compiler, with a second layer inside the head."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    module = network_of("resnet4")
    layers, images, said = ["block", "pool"], torch.randn(2, 3, 64, 64), []  # no ReLU behind them to change its mind
    network = prepare_network(model_of(module), layers, CPU, Preparation(compile=True, batch_size=2), said.append)
    if said and re.search(r"C(pp|xx)Compil|Compiler|Python\.h", said[0]):
        pytest.skip(f"this machine cannot compile: {said[0]}")
    assert said == []
    assert network.batch == 2
    assert_same_explanation(network.run(images, layers), run_hooked(module, images, layers), 1e-4)


def test_compiled_code_outlives_the_process(monkeypatch, tmp_path):
    """In the user's cache folder, and where the user says, if he does."""
    monkeypatch.setattr(torch, "compile", lambda trunk, **_: trunk)
    for given in (None, str(tmp_path / "given")):
        with monkeypatch.context() as inside:
            inside.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
            inside.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
            if given:
                inside.setenv("TORCHINDUCTOR_CACHE_DIR", given)
            prepare_network(model_of(network_of("resnet10")), ["layer4"], CPU, Preparation(compile=True, batch_size=2), print)
            assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == (given or str(tmp_path / "cache" / "camcli" / "compiled"))


def test_compiling_is_for_many_images():
    assert worth_compiling("on", 1)
    assert not worth_compiling("off", 10**9)
    assert not worth_compiling("auto", COMPILE_PAYS - 1)


def test_every_method_gives_the_same_maps_with_the_prepared_network():
    """Methods that need the modules get them whole: FullGrad's biases are those of the BatchNorms, not the folded ones."""
    module, images = network_of("resnet10"), torch.randn(2, 3, 64, 64)
    layers = [Layer("layer2", Grid("nchw", 8, 8))]
    methods = [name for name in METHODS if METHODS[name].check is None or "guided" in name]
    chosen = torch.tensor([[0, 5]]).expand(2, -1)
    few = Options(samples=50)  # masks of RISE; the steps of integrated gradients are 50 anyway
    expected = explain_batch(module, images, layers, methods, lambda _: chosen, few).maps
    network = prepare_network(model_of(module), ["layer2"], CPU, Preparation(), lambda _: None)
    found = explain_batch(network, images, layers, methods, lambda _: chosen, few).maps
    assert len(methods) > 10
    for key, values in expected.items():
        scale = float(values.abs().max())
        assert float((found[key] - values).abs().max()) <= 1e-3 * scale, key


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_short_type_is_the_networks_not_the_maps(precision):
    """Maps and logits in float32; the last linear layer too: bfloat16 alone would give logits in steps of 1/128 of their size."""
    module, images = network_of("resnet10"), torch.randn(3, 3, 64, 64)
    layers, methods, chosen = [Layer("layer3", Grid("nchw", 4, 4))], ["layercam", "hirescam"], torch.tensor([[0, 5]]).expand(3, -1)
    exact = explain_batch(module, images, layers, methods, lambda _: chosen)
    network = prepare_network(model_of(module), ["layer3"], CPU, Preparation(precision), lambda _: None)
    assert network.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    found = explain_batch(network, images, layers, methods, lambda _: chosen)
    assert found.logits.dtype == torch.float32
    assert not torch.equal(found.logits, found.logits.to(network.dtype).float())
    for key, values in exact.maps.items():
        assert found.maps[key].dtype == torch.float32
        together = torch.stack([found.maps[key].flatten(), values.flatten()])
        assert torch.corrcoef(together)[0, 1] > {"bf16": 0.97, "fp16": 0.995}[precision]


def test_every_method_runs_in_a_short_type():
    module, images = network_of("resnet10"), torch.randn(2, 3, 64, 64)
    network = prepare_network(model_of(module), ["layer4"], CPU, Preparation("bf16"), lambda _: None)
    methods = [name for name in METHODS if name not in ("rollout", "legrad")]
    layers = [Layer("layer4", Grid("nchw", 2, 2))]
    found = explain_batch(network, images, layers, methods, lambda y: y.argmax(1)[:, None], Options(samples=50))
    assert {method for _, method in found.maps} == set(methods)
    for key, values in found.maps.items():
        assert values.dtype == torch.float32, key
        assert values.isfinite().all(), key
        if key[1] == "fullgrad":
            assert not torch.equal(values, values.bfloat16().float()), "summed in the short type"


@pytest.mark.parametrize("options", [Options(augment=True), Options(smooth=2)])
def test_copies_of_the_image_are_made_in_float32(options):
    """Sampling positions in bfloat16 are off by pixels: mirrored and scaled copies must not depend on the network's type."""
    module, images = network_of("resnet10"), torch.randn(2, 3, 64, 64)
    layers, chosen = [Layer("layer2", Grid("nchw", 8, 8))], torch.tensor([[0, 5]]).expand(2, -1)
    exact = explain_batch(module, images, layers, ["hirescam"], lambda _: chosen, options).maps["layer2", "hirescam"]
    network = prepare_network(model_of(module), ["layer2"], CPU, Preparation("bf16"), lambda _: None)
    found = explain_batch(network, images, layers, ["hirescam"], lambda _: chosen, options).maps["layer2", "hirescam"]
    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.97


def test_a_network_that_cannot_run_in_a_type_is_said():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 9)

        def forward(self, x):
            return self.head((self.conv(x) @ torch.ones(x.shape[3] - 2, 1)).mean((2, 3)))

    with pytest.raises(ConfigError, match="bf16"):
        set_precision([Stubborn().eval()], "bf16", torch.randn(1, 3, 8, 8))


def test_precisions_that_a_device_has():
    assert resolve_precision("fp16", CPU) == "fp16"
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    with pytest.raises(ConfigError, match="NVIDIA"):
        resolve_precision("tf32", CPU)


def test_the_batch_that_fits_follows_from_memory(monkeypatch):
    """A power of two that grows with the free memory and shrinks with the network's outputs; at least one image."""
    model = model_of(network_of("resnet10"), size=96)
    sizes = []
    for free in (0, 1 << 20, 8 << 20, 1 << 36):
        monkeypatch.setattr("camcli.network.memory.available_memory", lambda free=free: free)
        sizes.append(fitting_batch_size(model, ["layer4"], CPU))
    # autograd keeps layer4 and what follows, little; four times the largest output, 64 x 48 x 48 floats, is 2.4 MB an image
    assert sizes == [1, 1, 1, 16]
    monkeypatch.setattr("camcli.network.memory.available_memory", lambda: 40_000_000)
    near, far = (fitting_batch_size(model, [layer], CPU) for layer in ("layer4", "conv1"))
    assert near == 8
    assert far < near, "what autograd keeps behind an early layer needs room"
    assert fitting_batch_size(model, ["layer4"], CPU, through_all=True) < near


def unwanted(*_):
    raise AssertionError("called outside")


@pytest.mark.parametrize(
    "hooks",
    [
        lambda module: forward_hooks([(module.conv1, unwanted), (module.no_such_layer, unwanted)]),
        lambda module: forward_hooks((module.get_submodule(name), unwanted) for name in ("conv1", "nowhere")),
        lambda module: forward_pre_hooks((module.get_submodule(name), unwanted) for name in ("conv1", "nowhere")),
        lambda module: capture_outputs(module, ["conv1", "nowhere"]),
        lambda module: override_output(module, "nowhere", unwanted),
    ],
)
def test_no_hook_is_left_where_one_cannot_be_set(hooks):
    module = network_of("resnet10")
    with pytest.raises(AttributeError), hooks(module):
        unwanted()
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())


@pytest.mark.parametrize("set_hooks", [forward_hooks, forward_pre_hooks])
def test_hooks_are_called_inside_alone(set_hooks):
    module, called = nn.ReLU(), []
    with set_hooks([(module, lambda *_: called.append(1))]):
        module(torch.zeros(1))
    module(torch.zeros(1))
    assert called == [1]


def test_the_number_of_threads_is_as_before_after_an_error():
    before = torch.get_num_threads()
    counts = []
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        counts.append(torch.get_num_threads()) or 1 // 0
    assert counts == [before + 1]
    assert torch.get_num_threads() == before


def test_a_probe_is_the_same_in_every_run():
    preprocess = Preprocess(resize_to=(8, 6), crop=(8, 6))
    one, two = probe_input(preprocess, CPU), probe_input(preprocess, CPU, torch.float64, count=2)
    assert (one.shape, two.shape, two.dtype) == ((1, 3, 8, 6), (2, 3, 8, 6), torch.float64)
    assert torch.equal(probe_input(preprocess, CPU), one)
    assert not torch.equal(two[0], two[1])
    assert torch.equal(random_direction(torch.zeros(2, 5)), random_direction(torch.ones(1, 5)))
