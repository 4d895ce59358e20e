"""The service as its operator runs it: ``agenthub serve`` with its default settings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from app.config import PREFIX, Settings
from tests.benchmarks.load import Unusable
from tests.postgres import free_port

START_SECONDS = 60
HERE = Path(__file__).resolve().parents[2]


def python_of(checkout: Path) -> str:
    """Return the interpreter that a checkout is used with."""
    return sys.executable if checkout == HERE else str(checkout / ".venv/bin/python")


class Server:
    """A running ``agenthub serve`` with the default settings, of this or of another checkout."""

    def __init__(self, settings: Settings, folder: Path, checkout: Path = HERE) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "server.log"
        environ = {name: value for name, value in os.environ.items() if PREFIX not in name}
        environ |= {
            "AGENTHUB_DATABASE_URL": settings.url.render_as_string(hide_password=False),
            "AGENTHUB_DATA_DIR": str(settings.data_dir),
            "AGENTHUB_KEY_PEPPER": settings.key_pepper or "",
            "AGENTHUB_RATE_LIMIT_PER_MINUTE": "0",
            "AGENTHUB_QUOTA_VERSIONS": "0",
            "AGENTHUB_QUOTA_AGENT_VERSIONS": "0",
            "AGENTHUB_QUOTA_MANIFEST_BYTES": "0",
            "AGENTHUB_PORT": self.url.rpartition(":")[2],
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python_of(checkout), "-m", "app.cli", "serve"],
                env=environ,
                cwd=checkout,
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise Unusable(f"the server did not start: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.wait(timeout=60)
