"""Rendering against formulas and against torch's interpolation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camcli.config import COLORMAPS
from camcli.errors import ImageError
from camcli.records import Box
from camcli.render import Style, color_table, encode_jpeg, paint_overlay, place_map, scale_map


def bare(**options):
    return Style(**{"outline": False, **options})


@settings(max_examples=60, deadline=None)
@given(h=st.integers(1, 20), w=st.integers(1, 20), height=st.integers(1, 90), width=st.integers(1, 90))
def test_placing_a_map_is_bilinear_interpolation(h, w, height, width):
    """Equal to torch's half-pixel bilinear where the map covers exactly the painted pixels."""
    values = np.random.default_rng(100 * h + w).random((h, w), dtype=np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], (height, width), mode="bilinear")[0, 0]
    found = place_map(values, (0.0, 0.0, width, height), Box(0, 0, width, height), (width, height))
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_a_map_keeps_its_place_for_fractional_and_partial_boxes():
    """A linear ramp is reproduced by bilinear interpolation, so its value says exactly where a sample was taken."""
    cells = 50
    ramp = np.tile((np.arange(cells, dtype=np.float32) + 0.5) / cells, (3, 1))
    box = (-13.7, 0.0, 200.0, 30.0)
    found = place_map(ramp, box, Box(0, 0, 150, 30), (150, 30))[15]
    expected = (np.arange(150) + 0.5 + 13.7) / 200.0
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scaling_divides_by_the_peak_only():
    values = np.array([[-1.0, 0.0], [2.0, 4.0]], np.float32)
    assert scale_map(values).tolist() == [[0, 0], [0.5, 1]]
    assert np.array_equal(scale_map(values * 1e-12), scale_map(values))
    assert np.array_equal(scale_map(values * 1e12), scale_map(values))
    assert scale_map(np.zeros((2, 2), np.float32)).tolist() == [[0, 0], [0, 0]]
    assert scale_map(-values[:1]).max() == 1


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_painted_pixel_is_the_blend_and_no_other_is_touched(alpha):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    before = image.copy()
    values = rng.random((7, 7), dtype=np.float32)
    box = (20.0, 10.0, 40.0, 40.0)
    pixels = Box(20, 10, 40, 40)
    overlay = paint_overlay(image, values, box, pixels, bare(alpha=alpha, colormap="viridis"))
    assert np.array_equal(image, before), "the photo itself was painted on"
    inside = np.zeros((60, 80), bool)
    inside[10:50, 20:60] = True
    assert np.array_equal(overlay[~inside], image[~inside])
    heat = place_map(values / values.max(), box, pixels, (40, 40))
    colors = color_table("viridis")[np.rint(heat * 255).astype(int)].astype(float)
    expected = (1 - alpha) * image[10:50, 20:60] + alpha * colors
    assert np.abs(overlay[10:50, 20:60] - expected).max() <= 1  # rounded


def test_colors_run_from_cold_to_hot_in_rgb():
    """Jet and turbo end red and begin blue: exchanged channels would turn them round."""
    for name in ("jet", "turbo"):
        table = color_table(name).astype(int)
        assert table[250, 0] > table[250, 2]
        assert table[30, 2] > table[30, 0]
    assert color_table("viridis")[255].tolist() == [253, 231, 37]  # matplotlib's #fde725
    for name in COLORMAPS:
        assert color_table(name).shape == (256, 3)


def test_below_the_threshold_nothing_is_painted():
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    values = np.tile(np.linspace(0, 1, 50, dtype=np.float32), (50, 1))
    whole = Box(0, 0, 50, 50)
    overlay = paint_overlay(image, values, (0, 0, 50, 50), whole, bare(threshold=0.6, alpha=1.0))
    cold = values < 0.6
    assert np.array_equal(overlay[cold], image[cold])
    assert (overlay[~cold] == paint_overlay(image, values, (0, 0, 50, 50), whole, bare(alpha=1.0))[~cold]).all()


@pytest.mark.parametrize(
    ("width", "height", "box"), [(2000, 1500, (250.0, 0.0, 1500.0, 1500.0)), (90, 131, (-3.5, 10.25, 97.0, 97.0))]
)
@pytest.mark.parametrize("cells", [1, 7, 40])
def test_every_pixel_is_coloured_by_its_own_level(width, height, box, cells):
    """Photos of any size: the colour is that of the interpolated value at this pixel, rounded to one of 256 levels."""
    image = np.full((height, width, 3), 128, np.uint8)
    values = np.random.default_rng(cells).random((cells, cells), dtype=np.float32)
    left, top = max(0, round(box[0])), round(box[1])
    pixels = Box(left, top, min(width, round(box[0] + box[2])) - left, min(height, round(box[1] + box[3])) - top)
    overlay = paint_overlay(image, values, box, pixels, bare(alpha=1.0))
    level = place_map(scale_map(values), box, pixels, (pixels.w, pixels.h)) * 255.0
    painted = overlay[pixels.y : pixels.y + pixels.h, pixels.x : pixels.x + pixels.w]
    table = color_table("turbo")
    nearest = [(painted == table[np.rint(np.clip(level + nudge, 0, 255)).astype(int)]).all(axis=2) for nudge in (-1e-3, 1e-3)]
    assert (nearest[0] | nearest[1]).all()  # a value at the border of two levels may get either


def test_the_edge_is_drawn_where_the_network_saw_a_part_only():
    image = np.full((100, 200, 3), 77, np.uint8)
    values = np.ones((3, 3), np.float32)
    pixels = Box(50, 0, 100, 100)
    with_edge = paint_overlay(image, values, (50, 0, 100, 100), pixels, Style(alpha=0.0))
    without = paint_overlay(image, values, (50, 0, 100, 100), pixels, bare(alpha=0.0))
    changed = (with_edge != without).any(axis=2)
    assert changed[50, 50]
    assert changed[50, 149]
    assert not changed[:, :50].any()
    assert not changed[:, 150:].any()
    assert not changed[10:90, 60:140].any()
    assert (with_edge == 255).all(axis=2).any()
    whole = paint_overlay(image, values, (0, 0, 200, 100), Box(0, 0, 200, 100), Style(alpha=0.0))
    assert np.array_equal(whole, image)
    paint_overlay(image[:2, :2], values, (0, 0, 1, 2), Box(0, 0, 1, 2), Style())  # smaller than its own edge


def test_the_file_shows_the_colours_that_were_painted():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = (200, 100, 30)
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(image, 95), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(decoded.astype(int) - image).max() <= 4
    with pytest.raises(ImageError, match="65,500"):
        encode_jpeg(np.zeros((1, 65_501, 3), np.uint8), 90)
