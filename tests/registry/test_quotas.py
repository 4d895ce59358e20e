"""Quotas: how much an owner may have, what a refusal says, and that rivals do not pass together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from app.access.service import create_key, revoke_key
from app.canonical import canonical_json
from app.http.context import Services
from app.quotas import QuotaExceeded
from app.registry.models import OwnerUsage, Version
from tests.client import Api
from tests.registry.manifests import build_manifest

AGENT = "/v1/agents/@acme:invoice-summarizer"


def allow(services: Services, **limits: int) -> None:
    """Set quotas of the running application."""
    for name, limit in limits.items():
        object.__setattr__(services.settings, f"quota_{name}", limit)


def register(api: Api, slug: str = "invoice-summarizer", namespace: str = "@acme") -> Any:
    """Register an agent."""
    return api.post("/v1/agents", {"namespace": namespace, "manifest": build_manifest(slug=slug)})


def assert_refused(answer: Any, quota: str, limit: int, used: int) -> None:
    """Fail unless the answer names the quota, what it allows and what is used of it."""
    problem = answer.get_json()
    assert (answer.status_code, problem["code"]) == (403, "quota_exceeded")
    assert (problem["quota"], problem["limit"], problem["used"]) == (quota, limit, used)
    assert quota in problem["detail"]


def usage(services: Services) -> list[tuple[Any, ...]]:
    """Return what is kept of owners' use, without their ids."""
    with services.database.read() as connection:
        columns = [c for c in OwnerUsage.__table__.c if c.name != "owner_id"]
        rows = connection.execute(select(*columns).order_by(OwnerUsage.owner_id))
        return [tuple(row) for row in rows]


def test_agents_and_namespaces(acme: Api, globex: Api, services: Services) -> None:
    allow(services, agents=2, namespaces=2)
    assert register(acme).status_code == 200
    assert register(acme, "b", "@acme-2").status_code == 200
    assert_refused(register(acme, "c"), "agents", 2, 2)
    fork = {"namespace": "@acme", "new_slug": "c"}
    assert_refused(acme.post(f"{AGENT}/fork", fork), "agents", 2, 2)
    # What is deprecated is still there.
    acme.delete(AGENT)
    assert_refused(register(acme, "c"), "agents", 2, 2)
    allow(services, agents=0)
    assert_refused(register(acme, "c", "@acme-3"), "namespaces", 2, 2)
    # The refused namespace stays free, and quotas are each owner's own.
    assert register(globex, "c", "@acme-3").status_code == 200
    assert register(acme, "c").status_code == 200


def test_versions(acme: Api, services: Services) -> None:
    allow(services, versions=4, agent_versions=3)
    register(acme)
    for version in ("1.0.1", "1.0.2"):
        body = {"manifest": build_manifest(version=version)}
        assert acme.put(AGENT, body).status_code == 200
    more = {"manifest": build_manifest(version="1.0.3")}
    assert_refused(acme.put(AGENT, more), "agent_versions", 3, 3)
    # That a version exists is told before that there is no room.
    again = acme.put(AGENT, {"manifest": build_manifest(version="1.0.1")})
    assert again.get_json()["code"] == "version_exists"
    register(acme, "b")
    more = {"manifest": build_manifest(slug="b", version="1.0.1")}
    assert_refused(acme.put("/v1/agents/@acme:b", more), "versions", 4, 4)
    assert acme.get(AGENT).get_json()["versions"] == ["1.0.0", "1.0.1", "1.0.2"]


def test_bytes_of_manifests(acme: Api, services: Services) -> None:
    size = len(canonical_json(build_manifest()))
    allow(services, manifest_bytes=2 * size)
    register(acme)
    assert acme.put(AGENT, {"manifest": build_manifest(version="1.0.1")}).status_code == 200
    more = {"manifest": build_manifest(version="1.0.2")}
    assert_refused(acme.put(AGENT, more), "manifest_bytes", 2 * size, 2 * size)
    allow(services, manifest_bytes=0)
    assert acme.put(AGENT, more).status_code == 200


def test_a_refused_write_may_be_sent_again_with_its_key(acme: Api, services: Services) -> None:
    allow(services, agents=1)
    register(acme)
    body = {"namespace": "@acme", "manifest": build_manifest(slug="b")}
    assert acme.post("/v1/agents", body, idempotency_key="later").status_code == 403
    allow(services, agents=2)
    assert acme.post("/v1/agents", body, idempotency_key="later").status_code == 200


def test_what_is_used_is_what_there_is(acme: Api, globex: Api, services: Services) -> None:
    register(acme)
    register(acme)
    acme.put(AGENT, {"manifest": build_manifest(version="1.0.1")})
    acme.put(AGENT, {"manifest": build_manifest(version="1.0.1")})
    acme.post(f"{AGENT}/fork", {"namespace": "@acme-2", "new_slug": "copy"})
    globex.post(f"{AGENT}/fork", {"namespace": "@globex", "new_slug": "copy"})
    globex.post(f"{AGENT}/fork", {"namespace": "@acme", "new_slug": "copy"})
    with services.database.read() as connection:
        sizes = {
            (row.agent_id, row.version): len(row.manifest.encode())
            for row in connection.execute(
                select(Version.agent_id, Version.version, Version.manifest)
            )
        }
    globex_bytes = sizes.pop(("@globex:copy", "1.0.1"))
    assert sorted(usage(services)) == [(1, 1, 1, globex_bytes), (2, 2, 3, sum(sizes.values()))]


def test_rivals_do_not_pass_together(
    acme: Api, caller: Callable[..., Api], services: Services
) -> None:
    allow(services, agents=3)
    register(acme)
    rivals = [caller("acme") for _ in range(8)]
    with ThreadPoolExecutor(len(rivals)) as pool:
        answers = list(pool.map(register, rivals, [f"rival-{n}" for n in range(8)]))
    assert sorted(one.status_code for one in answers) == [200] * 2 + [403] * 6
    assert [row[1] for row in usage(services)] == [3]


def test_live_keys(services: Services) -> None:
    with services.database.transaction() as session:
        made = [
            create_key(session, services.pepper, "acme", "viewer", quota=2).id for _ in range(2)
        ]
        with pytest.raises(QuotaExceeded) as refused:
            create_key(session, services.pepper, "acme", "viewer", quota=2)
        assert refused.value.members == {"quota": "keys", "limit": 2, "used": 2}
        create_key(session, services.pepper, "globex", "viewer", quota=2)
        revoke_key(session, services.pepper, made[0])
        session.flush()
        create_key(session, services.pepper, "acme", "viewer", quota=2)
        create_key(session, services.pepper, "acme", "viewer")
