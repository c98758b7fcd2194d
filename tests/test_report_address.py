"""What is asked of a report is in its address: a copy shows the same, back and forward work. Touch screens are told to tap."""

from __future__ import annotations

import os
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest

from tests.browser import click, complaints, press, put, wait
from tests.folders import TINY, rows_of
from tests.forks import completed
from tests.pictures import encoded


def picture(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((48, 64, 3), level, np.uint8)
    pixels[:24, :32] = level + 60
    path.write_bytes(encoded(pixels, "PNG"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twelve images in two classes, two maps each, some predicted wrongly, one that failed; the report of it."""
    top = tmp_path_factory.mktemp("address")
    for number in range(12):
        picture(top / "imgs" / ("bright" if number % 2 else "dark") / f"{number:02} #a&b=c%.png", 15 * number)
    (top / "imgs" / "dark" / "broken.png").write_text("text")
    options = [
        "--model",
        "tests.networks:brightness",
        "--layer",
        "cells",
        "--topk",
        "2",
        "--class-from",
        "folder",
        "--save-maps",
        "--report",
    ]
    done = completed("run", top / "imgs", "-o", top / "out", *options)
    assert done.returncode == 1, done.stderr
    return top / "out"


def visit(page, out, address="", name="report.html"):
    """Open a page as somebody does who was given its address."""
    page.get("about:blank")
    page.get((out / name).absolute().as_uri() + address)
    wait(page, "document.readyState === 'complete' && grid.least !== null")
    complaints(page)
    return page


def address_of(page):
    """The parts of the address, when it has come to rest."""
    wait(page, "!address.timer && !address.leaving")
    return {key: value[0] for key, value in parse_qs(urlparse(page.current_url).fragment).items()}


def move(page, steps):
    """Go back or forward, as a script does: a browser's own button leaves out steps that no hand has made."""
    page.execute_async_script(
        "const done = arguments[1]; window.addEventListener('popstate', () => setTimeout(done, 0), {once: true});"
        "history.go(arguments[0])",
        steps,
    )


SHOWN = """return {
    cards: grid.items.map((item) => images.name[imageOf(item)] + " " + (isFailure(item) ? "" : rows.rank[item])),
    controls: [...document.querySelectorAll("header input, header select, #panel input, #panel select")].map(
        (e) => [e.id, e.value, e.checked]),
    direction: byId("direction").textContent, panel: byId("panel").open,
    view: byId("view").open ? [byId("view-title").textContent, byId("facts").textContent, byId("opacity").value] : null,
}"""


def ask(page, **asked):
    for element, value in asked.items():
        if element == "click":
            for selector in value:
                click(page, selector)
        else:
            put(page, element, value)


ASKED = [
    ({"search": "#a&b=c%"}, {"search": "#a&b=c%"}),
    ({"predicted": "bri", "label": "dark"}, {"predicted": "bri", "true": "dark"}),
    ({"right": "0", "sort": "wrong"}, {"prediction": "wrong", "sort": "wrong"}),
    ({"sort": "wrong", "click": ["#direction"]}, {"sort": "wrong", "order": "asc"}),
    ({"sort": "peak", "click": ["#direction", "#single"]}, {"sort": "peak", "order": "desc", "cards": "all"}),
    ({"low": "0.6", "high": "0.95"}, {"low": "0.6", "high": "0.95"}),
    ({"click": ['#statuses input[value="failed"]']}, {"hide": "failed"}),
    ({"stage": "decode"}, {"stage": "decode"}),
    ({"explained": "dark", "click": ["#single"]}, {"explained": "dark", "cards": "all"}),
    ({"click": ["#panel summary"]}, {"panel": "closed"}),
    ({"click": ["#histogram [data-bin='9'] .hit"]}, {"low": "0.9"}),
    ({"click": [".card"]}, {"open": "bright/01 #a&b=c%.png"}),
    (
        {"click": [".card", "#others button:nth-child(2)"], "opacity": "40"},
        {"open": "bright/01 #a&b=c%.png", "map": "2", "overlay": "40"},
    ),
]


@pytest.mark.parametrize(("asked", "expected"), ASKED, ids=[" ".join(expected) for _, expected in ASKED])
def test_a_copied_address_shows_the_same(browser, run, asked, expected):
    page = visit(browser, run)
    before = page.execute_script(SHOWN)
    ask(page, **asked)
    wait(page, "location.hash !== ''")
    assert address_of(page) == expected
    shown, url = page.execute_script(SHOWN), page.current_url
    assert shown != before
    visit(page, run, url[url.index("#") :])
    assert page.execute_script(SHOWN) == shown
    assert page.current_url == url
    if shown["view"]:
        press(page, "ESCAPE")
    click(page, "#reset")
    assert set(address_of(page)) <= {"overlay", "panel"}, "reset asks for everything"
    assert complaints(page) == []


MEANINGLESS = [
    "#", "#grid", "#%%%", "#%ff%fe=%00", "#&&==&=x", "#nothing=1", "#__proto__=1&constructor=2&toString=3",
    "#sort=evil&order=up&cards=none", "#sort=toString&prediction=constructor", "#low=abc&high=Infinity", "#low=-5&high=7",
    "#low=&high=%20", "#low=1e999", "#map=-1&overlay=NaN", "#open=../../../etc/passwd", "#open=&map=4", "#open=x&map=99999999999",
    "#layer=none&method=7&stage=x", "#hide=everything,,x", "#panel=<img src=x onerror=alert(1)>", "#search=" + "x" * 9000,
    "#" + "x=1&" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("address", MEANINGLESS, ids=lambda address: address[:30])
def test_an_address_that_means_nothing_is_ignored(browser, run, address):
    page = visit(browser, run)
    everything = page.execute_script(SHOWN)
    visit(page, run, address)
    assert page.execute_script(SHOWN) == everything
    page.execute_script("location.hash = arguments[0]", address)  # and where the page is open already
    assert page.execute_script(SHOWN) == everything
    put(page, "search", "bright")
    wait(page, "location.hash === '#search=bright'")
    assert complaints(page) == []


def test_what_means_something_counts_beside_what_does_not(browser, run):
    page = visit(browser, run, "#sort=evil&search=BRIGHT&low=x&hide=failed,x&open=nothing")
    assert page.execute_script("return [state.search, state.sort, state.low, state.hidden, state.open]") == [
        "BRIGHT",
        "input",
        0,
        ["failed"],
        "",
    ]


@pytest.fixture
def tab(browser):
    """A tab without a history. One that is full loses steps that no hand has made, and those of the test first."""
    before = browser.current_window_handle
    browser.switch_to.new_window("tab")
    yield browser
    browser.close()
    browser.switch_to.window(before)


def test_back_and_forward(tab, run):
    """Each filter is a step, what is typed is one, and so is a picture that is opened, however many are looked at from there."""
    page = visit(tab, run)
    steps = [page.execute_script(SHOWN)]
    ask(page, right="0")
    steps.append(page.execute_script(SHOWN))
    for text in ("#", "#a", "#a&"):
        put(page, "search", text)
    steps.append(page.execute_script(SHOWN))
    assert address_of(page) == {"prediction": "wrong", "search": "#a&"}
    click(page, ".card")
    press(page, "ARROW_RIGHT", "ARROW_RIGHT")
    assert address_of(page)["open"] == page.execute_script("return byId('view-title').textContent")
    steps.append(page.execute_script(SHOWN))
    for step in reversed(steps[:-1]):
        move(page, -1)
        assert page.execute_script(SHOWN) == step
    for step in steps[1:]:
        move(page, 1)
        assert page.execute_script(SHOWN) == step
    assert complaints(page) == []


def test_closing_a_picture_leaves_no_step_to_it(tab, run):
    page = visit(tab, run)
    ask(page, sort="path")
    for _ in range(3):
        click(page, ".card")
        press(page, "ARROW_RIGHT")
        assert address_of(page)["open"]
        press(page, "ESCAPE")
        wait(page, "!byId('view').open")
        assert address_of(page) == {"sort": "path"}
    move(page, -1)
    assert page.execute_script("return [byId('view').open, state.sort]") == [False, "input"], "one step, to before the sort"
    visit(page, run, "#open=dark%2F00+%23a%26b%3Dc%25.png")
    wait(page, "byId('view').open")
    click(page, "#close")
    wait(page, "!byId('view').open")
    assert address_of(page) == {}, "nothing to go back to: the page was opened so"


def test_the_skip_link_keeps_what_is_asked_for(browser, run):
    page = visit(browser, run, "#search=bright")
    page.execute_script("document.querySelector('.skip').click()")
    wait(page, "location.hash === '#search=bright'")
    assert page.execute_script("return document.activeElement.classList.contains('card')")
    assert page.execute_script("return grid.items.length") == 6


def test_an_address_outlives_another_run_of_the_report(browser, run):
    """It says names, not numbers of this data."""
    page = visit(browser, run, "#method=gradcam&layer=cells&open=dark%2F02+%23a%26b%3Dc%25.png&map=2")
    assert page.execute_script("return [word(Number(state.method)), word(Number(state.layer))]") == ["gradcam", "cells"]
    url = page.current_url
    page.execute_script("data.words.unshift('new')")
    page.execute_script("for (const key of ['layer', 'method']) rows[key] = rows[key].map((number) => number + 1)")
    page.execute_script("address.fields = addressFields(); readAddress()")
    assert page.execute_script("return [word(Number(state.method)), word(Number(state.layer)), state.map]") == [
        "gradcam",
        "cells",
        1,
    ]
    assert page.current_url == url


def test_wrong_first(browser, run):
    page = visit(browser, run, "#sort=wrong")
    best = {row["image"]: row for row in rows_of(run)}
    wrong = [row for row in best.values() if row["correct"] == "no"]
    right = [row for row in best.values() if row["correct"] == "yes"]
    assert len(wrong) > 2 < len(right)
    expected = [row["image"] for row in sorted(wrong, key=lambda row: -float(row["predicted_probability"]))]
    expected += [row["image"] for row in right]
    shown = page.execute_script("return grid.items.map((item) => images.name[imageOf(item)])")
    assert [name for name in shown if "broken" not in name] == expected
    assert page.execute_script("return byId('direction').textContent") == "Descending"
    ask(page, sort="probability")
    assert page.execute_script("return byId('direction').textContent") == "Ascending"


def test_wrong_first_is_offered_only_with_true_classes(browser, camcli, run, tmp_path):
    options = ["--model", "tests.networks:brightness", "--layer", "cells", "--report"]
    assert camcli("run", run.parent / "imgs" / "bright", "-o", tmp_path / "out", *options).code == 0
    page = visit(browser, tmp_path / "out", "#sort=wrong&prediction=wrong")
    assert page.execute_script("return [state.sort, state.right, grid.items.length]") == ["input", "", 6]
    assert page.execute_script("return [...byId('sort').options].find((choice) => choice.value === 'wrong').hidden")


def test_the_head_on_the_page(browser, run):
    page = visit(browser, run)
    facts = page.execute_script("return document.querySelector('.facts').innerText")
    for text in ("brightness", "cells", "gradcam", "cpu"):
        assert text in facts
    assert not page.execute_script("return byId('settings').open")
    click(page, "#settings summary")
    changed = page.execute_script("return [...document.querySelectorAll('#settings > dl > dt')].map((name) => name.textContent)")
    assert {"--model", "--layer", "--topk", "--class-from", "--save-maps"} <= set(changed)
    assert "--alpha" not in changed
    click(page, "#defaults summary")
    assert "--alpha" in page.execute_script("return byId('defaults').innerText")
    page.execute_script("window.scrollTo(0, 400)")
    wait(page, "byId('search').getBoundingClientRect().top >= 0")
    if page.execute_script("return window.scrollY > 0"):
        assert page.execute_script("return document.querySelector('h1').getBoundingClientRect().bottom < 0"), "titles scroll away"


@pytest.fixture
def touch(browser):
    """The browser as a phone: a coarse pointer, and fingers."""
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 5})
    yield browser
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    metrics = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def stroke(page, start, end, steps=6):
    """A finger from one point to another, given as fractions of the picture's frame."""
    box = page.execute_script("const b = byId('frame').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]")
    places = [[a + (b - a) * step / steps for a, b in zip(start, end, strict=True)] for step in range(steps + 1)]
    points = [{"x": box[0] + box[2] * x, "y": box[1] + box[3] * y} for x, y in places]
    page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [points[0]]})
    for point in points[1:]:
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_touch_screens_are_told_to_tap(touch, run):
    page = visit(touch, run)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    assert "tap" in page.execute_script("return byId('grid').getAttribute('aria-label')")
    small = "[...document.querySelectorAll('header button, header select')].filter((e) => e.offsetParent && e.offsetHeight < 44)"
    assert page.execute_script(f"return {small}.length") == 0, "a finger is 44 pixels wide"
    click(page, ".card")
    wait(page, "view.map && byId('overlay').naturalWidth > 0")
    words = page.execute_script("return byId('view').innerText")
    assert "tap it for its values" in words
    assert "Swipe left or right" in words
    assert not any(word in words.lower() for word in ("mouse", "arrow", "point at"))
    stroke(page, (0.3, 0.3), (0.3, 0.3))
    assert "row" in page.execute_script("return byId('value').textContent")


