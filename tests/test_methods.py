"""Every method against an implementation of its own, written from the paper, or against a closed form: a row a method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from camcli.cam import METHODS
from camcli.cam.attention import recorded_attention
from camcli.cam.backprop import full_gradients
from camcli.cam.explain import LAYER_INDEPENDENT, Options, explain_batch
from camcli.cam.gradient import finer_score
from camcli.cam.masking import random_masks
from camcli.cam.variations import fuse_maps, variations
from camcli.errors import LayerError
from camcli.records import Grid, Layer
from tests.conftest import Cam

# ---- gradient methods: one image's activations a and gradients g, (C, h, w) float64, cell by cell as the papers have it


def grad_cam(a, g):
    return np.maximum(sum(g[k].mean() * a[k] for k in range(len(a))), 0)


def cam(a, g):
    return sum(g[k].sum() * a[k] for k in range(len(a)))


def grad_cam_plus_plus(a, g):
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = 0.0
        for cell in np.ndindex(*a.shape[1:]):
            first = g[k][cell]
            lower = 2 * first**2 + a[k].sum() * first**3
            weight += (first**2 / lower if lower else 0.0) * max(first, 0.0)
        total += weight * a[k]
    return np.maximum(total, 0)


def hires_cam(a, g):
    return sum(g[k] * a[k] for k in range(len(a)))


def x_grad_cam(a, g):
    return np.maximum(sum((g[k] * a[k] / a[k].sum()).sum() * a[k] for k in range(len(a)) if a[k].sum()), 0)


def layer_cam(a, g):
    return np.maximum(sum(np.maximum(g[k], 0) * a[k] for k in range(len(a))), 0)


def principal(features):
    cells = features.reshape(len(features), -1).T
    cells = cells - cells.mean(axis=0)
    projected = cells @ np.linalg.svd(cells)[2][0]
    if abs(projected.min()) > projected.max():
        projected = -projected
    return projected.reshape(features.shape[1:])


METHOD_ROWS = {
    "cam": cam,
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "hirescam": hires_cam,
    "xgradcam": x_grad_cam,
    "layercam": layer_cam,
    "eigencam": lambda a, g: principal(a),
    "eigengradcam": lambda a, g: principal(a * g),
    "finercam": grad_cam,
}
"""Gradient methods, by name."""

CONTROLS = {name for name, method in METHODS.items() if method.control}
FOR_TRANSFORMERS = {"rollout", "legrad"}
MANY_PASSES = {"scorecam", "ablationcam", "rise", "occlusion", "integrated-gradients"}
SCENE_METHODS = {"guided-backprop", "guided-gradcam", "fullgrad", *FOR_TRANSFORMERS, *MANY_PASSES, *CONTROLS}
"""Methods with a test of their own below; those of the controls are in test_metrics."""


def test_every_method_has_its_row():
    assert set(METHOD_ROWS) | SCENE_METHODS == set(METHODS)


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 40, 3, 3), (1, 1, 5, 5)], ids=str)
@pytest.mark.parametrize("name", METHOD_ROWS)
def test_a_gradient_method_equals_its_paper(name, shape):
    generator = torch.Generator().manual_seed(0)
    activations, gradients = (torch.randn(shape, generator=generator) for _ in "ag")
    found = METHODS[name].gradient(activations, gradients)
    assert found.shape == (shape[0], *shape[2:])
    for i in range(shape[0]):
        expected = METHOD_ROWS[name](activations[i].double().numpy(), gradients[i].double().numpy())
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=2e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("name", METHOD_ROWS)
def test_dead_channels_and_flat_gradients_are_no_trouble(name):
    for activations, gradients in (
        (torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)),
        (torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)),
    ):
        assert METHODS[name].gradient(activations, gradients).isfinite().all()


@pytest.mark.parametrize("name", METHOD_ROWS)
def test_images_do_not_influence_each_other(name):
    generator = torch.Generator().manual_seed(1)
    activations, gradients = (torch.randn(3, 5, 4, 4, generator=generator) for _ in "ag")
    clean = METHODS[name].gradient(activations, gradients)
    activations[1] = gradients[1] = float("nan")
    found = METHODS[name].gradient(activations, gradients)
    assert found[1].isnan().any()
    torch.testing.assert_close(found[[0, 2]], clean[[0, 2]])


# ---- laws over whole networks


@pytest.fixture
def inputs():
    return torch.randn(3, 3, 32, 24, generator=torch.Generator().manual_seed(1))


FEATURES = Layer("features", Grid("nchw", 8, 6))


def chosen(*classes):
    return lambda logits: torch.tensor(classes).expand(len(logits), -1)


def maps(network, inputs, name, *classes, layer=FEATURES, **options):
    found = explain_batch(network, inputs, [layer], [name], chosen(*classes), Options(**options)).maps
    return next(iter(found.values()))


def test_before_average_pooling_four_methods_are_one_up_to_scale(cam_network, inputs):
    """CAM = Grad-CAM = HiResCAM = XGradCAM there (ReLU aside); all from one forward pass."""
    names = ["cam", "gradcam", "hirescam", "xgradcam"]
    found = explain_batch(cam_network, inputs, [FEATURES], names, chosen(0, 3)).maps
    truth = torch.einsum("ck,bkij->bcij", cam_network.head.weight[[0, 3]], cam_network.features(inputs)).detach()
    torch.testing.assert_close(found["features", "cam"], truth, rtol=1e-4, atol=1e-6)
    for name in names[1:]:
        torch.testing.assert_close(found["features", name].relu() * 48, truth.relu(), rtol=1e-3, atol=1e-5)


def test_hirescam_before_pooling_adds_up_to_the_logit(cam_network, inputs):
    found = maps(cam_network, inputs, "hirescam", 2)[:, 0].sum(dim=(1, 2)) + cam_network.head.bias[2]
    torch.testing.assert_close(found, cam_network(inputs)[:, 2])


@pytest.mark.parametrize("name", sorted(set(METHOD_ROWS) - {"gradcam++"}))
def test_scaling_the_logits_changes_no_map(cam_network, inputs, name):
    """Not true of Grad-CAM++ by its very formula: its weights are those of exp(y), which is not linear in y."""
    before = maps(cam_network, inputs, name, 2)
    with torch.no_grad():
        cam_network.head.weight *= 1e-6
        cam_network.head.bias *= 1e-6
    after = maps(cam_network, inputs, name, 2)
    torch.testing.assert_close(after / after.abs().amax(), before / before.abs().amax(), rtol=1e-3, atol=1e-5)


def test_cam_is_refused_where_more_follows(cam_network, inputs):
    check = METHODS["cam"].check
    check(cam_network, FEATURES, inputs[:1])
    with pytest.raises(LayerError, match="average pooling and one linear layer"):
        check(cam_network, Layer("features.0", Grid("nchw", 16, 12)), inputs[:1])
    deep = Cam()
    deep.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))
    with pytest.raises(LayerError, match="gradcam"):
        check(deep.eval(), FEATURES, inputs[:1])


def test_finercam_compares_with_the_nearest_classes():
    logits = torch.tensor([[5.0, 4.0, 9.0, 4.5, -3.0, 6.0]])
    assert finer_score(logits, torch.tensor([0])).item() == pytest.approx(5 - 0.6 * (4.5 + 4 + 6) / 3)
    assert finer_score(logits[:, :2], torch.tensor([1])).item() == pytest.approx(4 - 0.6 * 5)
    assert finer_score(logits[:, :1], torch.tensor([0])).item() == 5


def test_finercam_is_gradcam_of_the_difference(cam_network, inputs):
    """Where all other classes are similar classes (K = 4), by hand: the difference is a linear layer of its own."""
    network = Cam(classes=4)
    network.load_state_dict(
        {**cam_network.state_dict(), "head.weight": cam_network.head.weight[:4], "head.bias": cam_network.head.bias[:4]}
    )
    weight = network.head.weight[1] - 0.6 * network.head.weight[[0, 2, 3]].mean(0)
    expected = torch.einsum("k,bkij->bij", weight, network.features(inputs)).relu() / 48
    torch.testing.assert_close(maps(network, inputs, "finercam", 1)[:, 0], expected.detach(), rtol=1e-4, atol=1e-7)


def test_scorecam_on_two_channels_by_hand():
    """The first two colours are the channels; the logits are the mean of each colour under the masks."""

    class TwoChannels(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            kept = self.layer(functional.avg_pool2d(x[:, :2], 4))
            return torch.cat([x.mean((2, 3))[:, :2] * 7, kept.sum((1, 2, 3))[:, None] * 0], dim=1)

    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    channels = functional.avg_pool2d(image[0, :2], 4)
    large = functional.interpolate(channels[:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0]
    scores = []
    for mask in large:
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores.append([7 * (image[0, c] * mask).mean().item() for c in (0, 1)])
    for target in (0, 1):
        e = np.exp([score[target] for score in scores])
        expected = (e[0] * channels[0] + e[1] * channels[1]) / e.sum()
        found = maps(TwoChannels(), image, "scorecam", target, layer=Layer("layer", Grid("nchw", 4, 4)), chunk=1)
        torch.testing.assert_close(found[0, 0], expected.relu().float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(MANY_PASSES))
def test_methods_of_many_passes_do_not_depend_on_chunks_or_neighbours(cam_network, inputs, name):
    cam_network, inputs = cam_network.double(), inputs.double()  # differences of logits lose digits in float32
    together = maps(cam_network, inputs, name, 1, 2, chunk=64, samples=70)
    close = {"rtol": 1e-6, "atol": 1e-9 * float(together.abs().max())}
    torch.testing.assert_close(maps(cam_network, inputs, name, 1, 2, chunk=3, samples=70), together, **close)
    alone = torch.cat([maps(cam_network, image[None], name, 1, 2, samples=70) for image in inputs])
    torch.testing.assert_close(alone, together, **close)
    one = maps(cam_network, inputs, name, 2, samples=70)
    torch.testing.assert_close(one[:, 0], together[:, 1], **close)


@pytest.mark.parametrize("name", sorted(SCENE_METHODS - FOR_TRANSFORMERS))
def test_a_nan_image_does_not_touch_its_neighbours(cam_network, inputs, name):
    cam_network, inputs = cam_network.double(), inputs.double()
    clean = maps(cam_network, inputs, name, 1, samples=40)
    inputs[1] = float("nan")
    found = maps(cam_network, inputs, name, 1, samples=40)
    assert found[1].isnan().any() or name not in ("rise", "occlusion", "integrated-gradients")
    torch.testing.assert_close(found[[0, 2]], clean[[0, 2]], rtol=1e-6, atol=1e-9 * float(clean.abs().max()))


@pytest.mark.parametrize("name", ["rise", "occlusion", "integrated-gradients"])
def test_a_constant_in_the_logit_changes_nothing_and_a_factor_only_the_scale(cam_network, inputs, name):
    cam_network, inputs = cam_network.double(), inputs.double()
    before = maps(cam_network, inputs, name, 2, samples=100)
    with torch.no_grad():
        cam_network.head.bias += 10
    tolerance = {"rtol": 1e-6, "atol": 1e-9 * float(before.abs().max())}
    torch.testing.assert_close(maps(cam_network, inputs, name, 2, samples=100), before, **tolerance)
    with torch.no_grad():
        cam_network.head.bias -= 10
        cam_network.head.weight *= 1e-6
        cam_network.head.bias *= 1e-6
    torch.testing.assert_close(maps(cam_network, inputs, name, 2, samples=100) * 1e6, before, **tolerance)


class Weighted(nn.Module):
    """A linear network: two logits, each a weighted sum of all pixels, and a constant."""

    def __init__(self, height, width):
        super().__init__()
        self.layer = nn.Identity()
        self.weights = nn.Parameter(torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(7)))

    def forward(self, x):
        return torch.einsum("bchw,kchw->bk", self.layer(x), self.weights) + 3


def weighted(height=14, width=21):
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(8))
    return Weighted(height, width), image, Layer("layer", Grid("nchw", height, width))


def test_rise_equals_its_formula():
    """The paper's sum, written out in numpy with the masks themselves, minus the same sum of the mean logit."""
    network, image, layer = weighted()
    masks = np.stack([mask.double().numpy() for mask in random_masks(60, (14, 21))])
    products = (network.weights[1] * image[0]).sum(0).double().detach().numpy()
    scores = np.array([(products * mask).sum() + 3 for mask in masks])
    expected = sum((score - scores.mean()) * mask for score, mask in zip(scores, masks, strict=True)) / (60 * 0.5)
    found = maps(network, image, "rise", 1, layer=layer, samples=60)[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_rise_converges_to_the_closed_form_of_a_linear_network():
    """Monte Carlo: with N masks the map differs from the covariance of masks and logit, over 1/2, by about N to the -1/2.

    A mask is a bilinear map of 49 independent cells at one of 6 offsets, so that the covariance of two of its pixels is known.
    """
    network, image, layer = weighted()
    basis = functional.interpolate(torch.eye(49).view(49, 1, 7, 7), (16, 24), mode="bilinear", align_corners=False)[:, 0].double()
    cut = [basis[:, top : top + 14, left : left + 21].flatten(1) for top in range(2) for left in range(3)]
    covariance = 0.25 * sum(part.T @ part for part in cut) / len(cut)
    products = (network.weights[1] * image[0]).sum(0).double().flatten().detach()
    expected = (covariance @ products / 0.5).view(14, 21)
    errors = []
    for count in (400, 25_600):
        found = maps(network, image, "rise", 1, layer=layer, samples=count, chunk=512)[0, 0].double()
        errors.append(float((found - expected).norm() / expected.norm()))
    assert errors[1] < 0.06
    assert errors[1] < errors[0] / 4, "64 times the masks: an eighth of the error is expected"


def test_rises_masks_are_as_published():
    """Values from 0 to 1, one half on average in every pixel, made of 7 x 7 cells; the same in every process."""
    masks = torch.stack(list(random_masks(4000, (28, 35))))
    assert masks.shape == (4000, 28, 35)
    assert (masks.min(), masks.max()) == (0, 1)
    assert (masks.mean(0) - 0.5).abs().max() < 5 * 0.5 / 4000**0.5
    assert torch.equal(masks[:50], torch.stack(list(random_masks(50, (28, 35)))))


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (5, 3), (32, 1), (7, 7), (1, 1), (None, None)], ids=str)
def test_occlusion_equals_captum(cam_network, inputs, window, stride):
    from captum.attr import Occlusion

    inputs = inputs[:2, :, :20]
    side = window or 20 // 7
    step = stride or side // 2
    if side > 20:
        side = 20
    found = maps(cam_network, inputs, "occlusion", 1, 4, window=window and side, stride=stride)
    for position, target in enumerate((1, 4)):
        theirs = Occlusion(cam_network).attribute(
            inputs, sliding_window_shapes=(3, side, side), strides=(3, step, step), target=target, perturbations_per_eval=8
        )
        torch.testing.assert_close(found[:, position], theirs[:, 0].detach(), rtol=1e-3, atol=1e-6)


