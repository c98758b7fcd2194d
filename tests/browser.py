"""A headless Chromium for pages on disk, driven by its own chromedriver; nothing is downloaded."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


@contextlib.contextmanager
def chromium(size: tuple[int, int] = (1280, 800), *, dark: bool = False, touch: bool = False) -> Iterator:
    """A browser window of ``size`` CSS pixels. Skips the test where there is no Chromium, driver or selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    driver, browser = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or browser is None:
        pytest.skip("no Chromium with its chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    os.environ["SE_OFFLINE"] = "true"
    profile = tempfile.mkdtemp(prefix="camcli-browser-")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2 if touch else 1, "mobile": touch}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        page.set_script_timeout(20)
        yield page
    finally:
        page.quit()
        shutil.rmtree(profile, ignore_errors=True)


def open_page(page, path: Path) -> None:
    """Open a file as a double click does."""
    page.get(path.absolute().as_uri())


def complaints(page) -> list[str]:
    """What the browser has written on its console since it was asked last: warnings and errors."""
    return [line["message"] for line in page.get_log("browser") if line["level"] in ("WARNING", "SEVERE")]


def put(page, element, value):
    """Give an input a value, as typing does."""
    page.execute_script(
        "const e = byId(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change', {bubbles: true}))",
        element, str(value),
    )  # fmt: skip


def click(page, selector):
    """A real click, where a person would."""
    from selenium.webdriver.common.by import By

    page.find_element(By.CSS_SELECTOR, selector).click()


def press(page, *keys):
    """Press keys, by selenium's names or as characters, wherever the focus is."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(page).send_keys(*(getattr(Keys, key, key) for key in keys)).perform()


def wait(page, condition):
    """Until the JavaScript expression is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, 10, 0.02).until(lambda _: page.execute_script(f"return {condition}"), condition)