def test_a_mouse_is_not_told_to_tap(browser, run):
    page = visit(browser, run)
    assert "arrow keys" in page.execute_script("return byId('grid').getAttribute('aria-label')")
    click(page, ".card")
    wait(page, "view.map")
    words = page.execute_script("return byId('view').innerText")
    assert "point at it" in words
    assert "Swipe" not in words


def test_a_swipe_goes_on(touch, run):
    page = visit(touch, run)
    click(page, ".card")
    wait(page, "byId('overlay').naturalWidth > 0")
    place = "return view.place"
    for start, end, expected in [
        ((0.8, 0.5), (0.2, 0.5), 1), ((0.8, 0.5), (0.2, 0.55), 2), ((0.2, 0.5), (0.8, 0.5), 1),
        ((0.5, 0.2), (0.5, 0.7), 1), ((0.5, 0.5), (0.52, 0.5), 1), ((0.2, 0.5), (0.8, 0.5), 0), ((0.2, 0.5), (0.8, 0.5), 0),
    ]:  # fmt: skip
        stroke(page, start, end)
        assert page.execute_script(place) == expected, (start, end)
    assert complaints(page) == []


def test_more_cards_than_a_browser_can_lay_out(browser, run):
    """Of a million images the first are shown, and the page says how to reach the others."""
    page = visit(browser, run)
    page.execute_script("showItems(Array.from({ length: 1e6 }, (_, item) => item % rowCount))")
    shown, height = page.execute_script("return [grid.items.length, byId('grid').offsetHeight]")
    assert 100_000 < shown < 1_000_000
    assert height > 14_000_000
    assert f"first {shown:,}." in page.execute_script("return byId('rest').innerText")
    page.execute_script("focusPlace(grid.items.length - 1)")
    assert page.execute_script("return Number(document.activeElement.dataset.place)") == shown - 1
    assert page.execute_script("return document.getElementsByTagName('*').length") < 1500
    page.execute_script("update()")
    assert page.execute_script("return byId('rest').hidden")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The page of a comparison of two runs that look elsewhere and predict half of the images otherwise."""
    top = tmp_path_factory.mktemp("compared")
    (top / "imgs" / "dark").mkdir(parents=True)
    for number in range(8):
        pixels = np.zeros((96, 96, 3), np.uint8)
        pixels[20:44, 20:44] = (255, 30, 30) if number % 2 else (60, 255, 255)
        pixels[56:80, 50:76] = (90 + 10 * number, 0, 0)
        (top / "imgs" / ("dark" if number < 3 else ".") / f"{number} #&.png").write_bytes(encoded(pixels, "PNG"))
    (top / "other.py").write_text(
        "from tests.networks import red\ndef model():\n    module = red(); module.categories = ('dark', 'bright'); return module\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(top), os.environ.get("PYTHONPATH", "")])}
    other = ("--model", "other:model", "--layer", "cells")
    for name, options in (("a", TINY), ("b", other)):
        completed("run", top / "imgs", "-o", top / name, *options, "--save-maps", env=environment).check_returncode()
    completed("diff", top / "a", top / "b", "--report", top / "changes.html").check_returncode()
    return top


DIFF_SHOWN = """return {
    cards: grid.items,
    controls: [...document.querySelectorAll("header input, header select")].map((e) => [e.id, e.value, e.checked]),
    pairs: byId("pairs").innerHTML, bins: byId("histogram").innerHTML, direction: byId("direction").textContent,
    panel: byId("panel").open,
    view: byId("view").open ? [byId("view-title").textContent, byId("fade").value] : null,
}"""

DIFF_ASKED = [
    ({"search": "dark/"}, {"search": "dark/"}),
    ({"sort": "path", "click": ["#direction", "#flips"]}, {"sort": "path", "order": "desc", "flips": "1"}),
    ({"click": ["#pairs button"]}, {"pair": None}),
    ({"click": ["#histogram [data-bin='7'] .hit"]}, {"bin": "7"}),
    ({"click": ["#panel summary"]}, {"panel": "closed"}),
    ({"click": [".card"], "fade": "70"}, {"open": None, "fade": "70"}),
]


@pytest.mark.parametrize(("asked", "expected"), DIFF_ASKED, ids=[" ".join(expected) for _, expected in DIFF_ASKED])
def test_a_copied_address_of_a_comparison_shows_the_same(browser, compared, asked, expected):
    page = visit(browser, compared, name="changes.html")
    ask(page, **asked)
    wait(page, "location.hash !== ''")
    found = address_of(page)
    assert {key: value if expected.get(key) else None for key, value in found.items()} == expected
    shown, url = page.execute_script(DIFF_SHOWN), page.current_url
    visit(page, compared, url[url.index("#") :], "changes.html")
    assert page.execute_script(DIFF_SHOWN) == shown
    assert complaints(page) == []


def test_the_address_of_a_comparison_is_checked_and_goes_back(tab, compared):
    page = visit(tab, compared, name="changes.html")
    everything = page.execute_script(DIFF_SHOWN)
    for address in ("#pair=a%20b&bin=11&sort=evil&fade=101", "#%%%", "#open=x", "#bin=-1&order=1&flips=2", "#pair=__proto__"):
        visit(page, compared, address, "changes.html")
        assert page.execute_script(DIFF_SHOWN) == everything
    click(page, ".card")
    press(page, "ARROW_RIGHT", " ")
    assert address_of(page)["fade"] == "100"
    move(page, -1)
    wait(page, "!byId('view').open")
    move(page, 1)
    wait(page, "byId('view').open")
    click(page, "#close")
    wait(page, "!byId('view').open")
    assert address_of(page) == {"fade": "100"}
    assert complaints(page) == []
