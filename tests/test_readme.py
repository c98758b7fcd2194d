"""The README and the pages with indented examples: those of a page are run one after the other in one folder, as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys

import pytest
import torch
from typer.main import get_command

from camcli.cli.app import app
from camcli.models.request import ModelRequest
from camcli.models.sources import load_model
from tests.conftest import ROOT, SAMPLES
from tests.folders import rows_of
from tests.hub_models import save
from tests.pictures import encoded, photo
from tests.walks import indented_commands, run_command

README = ROOT / "README.md"
PAGES = {path.name: path for path in (README, *sorted((ROOT / "docs").glob("*.md"))) if "\n    camcli " in path.read_text("utf-8")}
COMMANDS = {
    name: [
        command
        for command in indented_commands(path)
        if not any(text in command for text in ("[", "planted", "zero_shot:", "yolo:"))
    ]
    for name, path in PAGES.items()
}
"""The examples, without usage lines such as camcli layers [MODEL], and without those that a page makes files for:
``test_evaluate`` and ``test_model_recipes`` run these."""

SLOW = ("camcli dream ", "camcli sanity ", "--compile on", "--method scorecam ", "camcli evaluate samples")
"""What takes ten seconds and more each: left out of the test that is run every time."""

FAILS_BELOW = "--fail-below"
"""The gate of ``camcli diff`` closes, as it should: the two networks have random weights and agree about nothing."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A TORCH_HOME in which the weights of the examples lie where torchvision looks for them: random, seeded, in bfloat16."""
    from torchvision import models

    home = tmp_path_factory.mktemp("torch-home")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("resnet50", "vit_b_16", "mobilenet_v2"):
        module = load_model(ModelRequest(name, "none")).module
        tensors = {key: tensor.bfloat16() if tensor.is_floating_point() else tensor for key, tensor in module.state_dict().items()}
        torch.save(tensors, folder / os.path.basename(models.get_model_weights(name).DEFAULT.url))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with the model of the examples, seeded, and a folder like that of a fine-tuned one."""
    import huggingface_hub.constants

    snapshot = tmp_path / "hub" / "models--microsoft--resnet-50"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(snapshot.parent))
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("0" * 40)
    save("resnet", snapshot / "snapshots" / ("0" * 40))
    save("vit", tmp_path / "my-finetuned-vit")


@pytest.fixture
def place(tmp_path, monkeypatch, published, hub):
    """The current folder: with everything that the examples name, and a jq where the machine has none."""
    photos = {"cat.png": "chelsea.png", "dogs/one.png": "camera.png", "more/one.jpg": "space/rocket.jpg"}
    labelled = {"tiger cat/a.png": "chelsea.png", "espresso/b.png": "coffee.png"}
    for folder, files in (("photos", photos), ("labelled", labelled)):
        for name, sample in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SAMPLES / sample, tmp_path / folder / name)
    for k in range(6):
        (tmp_path / "photos-by-class" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos-by-class" / "ab"[k % 2] / f"{k}.png").write_bytes(encoded(photo(k), "PNG"))
    for name in ("configs", "sample_images"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "imgs").mkdir()
    for name in ("cat.jpg", "dog.jpg"):
        for folder in (tmp_path, tmp_path / "imgs"):
            shutil.copy(SAMPLES / "space" / "rocket.jpg", folder / name)
    (checkpoint,) = (published / "hub" / "checkpoints").glob("resnet50*")
    shutil.copy(checkpoint, tmp_path / "mine.pth")
    objects = {
        "images": [{"id": 1, "file_name": "cat.png", "width": 451, "height": 300}],
        "categories": [{"id": 1, "name": "tiger cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [70, 20, 290, 270]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(objects))
    (tmp_path / "stamp").touch()
    os.utime(tmp_path / "stamp", (0, 0))
    programs = tmp_path / "bin"
    programs.mkdir()
    if shutil.which("jq") is None:
        program = f'exec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "tests" / "jq_program.py"))} "$@"'
        (programs / "jq").write_text(f"#!/bin/sh\n{program}\n")
        (programs / "jq").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TORCH_HOME", str(published))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_has_an_example():
    shown = {re.search(r"\bcamcli (\w+)", command)[1] for commands in COMMANDS.values() for command in commands}
    assert shown == set(get_command(app).commands)


def test_the_pages_with_examples_are_run():
    assert PAGES.keys() >= {"README.md", "usage.md", "report.md", "scaling.md", "models.md", "regions.md"}


def walk(camcli, commands):
    for command in commands:
        done = run_command(command, camcli)
        assert done.code == (1 if FAILS_BELOW in command else 0), f"{command}: {done.err}"
        assert "Traceback" not in done.err


def images_of(folder):
    return {row["image"] for row in rows_of(folder)}


def check_readme(place):
    assert {row["class_name"] for row in rows_of(place / "dogs")} == {"golden retriever"}
    assert {row["layer"] for row in rows_of(place / "heatmaps")} == {"layer4"}
    assert {row["label"] for row in rows_of(place / "truth")} == {"tiger cat", "espresso"}
    assert (place / "dogs" / "report.html").is_file()


def check_usage(place):
    assert {row["class_name"] for row in rows_of(place / "dogs")} == {"golden retriever"}
    assert len(rows_of(place / "resnet")) == 5 * len(rows_of(place / "heatmaps")) == 15
    assert {row["label"] for row in rows_of(place / "truth")} == {"tiger cat", "espresso"}


def check_scaling(place):
    assert images_of(place / "parts") == images_of(place / "bf16") == {"cat.png", "dogs/one.png", "more/one.jpg"}


CHECKS = {"README.md": check_readme, "usage.md": check_usage, "scaling.md": check_scaling}
"""What the examples of a page must leave."""


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run_one_after_the_other_in_one_folder(camcli, place, page):
    walk(camcli, [command for command in COMMANDS[page] if not any(word in command for word in SLOW)])
    CHECKS.get(page, lambda place: None)(place)


@pytest.mark.parametrize("page", ["README.md", "python.md"])
def test_the_examples_in_python_run(place, page):
    text = (README if page == "README.md" else ROOT / "docs" / page).read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert any("camcli.run(" in example for example in examples)
    names: dict[str, object] = {}
    for example in examples:
        exec(example, names)
    assert images_of(place / "heatmaps-python") == {"cat.jpg", "dog.jpg"}
    assert page == "README.md" or (place / "cat-explained.png").is_file()


@pytest.mark.soak
@pytest.mark.parametrize("page", PAGES)
def test_all_examples_of_a_page_run_one_after_the_other_in_one_folder(camcli, place, page):
    walk(camcli, COMMANDS[page])
    if page == "usage.md":
        assert (place / "dreams").is_dir()
        assert (place / "sanity" / "curves.png").is_file()