def test_occlusion_of_a_linear_network_is_what_was_hidden():
    """One pixel at a time: exactly the pixel's share of the logit, so that the map adds up to the logit minus the constant."""
    network, image, layer = weighted()
    found = maps(network, image, "occlusion", 0, layer=layer, window=1, stride=1)[0, 0]
    torch.testing.assert_close(found, (network.weights[0] * image[0]).sum(0).detach(), rtol=1e-3, atol=1e-4)
    assert float(found.sum()) == pytest.approx(float(network(image)[0, 0].detach()) - 3, rel=1e-3)


def test_integrated_gradients_equal_captum(cam_network, inputs):
    from captum.attr import IntegratedGradients

    for samples in (None, 20):
        found = maps(cam_network, inputs, "integrated-gradients", 0, 3, samples=samples)
        for position, target in enumerate((0, 3)):
            theirs = IntegratedGradients(cam_network).attribute(inputs.clone(), target=target, n_steps=samples or 50)
            torch.testing.assert_close(found[:, position], theirs.sum(1).detach(), rtol=1e-3, atol=1e-6)


def test_integrated_gradients_are_complete():
    """They add up to the logit minus that of the mean colour (Sundararajan et al. 2017, proposition 1), on a smooth network."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, 2), nn.GELU(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    ).eval()
    images = torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(1))
    found = maps(network, images, "integrated-gradients", 0, 2, layer=Layer("0", Grid("nchw", 14, 10)))
    with torch.no_grad():
        expected = network(images) - network(torch.zeros(1, 3, 32, 24))
    torch.testing.assert_close(found.sum((2, 3)), expected[:, [0, 2]], rtol=1e-4, atol=1e-5)


def test_ablationcam_before_pooling_is_known_in_closed_form(cam_network, inputs):
    """There the drop is w_k times the channel's mean, over the size of the logit."""
    activations = cam_network.features(inputs)
    logits = cam_network(inputs)
    for target in range(5):
        weights = cam_network.head.weight[target] * activations.mean((2, 3)) / logits[:, target, None].abs()
        expected = torch.einsum("bk,bkij->bij", weights, activations).relu()
        torch.testing.assert_close(maps(cam_network, inputs, "ablationcam", target)[:, 0], expected.detach(), rtol=1e-3, atol=1e-5)


