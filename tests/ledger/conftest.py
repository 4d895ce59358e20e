"""Fixtures of the ledger's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from app.config import Settings
from app.db import Database
from tests.client import Api
from tests.ledger.book import Book
from tests.registry.manifests import build_manifest


@pytest.fixture
def book(settings: Settings) -> Iterator[Book]:
    """The ledger of a fresh database, with connections for a dozen threads."""
    book = Book(Database(replace(settings, threads=12)))
    yield book
    book.database.dispose()


@pytest.fixture
def operator(caller: Callable[..., Api]) -> Api:
    """An admin, who owns no agent."""
    return caller("operator", role="admin")


@pytest.fixture
def agents(acme: Api, globex: Api) -> list[str]:
    """An agent of ``acme`` and one of ``globex``."""
    for api, namespace in ((acme, "@acme"), (globex, "@globex")):
        body = {"namespace": namespace, "manifest": build_manifest(slug="mailer")}
        assert api.post("/v1/agents", body).status_code == 200
    return ["@acme:mailer", "@globex:mailer"]
