"""The pages of the documentation: commands, links, pictures and paths in them exist, and the field's words are found."""

from __future__ import annotations

import ast
import json
import re
import shlex
import textwrap
import tomllib

import numpy as np
import pytest
import torch
from typer.main import get_command

from camcli.cam import METHODS, gradient_method
from camcli.cli.app import app
from camcli.config.run import METRIC_COLUMNS
from camcli.layout import FAILURES, PREDICTIONS, RUN_RECORD
from camcli.output.writers import BOX_COLUMNS, FAILURE_COLUMNS, LABEL_COLUMNS, PREDICTION_COLUMNS
from camcli.records import Failure
from tests.conftest import ROOT
from tests.folders import TINY, rows_of
from tests.walks import pictures_of

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "sample_images" / "README.md"])
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
COMMANDS = get_command(app).commands

COMMON_OPTIONS = {"--help", "-h"}
OTHER_PROGRAMS = {
    "docs/recipes.md": {"--user", "--now", "--line-buffered"},  # systemctl, grep
    "CONTRIBUTING.md": {"--check", "--dist", "--documents", "--quick"},  # ruff, pytest, make fuzz and make bench
}
"""Long options in a page that are not camcli's."""

TOP_OPTIONS = {"--help", "--version", "--install-completion", "--show-completion"}

WORDS = {
    "README.md": ("attribution", "true label", "resume"),
    "docs/fit.md": ("linear probe", "frozen backbone", "early stopping", "stratified"),
    "docs/dream.md": ("feature visualization", "activation maximization"),
    "docs/evaluate.md": ("faithfulness", "weakly supervised localization", "ground truth", "bootstrap"),
    "docs/sanity.md": ("model parameter randomization test", "saliency"),
    "docs/methods.md": ("attribution", "saliency", "faithfulness"),
    "docs/regions.md": ("weakly supervised localization", "ground truth"),
    "docs/usage.md": ("ground truth", "retry", "worker", "batch", "shard"),
    "docs/output.md": ("resume", "true label"),
    "docs/scaling.md": ("shard", "worker", "batch", "throughput", "peak memory"),
    "docs/performance.md": ("throughput", "peak memory", "batch"),
}
"""Words that somebody of the field searches for, and the pages that are about them."""


def options_of(command):
    return {option for parameter in COMMANDS[command].params for option in (*parameter.opts, *parameter.secondary_opts)}


