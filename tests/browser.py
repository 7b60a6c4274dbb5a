"""Headless Chromium for tests that read a page as a person would."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 60
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900"),
    # what a browser asks of the network on its own
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile; skipped where chromium or its driver is not installed.

    With ``REQUIRE_BROWSER`` in the environment, as in CI, that is a failure instead.
    """
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        end = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        end(f"{', '.join(missing)} not installed (Debian: apt-get install chromium chromium-driver)")
    options = Options()
    options.binary_location = str(programs["chromium"])
    for argument in FLAGS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service(str(programs["chromedriver"])))
        try:
            yield driver
        finally:
            driver.quit()


def wait(driver: webdriver.Chrome, script: str) -> Any:
    """The value of a JavaScript expression once it is neither false, null nor an error."""

    def value(_: Any) -> Any:
        return driver.execute_script(f"try {{ return {script} }} catch (error) {{ return null }}")

    return WebDriverWait(driver, SECONDS).until(value, f"never true: {script}")


def errors(driver: webdriver.Chrome) -> list[str]:
    """What the page wrote to the console as errors since the last call."""
    log: Callable[[str], list[dict[str, Any]]] = driver.get_log
    return [entry["message"] for entry in log("browser") if entry["level"] == "SEVERE"]
