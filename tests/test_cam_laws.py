"""Closed forms and invariances that every class activation map must satisfy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from camcli.cam.explain import explain_batch, top_classes
from camcli.cam.grid import to_spatial
from camcli.errors import ConfigError, LayerError, ModelError
from camcli.records import Grid, Layer


def fixed(*classes: int):
    """Explain these classes for every image."""
    return lambda logits: torch.tensor(classes).expand(len(logits), -1)


def maps_of(module, inputs, layer, *classes, method="gradcam"):
    layers = [Layer(layer, grid_of(module, inputs, layer))]
    return explain_batch(module, inputs, layers, [method], fixed(*classes)).maps[layer, method]


def grid_of(module, inputs, name):
    found = {}
    handle = module.get_submodule(name).register_forward_hook(lambda _m, _i, o: found.update(shape=o.shape))
    module(inputs[:1])
    handle.remove()
    return Grid("nchw", *found["shape"][2:])


@pytest.fixture
def inputs():
    return torch.randn(4, 3, 32, 24, generator=torch.Generator().manual_seed(1))


def test_gradcam_before_average_pooling_is_cam(cam_network, inputs):
    """Zhou et al. 2016, eq. 2: M_c = sum_k w_ck f_k. Grad-CAM there is relu(M_c) / (h w), exactly."""
    activations = cam_network.features(inputs)
    h, w = activations.shape[2:]
    for target in range(5):
        cam = torch.einsum("k,bkij->bij", cam_network.head.weight[target], activations)
        found = maps_of(cam_network, inputs, "features", target)[:, 0]
        torch.testing.assert_close(found, cam.relu().detach() / (h * w), rtol=1e-5, atol=1e-8)
        assert found.max() > 0


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scaling_the_logits_scales_the_map_and_nothing_else(cam_network, inputs, factor):
    before = maps_of(cam_network, inputs, "features", 2)
    with torch.no_grad():
        cam_network.head.weight *= factor
        cam_network.head.bias *= factor
    after = maps_of(cam_network, inputs, "features", 2)
    torch.testing.assert_close(after / after.amax(), before / before.amax(), rtol=1e-4, atol=1e-6)


def test_a_constant_added_to_all_logits_changes_nothing(cam_network, inputs):
    """True of the logit's gradient and of the softmax's; fails when a bias leaks into the map."""
    before = maps_of(cam_network, inputs, "features", 1)
    with torch.no_grad():
        cam_network.head.bias += 100
    assert torch.equal(maps_of(cam_network, inputs, "features", 1), before)


def test_the_score_is_the_logit_not_the_probability(cam_network, inputs):
    """A saturated softmax has no gradient left; the logit's map does not care how confident the network is."""
    before = maps_of(cam_network, inputs, "features", 3)
    with torch.no_grad():
        cam_network.head.bias[3] += 200
    after = maps_of(cam_network, inputs, "features", 3)
    assert torch.equal(before, after)
    assert after.amax() > 0


def test_a_batch_equals_its_images_one_by_one(cam_network, inputs):
    together = maps_of(cam_network, inputs, "features", 0, 4)
    for i in range(len(inputs)):
        alone = maps_of(cam_network, inputs[i : i + 1], "features", 0, 4)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-9)
    reverse = maps_of(cam_network, inputs.flip(0), "features", 0, 4)
    torch.testing.assert_close(reverse.flip(0), together, rtol=1e-5, atol=1e-9)


def test_a_nan_image_does_not_touch_its_neighbours(cam_network, inputs):
    clean = maps_of(cam_network, inputs, "features", 2)
    poisoned = inputs.clone()
    poisoned[1] = float("nan")
    found = maps_of(cam_network, poisoned, "features", 2)
    assert found[1].isnan().any()
    for i in (0, 2, 3):
        torch.testing.assert_close(found[i], clean[i], rtol=1e-5, atol=1e-9)


def test_each_image_has_its_own_target(cam_network, inputs):
    layer = Layer("features", grid_of(cam_network, inputs, "features"))
    targets = torch.tensor([[3], [0], [4], [1]])
    found = explain_batch(cam_network, inputs, [layer], ["gradcam"], lambda _: targets).maps["features", "gradcam"]
    for i, target in enumerate(targets[:, 0].tolist()):
        torch.testing.assert_close(found[i, 0], maps_of(cam_network, inputs, "features", target)[i, 0])


def test_many_targets_in_one_pass_equal_one_target_each(cam_network, inputs):
    together = maps_of(cam_network, inputs, "features.0", 4, 0, 2)
    for position, target in enumerate((4, 0, 2)):
        torch.testing.assert_close(together[:, position], maps_of(cam_network, inputs, "features.0", target)[:, 0])


def test_several_layers_in_one_pass_equal_each_alone(cam_network, inputs):
    names = ["features.2", "features.0", "features", "features.1"]
    layers = [Layer(name, grid_of(cam_network, inputs, name)) for name in names]
    together = explain_batch(cam_network, inputs, layers, ["gradcam"], fixed(1, 3)).maps
    for name in names:
        torch.testing.assert_close(together[name, "gradcam"], maps_of(cam_network, inputs, name, 1, 3))


