"""A model source is one module: the commands, the shell's completion and run.json know it as soon as it is there."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from camcli.cli.completion import classes, models
from camcli.errors import ModelError
from camcli.models import sources
from camcli.models.request import ModelRequest
from camcli.models.sources import ModelSource, all_sources, load_model, register_source, source_of, weights_at_hand
from camcli.pipeline.job import package_versions
from camcli.records import Preprocess
from tests.conftest import ROOT
from tests.test_catalog import table
from tests.test_completion import Context

DUMMY = """
from camcli.models.request import ModelInfo
from camcli.models.sources import ModelSource, register_source
from camcli.records import LoadedModel


@register_source
class DummySource(ModelSource):
    name = "dummy"
    priority = 35
    prefix = "dummy/"
    packages = ("pytest",)
    listed_by_default = False
    hint = "Dummies: camcli models 'dummy/*'."
    offline_weights = "DEFAULT"

    def owns(self, name):
        return name.startswith(self.prefix)

    def load(self, request):
        from tests.networks import brightness

        assert request.weights == "DEFAULT"
        module = brightness()
        return LoadedModel(request.name, module, module.preprocess, self.labels(request), "of one stone")

    def list(self):
        yield ModelInfo("dummy/brightness", self.name, 194, (224, 224), None, True)

    def labels(self, request):
        return ("bright", "dark")

    def complete_names(self):
        return ("dummy/brightness",)

    def complete_classes(self, name):
        return ("bright", "dark") if self.owns(name) else None
"""


@pytest.fixture
def dummy(tmp_path, monkeypatch):
    """A further module in the folder of the sources, and nothing else."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "dummy_models.py").write_text(DUMMY)
    all_sources()  # before the copy: a module registers itself only once
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(folder)])
    monkeypatch.setattr(sources, "_REGISTERED", dict(sources._REGISTERED))
    importlib.invalidate_caches()
    yield "dummy/brightness"
    sys.modules.pop(f"{sources.__name__}.dummy_models", None)
    if hasattr(sources, "dummy_models"):
        del sources.dummy_models


def test_a_source_is_known_everywhere_once_its_module_is_there(camcli, dummy, imgs, tmp_path):
    everything = camcli("models")
    assert dummy not in everything.out, "it is not listed by default"
    assert "Dummies: camcli models 'dummy/*'." in everything.err
    assert [row["source"] for row in table(camcli("models", "dummy/*").out)] == ["dummy"]
    assert "camcli models 'dummy/*'" in camcli("models", "no-such-thing").err
    assert "'dummy/brightness'" in camcli("layers", "dumy/brightness").err
    assert [row["layer"] for row in table(camcli("layers", dummy).out)] == ["cells"]
    assert [row["class_name"] for row in table(camcli("classes", dummy).out)] == ["bright", "dark"]
    assert models(Context(), "du") == ["dummy/"]
    assert models(Context(), "dummy/") == [dummy]
    assert classes(Context(model=dummy), "b") == ["bright"]
    done = camcli("run", imgs, "-o", tmp_path / "out", "--model", dummy, "--class", "bright")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["model"] == {"name": dummy, "weights": "of one stone", "classes": 2}
    assert record["versions"]["pytest"] == pytest.__version__


def test_the_dummy_leaves_no_trace():
    assert "dummy" not in [source.name for source in all_sources()]


def test_the_versions_of_all_sources_packages_are_recorded():
    """Whichever model a run takes: tables made from run.json files have the same columns."""
    expected = {"python", "torch", "torchvision", "timm", "opencv-python", "numpy", "pillow", "scipy", "transformers"}
    assert package_versions("scipy").keys() == expected


def test_every_name_is_offered_in_one_order():
    known = ["bundled", "torchvision", "timm", "fitted", "factory"]
    assert [source.name for source in all_sources() if source.name in known] == known
    assert len({source.priority for source in all_sources()}) == len(all_sources())
    for name, source in (
        ("efficientnet_lite0", "bundled"), ("resnet18", "torchvision"), ("timm/x", "timm"), ("a.b:c", "factory"),
    ):  # fmt: skip
        assert source_of(name).name == source
        assert weights_at_hand(name) == "none"


def test_a_source_without_a_required_member_is_refused(monkeypatch):
    all_sources()
    monkeypatch.setattr(sources, "_REGISTERED", dict(sources._REGISTERED))

    class Half(ModelSource):
        name = "half"

        def owns(self, name):
            return False

        def load(self, request):
            raise ModelError("nothing")

    with pytest.raises(TypeError, match=r"model source .*Half lacks priority, list, labels; see"):
        register_source(Half)

    class Alien:
        """Without the base class it has no defaults either."""

        name, priority = "alien", 1
        owns = load = list = labels = None

    with pytest.raises(TypeError, match="Alien lacks prefix, packages"):
        register_source(Alien)
    with pytest.raises(ValueError, match="'timm' is registered twice"):
        register_source(type(source_of("timm/x")))


def test_sources_import_torch_only_when_they_load():
    program = (
        "import sys\nfrom camcli.models.sources import all_sources\n"
        "for source in all_sources():\n    list(source.complete_names()), source.complete_classes('efficientnet_lite0')\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_fitted_model_cannot_be_the_backbone_of_another(tmp_path):
    """Its description could name itself."""
    description = {"camcli-fit": 1, "backbone": str(tmp_path), "layer": "x", "grid": "nchw", "classes": ["a"]}
    description["preprocess"] = asdict(Preprocess())
    (tmp_path / "model.json").write_text(json.dumps(description))
    save_file({"head.weight": torch.zeros(1, 4)}, tmp_path / "model.safetensors")
    assert weights_at_hand(str(tmp_path)) == "DEFAULT"
    with pytest.raises(ModelError, match=r"there is no model .* on which this one was fitted"):
        load_model(ModelRequest(str(tmp_path)))
