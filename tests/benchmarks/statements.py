"""How many SQL statements a request sends to the database."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import event

from app import create_app
from app.config import Settings
from app.http.context import EXTENSION, Services
from app.logs import configure_logging
from tests.benchmarks import data
from tests.benchmarks.load import Unusable


def count_statements(settings: Settings, paths: Mapping[str, str], key: str) -> dict[str, int]:
    """Return the number of statements of one GET of each path, and of a publish (``publish``).

    BEGIN and COMMIT do not count.
    """
    configure_logging(settings)
    app = create_app(settings)
    services: Services = app.extensions[EXTENSION]
    statements: list[str] = []

    def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    for engine in (services.database.reader, services.database.writer):
        event.listen(engine, "before_cursor_execute", note)
    client, found = app.test_client(), {}
    # The first request connects, and so does more than later ones.
    for _ in range(2):
        for name, path in paths.items():
            statements.clear()
            if client.get(path).status_code != 200:
                raise Unusable(f"GET {path} failed")
            found[name] = len(statements)
        statements.clear()
        version = f"1.{uuid.uuid4().int % 10**9}.0"
        response = client.put(
            f"/v1/agents/{data.agent_id(0)}",
            data=f'{{"manifest": {data.manifest(0, version)}}}',
            content_type="application/json",
            headers={"X-API-Key": key, "Idempotency-Key": uuid.uuid4().hex},
        )
        if response.status_code != 200:
            raise Unusable(f"publishing failed: {response.get_data(as_text=True)}")
        found["publish"] = len(statements)
    services.database.dispose()
    return found