def test_one_forward_pass_serves_everything(cam_network, inputs):
    passes = []
    cam_network.register_forward_pre_hook(lambda *_: passes.append(1))
    layers = [Layer(name, Grid("nchw", 8, 6)) for name in ("features", "features.2")]
    explain_batch(cam_network, inputs, layers, ["gradcam"], fixed(0, 1, 2, 3))
    assert len(passes) == 1


def test_nothing_is_recorded_before_the_layer(cam_network, inputs):
    """The graph begins at the tapped layer: what runs before it must not see a gradient."""
    seen = []
    cam_network.features[0].register_forward_hook(lambda _m, _i, o: seen.append(o.requires_grad))
    maps_of(cam_network, inputs, "features.2", 0)
    assert seen[-1] is False


@pytest.mark.parametrize("error_in", [None, "choose", "forward"])
def test_the_module_is_left_as_it_was(cam_network, inputs, error_in):
    cam_network.train()
    cam_network.features[2].weight.requires_grad_(False)
    flags = [p.requires_grad for p in cam_network.parameters()]
    layer = Layer("features", Grid("nchw", 8, 6))

    def choose(logits):
        if error_in == "choose":
            raise KeyError("as planned")
        return fixed(0)(logits)

    if error_in == "forward":
        cam_network.head = nn.Linear(3, 5)
        flags = [p.requires_grad for p in cam_network.parameters()]
    if error_in is None:
        explain_batch(cam_network, inputs, [layer], ["gradcam"], choose)
    else:
        with pytest.raises((KeyError, RuntimeError)):
            explain_batch(cam_network, inputs, [layer], ["gradcam"], choose)
    assert all(child.training for child in cam_network.modules())
    assert [p.requires_grad for p in cam_network.parameters()] == flags
    assert all(p.grad is None for p in cam_network.parameters())
    assert not any(child._forward_hooks for child in cam_network.modules())


def test_batch_norm_statistics_do_not_move(inputs):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    explain_batch(network, inputs, [Layer("1", Grid("nchw", 30, 22))], ["gradcam"], fixed(0))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_frozen_weights_and_no_grad_do_not_matter(cam_network, inputs):
    expected = maps_of(cam_network, inputs, "features", 2)
    cam_network.requires_grad_(False)
    with torch.no_grad():
        found = maps_of(cam_network, inputs, "features", 2)
    assert torch.equal(found, expected)


def test_a_module_that_runs_twice_gives_its_last_output(inputs):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.relu(self.b(self.relu(self.a(x)))).mean((2, 3)))

    torch.manual_seed(0)
    network = Twice().eval()
    last = network.b(network.a(inputs).relu()).relu()
    expected = torch.einsum("k,bkij->bij", network.head.weight[1], last).relu() / last[0, 0].numel()
    found = explain_batch(network, inputs, [Layer("relu", Grid("nchw", 28, 20))], ["gradcam"], fixed(1))
    torch.testing.assert_close(found.maps["relu", "gradcam"][:, 0], expected.detach())


def test_tuples_and_named_outputs_are_understood(cam_network, inputs):
    expected = maps_of(cam_network, inputs, "features", 0)

    class Wrapped(nn.Module):
        def __init__(self, inner, wrap):
            super().__init__()
            self.features, self.inner, self.wrap = inner.features, inner, wrap

        def forward(self, x):
            return self.wrap(self.inner(x))

    for wrap in (lambda y: (y, None), lambda y: [y], lambda y: {"logits": y}, lambda y: type("Out", (), {"logits": y})()):
        assert torch.equal(maps_of(Wrapped(cam_network, wrap), inputs, "features", 0), expected)
    for wrap, said in ((lambda y: y[:, :, None], "classifier"), (lambda y: "text", "str")):
        with pytest.raises(ModelError, match=said):
            maps_of(Wrapped(cam_network, wrap), inputs, "features", 0)


def test_a_layer_the_logits_do_not_depend_on_is_an_error(inputs):
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused, self.used = nn.Conv2d(3, 2, 3), nn.Linear(3, 2)

        def forward(self, x):
            self.unused(x)
            return self.used(x.mean((2, 3)))

    with pytest.raises(LayerError, match="do not depend"):
        explain_batch(Blind(), inputs, [Layer("unused", Grid("nchw", 30, 22))], ["gradcam"], fixed(0))


def test_an_unknown_method_names_the_nearest(cam_network, inputs):
    with pytest.raises(ConfigError, match="gradcam"):
        explain_batch(cam_network, inputs, [], ["grad-cam"], fixed(0))


def test_top_classes_breaks_ties_by_index():
    assert top_classes(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 3).tolist() == [[1, 2, 3]]


def test_tokens_become_the_grid_they_came_from():
    """Row by row, after the prefix; channels last likewise."""
    image = torch.arange(2 * 5 * 3 * 4).reshape(2, 5, 3, 4)
    tokens = torch.cat([torch.full((2, 2, 5), -1), image.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(to_spatial(tokens, Grid("tokens", 3, 4, 2)), image)
    assert torch.equal(to_spatial(image.permute(0, 2, 3, 1), Grid("nhwc", 3, 4)), image)
