"""The scripts of the report and what their type checker is told: the pages' scripts, elements and data are those it checks."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from camcli.config.run import RESIZE_MODES, STYLES
from tests.conftest import ROOT
from tests.folders import TINY
from tests.synthetic import synthetic_run

PAGE = ROOT / "camcli" / "report" / "page"
CHECKS = ROOT / "tests" / "javascript"
TYPES = (PAGE / "types.d.ts").read_text(encoding="utf-8")
TAGS = {
    "Details": "details", "Div": "div", "Paragraph": "p", "Span": "span", "DList": "dl", "DataList": "datalist",
    "FieldSet": "fieldset", "Image": "img",
}  # fmt: skip
"""Elements whose interface in the browser, HTML...Element, has another name than the tag."""


@pytest.fixture
def pages(camcli, imgs, tmp_path):
    """The three pages as text, and the data that Python has written for each."""
    out, page = tmp_path / "out", tmp_path / "page.html"
    assert camcli("run", imgs, "-o", out, *TINY, "--save-maps", "--report").code == 0
    assert camcli("diff", out, out, "--report", page).code == 0
    synthetic_run(tmp_path / "many", 80, 2, 16)
    assert camcli("cluster", tmp_path / "many", "--layout", "pca").code == 0
    grouped = tmp_path / "many" / "clusters"
    report, diff, clusters = (path.read_text(encoding="utf-8") for path in (out / "report.html", page, grouped / "clusters.html"))
    groups = (grouped / "clusters.js").read_text(encoding="utf-8")
    rows = (out / "report" / "rows.js").read_text(encoding="utf-8")
    changes = re.search(r"var camcliChanges=(.*);", diff)
    assert changes is not None
    return {
        "report": (report, json.loads(rows.removeprefix("var camcliData=").removesuffix(";\n"))),
        "diff": (diff, json.loads(changes[1])),
        "clusters": (clusters, json.loads(groups.removeprefix("var camcliClusters=").removesuffix(";\n"))),
    }


def members(interface):
    """The members of an interface of types.d.ts and their types, those that it inherits included."""
    found = re.search(rf"interface {interface}(?: extends (\w+))? {{\n(.*?)\n}}", TYPES, re.DOTALL)
    assert found is not None, interface
    inherited = members(found[1]) if found[1] else {}
    return inherited | dict(re.findall(r'^  "?([\w-]+)"?\??: (.*);$', found[2], re.MULTILINE))


def checked_scripts(page):
    files = json.loads((CHECKS / f"tsconfig.{page}.json").read_text(encoding="utf-8"))["files"]
    return [(CHECKS / name).resolve() for name in files if name.endswith(".js")]


def test_each_page_holds_the_scripts_that_are_checked(pages):
    """In the same order, in strict mode as the type checker takes them; and no script is left out of the checks."""
    for page, (html, _) in pages.items():
        program = "\n".join(path.read_text(encoding="utf-8") for path in checked_scripts(page))
        assert program.startswith('"use strict";\n')
        assert f"<script>\n{program}\n</script>" in html, page
    assert {path for page in pages for path in checked_scripts(page)} == set(PAGE.glob("*.js"))


class _Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags = {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        name = dict(attrs).get("id")
        if name:
            self.tags[name] = tag


def test_the_elements_that_scripts_use_are_in_the_page(pages):
    for page, interface in (("report", "ReportElements"), ("diff", "DiffElements"), ("clusters", "ClusterElements")):
        tags = _Elements(pages[page][0]).tags
        for name, kind in members(interface).items():
            assert name in tags, f"{page} has no element {name}"
            kind = kind.removeprefix("HTML").removesuffix("Element")
            wanted = TAGS.get(kind, "h[1-6]" if kind == "Heading" else kind.lower() or ".*")
            assert re.fullmatch(wanted, tags[name]), f"{name} is {tags[name]}, not {wanted}"


def test_the_types_are_those_of_the_data(pages):
    """Every list and every field that Python writes is in types.d.ts, and no other."""
    report, diff = pages["report"][1], pages["diff"][1]
    assert members("ReportData").keys() == report.keys()
    assert members("DiffData").keys() == diff.keys()
    clusters = pages["clusters"][1]
    assert members("ClusterData").keys() == clusters.keys()
    assert members("ClusterImages").keys() == clusters["images"].keys()
    for each in clusters["classes"]:
        assert members("ClusterClass").keys() == each.keys()
        for group in each["groups"]:
            assert members("ClusterGroup").keys() == group.keys()
            assert all(members("ClusterChannel").keys() == channel.keys() for channel in group["channels"])
    parts = {"images": "ImageColumns", "rows": "RowColumns", "failures": "FailureColumns", "settings": "PageSettings"}
    for key, interface in {**parts, "preprocess": "InputShape"}.items():
        assert members(interface).keys() == report[key].keys(), interface
    for key, values in (("fit", RESIZE_MODES), ("style", STYLES)):
        assert members("PageSettings")[key] == " | ".join([*(f'"{value}"' for value in values), "null"])
