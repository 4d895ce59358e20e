"""Fixtures of the console's tests: visitors of its pages, and a fleet to look at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app import clock
from app.access.service import create_key
from app.http.context import Services
from tests.client import Api, Contract
from tests.console.world import World
from tests.delegation.conftest import Clock

ORIGIN = "http://localhost"


class Visitor:
    """Somebody with a browser: keeps cookies, sends forms as pages hand them out."""

    def __init__(self, app: Flask, key: str = "") -> None:
        self.client = app.test_client()
        self.key = key

    def get(self, path: str, **headers: str) -> TestResponse:
        """Open a page."""
        return self.client.get(path, headers=headers, buffered=True)

    def see(self, path: str) -> str:
        """Open a page that exists and return its HTML."""
        response = self.get(path)
        assert response.status_code == 200, response.text
        return response.text

    def send(self, page: str, action: str, **fields: str) -> TestResponse:
        """Fill in and send the form of a page that leads to ``action``."""
        return self.client.post(
            action, data=hidden_fields(self.see(page), action) | fields, headers={"Origin": ORIGIN}
        )

    def sign_in(self) -> TestResponse:
        """Sign in with the visitor's key."""
        return self.send("/operator/sign-in", "/operator/sign-in", api_key=self.key)


def hidden_fields(html: str, action: str) -> dict[str, str]:
    """Return the hidden fields of a page's form that leads to ``action``."""
    form = re.search(f'<form[^>]*action="{re.escape(action)}".*?</form>', html, re.DOTALL)
    assert form is not None, f"no form leads to {action}"
    return dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form[0]))


@pytest.fixture
def time() -> Iterator[Clock]:
    """The one clock of the process, standing still."""
    still = Clock()
    with clock.frozen(lambda: still.now):
        yield still


@pytest.fixture
def key_of(services: Services) -> Callable[..., str]:
    """Make API keys: ``key_of("acme")`` is a developer's."""

    def make(owner: str, role: str = "developer") -> str:
        with services.database.transaction() as session:
            return create_key(session, services.pepper, owner, role).secret

    return make


@pytest.fixture
def visitor(app: Flask, key_of: Callable[..., str]) -> Callable[..., Visitor]:
    """Make visitors who are signed in."""

    def make(owner: str, role: str = "developer") -> Visitor:
        found = Visitor(app, key_of(owner, role))
        assert found.sign_in().status_code == 303
        return found

    return make


@pytest.fixture
def world(app: Flask, contract: Contract, key_of: Callable[..., str], time: Clock) -> World:
    """A service with callers of three publishers and an operator, and nothing in it."""
    callers: dict[str, Any] = {
        name: Api(app.test_client(), contract, key_of(name, role))
        for name, role in (
            ("acme", "developer"),
            ("globex", "developer"),
            ("initech", "developer"),
            ("operator", "admin"),
        )
    }
    return World(app, time, callers)


@pytest.fixture
def admin(visitor: Callable[..., Visitor], time: Clock) -> Visitor:
    """An administrator, signed in."""
    return visitor("operator", "admin")
