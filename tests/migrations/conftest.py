"""What several migration tests compare with."""

from __future__ import annotations

import pytest

from tests.conftest import settings_for
from tests.migrations.schema import describe

_schemas: dict[str, list[str]] = {}


@pytest.fixture
def migrated(dialect: str, request: pytest.FixtureRequest) -> list[str]:
    """The schema that ``upgrade heads`` builds on this dialect, read once."""
    if dialect not in _schemas:
        template = request.getfixturevalue(f"{dialect}_template")
        if dialect == "sqlite":
            url = f"sqlite:///{template}"
        else:
            url = request.getfixturevalue("postgres").url(template)
        _schemas[dialect] = describe(settings_for(url, request.getfixturevalue("tmp_path")))
    return _schemas[dialect]
