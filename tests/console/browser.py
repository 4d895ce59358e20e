"""A real browser on a real server: Debian's Chromium, driven headless, one at a time."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from werkzeug.serving import WSGIRequestHandler, make_server

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
MISSING = "needs Debian's chromium and chromium-driver: apt-get install chromium chromium-driver"
WAIT_SECONDS = 15


def binaries() -> tuple[str, str] | None:
    """Return the paths of Chromium and of its driver, None where one of them is missing."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class _Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_request(self, *_: Any) -> None:
        """Leave that to the application."""


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Serve an application on a free port of this machine; give its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Browser:
    """A window on a server."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str) -> None:
        """Open a page of the server."""
        self.driver.get(self.url + path)

    def find(self, css: str) -> Any:
        """Return the first element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str = "main") -> str:
        """Return the text that an element shows."""
        return str(self.find(css).text)

    def sign_in(self, key: str, path: str = "/operator") -> None:
        """Sign in on the form."""
        self.open(path)
        self.find("#api_key").send_keys(key)
        self.follow(self.find("form[action='/operator/sign-in'] button").click)

    def follow(self, act: Callable[[], object]) -> None:
        """Do something that leads to another page, and wait until that page is there."""
        self.driver.execute_script("window.isBefore = true")
        act()
        arrived = "return !window.isBefore && document.readyState === 'complete'"
        WebDriverWait(
            self.driver, WAIT_SECONDS, 0.05, ignored_exceptions=[WebDriverException]
        ).until(lambda driver: driver.execute_script(arrived))

    def resize(self, width: int, height: int) -> None:
        """Give the page this many CSS pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def prefer(self, scheme: str) -> None:
        """Prefer light or dark."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@contextmanager
def browsing(url: str, folder: Path) -> Iterator[Browser]:
    """Give a browser with a profile of its own in ``folder``."""
    found = binaries()
    assert found is not None, MISSING
    chromium, driver_path = found
    options = Options()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(driver_path))
    try:
        yield Browser(driver, url)
    finally:
        driver.quit()