def test_fullgrad_is_complete():
    """Input-gradient and bias-gradients add up to the logit (Srinivas and Fleuret 2019, proposition 1)."""
    from torchvision import models

    for name in ("resnet18", "vgg11_bn", "densenet121"):
        torch.manual_seed(0)
        network = models.get_model(name, weights=None, num_classes=6).eval()
        for child in network.modules():
            if isinstance(child, nn.BatchNorm2d):
                nn.init.normal_(child.running_mean, std=0.1)
                nn.init.normal_(child.bias, std=0.1)
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
        targets = torch.tensor([4, 1])
        of_input, of_biases = full_gradients(network, images, targets)
        total = of_input.sum((1, 2, 3)) + sum(part.flatten(1).sum(1) for part in of_biases)
        logits = network(images).gather(1, targets[:, None])[:, 0].detach()
        torch.testing.assert_close(total, logits, rtol=1e-3, atol=1e-4)


def test_guided_backprop_equals_captum():
    """In a network of ReLU modules; and the same network written with functions gives the same."""
    from captum.attr import GuidedBackprop, GuidedGradCam

    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    network = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU6(inplace=True), *end).eval()
    captums = nn.Sequential(*(nn.ReLU() if isinstance(child, nn.ReLU6) else child for child in network)).eval()

    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = network[0], network[2], network[6]

        def forward(self, x):
            return self.head(functional.relu6(self.b(torch.relu(self.a(x)))).mean((2, 3)))

    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    layer = Layer("2", Grid("nchw", 5, 5))
    found = maps(network, images, "guided-backprop", 1, layer=layer)[:, 0]
    expected = GuidedBackprop(captums).attribute(images.clone().requires_grad_(), target=1).abs().amax(1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(maps(Functions(), images, "guided-backprop", 1, layer=Layer("b", Grid("nchw", 5, 5)))[:, 0], found)
    product = maps(network, images, "guided-gradcam", 1, layer=layer)[:, 0]
    theirs = GuidedGradCam(captums, captums[2], device_ids=None).attribute(
        images.clone().requires_grad_(), target=1, interpolate_mode="bilinear"
    )
    torch.testing.assert_close(product, theirs.abs().amax(1).detach(), rtol=1e-3, atol=1e-7)


def test_guided_backprop_is_refused_for_other_activations():
    from torchvision import models

    image = torch.randn(1, 3, 64, 64)
    check = METHODS["guided-backprop"].check
    check(models.resnet18(weights=None).eval(), FEATURES, image)
    check(models.densenet121(weights=None).eval(), FEATURES, image)
    with pytest.raises(LayerError, match="silu"):
        check(models.efficientnet_b0(weights=None).eval(), FEATURES, image)
    with pytest.raises(LayerError, match="hardswish"):
        check(models.mobilenet_v3_small(weights=None).eval(), FEATURES, image)


@pytest.mark.parametrize("name", ["vit_b_32", "timm/vit_tiny_patch16_224", "timm/beitv2_base_patch16_224"])
def test_the_attention_that_is_recorded_is_the_networks_own(name):
    """Written out, the attention changes no logit; every row of it sums to one; and the networks are left as they were."""
    from camcli.models.request import ModelRequest
    from camcli.models.sources import load_model

    model = load_model(ModelRequest(name, "none"))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    before = functional.scaled_dot_product_attention
    with torch.no_grad():
        expected = model.module(images)
        with recorded_attention() as matrices:
            found = model.module(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert len(matrices) == 12
    torch.testing.assert_close(matrices[0].sum(-1), torch.ones(matrices[0].shape[:3]))
    assert functional.scaled_dot_product_attention is before


def test_rollout_by_hand():
    """Two blocks of attention over a class token and four patches, against the product written out."""

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
            self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in "ab")
            self.mix = nn.Identity()

        def forward(self, x):
            t = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).transpose(1, 2)], 1)
            for block in self.blocks:
                t = self.mix(t) + block(t, t, t, need_weights=False)[0]
            return t[:, 0]

    network, images = Blocks().eval(), torch.randn(2, 3, 8, 8)
    layer = Layer("mix", Grid("tokens", 2, 2, 1))
    found = maps(network, images, "rollout", 0, layer=layer)
    weights = []
    with torch.no_grad():
        t = torch.cat([network.token.expand(2, -1, -1), network.embed(images).flatten(2).transpose(1, 2)], 1)
        for block in network.blocks:
            out, attention = block(t, t, t, need_weights=True)
            weights.append(attention)
            t = t + out
    flow = (weights[1] + torch.eye(5)) / 2 @ ((weights[0] + torch.eye(5)) / 2)
    torch.testing.assert_close(found[:, 0], flow[:, 0, 1:].reshape(2, 2, 2), rtol=1e-4, atol=1e-6)
    with pytest.raises(LayerError, match="Vision Transformers"):
        METHODS["rollout"].check(Cam(), FEATURES, torch.randn(1, 3, 32, 24))


