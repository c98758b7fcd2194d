"""The bundled model on real photographs: the class is right, and its map lies on the object."""

from __future__ import annotations

import numpy as np
import pytest

from camcli.records import Box
from camcli.render.maps import place_map, scale_map
from tests.commands import command
from tests.conftest import SAMPLES
from tests.folders import rows_of

# chelsea fills the whole picture and can show nothing here
# left, top, right, bottom in pixels of the object that the class names, drawn by hand
OBJECTS = {
    ("camera.png", "tripod"): (205, 270, 365, 512),
    ("coffee.png", "espresso"): (165, 20, 410, 225),
    ("space/rocket.jpg", "missile"): (285, 80, 360, 405),
    ("astronaut.png", "football helmet"): (290, 350, 512, 512),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("meaning") / "out"
    code, said = command("run", SAMPLES, "-o", out, "--save-maps", "--quiet", patience=300)
    assert code == 0, said
    return out


def test_the_classes_are_right(run):
    top = {row["image"]: row for row in rows_of(run)}
    assert top["chelsea.png"]["class_name"] in ("tabby", "tiger cat", "Egyptian cat")
    assert (top["coffee.png"]["class_name"], top["camera.png"]["class_name"]) == ("espresso", "tripod")
    assert float(top["coffee.png"]["probability"]) == pytest.approx(0.951, abs=0.01)
    assert float(top["camera.png"]["probability"]) == pytest.approx(0.939, abs=0.01)
    assert top["space/rocket.jpg"]["class_name"] == "missile"


@pytest.mark.parametrize(("image", "name"), OBJECTS, ids=str)
def test_the_map_lies_on_the_object(run, image, name):
    """The share of the map's energy inside the object's box is well above the box's share of what the network saw."""
    row = next(row for row in rows_of(run) if row["image"] == image)
    assert row["class_name"] == name
    values = _map(run, row)
    x, y, w, h = (int(row[f"box_{key}"]) for key in "xywh")
    heat = place_map(scale_map(values), (x, y, w, h), Box(x, y, w, h), (w, h)).whole()
    left, top, right, bottom = OBJECTS[image, name]
    inside = np.zeros_like(heat, bool)
    inside[max(0, top - y) : bottom - y, max(0, left - x) : right - x] = True
    energy, area = heat[inside].sum() / heat.sum(), inside.mean()
    assert energy > 1.25 * area, f"{energy:.2f} of the energy on {area:.2f} of the area"


GRADIENT_METHODS = ("cam", "gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigengradcam", "finercam")


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_every_gradient_methods_map_lies_on_the_object(method):
    """The same for each method that explains a class, through the Python interface."""
    import camcli

    model = camcli.load()
    found = camcli.explain(model, [SAMPLES / image for image, _ in OBJECTS], methods=[method])
    for one, ((image, name), (left, top, right, bottom)) in zip(found, OBJECTS.items(), strict=True):
        heatmap = one.heatmaps[0]
        assert (heatmap.prediction.class_name, heatmap.method) == (name, method)
        seen = one.pixels
        heat = place_map(scale_map(heatmap.values), one.box, seen, (seen.w, seen.h)).whole()
        inside = np.zeros_like(heat, bool)
        inside[max(0, top - seen.y) : bottom - seen.y, max(0, left - seen.x) : right - seen.x] = True
        energy, area = heat[inside].sum() / heat.sum(), inside.mean()
        assert energy > 1.25 * area, f"{image}: {energy:.2f} of the energy on {area:.2f} of the area"


def test_the_map_is_captums(run):
    """The whole way, from the file through preprocessing to the raw map on disk, against captum and timm's own transform."""
    import timm
    import torch
    from captum.attr import LayerGradCam
    from PIL import Image as PillowImage

    from camcli.models.sources.bundled import load_module

    module = load_module().eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=module))
    assert len(rows_of(run)) == 8
    for row in rows_of(run):
        inputs = transform(PillowImage.open(SAMPLES / row["image"]).convert("RGB"))[None]
        attributed = LayerGradCam(module, module.bn2).attribute(inputs, target=int(row["class_index"]), relu_attributions=True)
        expected = attributed[0, 0].detach()
        assert torch.corrcoef(torch.stack([expected.flatten(), torch.from_numpy(_map(run, row)).flatten()]))[0, 1] > 0.99999
        assert float(row["peak"]) == pytest.approx(float(expected.max()), rel=1e-3)


def _map(run, row):
    stem = row["overlay"].removeprefix("overlays/").removesuffix(".jpg")
    return np.load(run / "maps" / f"{stem}.npy")
