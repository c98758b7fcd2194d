"""``camcli dream``: the parametrization, the moves and the ascent against closed forms."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch import nn

from camcli.dream.config import DreamConfig
from camcli.dream.optimize import ModelView, _steps, optimize, random_generator, standard_transforms, to_bytes
from camcli.dream.parametrization import (
    COLOUR_COVARIANCE,
    PRIORS,
    colour_root,
    correlated,
    fourier_pixels,
    frequencies,
    initial_parameters,
    spectrum_scale,
)
from camcli.dream.targets import channel_target, class_target, respond
from camcli.dream.transforms import Transforms, apply_transforms, blurred, draw_transforms, total_variation
from camcli.errors import ImageError
from camcli.network import eager
from camcli.records import Grid, Layer, Preprocess
from tests.conftest import SAMPLES

PLAIN = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SIZES = [(32, 32), (33, 31), (24, 40)]


def numpy_scale(size):
    """Amplitude of every wave of a picture of ``size``, both halves of the spectrum."""
    length = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None, :])
    return 1 / np.maximum(length, 1 / max(size))


@pytest.mark.parametrize("size", SIZES)
def test_the_spectrum_falls_as_one_over_f_and_white_coefficients_give_variance_one(size):
    ours, theirs = spectrum_scale(size).numpy(), numpy_scale(size)
    np.testing.assert_allclose(
        frequencies(size), np.hypot(*np.meshgrid(np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1]), indexing="ij")), atol=1e-7
    )
    ratio = ours / theirs[:, : ours.shape[1]]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    np.testing.assert_allclose((ratio[0, 0] * theirs) ** 2 @ np.ones(size[1]) @ np.ones(size[0]) / math.prod(size), 1, rtol=1e-5)


def test_the_spectrum_of_many_noises_is_that_of_photographs():
    """Measured on pixels by another transform: the slope of amplitude over frequency, in logarithms, is -1."""
    generator, size, powers, variance = torch.Generator().manual_seed(0), (64, 64), 0.0, 0.0
    for _ in range(40):
        pixels = fourier_pixels(initial_parameters("fourier", size, generator, contrast=1.0), size)[0].numpy()
        powers = powers + (np.abs(np.fft.fft2(pixels, norm="ortho")) ** 2).mean(axis=0) / 40
        variance += (pixels**2).mean() / 40
    length = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None, :])
    inner = (length > 2 / 64) & (length < 0.5)
    slope = np.polyfit(np.log(length[inner]), 0.5 * np.log(powers[inner]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.03)
    assert variance == pytest.approx(1, rel=0.1)


def test_fourier_pixels_are_the_inverse_transform():
    parts = torch.randn((3, 32, 13, 2), generator=torch.Generator().manual_seed(1))
    waves = torch.view_as_complex(parts).numpy() * spectrum_scale((32, 24)).numpy()
    np.testing.assert_allclose(fourier_pixels(parts, (32, 24))[0], np.fft.irfft2(waves, s=(32, 24), norm="ortho"), atol=1e-4)


def test_colours_are_those_of_the_photographs():
    """The covariance is that of the files; white noise gets it; undoing it makes colours independent again."""
    measured = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "space/rocket.jpg"):
        with PillowImage.open(SAMPLES / name) as image:
            measured.append(np.cov(np.asarray(image.convert("RGB")).reshape(-1, 3).T / 255))
    np.testing.assert_allclose(COLOUR_COVARIANCE, np.mean(measured, axis=0), atol=2e-6)
    root = colour_root().double().numpy()
    np.testing.assert_allclose(root @ root.T, COLOUR_COVARIANCE, atol=1e-7)
    white = torch.randn((1, 3, 400, 400), generator=torch.Generator().manual_seed(0))
    coloured = np.cov(correlated(white)[0].flatten(1).numpy())
    np.testing.assert_allclose(coloured, COLOUR_COVARIANCE, rtol=0.02)
    back = np.linalg.inv(root)
    np.testing.assert_allclose(back @ np.array(COLOUR_COVARIANCE) @ back.T, np.eye(3), atol=1e-4)


def test_a_start_of_a_photographs_contrast_has_its_colours():
    """Through the logistic function too, as long as it is nearly straight."""
    generator = torch.Generator().manual_seed(0)
    pictures = [PRIORS["fourier"].picture(initial_parameters("fourier", (64, 64), generator, 0.05), (64, 64)) for _ in range(60)]
    covariance = np.cov(torch.cat(pictures).transpose(0, 1).flatten(1).numpy()) / 0.05**2
    np.testing.assert_allclose(covariance, COLOUR_COVARIANCE, rtol=0.25)


@pytest.fixture
def picture():
    return torch.rand((1, 3, 40, 40), generator=torch.Generator().manual_seed(5))


def test_no_move_is_the_picture_itself(picture):
    still = draw_transforms(Transforms(), 3, torch.Generator().manual_seed(0))
    assert still.tolist() == [[0, 0, 0, 1]] * 3
    torch.testing.assert_close(apply_transforms(picture, still), picture.expand(3, -1, -1, -1), atol=1e-5, rtol=0)
    assert torch.equal(blurred(picture, 0.0), picture)


@pytest.mark.parametrize(("right", "down"), [(5, 0), (0, -7), (-3, 4)])
def test_jitter_is_an_exact_shift(picture, right, down):
    """What comes in is mirrored: the same as numpy's symmetric padding."""
    shifted = apply_transforms(picture, torch.tensor([[right, down, 0.0, 1.0]]))[0].numpy()
    padded = np.pad(picture[0].numpy(), ((0, 0), (8, 8), (8, 8)), mode="symmetric")
    np.testing.assert_allclose(shifted, padded[:, 8 - down : 48 - down, 8 - right : 48 - right], atol=2e-5)