def small_transformer(blocks=3, size=32):
    """A Vision Transformer of torchvision in float64, whose weights let every logit depend on the image."""
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(size, 8, blocks, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=5)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.double().eval()


@pytest.mark.parametrize("blocks", [1, 3])
def test_legrad_equals_torchcam(blocks):
    from torchcam.methods import LeGrad

    network, images = small_transformer(blocks), torch.randn(3, 3, 32, 32).double()
    layer = Layer(f"encoder.layers.encoder_layer_{blocks - 1}.ln_1", Grid("tokens", 4, 4, 1))
    METHODS["legrad"].check(network, layer, images[:1])
    found = maps(network, images, "legrad", 4, 1, layer=layer)
    for position, target in enumerate((4, 1)):
        with LeGrad(network, list(network.encoder.layers)) as extractor:
            theirs = extractor([target] * 3, network(images), normalized=False)[0]
        assert theirs.max() > 0
        torch.testing.assert_close(found[:, position], theirs, rtol=1e-9, atol=1e-15)
    assert not any(child._forward_hooks or "forward" in vars(child) for child in network.modules())


def test_legrad_equals_the_authors_code():
    """The package legrad-torch explains CLIP of open_clip. It averages over the batch where blocks take the batch first, except
    that it makes all the blocks that it hooks take the tokens first: so all of them are hooked, and one image is explained.
    """
    import contextlib
    import io

    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    authors = pytest.importorskip("legrad", reason="legrad-torch is not installed")

    def clip():
        torch.manual_seed(0)
        vision = open_clip.CLIPVisionCfg(layers=3, width=32, head_width=8, patch_size=8, image_size=32)
        text = open_clip.CLIPTextCfg(context_length=8, vocab_size=100, width=16, heads=2, layers=1)
        network = open_clip.CLIP(16, vision, text).eval()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
        return network

    class Classifier(nn.Module):
        def __init__(self, network, prompts):
            super().__init__()
            self.visual, self.prompts = network.visual, nn.Parameter(prompts)

        def forward(self, x):
            return functional.normalize(self.visual(x), dim=-1) @ self.prompts.T

    prompts, image = functional.normalize(torch.randn(5, 16), dim=-1), torch.randn(1, 3, 32, 32)
    layer = Layer("visual.transformer.resblocks.2.ln_1", Grid("tokens", 4, 4, 1))
    found = maps(Classifier(clip(), prompts), image, "legrad", 2, layer=layer)
    large = functional.interpolate(found, scale_factor=8, mode="bilinear")[0, 0]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = authors.LeWrapper(clip(), layer_index=0).compute_legrad_clip(prompts[2:3], image)[0, 0].detach()
    torch.testing.assert_close((large - large.min()) / (large.max() - large.min()), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "vit_b_32",
        "timm/vit_tiny_patch16_224",
        "timm/deit_tiny_patch16_224",
        pytest.param("timm/beitv2_base_patch16_224", marks=pytest.mark.zoo),
    ],
)
def test_legrad_by_hand_on_whole_networks(name):
    """The last block by hand: the mean token through norm and head, differentiated for the attention of that block alone."""
    from camcli.models.layers import resolve_layers
    from camcli.models.request import ModelRequest
    from camcli.models.sources import load_model

    model = load_model(ModelRequest(name, "none"))
    layer = resolve_layers(model, ())[0]
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    METHODS["legrad"].check(model.module, layer, image)
    found = maps(model.module, image, "legrad", 7, layer=layer)
    assert found.isfinite().all()
    assert found.max() > 0
    blocks = model.module.encoder.layers if name == "vit_b_32" else model.module.blocks
    total = torch.zeros(layer.grid.height * layer.grid.width)
    for block in blocks:
        with recorded_attention() as matrices, torch.enable_grad():
            tokens = []
            handle = block.register_forward_hook(lambda _m, _i, output, tokens=tokens: tokens.append(output))
            model.module(image.clone().requires_grad_())
            handle.remove()
            mean = tokens[0].mean(1)
            if name == "vit_b_32":
                logits = model.module.heads(model.module.encoder.ln(mean))
            else:
                logits = model.module.head(model.module.fc_norm(model.module.norm(mean)))
            matrix = matrices[list(blocks).index(block)]
            (gradient,) = torch.autograd.grad(logits[0, 7], matrix)
        total += gradient.relu().mean((1, 2))[0, layer.grid.prefix :]
    expected = (total / len(blocks)).view(layer.grid.height, layer.grid.width)
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_legrad_is_for_transformers_and_independent_of_neighbours(inputs):
    network, images = small_transformer(), torch.randn(3, 3, 32, 32).double()
    layer = Layer("encoder.layers.encoder_layer_2.ln_1", Grid("tokens", 4, 4, 1))
    together = maps(network, images, "legrad", 0, 2, layer=layer)
    alone = torch.cat([maps(network, image[None], "legrad", 0, 2, layer=layer) for image in images])
    torch.testing.assert_close(alone, together)
    images[1] = float("nan")
    torch.testing.assert_close(maps(network, images, "legrad", 0, 2, layer=layer)[[0, 2]], together[[0, 2]])
    with pytest.raises(LayerError, match="legrad are for Vision Transformers"):
        METHODS["legrad"].check(Cam(), FEATURES, inputs[:1])

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit, self.colour = network, nn.Linear(3, 5).double()

        def forward(self, x):
            return self.vit(x) + self.colour(x.mean((2, 3)))

    with pytest.raises(LayerError, match="head takes only the tokens of the last block"):
        METHODS["legrad"].check(TwoHeads(), Layer(f"vit.{layer.name}", layer.grid), torch.randn(1, 3, 32, 32).double())