def command_lines(text):
    """(command, its words) of each call of camcli in a page: in blocks, and between backquotes."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        for command, rest in re.findall(r"(?<![\w./-])(?:\.venv/bin/)?camcli ([a-z]+)\b(.*)", line):
            part = re.split(r"\s#\s|[|&;>]|\$", rest)[0]
            try:
                yield command, shlex.split(part)
            except ValueError:  # the end of a quoted script is in the part that was left out
                yield command, part.split()


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_in_a_page_exists_with_its_options(page):
    for command, words in command_lines(TEXTS[page]):
        assert command in COMMANDS, f"camcli {command}"
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert options <= options_of(command) | COMMON_OPTIONS, f"camcli {command} {' '.join(words)}"


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_names_no_option_that_does_not_exist(page):
    known = TOP_OPTIONS | OTHER_PROGRAMS.get(page, set()) | {option for command in COMMANDS for option in options_of(command)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXTS[page])) - known == set()


def test_every_picture_is_there():
    for page in PAGES:
        pictures_of(page)


def test_the_readme_says_what_continuous_integration_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "\nmake test\n" in script
    assert "\n    make test " in TEXTS["README.md"]


def test_the_readme_and_usage_list_every_command():
    of_readme = TEXTS["README.md"].partition("\n## What it does\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`camcli (\w+)`", of_readme)) == set(COMMANDS)
    assert set(re.findall(r"^\| \[`camcli (\w+)`\]", TEXTS["docs/usage.md"], re.MULTILINE)) == set(COMMANDS)


def part(page, heading):
    return TEXTS[page].partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def first_cells(text):
    """What is between backquotes in the first cell of the table rows in ``text``."""
    return {name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`([^`]*)`", line.split(" | ")[0])}


def test_the_tables_of_columns_are_complete_and_have_no_other():
    assert first_cells(part("docs/output.md", PREDICTIONS)) == {*PREDICTION_COLUMNS, *LABEL_COLUMNS, *BOX_COLUMNS, *METRIC_COLUMNS}
    assert first_cells(part("docs/output.md", FAILURES)) == set(FAILURE_COLUMNS)


def test_every_stage_of_a_failure_is_in_the_page_about_output():
    (stages,) = re.findall(r"``stage``: ([^.]*)", Failure.__doc__)
    for stage in re.findall(r"\w+", stages.replace(" or ", " ")):
        assert f"`{stage}`" in part("docs/output.md", FAILURES), stage


def test_every_key_of_run_json_is_in_the_page_about_output(camcli, imgs, tmp_path):
    assert camcli("run", imgs, "-o", tmp_path / "out", *TINY).code == 0
    assert first_cells(part("docs/output.md", RUN_RECORD)) == set(json.loads((tmp_path / "out" / RUN_RECORD).read_text()))


@pytest.mark.parametrize(
    "command",
    [("models", "resnet18"), ("layers",), ("classes", "efficientnet_lite0", "tabby"), ("methods",)],
    ids=lambda command: command[0],
)
def test_every_column_of_a_list_is_in_the_section_of_its_command(camcli, command):
    for column in camcli(*command).out.splitlines()[0].split("\t"):
        assert f"`{column}`" in part("docs/usage.md", f"camcli {command[0]}"), column


def test_every_column_of_diff_and_verify_is_in_the_section_of_its_command(camcli, imgs, tmp_path):
    for name in "ab":
        assert camcli("run", imgs, "-o", tmp_path / name, *TINY).code == 0
    (tmp_path / "b" / rows_of(tmp_path / "b")[0]["overlay"]).unlink()
    for command in (("diff", tmp_path / "a", tmp_path / "b"), ("verify", tmp_path / "b")):
        for column in camcli(*command).out.splitlines()[0].split("\t"):
            assert f"`{column}`" in part("docs/usage.md", f"camcli {command[0]}"), column


def figures(text, name, title):
    """Images a second and the ratio to the forward pass of ``name`` in a table of docs/performance.md."""
    table = text.partition(f"| {title}, ")[2].partition("\n\n")[0]
    (row,) = [line.split(" | ") for line in table.splitlines() if line.startswith(f"| {name} | ")]
    return row[1], row[3]


def test_the_comparison_has_the_figures_that_were_measured():
    table = part("README.md", "Comparison")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    del rows[1]
    packages, measured = rows[0][1:], {row[0]: row[1:] for row in rows[1:]}
    assert packages == ["camcli", "grad-cam", "torchcam", "captum"]
    for title in ("resnet50", "efficientnet_lite0"):
        expected = [figures(TEXTS["docs/performance.md"], name, title) for name in packages]
        assert measured[f"{title}, images a second"] == [rate for rate, _ in expected]
        assert measured[f"{title}, relative to the plain forward pass"] == [ratio for _, ratio in expected]
    compared = [line.split(" | ") for line in TEXTS["docs/oracle.md"].splitlines() if re.match(r"\| \w+ \| `", line)]
    agreements = {name: [row for row in compared if re.split(r"[ ,]", row[3])[0] == name] for name in packages[1:]}
    assert not [row for row in compared if "differs" in row[-1]]
    assert sum(map(len, agreements.values())) == len(compared)
    (last,) = [row for row in rows if row[0].startswith("maps")]
    assert f"over {len({row[0] for row in compared})} networks" in last[0]
    assert [cell for cell in last[1:] if cell] == [f"{len(found)} of {len(found)}" for found in agreements.values()]


@pytest.mark.parametrize(
    "page", ["docs/architecture.md", "CONTRIBUTING.md", "docs/fit.md", "docs/sanity.md", "docs/performance.md"]
)
def test_every_path_in_a_page_exists(page):
    paths = {path for path in re.findall(r"`((?:camcli|tests|docs|benchmarks)/[\w./-]*)`", TEXTS[page]) if "NAME" not in path}
    assert paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_the_page_about_architecture_names_every_package():
    packages = {path.parent.name for path in (ROOT / "camcli").glob("*/__init__.py")}
    assert packages == set(re.findall(r"`camcli/(\w+)/`", TEXTS["docs/architecture.md"]))
    modules = {path.name for path in (ROOT / "camcli").glob("*.py") if not path.name.startswith("__")}
    assert modules <= set(re.findall(r"(\w+\.py)`", TEXTS["docs/architecture.md"]))


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/models.md"])
def test_every_example_in_python_can_be_parsed(page):
    examples = re.findall(r"^( *)```python\n(.*?)^\1```", TEXTS[page], re.MULTILINE | re.DOTALL)
    assert examples
    for _, example in examples:
        ast.parse(textwrap.dedent(example))


def test_the_example_of_a_method_can_be_followed(monkeypatch):
    """The function, its row for the tests and its row for docs/methods.md agree."""
    function, entry, row = (
        textwrap.dedent(block)
        for block in re.findall(r"^ *```\w*\n(.*?)^ *```", part("CONTRIBUTING.md", "Add a method"), re.M | re.S)
    )
    monkeypatch.setattr(METHODS, "_items", dict(METHODS))
    exec(function, {"gradient_method": gradient_method, "Tensor": torch.Tensor})
    ((name, expected),) = eval(f"{{{entry}}}", {"np": np}).items()
    method = METHODS[name]
    activations, gradients = torch.randn(2, 1, 3, 4, 5)
    found = method.gradient(activations, gradients)
    np.testing.assert_allclose(found[0], expected(activations[0].numpy(), gradients[0].numpy()), rtol=1e-5)
    assert row.strip() == f"| `{name}` | {method.source} | {method.passes} | {method.advice} |"


@pytest.mark.parametrize("page", WORDS)
def test_the_words_of_the_field_are_found(page):
    text = " ".join(TEXTS[page].split()).lower()
    assert [word for word in WORDS[page] if word not in text] == []


def test_the_distribution_holds_the_pages():
    with open(ROOT / "pyproject.toml", "rb") as file:
        included = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"docs", "CHANGELOG.md", "CONTRIBUTING.md"} <= set(included)
