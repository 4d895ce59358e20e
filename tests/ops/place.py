"""A place of business: agents of two owners that have evaluated, used and paid each other.

``python -m tests.ops.place FILE.snapshot`` fills a new database and writes its snapshot, as the
release of the checkout makes it, and ``FILE.json`` with the callers' keys and the answers they got.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from werkzeug.test import TestResponse

from app import create_app
from app.access.models import Owner
from app.access.service import create_key
from app.config import Settings
from app.db import Database
from app.http.context import EXTENSION
from app.ledger.seals import seal_pending
from app.logs import configure_logging
from app.notification.service import subscribe
from app.ops.snapshot.create import create
from app.ops.snapshot.progress import Silence
from app.ops.tracks import upgrade_all
from tests.client import Api, Contract
from tests.conftest import PEPPER, rule_of, settings_for
from tests.delegation.conftest import CLERK, DELEGATIONS, READER, accept, offer, request, top_up
from tests.registry.manifests import build_manifest


@dataclass
class Place:
    """A filled database: its callers' keys, and what was sent under which idempotency key."""

    settings: Settings
    keys: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[str, Any, bytes]] = field(default_factory=dict)

    def open(self, settings: Settings | None = None, *, checked: bool = True) -> Shop:
        """Serve the place's database, or another one that its callers use.

        Unless ``checked``, answers are not held to the OpenAPI document, which takes its time.
        """
        return Shop(settings or self.settings, self, checked)


class Unchecked(Contract):
    """Takes every answer."""

    def check(self, response: TestResponse) -> None:
        """Do nothing."""


class Shop:
    """The service on one database, for the callers of a place."""

    def __init__(self, settings: Settings, place: Place, checked: bool) -> None:
        self.app = create_app(settings)
        rule_of(self.app)
        self.place = place
        self._contract = (Contract if checked else Unchecked)(self.app)

    def __enter__(self) -> Shop:
        return self

    def __exit__(self, *_: object) -> None:
        self.app.extensions[EXTENSION].database.dispose()

    def caller(self, owner: str) -> Api:
        """Return a caller of the place."""
        return Api(self.app.test_client(), self._contract, self.place.keys[owner])

    def send(self, owner: str, path: str, body: Any, key: str) -> None:
        """Send a write that succeeds, and remember its answer."""
        response = self.caller(owner).post(path, body, idempotency_key=f"{owner}-{key}")
        assert response.status_code == 200, response.text
        self.place.answers[f"{owner}-{key}"] = (path, body, response.data)

    def replayed(self) -> int:
        """Send every remembered write again; each must give the answer it gave. Return how many."""
        for key, (path, body, answer) in self.place.answers.items():
            response = self.caller(key.partition("-")[0]).post(path, body, idempotency_key=key)
            assert response.headers["Idempotent-Replayed"] == "true", key
            assert response.data == answer, key
        return len(self.place.answers)


def fill(settings: Settings) -> Place:
    """Fill a migrated database: rows in every table, delegations in several states."""
    place = Place(settings)
    database = Database(settings)
    with database.transaction() as session:
        for owner, role in (("acme", "developer"), ("globex", "developer"), ("boss", "admin")):
            place.keys[owner] = create_key(session, PEPPER.encode(), owner, role).secret
        acme = session.scalars(select(Owner.id).where(Owner.name == "acme")).one()
        subscribe(session, acme, "https://hooks.example.com/agenthub", ["*"], "Everything")
    with place.open() as shop:
        _trade(shop)
        with database.transaction() as session:
            seal_pending(session)
        # What no seal has yet.
        top_up(shop.caller("boss"), CLERK, 0.000001)
    database.dispose()
    return place


def _trade(shop: Shop) -> None:
    acme, globex = shop.caller("acme"), shop.caller("globex")
    for api, namespace, slug in ((acme, "@acme", "clerk"), (globex, "@globex", "reader")):
        body = {"namespace": namespace, "manifest": build_manifest(slug=slug)}
        assert api.post("/v1/agents", body).status_code == 200
    for version in ("1.1.0", "1.0.1"):
        manifest = build_manifest(slug="clerk", version=version)
        assert acme.put(f"/v1/agents/{CLERK}", {"manifest": manifest}).status_code == 200
    agent = f"/v1/agents/{READER}"
    evaluation = {"suite": "nightly", "metrics": {"accuracy": 0.9}}
    evaluation |= {"cases": {"passed": 9, "total": 10}}
    shop.send("globex", f"{agent}/versions/1.0.0/evals", evaluation, "evaluation")
    shop.send("acme", f"{agent}/trust/usage", {"outcome": "success", "note": "größer 🙂"}, "usage")
    rules = {"allowed_owners": ["acme", "@globex"], "shortest_deadline_seconds": 60}
    assert globex.put(f"{agent}/acceptance-rules", rules).status_code == 200
    top_up(shop.caller("boss"), CLERK, 1000)
    shop.send("acme", DELEGATIONS, request(), "inline")
    batch = {"delegations": [request(task_spec=f"Number {number}") for number in range(3)]}
    shop.send("acme", f"{DELEGATIONS}/batch", batch, "batch")
    offer(acme)
    worker = accept(globex, offer(acme)["delegation_id"])
    worker.meter(2.5, 1.5)
    worker.send("deliver", output={"summary": "paid"})
    accept(globex, offer(acme)["delegation_id"]).meter(2.5)
    _end_badly(acme, globex)


def _end_badly(acme: Api, globex: Api) -> None:
    """End delegations in the ways that are not a delivery that was accepted."""
    accept(globex, offer(acme)["delegation_id"]).meter(12)
    for ending in ("fail", "cancel"):
        worker = accept(globex, offer(acme)["delegation_id"])
        worker.meter(1.25)
        if ending == "cancel":
            path = f"{worker.path}/cancel"
            assert acme.post(path, {"reason": "no longer needed"}).status_code == 200
        worker.send(ending, reason="it did not work out")
    worker = accept(globex, offer(acme)["delegation_id"])
    worker.meter(3)
    worker.send("deliver", output={"summary": "wrong"})
    path = f"{worker.path}/dispute"
    assert acme.post(path, {"reason": "not what was asked"}).status_code == 200


def main(file: Path) -> None:
    """Write a snapshot of a filled place, and beside it what its callers know."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_for(f"sqlite:///{folder}/agenthub.db", Path(folder))
        configure_logging(settings)
        upgrade_all(settings)
        place = fill(settings)
        database = Database(settings)
        create(database, file, Silence())
        database.dispose()
    answers = {
        key: [path, body, answer.decode()] for key, (path, body, answer) in place.answers.items()
    }
    known = {"keys": place.keys, "answers": answers}
    file.with_suffix(".json").write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