@pytest.mark.parametrize("name", sorted(SCENE_METHODS - FOR_TRANSFORMERS))
def test_scene_methods_leave_the_network_alone(name, inputs):
    torch.manual_seed(0)
    network = Cam().train()
    result = maps(network, inputs, name, 0, 1)
    assert result.shape[:2] == (3, 2)
    assert result.isfinite().all()
    assert not result.requires_grad
    assert all(child.training and not child._forward_hooks and not child._forward_pre_hooks for child in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


# ---- averaging, negating, fusing


def test_the_counterfactual_is_the_map_of_the_negated_score(cam_network, inputs):
    found = maps(cam_network, inputs, "gradcam", 2, counterfactual=True)
    with torch.no_grad():
        cam_network.head.weight *= -1
    torch.testing.assert_close(found, maps(cam_network, inputs, "gradcam", 2))
    with pytest.raises(LayerError, match="scorecam has none"):
        maps(cam_network, inputs, "scorecam", 2, counterfactual=True)


def test_smoothing_without_noise_changes_nothing(cam_network, inputs):
    plain = maps(cam_network, inputs, "layercam", 1, 4)
    torch.testing.assert_close(maps(cam_network, inputs, "layercam", 1, 4, smooth=3, noise=0.0), plain)


def test_smoothing_is_the_mean_over_noisy_copies(cam_network, inputs):
    copies = [variation.inputs for variation in variations(inputs, 4, 0.2, augment=False)]
    expected = torch.stack([maps(cam_network, copy, "gradcam", 3) for copy in copies]).mean(0)
    torch.testing.assert_close(maps(cam_network, inputs, "gradcam", 3, smooth=4, noise=0.2), expected)
    deviation = torch.stack(copies)[:, 0].sub(inputs[0]).std() / (inputs[0].max() - inputs[0].min())
    assert deviation == pytest.approx(0.2, rel=0.05)
    alone = maps(cam_network, inputs[1:2], "gradcam", 3, smooth=4, noise=0.2)
    torch.testing.assert_close(alone[0], expected[1], rtol=1e-4, atol=1e-7)


def test_smoothing_keeps_the_class_of_the_image_itself(cam_network, inputs):
    found = explain_batch(
        cam_network, inputs, [FEATURES], ["gradcam"], lambda y: y.argmax(1, keepdim=True), Options(smooth=2, noise=5.0)
    )
    assert torch.equal(found.targets[:, 0], cam_network(inputs).argmax(1))
    torch.testing.assert_close(found.logits, cam_network(inputs).detach())


def test_what_augmentation_moves_it_moves_back():
    """A bright spot off the centre: each varied map, brought back, has its spot where the image has it."""
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 20:24, 40:44] = 1
    seen = 0
    for variation in variations(image, 0, 0.0, augment=True):
        back = variation.undo(variation.inputs[:, 0])[0]
        weights = back.clamp_min(0)
        ys, xs = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        assert (ys * weights).sum() / weights.sum() == pytest.approx(21.5, abs=0.3)
        assert (xs * weights).sum() / weights.sum() == pytest.approx(41.5, abs=0.3)
        seen += 1
    assert seen == 6