def test_turns(picture):
    for quarter in (1, 2, 3):
        turned = apply_transforms(picture, torch.tensor([[0, 0, 90.0 * quarter, 1.0]]))
        torch.testing.assert_close(turned, torch.rot90(picture, quarter, (2, 3)), atol=2e-5, rtol=0)
    oblong = torch.rand((1, 3, 24, 40))
    half = apply_transforms(oblong, torch.tensor([[0, 0, 180.0, 1.0]]))
    torch.testing.assert_close(half, oblong.flip(2, 3), atol=2e-5, rtol=0)


def test_a_turn_keeps_its_shape_in_an_oblong_picture():
    """A plane wave turned by 30 degrees is the plane wave of the turned direction, near the centre."""
    height, width, angle = 48, 80, math.radians(30)
    y, x = torch.meshgrid(torch.arange(height) - 23.5, torch.arange(width) - 39.5, indexing="ij")
    wave = (x / 10).sin().expand(1, 3, -1, -1)
    expected = ((x * math.cos(angle) - y * math.sin(angle)) / 10).sin()
    found = apply_transforms(wave, torch.tensor([[0, 0, 30.0, 1.0]]))[0, 0]
    assert (found - expected)[14:34, 25:55].abs().max() < 5e-3


def test_zoom_then_shift():
    """A ramp twice as large is half as steep, and moves by as many pixels of the result as the shift says."""
    ramp = torch.arange(40.0).expand(1, 3, 40, 40)
    found = apply_transforms(ramp, torch.tensor([[6, 0, 0.0, 2.0]]))[0, 0, 20]
    expected = 19.5 + (torch.arange(40.0) - 19.5 - 6) / 2
    torch.testing.assert_close(found[8:], expected[8:], atol=1e-4, rtol=0)


def test_moves_keep_their_limits_and_use_them():
    drawn = draw_transforms(Transforms(3, 20, 0.5), 4000, torch.Generator().manual_seed(0))
    assert set(drawn[:, :2].flatten().tolist()) == set(range(-3, 4))
    assert 19.9 < drawn[:, 2].abs().max() <= 20
    assert 1.49 < drawn[:, 3].max() <= 1.5001
    assert 1 / 1.5001 <= drawn[:, 3].min() < 1 / 1.49
    assert abs(drawn[:, 3].log().mean()) < 0.02
    assert not torch.equal(drawn[:10], draw_transforms(Transforms(3, 20, 0.5), 10, torch.Generator().manual_seed(1)))


def test_blur_has_the_variance_it_says_and_keeps_the_mean():
    dot = torch.zeros((1, 3, 41, 41))
    dot[..., 20, 20] = 1
    spread = blurred(dot, 2.0)[0, 0]
    offsets = torch.arange(41.0) - 20
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(0) * offsets**2).sum() == pytest.approx(4, rel=0.03)  # less what lies beyond three sigma
    assert torch.allclose(blurred(torch.full((2, 3, 16, 16), 0.3), 5.0), torch.tensor(0.3))


