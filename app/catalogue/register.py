"""Putting the catalogue into an application."""

from __future__ import annotations

from flask import Flask

from app.catalogue.pages import EXTENSION, Front
from app.catalogue.web import page_for_browsers, pages


def register_catalogue(app: Flask) -> None:
    """Serve the front page and the catalogue; the console is there already."""
    app.extensions[EXTENSION] = Front()
    app.register_blueprint(pages)
    app.after_request(page_for_browsers)