def test_augmenting_a_symmetric_network_and_image_by_mirroring_alone_would_change_nothing(cam_network):
    """The mean of six maps, one of which is the map itself, stays near it for a blurred image."""
    blurred = functional.interpolate(torch.randn(2, 3, 4, 4), (32, 24), mode="bicubic")
    plain = maps(cam_network, blurred, "gradcam", 0)
    averaged = maps(cam_network, blurred, "gradcam", 0, augment=True)
    assert averaged.shape == plain.shape
    assert not torch.equal(averaged, plain)


def test_fusing_layers():
    small, large = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)
    small[..., 0, 0], large[..., 3, 3] = 5.0, 0.01
    top = fuse_maps([small, large], "max")
    assert top.shape == (1, 1, 4, 4)
    assert top[0, 0, 0, 0] == pytest.approx(1)
    assert top[0, 0, 3, 3] == pytest.approx(1), "a layer counts by its shape, not by its scale"
    assert fuse_maps([small, large], "mean")[0, 0, 3, 3] == pytest.approx(0.5)
    assert fuse_maps([torch.zeros(1, 1, 2, 2), large], "max").isfinite().all()
    assert fuse_maps([small, large], "product")[0, 0, 3, 3] == 0
    assert fuse_maps([large, 7 * large], "product")[0, 0, 3, 3] == pytest.approx(1)


