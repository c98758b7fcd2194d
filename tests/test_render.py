"""Rendering against formulas and against torch's interpolation."""

from __future__ import annotations

import csv
import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from camcli.config.run import COLORMAPS
from camcli.config.run import STYLES as CHOICES
from camcli.errors import ImageError
from camcli.output.writers import table_line
from camcli.records import Box, Heatmap, Prediction
from camcli.render.caption import Caption, add_caption, caption_of, caption_of_row
from camcli.render.encode import encode_image
from camcli.render.maps import place_map, scale_map
from camcli.render.styles import STYLES, Notes, Style, color_table, paint_overlay, resize_to_fit
from tests.pictures import noise


def bare(**options):
    return Style(**{"outline": False, **options})


@settings(max_examples=60, deadline=None)
@given(h=st.integers(1, 20), w=st.integers(1, 20), height=st.integers(1, 90), width=st.integers(1, 90))
def test_placing_a_map_is_bilinear_interpolation(h, w, height, width):
    """Equal to torch's half-pixel bilinear where the map covers exactly the painted pixels."""
    values = np.random.default_rng(100 * h + w).random((h, w), dtype=np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], (height, width), mode="bilinear")[0, 0]
    found = place_map(values, (0.0, 0.0, width, height), Box(0, 0, width, height), (width, height)).whole()
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_a_map_keeps_its_place_for_fractional_and_partial_boxes():
    """A linear ramp is reproduced by bilinear interpolation, so its value says exactly where a sample was taken."""
    cells = 50
    ramp = np.tile((np.arange(cells, dtype=np.float32) + 0.5) / cells, (3, 1))
    box = (-13.7, 0.0, 200.0, 30.0)
    found = place_map(ramp, box, Box(0, 0, 150, 30), (150, 30)).whole()[15]
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
    heat = place_map(values / values.max(), box, pixels, (40, 40)).whole()
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
    image = noise(0, (50, 50))
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
    level = place_map(scale_map(values), box, pixels, (pixels.w, pixels.h)).whole() * 255.0
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
    decoded = cv2.imdecode(np.frombuffer(encode_image(image, "jpg", 95), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(decoded.astype(int) - image).max() <= 4
    with pytest.raises(ImageError, match="65,500"):
        encode_image(np.zeros((1, 65_501, 3), np.uint8), "jpg", 90)


def scene_to_paint():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    return image, rng.random((7, 7), dtype=np.float32), (20.0, 10.0, 64.0, 64.0), Box(20, 10, 64, 64)


def heat_of(values, box, pixels):
    return place_map(scale_map(values), box, pixels, (pixels.w, pixels.h)).whole()


def test_every_style_is_there_and_a_choice():
    assert set(STYLES) == set(CHOICES)


def test_the_heatmap_alone_is_the_opaque_overlay_on_black():
    image, values, box, pixels = scene_to_paint()
    alone = paint_overlay(image, values, box, pixels, bare(style="heatmap"))
    opaque = paint_overlay(image, values, box, pixels, bare(alpha=1.0))
    assert np.array_equal(alone[10:74, 20:84], opaque[10:74, 20:84])
    alone[10:74, 20:84] = 0
    assert not alone.any()


def test_the_spotlight_darkens_by_what_the_map_lacks():
    image, values, box, pixels = scene_to_paint()
    lit = paint_overlay(image, values, box, pixels, bare(style="spotlight", alpha=0.8))
    share = np.full(image.shape[:2], 0.2)
    share[10:74, 20:84] = 0.2 + 0.8 * heat_of(values, box, pixels)
    np.testing.assert_allclose(lit, image * share[..., None], atol=0.51)


def test_side_by_side_is_the_photo_and_its_overlay():
    image, values, box, pixels = scene_to_paint()
    both = paint_overlay(image, values, box, pixels, Style(style="side-by-side"))
    assert np.array_equal(both[:, :120], image)
    assert np.array_equal(both[:, 120:], paint_overlay(image, values, box, pixels, Style()))


def test_contours_lie_where_the_map_is_at_their_levels():
    """On a ramp: lines of the table's colours at 25, 50 and 75 %, and nothing else is touched."""
    image = np.full((100, 400, 3), 128, np.uint8)
    ramp = np.tile(np.linspace(0, 1, 401, dtype=np.float32)[None, 1:], (4, 1))
    drawn = paint_overlay(image, ramp, (0.0, 0.0, 400.0, 100.0), Box(0, 0, 400, 100), bare(style="contour"))
    row = drawn[50].astype(int)
    for level in (0.25, 0.5, 0.75):
        around = row[round(400 * level) - 3 : round(400 * level) + 4]
        assert np.abs(around - color_table("turbo")[round(level * 255)]).sum(axis=1).min() < 30
    changed = np.flatnonzero((row != 128).any(axis=1))
    assert all(min(abs(x - 400 * level) for level in (0.25, 0.5, 0.75)) < 6 or x > 393 for x in changed)


def test_a_legend_runs_from_zero_to_the_peak_and_leaves_the_picture_alone():
    image, values, box, pixels = scene_to_paint()
    image = np.tile(image, (4, 4, 1))
    plain = paint_overlay(image, values, box, pixels, bare(colormap="viridis"))
    with_bar = paint_overlay(image, values, box, pixels, bare(colormap="viridis", legend=True))
    assert np.array_equal(with_bar[: len(plain)], plain)
    middle = with_bar[len(plain) :][len(with_bar[len(plain) :]) // 2]
    table = color_table("viridis")
    nearest = np.abs(middle[:, None].astype(int) - table[None]).sum(axis=2)
    levels = nearest.argmin(axis=1)[nearest.min(axis=1) == 0]
    assert levels[0] == 0
    assert levels[-1] == 255
    assert np.all(np.diff(levels) >= 0)
    assert len(levels) > 0.5 * image.shape[1]


@pytest.mark.parametrize("most", [16, 50, 119, 120, 500])
def test_a_smaller_picture_shows_the_same_at_the_same_place(most):
    image, values, box, pixels = scene_to_paint()
    image = cv2.GaussianBlur(image, (0, 0), 6)
    canvas = resize_to_fit(image, most)
    assert max(canvas.image.shape[:2]) == min(most, 120)
    small = paint_overlay(canvas.image, values, canvas.part(box), canvas.pixels(pixels), bare())
    large = paint_overlay(image, values, box, pixels, bare())
    expected = cv2.resize(large, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - expected).mean() < 9
    assert canvas.pixels(Box(119, 89, 1, 1)).w >= 1


@pytest.mark.parametrize("format", ["png", "webp", "jpg"])
def test_every_format_shows_what_was_painted(format):
    image, values, box, pixels = scene_to_paint()
    picture = cv2.GaussianBlur(paint_overlay(image, values, box, pixels, bare()), (0, 0), 3)
    decoded = np.asarray(PillowImage.open(io.BytesIO(encode_image(picture, format, 95))).convert("RGB"))
    assert np.abs(decoded.astype(int) - picture).mean() < (4 if format != "png" else 1e-9)
    with pytest.raises(ImageError, match="--max-side"):
        encode_image(np.zeros((1, 65_501 if format == "jpg" else 16_384, 3), np.uint8), "jpg" if format == "jpg" else "webp", 90)


@pytest.mark.parametrize("threshold", [0.0, 0.4])
@pytest.mark.parametrize("style", ["overlay", "heatmap", "side-by-side", "spotlight"])
def test_a_legend_shows_what_is_in_the_picture_and_nothing_else(style, threshold):
    """A white photo under a ramp, painted opaque, holds what each level looks like; its legend holds the same, level by level."""
    image = np.full((400, 600, 3), 255, np.uint8)
    ramp = np.tile(np.linspace(0, 1, 600, dtype=np.float32), (4, 1))
    look = bare(style=style, alpha=0.8 if style == "spotlight" else 1.0, threshold=threshold, legend=True)
    picture = paint_overlay(image, ramp, (0.0, 0.0, 600.0, 400.0), Box(0, 0, 600, 400), look)
    painted = picture[:400, -600:][200].astype(int)
    strip = picture[400:]
    bar = strip[len(strip) // 2].astype(int)
    legend = np.unique(bar[(bar != 24).any(axis=1)], axis=0)
    distance = np.abs(legend[:, None] - painted[None]).max(axis=2).min(axis=1)
    text = (legend.max(axis=1) - legend.min(axis=1)) == 0  # labels, and their smoothed edges, are grey
    assert (distance[~text] <= 3).all()
    if style == "spotlight":
        assert text.all(), "colours below a picture without colours"
        columns = np.flatnonzero((strip[len(strip) // 4 + 1] == strip[len(strip) // 2]).all(axis=1) & (bar != 24).any(axis=1))
        longest = max(np.split(columns, np.flatnonzero(np.diff(columns) != 1) + 1), key=len)
        assert bar[longest[0], 0] == pytest.approx(51, abs=1)
        assert bar[longest[-1], 0] == 255
        apart = np.abs(bar[longest, 0] - painted[np.linspace(0, 599, len(longest)).round().astype(int), 0])
        assert (apart > 3).sum() <= (1 if threshold else 0), "but for the pixel where the threshold is"
    else:
        assert len(legend[~text]) > (130 if threshold else 220)
        cold = color_table("turbo")[round(255 * 0.2)].astype(int)
        assert (np.abs(legend - cold).max(axis=1).min() < 3) == (threshold == 0)


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_the_legend_of_contours_marks_their_levels(threshold):
    """Three lines in the colours of the picture's, a quarter of the bar apart, each with its level beside it."""
    image, values, box, pixels = scene_to_paint()
    image = np.tile(image, (6, 6, 1))
    picture = paint_overlay(image, values, box, pixels, bare(style="contour", legend=True, threshold=threshold))
    strip = picture[len(image) :].astype(int)
    places = []
    for level in (0.25, 0.5, 0.75):
        found = np.flatnonzero((strip == color_table("turbo")[round(255 * level)]).all(axis=2).any(axis=0))
        assert (len(found) > 0) == (level >= threshold)
        if len(found):
            places.append(found.mean())
            beside = strip[:, found[-1] + 1 : found[-1] + 30]
            assert (beside.min(axis=2) > 150).any(), "no text beside the line"
    assert np.ptp(np.diff(places)) <= 1 if len(places) == 3 else len(places) == 2


@pytest.mark.parametrize("width", [1, 16, 64, 100, 200, 4000])
@pytest.mark.parametrize("style", CHOICES)
def test_a_legend_and_a_caption_fit_pictures_of_any_size(style, width):
    """They are as wide as the picture, leave it alone, and in a narrow one the bar has a quarter of the width at least."""
    image = np.full((max(1, width * 3 // 4), width, 3), 90, np.uint8)
    whole = (0.0, 0.0, float(width), float(len(image))), Box(0, 0, width, len(image))
    values = np.random.default_rng(0).random((7, 7), dtype=np.float32)
    plain = paint_overlay(image, values, *whole, bare(style=style))
    legend = paint_overlay(image, values, *whole, bare(style=style, legend=True))
    both = paint_overlay(image, values, *whole, bare(style=style, legend=True, caption=True), Notes(caption=TIGER))
    assert np.array_equal(legend[: len(plain)], plain)
    assert np.array_equal(both[: len(legend)], legend)
    assert width < 16 or (both[len(legend) :].max(axis=2) > 150).any(), "no text"
    if style in ("overlay", "heatmap") and width >= 16:
        strip = legend[len(plain) :]
        assert (np.ptp(strip[len(strip) // 2].astype(int), axis=1) > 20).sum() > 0.24 * width


TIGER = Caption("tiger cat", 0.393, "gradcam", "blocks.6.0")


def test_a_caption_says_class_probability_method_and_layer():
    assert TIGER.parts == ("tiger cat, 39.3 %", "gradcam at blocks.6.0")
    assert Caption("a", 1.0, "m", "l").parts[0] == "a, 100.0 %"
    assert Caption("a", 1e-7, "m", "l").parts[0] == "a, < 0.1 %"
    assert Caption("a\x1b[31m\nb\u202e", 0.5, "m", "l").parts[0] == "a\\x1b[31m\\x0ab\\xe2\\x80\\xae, 50.0 %"
    long_class, long_layer = Caption("x" * 500, 0.5, "m", "y" * 500 + ".end").parts
    assert len(long_class) < 80 > len(long_layer)
    assert (long_class[-8:], long_layer[-4:]) == (", 50.0 %", ".end")


@settings(max_examples=150, deadline=None)
@given(name=st.text(max_size=200), layer=st.text(max_size=90), probability=st.floats(0, 1), width=st.integers(1, 300))
def test_a_caption_takes_any_text_and_leaves_the_picture_alone(name, layer, probability, width):
    picture = noise(0, (width, 20))
    captioned = add_caption(picture, Caption(name, probability, "gradcam", layer))
    assert np.array_equal(captioned[:20], picture)
    assert captioned.shape[1:] == picture.shape[1:]
    assert 20 < len(captioned) < 250


@settings(max_examples=200, deadline=None)
@given(probability=st.floats(0, 1), name=st.text(max_size=20))
def test_a_caption_reads_the_same_from_a_row_of_the_table(probability, name):
    prediction = Prediction(1, 0, name, 1.0, probability)
    heatmap = Heatmap(prediction, "features.0", "gradcam", np.zeros((1, 1), np.float32), "ok", 1.0)
    cells = next(csv.reader(io.StringIO(table_line((name, probability, "features.0", "gradcam")).decode(), newline="")))
    row = dict(zip(("class_name", "probability", "layer", "method"), cells, strict=True))
    assert caption_of_row(row).parts == caption_of(heatmap).parts


def test_a_caption_has_the_letters_of_many_scripts():
    """No two of these words look alike, as they would if their letters were missing in the font."""
    words = ("Kätzchen", "Кошечка", "γατούλαι", "miaulées", "kočičkyž")
    pictures = {add_caption(np.zeros((40, 300, 3), np.uint8), Caption(word, 0.5, "m", "l")).tobytes() for word in words}
    assert len(pictures) == len(words)
