"""Equality with captum's LayerGradCam, which was not written by us, on small inputs to real architectures.

captum clones what its hooks keep, so it is right also where the next layer works in place; other libraries are not there
(see test_in_place_traps).
"""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from torchvision import models

from camcli.cam.explain import explain_batch
from camcli.models.layers import find_grid
from camcli.network.hooks import capture_outputs
from camcli.records import Layer

SIZE = 96

CASES = [
    (
        "resnet18",
        ["conv1", "bn1", "relu", "layer1", "layer2.0.conv1", "layer2.0.downsample", "layer3.1.bn2", "layer4.1.conv2", "layer4"],
    ),
    ("vgg11_bn", ["features.0", "features.4", "features.10", "features.26", "features.27", "features"]),
    ("alexnet", ["features.0", "features.6", "features.10", "features.11", "features"]),
    (
        "densenet121",
        [
            "features.denseblock2",
            "features.transition3.conv",
            "features.denseblock4.denselayer16.conv2",
            "features.norm5",
            "features",
        ],
    ),
    ("mobilenet_v2", ["features.3", "features.10.conv.1", "features.17", "features.18.1", "features"]),
    ("mobilenet_v3_small", ["features.1", "features.5.block.2", "features.12", "features"]),
    ("efficientnet_b0", ["features.2", "features.6.1.block.1", "features.7", "features"]),
    ("squeezenet1_1", ["features.4", "features.7.expand3x3", "classifier.1", "classifier.2"]),
    ("googlenet", ["inception3a", "inception4c.branch2", "inception5b"]),
    ("shufflenet_v2_x0_5", ["stage2", "stage3.1.branch2.3", "conv5"]),
    ("mnasnet0_5", ["layers.8", "layers.14", "layers"]),
    ("regnet_y_400mf", ["trunk_output.block2", "trunk_output.block4", "trunk_output"]),
    ("convnext_tiny", ["features.3", "features.5.4", "features"]),
]

TRAPS = [("resnet18", "layer4.1.bn2"), ("vgg11_bn", "features.26"), ("densenet121", "features")]


def network(name):
    torch.manual_seed(0)
    module = models.get_model(
        name, weights=None, num_classes=10, **({"aux_logits": False, "init_weights": True} if name == "googlenet" else {})
    )
    # random statistics: untouched ones would hide a map computed before instead of after the normalisation
    generator = torch.Generator().manual_seed(1)
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm2d):
            child.running_mean.copy_(torch.randn(child.running_mean.shape, generator=generator) * 0.1)
            child.bias.data.copy_(torch.randn(child.bias.shape, generator=generator) * 0.1)
    return module.eval()


def images(count=2):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


CLASSES = 10


def ours(module, inputs, names):
    """Layer -> (B, 10, h, w), the maps of all classes."""
    with torch.no_grad(), capture_outputs(module, names) as outputs:
        module(inputs[:1])
        shapes = {name: tuple(output.shape) for name, output in outputs.items()}
    layers = [Layer(name, find_grid(shapes[name], (SIZE, SIZE))) for name in names]
    return explain_batch(module, inputs, layers, ["gradcam"], lambda logits: torch.arange(CLASSES).expand(len(logits), -1)).maps


def strongest(maps):
    """The class with the highest peak: random networks have many classes with an empty map."""
    return int(maps.amax(dim=(0, 2, 3)).argmax())


@pytest.mark.parametrize(("name", "layers"), CASES, ids=[name for name, _ in CASES])
def test_every_layer_equals_captum(name, layers):
    module, inputs = network(name), images()
    found = ours(module, inputs, layers)
    for layer in layers:
        maps = found[layer, "gradcam"]
        target = strongest(maps)
        explainer = LayerGradCam(module, module.get_submodule(layer))
        expected = explainer.attribute(inputs, target=target, relu_attributions=True)[:, 0]
        assert expected.max() > 0, f"{layer}: nothing to compare"
        assert (maps[:, target] - expected).abs().max() <= 1e-4 * expected.max(), layer


@pytest.mark.parametrize(("name", "layer"), TRAPS)
def test_in_place_traps(name, layer):
    """Right where a following in-place layer rewrites the hooked output, against a computation without any hook's copy."""
    module, inputs = network(name), images(1)
    for child in module.modules():
        if isinstance(child, torch.nn.ReLU):
            child.inplace = False
    if name == "densenet121":  # its in-place relu is a function call: cut the network by hand
        activations = module.features(inputs).detach().requires_grad_()
        logits = module.classifier(activations.relu().mean((2, 3)))
    else:
        kept = {}
        handle = module.get_submodule(layer).register_forward_hook(lambda _m, _i, o: (kept.update(a=o), o.requires_grad_())[1])
        module.requires_grad_(False)
        if name == "resnet18":  # a residual += follows: give it a tensor of its own
            handle.remove()
            handle = module.get_submodule(layer).register_forward_hook(
                lambda _m, _i, o: (kept.update(a=o.requires_grad_()), o * 1)[1]
            )
        logits = module(inputs)
        handle.remove()
        activations = kept["a"]
    maps = ours(network(name), inputs, [layer])[layer, "gradcam"]
    target = strongest(maps)
    (gradient,) = torch.autograd.grad(logits[0, target], activations)
    expected = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).relu()[0].detach()
    assert expected.max() > 0
    assert (maps[0, target] - expected).abs().max() <= 1e-5 * expected.max()


def test_grad_cam_is_a_wrong_oracle_where_the_next_layer_works_in_place():
    """Why captum is the oracle here: grad-cam keeps what the in-place layer rewrites. Should this fail, it has been mended."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module, inputs = network("densenet121"), images(1)
    maps = ours(module, inputs, ["features"])["features", "gradcam"]
    target = strongest(maps)
    theirs = torch.from_numpy(GradCAM(module, [module.features])(inputs, [ClassifierOutputTarget(target)])[0])
    spread = torch.nn.functional.interpolate(maps[:1, target, None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]
    assert torch.corrcoef(torch.stack([spread.flatten(), theirs.flatten()]))[0, 1] < 0.99