def test_the_product_of_layers_equals_torchcam_and_grad_cam(cam_network, inputs):
    """RefineCAM of both packages. torchcam scales each map to [0, 1] and so does camcli where a map has a zero, as after a ReLU."""
    from pytorch_grad_cam import LayerCAM as Theirs
    from pytorch_grad_cam.refine_cam import RefineCAM as TheirProduct
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import LayerCAM, RefineCAM

    names = ["features.0", "features"]
    layers = [Layer("features.0", Grid("nchw", 16, 12)), FEATURES]
    found = explain_batch(cam_network, inputs, layers, ["layercam"], chosen(1), Options(fuse="product")).maps
    separate = explain_batch(cam_network, inputs, layers, ["layercam"], chosen(1)).maps
    for values in separate.values():
        assert (values.amin((2, 3)) == 0).all(), "only then are both ways of scaling one"
    with RefineCAM(cam_network, names, input_shape=(3, 32, 24), base_method=LayerCAM) as extractor:
        theirs = extractor([1] * 3, cam_network(inputs), normalized=False)[0]
    torch.testing.assert_close(found["fuse-product", "layercam"][:, 0], theirs, rtol=1e-4, atol=1e-6)

    # grad-cam enlarges each map to the image before it scales it
    modules = [cam_network.get_submodule(name) for name in names]
    other = TheirProduct(cam_network, modules, base_method=Theirs)(inputs[:1], [ClassifierOutputTarget(1)])
    plain = explain_batch(cam_network, inputs[:1], layers, ["layercam"], chosen(1)).maps
    ours = fuse_maps([shown(values) for values in plain.values()], "product")[0, 0]
    torch.testing.assert_close(ours / ours.max(), torch.from_numpy(other)[0].to(ours), rtol=1e-3, atol=1e-3)


