"""Make the pictures of docs/console.md: ``python -m tests.console.screenshots``.

They show a fleet that is the same every time, on a clock that stands still.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from app import clock, create_app
from app.access.service import create_key
from app.http.context import EXTENSION, Services
from app.logs import configure_logging
from app.ops.tracks import upgrade_all
from tests.client import Api, Contract
from tests.conftest import settings_for
from tests.console.browser import MISSING, Browser, binaries, browsing, serving
from tests.console.world import READER, World
from tests.delegation.conftest import Clock

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "console"


@dataclass(frozen=True)
class Picture:
    """A page in a window; ``{state}`` in the path stands for a delegation of that state."""

    name: str
    path: str
    width: int
    height: int
    scheme: str


DOCUMENTED = (
    Picture("overview", "/operator", 1280, 1270, "light"),
    Picture("agent", f"/operator/agents/{READER}", 1280, 1010, "light"),
    Picture("compare", f"/operator/versioning?agent_id={READER}", 1280, 780, "light"),
    Picture("delegation", "/operator/delegations/{disputed}", 1280, 1190, "dark"),
    Picture("ledger", "/operator/ledger", 1280, 1000, "dark"),
    Picture("phone", "/operator", 390, 844, "dark"),
)


def take(browser: Browser, picture: Picture, known: dict[str, str], folder: Path) -> None:
    """Write a picture as PNG into a folder."""
    browser.prefer(picture.scheme)
    browser.resize(picture.width, picture.height)
    browser.open(picture.path.format(**known))
    taken = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    (folder / f"{picture.name}.png").write_bytes(base64.b64decode(taken["data"]))


def make(folder: Path, pictures: tuple[Picture, ...]) -> None:
    """Fill a service, sign in and take every picture."""
    with tempfile.TemporaryDirectory(prefix="agenthub-pictures-") as name:
        home = Path(name)
        url = f"sqlite:///{home / 'agenthub.db'}"
        settings = settings_for(url, home, snapshot_dir=home / "snapshots")
        configure_logging(settings)
        time = Clock()
        time.now = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
        with clock.frozen(lambda: time.now):
            upgrade_all(settings)
            app = create_app(settings)
            services: Services = app.extensions[EXTENSION]
            keys, callers = {}, {}
            for owner in ("acme", "globex", "initech", "operator"):
                role = "admin" if owner == "operator" else "developer"
                with services.database.transaction() as session:
                    keys[owner] = create_key(session, services.pepper, owner, role).secret
                callers[owner] = Api(app.test_client(), Contract(app), keys[owner])
            known = World(app, time, callers).fill()
            with serving(app) as url, browsing(url, home) as browser:
                browser.resize(1280, 900)
                browser.sign_in(keys["operator"])
                for picture in pictures:
                    take(browser, picture, known, folder)
                    click.echo(f"{picture.name}.png")
            services.database.dispose()


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=PICTURES, show_default=True)
def main(folder: Path) -> None:
    """Make the pictures of the console's documentation."""
    if binaries() is None:
        click.echo(MISSING, err=True)
        sys.exit(1)
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, DOCUMENTED)


if __name__ == "__main__":
    main()
