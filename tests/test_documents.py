"""The documents say what the program does: every option, command, column and exit code, and nothing that is not there."""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib

import pytest
from PIL import Image as PillowImage

from camcli.cam import METHODS
from camcli.cli.app import app
from camcli.config.field import option_name
from camcli.config.run import RunConfig
from camcli.config.toml import read_config_file
from camcli.models.request import ModelRequest
from camcli.output.writers import BOX_COLUMNS, FAILURE_COLUMNS, LABEL_COLUMNS, PREDICTION_COLUMNS
from tests.conftest import ROOT, SAMPLES

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_option_stands_in_the_readme_with_its_default():
    rows: dict[str, list[str]] = {}
    for line in README.splitlines():
        if line.startswith("| `--"):
            cells = re.findall(r"`([^`]*)`", line)
            rows.setdefault(cells[0], cells)
    for field in dataclasses.fields(RunConfig):
        name = f"--{option_name(field)}"
        assert name in rows, f"{name} is not in the README's table"
        if field.metadata["short"]:
            assert field.metadata["short"] in rows[name], name
        default = field.default
        if default not in (None, (), True, False):
            shown = ", ".join(default) if isinstance(default, tuple) else str(default)
            assert shown in rows[name], f"the README does not give {name}'s default, {shown}"
        for choice in field.metadata["choices"]:
            assert choice in README, f"{choice} of {name}"


def test_the_readme_names_no_option_that_does_not_exist():
    from typer.main import get_command

    known = {"--help", "--force-reinstall", "--no-deps", "--check", "--version", "--depth"}
    known |= {"--install-completion", "--show-completion"}
    for command in get_command(app).commands.values():
        for parameter in command.params:
            known.update(option for option in (*parameter.opts, *parameter.secondary_opts) if option.startswith("--"))
    unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - known
    assert not unknown


def test_every_promise_has_its_tests():
    """docs/reliability.md: the 22 laws and those that came later, in order, and each test that it names is there."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    text = text.partition("## Promises and tests")[2].partition("\n## ")[0]
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert set(range(1, 23)) <= set(numbers)
    assert numbers == sorted(numbers)
    rows = [line for line in text.splitlines() if re.match(r"^\| \d* ?\|", line) and "what happens" not in line]
    named = {row: re.findall(r"`(test_\w+\.py)::(test_\w+)`", row) for row in rows}
    for row, tests in named.items():
        assert tests, row
        for file, test in tests:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


def test_the_table_of_methods_is_the_registry():
    for method in METHODS.values():
        assert f"| `{method.name}` | {method.source} | {method.passes} | {method.advice} |" in README


def test_every_command_column_and_exit_code_stands_in_the_readme():
    from typer.main import get_command

    for name in get_command(app).commands:
        assert f"camcli {name}" in README, name
    for column in (*PREDICTION_COLUMNS, *LABEL_COLUMNS, *BOX_COLUMNS, *FAILURE_COLUMNS):
        assert f"`{column}`" in README, column
    for code in (0, 1, 2, 3, 130, 141, 143):
        assert re.search(rf"^\| {code}\b|\| {code}, |, {code} \|", README, re.MULTILINE), code


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_preset_is_valid(path):
    RunConfig(**read_config_file(str(path))).check()
    assert path.read_text(encoding="utf-8").startswith("#"), "a preset explains itself"


def test_the_samples_are_small_various_and_credited():
    images = [path for path in SAMPLES.rglob("*") if path.suffix in (".jpg", ".png")]
    credit = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(images) >= 8
    assert sum(path.stat().st_size for path in images) < 3_000_000
    assert all(path.name in credit for path in images)
    opened = [PillowImage.open(path) for path in images]
    assert any(image.mode == "L" for image in opened)
    assert len({image.size for image in opened}) >= 6
    assert any(path.parent != SAMPLES for path in images)


def test_versions_agree():
    from camcli import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    with open(ROOT / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["project"]["dynamic"] == ["version"]
    assert ModelRequest("x").weights == RunConfig().weights


def public_functions():
    """(where, function) of what other modules may call: functions and methods without a leading underscore.

    Not the commands themselves: their docstring is the help that a user reads.
    """
    for path in sorted(path for path in (ROOT / "camcli").rglob("*.py") if path.name not in ("catalog.py", "run.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        holders = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))]
        for holder in holders:
            for node in holder.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    yield f"{path.relative_to(ROOT)}:{node.name}", node


def test_public_functions_say_what_they_raise():
    """Every public function has a docstring, and where its body raises one of our errors the docstring names it."""
    checked = 0
    for where, node in public_functions():
        doc = ast.get_docstring(node)
        assert doc, where
        for child in ast.walk(node):
            if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and isinstance(child.exc.func, ast.Name):
                name = child.exc.func.id
                if name.endswith("Error"):
                    assert name in doc, f"{where} raises {name} and does not say so"
        checked += 1
    assert checked > 60


SIZE = r"(?:\.\.\.|heads|count|[A-Zhwkn\d]+(?: ?[-+*/]+ ?[A-Zhwkn\d]+)*)"
SHAPE = re.compile(rf"\((?:{SIZE}, ?)+(?:{SIZE})?\)|\bany shape\b|\bname -> tensor\b")
"""Sizes with commas between them, as (B, C, h, w), (K,) or (H, W // 2 + 1): words in brackets are no shape."""


def test_words_in_brackets_are_no_shape():
    for text in ("(a picture)", "(num_classes=N)", "(h)", "(see A, B and C)", "(one, two)", "any shapes", "(256)", "(as I said)"):
        assert not SHAPE.search(text), text
    for text in ("(h, w, 3) uint8", "(N,)", "(B, C, h, w)", "(H, W // 2 + 1)", "(B, heads, N, N)", "(..., h, w)", "of any shape"):
        assert SHAPE.search(text), text


def test_public_functions_on_arrays_give_shapes():
    """Whoever takes or returns tensors, arrays or images says their shape."""
    checked = 0
    for where, node in public_functions():
        typed = [*(argument.annotation for argument in node.args.args), node.returns]
        if any(annotation is not None and re.search(r"\b(Tensor|ndarray)\b", ast.unparse(annotation)) for annotation in typed):
            doc = ast.get_docstring(node) or ""
            assert SHAPE.search(doc), where
            checked += 1
    assert checked > 100