def test_total_variation_of_a_ramp_is_its_slopes():
    y, x = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), indexing="ij")
    assert total_variation((0.5 * x + 0.25 * y).expand(1, 3, -1, -1)).item() == pytest.approx(0.75)


class Linear(nn.Module):
    """One logit a picture: the sum of its pixels times ``weights`` (3, H, W)."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        return (x * self.weights).sum((1, 2, 3))[:, None]


def dreamt(module, target, size=(32, 32), **options):
    config = DreamConfig(**{"class_": ("0",), **options}).check()
    model_view = ModelView(eager(module), PLAIN, size, torch.device("cpu"))
    return optimize(model_view, target, config, threading.Event())


STILL = {"jitter": 0.0, "rotate": 0.0, "zoom": 0.0, "tv": 0.0, "blur": 0.0}
CLASS = class_target(0, ("anything",))


def test_on_a_linear_network_plain_pixels_go_where_the_weights_point():
    """The optimum of w.x over [0, 1]: white where w is positive, black where it is negative."""
    weights = torch.randn((3, 32, 32))
    dream = dreamt(Linear(weights), CLASS, prior="none", steps=300, rate=0.2)
    picture = torch.from_numpy(dream.picture).permute(2, 0, 1) / 255.0
    assert ((picture > 0.5) == (weights > 0)).all()
    assert dream.metrics.end > 0.9 * weights.clamp_min(0).sum()
    assert dream.metrics.end == pytest.approx(float((picture * weights).sum()), rel=1e-4)


def test_on_a_linear_network_the_waves_that_the_weights_hold_grow():
    """One step of Adam is one length in the direction of the gradient's sign, and that is numpy's transform of the weights.

    At grey the picture is linear in the coefficients: its gradient in them is the weights' spectrum, scaled, in the colours' axes.
    """
    x = torch.arange(32.0).expand(32, 32)
    weights = torch.stack([(k + 1) * torch.cos(2 * math.pi * 3 * x / 32 + k) for k in range(3)])
    seen = []
    config = DreamConfig(class_=("0",), steps=1, rate=1e-3, **STILL).check()
    model_view = ModelView(eager(Linear(weights)), PLAIN, (32, 32), torch.device("cpu"))
    grey = torch.zeros((3, 32, 17, 2))
    for values in _steps(model_view, CLASS, config, grey, torch.Generator(), seen.append):
        spectrum = np.fft.rfft2(np.einsum("rc,rhw->chw", colour_root(), weights), norm="ortho")
        held = np.abs(spectrum) > 1e-3
        assert held.sum() == 3  # one wave in three colours, and nothing else but rounding
        moved_by = torch.view_as_complex(values.detach()).numpy()
        np.testing.assert_allclose(moved_by.real[held], 1e-3 * np.sign(spectrum.real[held]), rtol=1e-3)
        np.testing.assert_allclose(moved_by.imag[held], 1e-3 * np.sign(spectrum.imag[held]), rtol=1e-3)
    assert seen == [pytest.approx(0.5 * float(weights.sum()), abs=1e-3)]


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_how_large_activations_are_changes_nothing(scale):
    """Powers of two, so that nothing is rounded: the very same picture."""
    weights = torch.randn((3, 32, 32))
    assert np.array_equal(
        dreamt(Linear(weights), CLASS, steps=30).picture, dreamt(Linear(scale * weights), CLASS, steps=30).picture
    )


def test_variation_and_blur_make_smoother_pictures():
    weights = torch.randn((3, 32, 32))
    roughness = {}
    for name, options in {"plain": {}, "tv": {"tv": 2.0}, "blur": {"blur": 3.0}}.items():
        dream = dreamt(Linear(weights), CLASS, steps=40, **{**STILL, **options})
        roughness[name] = total_variation(torch.from_numpy(dream.picture).permute(2, 0, 1)[None] / 255.0).item()
    assert roughness["tv"] < 0.8 * roughness["plain"]
    assert roughness["blur"] < 0.8 * roughness["plain"]


class Features(nn.Module):
    """A convolution, normalised, a rectifier in place, pooling, a linear layer."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)
        self.norm.bias.data.fill_(bias)

    def forward(self, x):
        return self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))


CONV = Layer("conv", Grid("nchw", 8, 8))
ACT = Layer("act", Grid("nchw", 8, 8))


