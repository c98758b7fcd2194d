"""Equality with captum, grad-cam and torchcam over torchvision's families: ``python -m tests.oracles`` writes docs/oracle.md.

The oracles' networks have no in-place activations, because grad-cam and torchcam keep what those rewrite (see
test_against_captum); ours are as torchvision makes them. Layers followed by an in-place addition or function are left to
captum, which clones.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from camcli.cam.explain import explain_batch
from camcli.cam.grid import to_spatial
from camcli.models.layers import resolve_layers
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model
from camcli.records import Layer, LoadedModel

LEAST_CORRELATION = 0.9999
MOST_DIFFERENCE = 1e-4

FAMILIES = {
    "alexnet": ("features.0", "features.5", "features"),
    "vgg11_bn": ("features.0", "features.14", "features"),
    "resnet18": ("layer1", "layer3", "layer4"),
    "resnext50_32x4d": ("layer1", "layer3", "layer4"),
    "wide_resnet50_2": ("layer1", "layer3", "layer4"),
    "densenet121": ("features.denseblock1", "features.denseblock3", "features.denseblock4"),
    "squeezenet1_1": ("features.4", "features.9", "classifier.1"),
    "googlenet": ("maxpool2", "inception4c", "inception5b"),
    "inception_v3": ("Mixed_5d", "Mixed_6c", "Mixed_7c"),
    "mobilenet_v2": ("features.3", "features.13", "features"),
    "mobilenet_v3_small": ("features.2", "features.8", "features"),
    "mnasnet0_5": ("layers.8", "layers.10", "layers"),
    "shufflenet_v2_x0_5": ("stage2", "stage3", "conv5"),
    "efficientnet_b0": ("features.2", "features.5", "features"),
    "efficientnet_v2_s": ("features.2", "features.5", "features"),
    "regnet_x_400mf": ("trunk_output.block2", "trunk_output.block3", "trunk_output"),
    "regnet_y_400mf": ("trunk_output.block2", "trunk_output.block3", "trunk_output"),
    "convnext_tiny": ("features.1", "features.5", "features"),
    "vit_b_32": (
        "encoder.layers.encoder_layer_3.ln_1",
        "encoder.layers.encoder_layer_8.ln_1",
        "encoder.layers.encoder_layer_11.ln_1",
    ),
    "swin_t": ("features.1", "features.5", "norm"),
    "swin_v2_t": ("features.1", "features.5", "norm"),
    "maxvit_t": ("blocks.0", "blocks.2", "blocks.3"),
}
"""One network a family, with an early, a middle, and the last (pooled) layer."""

SMALL = ("resnet18", "squeezenet1_1", "swin_t")
"""Those that ``make test`` compares."""

TARGET_COUNT = 8


@dataclass(frozen=True)
class Comparison:
    """One map of ours against one of an oracle. ``difference``: the largest, as a fraction of the peak."""

    network: str
    layer: str
    method: str
    oracle: str
    correlation: float
    difference: float

    @property
    def agrees(self) -> bool:
        """Within the bounds of correlation or difference."""
        return self.correlation >= LEAST_CORRELATION or self.difference <= MOST_DIFFERENCE


def seeded(name: str) -> LoadedModel:
    """The network with seeded weights, its normalisations given statistics that are not the identity."""
    model = load_model(ModelRequest(name, "none"))
    generator = torch.Generator().manual_seed(1)
    for child in model.module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.copy_(torch.randn(child.running_mean.shape, generator=generator) * 0.1)
            child.bias.data.copy_(torch.randn(child.bias.shape, generator=generator) * 0.1)
    return model


def without_in_place(module: nn.Module) -> nn.Module:
    """The same module; its activations no longer work in place."""
    for child in module.modules():
        if getattr(child, "inplace", False):
            child.inplace = False
    return module


def first_classes(logits: torch.Tensor) -> torch.Tensor:
    """Explain these."""
    return torch.arange(TARGET_COUNT).expand(len(logits), -1)


def compare(name: str, methods: tuple[str, ...] = ()) -> Iterator[Comparison]:
    """Every method that an oracle has, at the three layers of a network, for the class whose map is strongest."""
    model = seeded(name)
    size = model.preprocess.crop if name.startswith(("vit", "maxvit", "swin_v2")) else (128, 128)
    # in float64: sums with much cancellation (HiResCAM in ConvNeXt) differ in float32 by the order of their terms
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2)).double()
    fitted = LoadedModel(name, model.module, type(model.preprocess)(crop=size), model.classes, "")
    layers = resolve_layers(fitted, FAMILIES[name])
    model.module.double()
    oracle_network = without_in_place(seeded(name).module).double().requires_grad_(True)
    names = methods or tuple(ORACLES)
    for layer in layers:
        wanted = [method for method in names if not (method == "cam" and layer is not layers[-1])]
        channels = to_spatial(_shape_of(model.module, layer, image), layer.grid).shape[1]
        wanted = [method for method in wanted if method not in ("scorecam", "ablationcam") or channels <= 64]
        wanted = [method for method in wanted if method != "cam" or _is_linear(fitted, layer, image)]
        if "gradcam++" in wanted:
            networks = model.module, oracle_network
            handles = [network.register_forward_hook(_magnify) for network in networks]
            yield from _compared(*networks, name, layer, image, ["gradcam++"])
            for handle in handles:
                handle.remove()
        yield from _compared(model.module, oracle_network, name, layer, image, [m for m in wanted if m != "gradcam++"])


def _magnify(_module: nn.Module, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
    return logits * 1e15


def _compared(
    module: nn.Module, oracle_network: nn.Module, name: str, layer: Layer, image: torch.Tensor, wanted: list[str]
) -> Iterator[Comparison]:
    if wanted:
        cheap = [method for method in wanted if method not in ("scorecam", "ablationcam")]
        ours = explain_batch(module, image, [layer], ["gradcam", *cheap], first_classes).maps
        strongest = int(ours[layer.name, "gradcam"][0].amax(dim=(1, 2)).argmax())
        for method in wanted:
            if method in cheap:
                target = strongest
                found = ours[layer.name, method][0, target]
            else:
                # the class with the highest logit: below zero grad-cam's Ablation-CAM divides by a negative number
                alone = explain_batch(module, image, [layer], [method], lambda logits: logits.argmax(1, keepdim=True))
                target = int(alone.targets[0, 0])
                found = alone.maps[layer.name, method][0, 0]
            for oracle, function in ORACLES[method].items():
                expected = function(oracle_network, layer, image, target)
                if expected is not None:
                    yield Comparison(
                        name, layer.name, method, oracle, *_difference(found, expected, signless=method.startswith("eigen"))
                    )


def _shape_of(module: nn.Module, layer: Layer, image: torch.Tensor) -> torch.Tensor:
    from camcli.network.hooks import capture_outputs

    with torch.no_grad(), capture_outputs(module, [layer.name]) as outputs:
        module(image)
    return outputs[layer.name]


def _is_linear(model: LoadedModel, layer: Layer, image: torch.Tensor) -> bool:
    from camcli.cam.gradient import require_linear_head
    from camcli.errors import LayerError

    try:
        require_linear_head(model.module, layer, image)
    except LayerError:
        return False
    return True


def _difference(found: torch.Tensor, expected: torch.Tensor, *, signless: bool) -> tuple[float, float]:
    """Correlation and largest difference of the positive parts, each divided by its peak; an axis has no sign."""
    pairs = [expected, -expected] if signless else [expected]
    best = (-1.0, float("inf"))
    for candidate in pairs:
        a, b = (m.detach().double().relu().flatten() for m in (found, candidate))
        if a.max() <= 0 or b.max() <= 0:
            result = (1.0, 0.0) if a.max() <= 0 and b.max() <= 0 else (0.0, 1.0)
        else:
            a, b = a / a.max(), b / b.max()
            correlation = 1.0 if torch.equal(a, b) or len(a) == 1 else float(torch.corrcoef(torch.stack([a, b]))[0, 1])
            result = (correlation, float((a - b).abs().max()))
        best = max(best, result)
    return best


# ---- the oracles, each (module, layer, image, target) -> raw map (h, w), or None where it does not apply


def captum_grad_cam(module, layer, image, target):
    from captum.attr import LayerGradCam

    if layer.grid.kind != "nchw":
        return None
    return LayerGradCam(module, module.get_submodule(layer.name)).attribute(image, target=target, relu_attributions=True)[0, 0]


def captum_gradient_x_activation(module, layer, image, target):
    from captum.attr import LayerGradientXActivation

    products = LayerGradientXActivation(module, module.get_submodule(layer.name)).attribute(image, target=target)
    return to_spatial(products, layer.grid)[0].sum(0)


def _torchcam(kind):
    def run(module, layer, image, target):
        from torchcam import methods

        if layer.grid.kind != "nchw":
            return None
        with getattr(methods, kind)(module, layer.name, input_shape=tuple(image.shape[1:])) as extractor:
            scores = module(image.clone().requires_grad_())
            return extractor(target, scores, normalized=False)[0][0]

    return run


def torchcam_score_cam(module, layer, image, target):
    from torchcam.methods import ScoreCAM

    class AsInThePaper(ScoreCAM):
        """Masks are scaled to [0, 1] after they are enlarged (Wang et al. 2020), not before."""

        def _upsample(self, activation):
            large = super()._upsample(activation)
            low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
            return (large - low) / (high - low).clamp_min(1e-30)

    if layer.grid.kind != "nchw":
        return None
    with AsInThePaper(module, layer.name, input_shape=tuple(image.shape[1:])) as extractor:
        return extractor(target, module(image), normalized=False)[0][0]


def _grad_cam(kind):
    def run(module, layer, image, target):
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        module.zero_grad()
        submodule = module.get_submodule(layer.name)
        reshape = None if layer.grid.kind == "nchw" else lambda tensor: to_spatial(tensor, layer.grid)
        goal = [ClassifierOutputTarget(target)]
        with getattr(pytorch_grad_cam, kind)(module, [submodule], reshape_transform=reshape) as extractor:
            outputs = extractor.activations_and_grads(image)
            if extractor.uses_gradients:
                outputs[0, target].backward()
            activations = extractor.activations_and_grads.activations[0].detach().numpy()
            gradients = extractor.activations_and_grads.gradients[0].detach().numpy() if extractor.uses_gradients else None
            if kind == "AblationCAM" and activations.min() != 0:
                return None  # it does not ablate to zero there
            raw = extractor.get_cam_image(image, submodule, goal, activations, gradients, False)
        return torch.as_tensor(raw)[0]

    return run


ORACLES = {
    "cam": {"grad-cam HiResCAM": _grad_cam("HiResCAM")},
    "gradcam": {"captum": captum_grad_cam, "torchcam": _torchcam("GradCAM"), "grad-cam": _grad_cam("GradCAM")},
    # its epsilon of 1e-6 is larger than squared gradients often are: harmless for logits of a larger scale. torchcam's is no
    # oracle: it divides a copy, so that alpha stays the squared gradient
    "gradcam++": {"grad-cam, logits times 1e15": _grad_cam("GradCAMPlusPlus")},
    "hirescam": {"captum gradient x activation": captum_gradient_x_activation, "grad-cam": _grad_cam("HiResCAM")},
    "xgradcam": {"grad-cam": _grad_cam("XGradCAM"), "torchcam": _torchcam("XGradCAM")},
    "layercam": {"grad-cam": _grad_cam("LayerCAM"), "torchcam": _torchcam("LayerCAM")},
    "eigencam": {"grad-cam": _grad_cam("EigenCAM")},
    "eigengradcam": {"grad-cam": _grad_cam("EigenGradCAM")},
    "finercam": {"torchcam": _torchcam("FinerCAM")},
    "scorecam": {"torchcam, masks scaled last": torchcam_score_cam},
    "ablationcam": {"grad-cam": _grad_cam("AblationCAM")},
}
"""Methods that an oracle has."""


def table(rows: list[Comparison]) -> str:
    """Markdown: one line a network, layer and method, with each oracle's correlation and difference."""
    lines = [
        "| network | layer | method | oracle | correlation | largest difference / peak |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        verdict = "" if row.agrees else " **differs**"
        names = f"{row.network} | `{row.layer}` | {row.method} | {row.oracle}"
        lines.append(f"| {names} | {row.correlation:.6f} | {row.difference:.1e}{verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compare all families, or those named; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(FAMILIES))
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    rows: list[Comparison] = []
    for name in arguments.networks:
        begun = time.monotonic()
        found = list(compare(name))
        rows += found
        worst = min(row.correlation for row in found)
        print(f"{name}: {len(found)} comparisons, least correlation {worst:.6f}, {time.monotonic() - begun:.0f} s", flush=True)
    text = table(rows)
    print(text)
    if arguments.write:
        introduction = (arguments.write.read_text(encoding="utf-8").split("| network")[0]) if arguments.write.exists() else ""
        arguments.write.write_text(introduction + text, encoding="utf-8")
    differing = [row for row in rows if not row.agrees]
    print(f"{len(rows) - len(differing)} of {len(rows)} agree.")
    return 1 if differing else 0


assert set(FAMILIES) <= set(models.list_models(module=models))

if __name__ == "__main__":
    sys.exit(main())
