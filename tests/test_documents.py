"""The documents say what the program does: every option, command, column and exit code, and nothing that is not there."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest
from PIL import Image as PillowImage

from camcli.cam import METHODS
from camcli.cli.app import app
from camcli.cli.command import all_commands
from camcli.cli.row_stream import FORMATS
from camcli.cluster.write import GROUP_COLUMNS, IMAGE_COLUMNS
from camcli.config.field import option_fields, option_name
from camcli.config.run import METRIC_COLUMNS, ROW_FORMATS, RunConfig
from camcli.config.toml import read_config_file
from camcli.dream.config import DreamConfig
from camcli.dream.write import COLUMNS as DREAM_COLUMNS
from camcli.evaluate.config import EvaluateConfig
from camcli.evaluate.localization import KINDS
from camcli.evaluate.write import COLUMNS as EVALUATION_COLUMNS
from camcli.fit.config import FitConfig
from camcli.metrics import FACTS
from camcli.models.request import ModelRequest
from camcli.output.writers import BOX_COLUMNS, FAILURE_COLUMNS, LABEL_COLUMNS, PREDICTION_COLUMNS
from camcli.sanity.config import SanityConfig
from camcli.sanity.write import COLUMNS as SANITY_COLUMNS
from camcli.sanity.write import VERDICT_COLUMNS
from tests.conftest import ROOT, SAMPLES

PAGES = {path.name: path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
README, USAGE, OUTPUT = PAGES["README.md"], PAGES["usage.md"], PAGES["output.md"]


def sections(page):
    """Heading of level 2 -> its text."""
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in page.split("\n## ")[1:]}


def options_of(name):
    """Every option of a command but --help: Typer's parameters, as the command line has them."""
    from typer.main import get_command

    parameters = get_command(app).commands[name].params
    return [parameter for parameter in parameters if parameter.param_type_name == "option" and parameter.name != "help"]


def table_rows(text):
    """Option -> the cells of the row that it begins, and every ``word`` in it."""
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `--"):
            cells = line.strip("| ").split(" | ")
            rows.update({name: (cells, re.findall(r"`([^`]*)`", line)) for name in re.findall(r"`(-[^`]*)`", cells[0])})
    return rows


@pytest.mark.parametrize("name", [command.name for command in all_commands()])
def test_every_option_of_every_command_stands_in_usage_with_its_default(name):
    text = sections(USAGE)[f"camcli {name}"]
    rows = table_rows(text)
    shared = {} if rows == {} else table_rows(sections(USAGE)["camcli run"])  # as for camcli run, where the text names the option
    for parameter in options_of(name):
        long = next(option for option in parameter.opts if option.startswith("--"))
        if long not in rows and re.search(rf"`{long}`", text):
            assert long in shared, f"{name} {long}"
            continue
        assert long in rows, f"{name} {long} is in no table of usage.md"
        cells, words = rows[long]
        assert set(parameter.opts) <= set(words), f"{name} {long}: {parameter.opts}"
        default = parameter.default
        if name != "render" and default not in (None, (), [], True, False) and not callable(default):
            listed = default if isinstance(default, (list, tuple)) else [default]
            assert {str(value) for value in listed} <= set(re.findall(r"`([^`]*)`", cells[1])), f"{name} {long}: default {default}"


def test_every_choice_of_an_option_is_in_usage():
    for config in (RunConfig, FitConfig, SanityConfig, DreamConfig, EvaluateConfig):
        for field in option_fields(config):
            for choice in field.metadata["choices"]:
                assert f"`{choice}`" in USAGE, f"{choice} of --{option_name(field)}"


def test_the_readme_is_short():
    assert len(README.split()) <= 900


def test_every_link_leads_somewhere_and_every_page_is_in_the_index():
    for name, text in PAGES.items():
        folder = ROOT if (ROOT / name).exists() else ROOT / "docs"
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            place, _, anchor = target.partition("#")
            if place.startswith(("http:", "https:")):
                continue
            path = (folder / place).resolve() if place else folder / name
            assert path.exists(), f"{name}: {target}"
            if anchor and path.suffix == ".md":
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{name}: {target}"
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in PAGES["index.md"], page.name


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
        assert f"| `{method.name}` | {method.source} | {method.passes} | {method.advice} |" in PAGES["methods.md"]


def test_every_column_of_every_table_and_every_exit_code_is_in_output():
    for column in (*PREDICTION_COLUMNS, *LABEL_COLUMNS, *BOX_COLUMNS, *METRIC_COLUMNS, *FAILURE_COLUMNS):
        assert f"`{column}`" in OUTPUT, column
    for column in (*SANITY_COLUMNS, *VERDICT_COLUMNS):
        assert f"`{column}`" in PAGES["sanity.md"], column
    for column in (*IMAGE_COLUMNS, *GROUP_COLUMNS):
        assert f"`{column}`" in PAGES["cluster.md"], column
    for column in EVALUATION_COLUMNS:
        assert f"`{column}`" in PAGES["evaluate.md"], column
    for metric in FACTS.values():
        passes = metric.passes.format(steps="`--steps`")
        row = f"| `{metric.name}` | {metric.better or 'neither'} | {passes} | {metric.measures} | {metric.source} |"
        assert row in PAGES["evaluate.md"], metric.name
        assert f"**`{metric.name}`**" in PAGES["evaluate.md"], metric.name
    for metric in KINDS:
        assert f"`{metric}`" in PAGES["evaluate.md"], metric
    for column in DREAM_COLUMNS:
        assert f"`{column}`" in PAGES["dream.md"], column
    codes = sections(OUTPUT)["Exit codes"]
    for code in (0, 1, 2, 3, 130, 141, 143):
        assert re.search(rf"^\| {code}\b|\| {code}, |, {code} \|", codes, re.MULTILINE), code


def test_every_row_format_is_written():
    assert (*FORMATS, "parquet") == ROW_FORMATS, "Parquet is for files only"


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
                is_stub = isinstance(node, ast.FunctionDef) and any(ast.unparse(one) == "overload" for one in node.decorator_list)
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not is_stub:
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