def test_a_channel_is_its_mean_and_a_unit_its_cell():
    module = Features().eval()
    inputs = torch.rand((2, 3, 32, 32))
    maps = module.conv(inputs)
    channel = respond(eager(module), inputs, channel_target(CONV, 2)).activation
    unit = respond(eager(module), inputs, channel_target(CONV, 2, (1, 6))).activation
    torch.testing.assert_close(channel, maps[:, 2].mean((1, 2)))
    torch.testing.assert_close(unit, maps[:, 2, 1, 6])


@pytest.mark.parametrize(
    "target", [CLASS, channel_target(CONV, 1), channel_target(ACT, 1), channel_target(ACT, 1, (3, 4))], ids=lambda t: t.stem
)
def test_the_network_is_left_as_it_was(target):
    """In training mode with trainable parameters: mode, statistics, gradients, hooks."""
    module = Features(bias=1.0).train()
    module.norm.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    dream = dreamt(module, target, steps=12, **STILL)
    assert dream.metrics.end > dream.metrics.start
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [child.training for child in module.modules()] == [True, True, False, True, True]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())


def test_a_unit_away_from_the_centre_lights_up_its_own_place():
    """Without moves a unit sees its patch alone: the rest of the picture stays as grey as it began."""
    module = Features(bias=1.0).eval()
    dream = dreamt(module, channel_target(CONV, 1, (1, 6)), prior="none", steps=30, **STILL)
    contrast = np.abs(dream.picture.astype(float) - 127.5).max(axis=2)
    assert contrast[4:8, 24:28].mean() > 20
    contrast[4:8, 24:28] = 0
    assert contrast.max() < 5


def test_a_rectifier_that_is_shut_at_grey_is_opened_by_more_contrast():
    module = Features().eval()
    module.conv.bias.data -= module.conv(torch.full((1, 3, 32, 32), 0.5))[0].mean((1, 2)) + 0.05
    unit = channel_target(ACT, 1, (3, 4))
    assert respond(eager(module), torch.full((1, 3, 32, 32), 0.5), unit).activation == 0
    assert dreamt(module, unit, steps=8).metrics.end > 0


def test_a_target_that_never_responds_is_said_so():
    with pytest.raises(ImageError, match="zero at each of 10 random starts"):
        dreamt(Features(bias=-1e6).eval(), channel_target(ACT, 1))


def test_what_is_not_finite_is_no_picture():
    with pytest.raises(ImageError, match="nan"):
        dreamt(Linear(torch.full((3, 32, 32), float("nan"))), CLASS, steps=2)


def test_jitter_is_a_fraction_of_the_shorter_side():
    assert [standard_transforms(size).jitter for size in ((224, 224), (32, 64), (300, 200))] == [22, 3, 20]


def test_a_target_alone_and_in_company_has_the_same_numbers():
    draws = [torch.rand(3, generator=random_generator(7, target, "ascent")).tolist() for target in (CLASS, channel_target(CONV, 1))]
    assert draws[0] != draws[1]
    assert draws[0] == torch.rand(3, generator=random_generator(7, CLASS, "ascent")).tolist()
    assert draws[0] != torch.rand(3, generator=random_generator(8, CLASS, "ascent")).tolist()


def test_frames_begin_at_the_noise_and_end_at_the_picture():
    weights = torch.randn((3, 32, 32))
    dream = dreamt(Linear(weights), CLASS, steps=20, frames=5)
    assert len(dream.frames) == 5
    assert np.array_equal(dream.frames[-1], dream.picture)
    first = PRIORS["fourier"].picture(initial_parameters("fourier", (32, 32), random_generator(0, CLASS, "ascent")), (32, 32))
    assert np.array_equal(dream.frames[0], to_bytes(first))
    assert np.array_equal(dreamt(Linear(weights), CLASS, steps=20).picture, dream.picture)


def test_the_probability_is_that_of_the_standard_transforms_whatever_the_ascent_was():
    """Measured again from the finished picture alone."""
    torch.manual_seed(2)
    module = Features(bias=1.0).eval()
    dream = dreamt(module, CLASS, steps=5, prior="none", seed=3)
    pixels = torch.from_numpy(dream.picture).permute(2, 0, 1)[None] / 255.0
    drawn = draw_transforms(standard_transforms((32, 32)), 32, random_generator(3, CLASS, "trials"))
    with torch.no_grad():
        chances = module(apply_transforms(pixels, drawn)).softmax(1)[:, 0]
    assert dream.metrics.probability_moved == pytest.approx(float(chances.median()), abs=1e-5)
    assert dream.metrics.probability_least == pytest.approx(float(chances.min()), abs=1e-5)
