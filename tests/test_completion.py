"""Shells complete the values of options, by the protocol of Click: environment variables in, a line a proposal out."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.main import get_command

from camcli.cam import METHODS
from camcli.cli.app import app
from camcli.cli.completion import classes, methods, models
from camcli.models.labels import find_class, imagenet_labels
from camcli.models.sources import list_models
from tests.conftest import ROOT


class Context:
    """What a completion sees of the command line."""

    def __init__(self, **params):
        self.params = params


@pytest.fixture
def completed(camcli, monkeypatch):
    """What bash is told after ``words``, of which the last one is being typed."""

    def complete(*words):
        monkeypatch.setenv("_CAMCLI_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(("camcli", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        return camcli().out.split()

    return complete


@pytest.mark.parametrize(
    ("words", "proposals"),
    [
        (("run", "--model", "resnet5"), ["resnet50"]),
        (("fit", "--backbone", "resnet5"), ["resnet50"]),
        (("layers", "resnet5"), ["resnet50"]),
        (("dream", "-m", "resnet5"), ["resnet50"]),
        (("run", "-m", "timm/resnet50d"), ["timm/resnet50d"]),
        (("run", "--method", "gradcam"), ["gradcam", "gradcam++"]),
        (("sanity", "--method", "guided-g"), ["guided-gradcam"]),
        (("run", "--style", "s"), ["side-by-side", "spotlight"]),
        (("render", "--colormap", "v"), ["viridis"]),
        (("run", "--class", "golden"), ["golden_retriever"]),
        (("run", "-c", "GOLDEN"), ["GOLDEN_retriever"]),
        (("run", "-m", "resnet50", "--class", "goo"), ["goose"]),
        (("dream", "-c", "goo"), ["goose"]),
        (("run", "-m", "tests.networks:brightness", "--class", ""), []),
        (("run", "--device", "c"), ["cpu", "cuda"]),
        (("run", "--mask-method", "g"), ["grabcut"]),
        (("rend",), ["render"]),
    ],
)
def test_what_is_proposed(completed, words, proposals):
    assert completed(*words) == proposals


def test_every_option_with_a_choice_is_completed():
    chosen, seen = {"--style", "--colormap", "--model", "--method", "--class", "--fit", "--device"}, set()
    for command in get_command(app).commands.values():
        for parameter in command.params:
            if names := chosen.intersection(parameter.opts):
                assert parameter._custom_shell_complete is not None, (command.name, parameter.opts)
                seen |= names
    assert seen == chosen


def test_the_lists_are_those_of_the_program():
    """They are read from source, because importing takes seconds: every name that the program knows, and no other."""
    context = Context()
    assert {*models(context, ""), *models(context, "timm/"), *models(context, "hf/")} - {"timm/", "hf/"} == {
        info.name for info in list_models()
    }
    assert set(methods(context, "")) == set(METHODS)
    names = classes(context, "")
    assert len(names) > 980
    assert len({find_class(name, imagenet_labels()) for name in names}) == len(names), "each is one class"


def test_classes_come_from_labels_and_fitted_models(tmp_path):
    (tmp_path / "labels.txt").write_text("red fox\nArctic fox\n")
    assert classes(Context(labels=str(tmp_path / "labels.txt")), "") == ["red_fox", "Arctic_fox"]
    assert classes(Context(labels=str(tmp_path / "none.txt")), "") == []
    for text, found in ((json.dumps({"classes": ["ball", "cube"]}), ["ball"]), ("{", []), ("[1]", []), ('{"classes": 7}', [])):
        (tmp_path / "model.json").write_text(text)
        assert classes(Context(model=str(tmp_path)), "b") == found


def test_completing_is_quick_because_torch_is_not_imported():
    program = (
        "import sys\n"
        "from camcli.cli import app\n"
        "try:\n    app.main([])\n"
        "finally:\n    print(sorted({'torch', 'torchvision', 'timm', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    for words in ("run --model timm/vit_", "run --class gold", "run --method g", "run --style "):
        environment = {**os.environ, "_CAMCLI_COMPLETE": "complete_bash", "COMP_WORDS": f"camcli {words}", "COMP_CWORD": "3"}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.stdout.splitlines()[-1] == "[]", done.stderr
        assert len(done.stdout.splitlines()) > 2