def shown(values):
    return functional.interpolate(values, (32, 24), mode="bilinear", align_corners=False)


def test_fused_results_replace_those_of_the_layers(cam_network, inputs):
    layers = [FEATURES, Layer("features.0", Grid("nchw", 16, 12))]
    found = explain_batch(cam_network, inputs, layers, ["gradcam", "fullgrad"], chosen(0), Options(fuse="mean")).maps
    assert set(found) == {("fuse-mean", "gradcam"), (LAYER_INDEPENDENT, "fullgrad")}
    assert found["fuse-mean", "gradcam"].shape == (3, 1, 16, 12)


def test_one_logit_stands_for_two_classes(inputs):
    torch.manual_seed(0)
    single, double = Cam(classes=1).eval(), Cam(classes=2).eval()
    state = single.state_dict()
    double.load_state_dict({**state, "head.weight": torch.cat([-state["head.weight"], state["head.weight"]]),
                            "head.bias": torch.cat([-state["head.bias"], state["head.bias"]])})  # fmt: skip
    for name in ("gradcam", "scorecam", "fullgrad", "rise", "occlusion", "integrated-gradients"):
        torch.testing.assert_close(
            maps(single, inputs, name, 0, 1, binary=True, samples=50), maps(double, inputs, name, 0, 1, samples=50)
        )
    assert not single._forward_hooks
