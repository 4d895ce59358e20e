"""Registering, publishing, deprecating and reading agents over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785

from app import clock
from tests.client import Api
from tests.registry.manifests import build_capability, build_manifest

AGENT = "/v1/agents/@acme:invoice-summarizer"


def register(api: Api, namespace: str = "@acme", **arguments: Any) -> dict[str, Any]:
    """Register an agent and return its document."""
    response = api.post(
        "/v1/agents", {"namespace": namespace, "manifest": build_manifest(**arguments)}
    )
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.get_json()
    return document


def publish(api: Api, version: str, **arguments: Any) -> dict[str, Any]:
    """Publish a version of the invoice summarizer and return the agent's document."""
    response = api.put(AGENT, {"manifest": build_manifest(version=version, **arguments)})
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.get_json()
    return document


class TestRegister:
    def test_answers_the_agent(self, acme: Api) -> None:
        with clock.frozen(lambda: datetime(2026, 11, 20, 9, 30, tzinfo=UTC)):
            registered = register(acme)
        assert registered == {
            "id": "@acme:invoice-summarizer",
            "namespace": "@acme",
            "slug": "invoice-summarizer",
            "status": "active",
            "latest_version": "1.0.0",
            "manifest": build_manifest(),
            "eval_summary": {"status": "pending"},
            "trust": {"score": 0, "tier": "unrated", "badge": "none"},
            "versions": ["1.0.0"],
            "forked_from": None,
            "created_at": "2026-11-20T09:30:00.000000Z",
            "updated_at": "2026-11-20T09:30:00.000000Z",
        }

    def test_tells_when_it_was_changed_whatever_the_clock_says(self, acme: Api) -> None:
        moment = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
        seen = [register(acme)["updated_at"]]
        with clock.frozen(lambda: moment):
            publish(acme, "1.1.0")
            seen.append(acme.get(AGENT).get_json()["updated_at"])
            evaluation = {"suite": "s", "metrics": {"m": 1}}
            assert acme.post(f"{AGENT}/versions/1.0.0/evals", evaluation).status_code == 200
            seen.append(acme.get(AGENT).get_json()["updated_at"])
            acme.delete(AGENT)
            seen.append(acme.get(AGENT).get_json()["updated_at"])
            acme.delete(AGENT)
            assert acme.get(AGENT).get_json()["updated_at"] == seen[-1]
            publish(acme, "1.2.0")
            seen.append(acme.get(AGENT).get_json()["updated_at"])
        assert seen == sorted(set(seen))
        assert acme.get("/v1/agents").get_json()["data"][0]["updated_at"] == seen[-1]

    def test_everybody_reads_what_was_registered(self, acme: Api, anyone: Api) -> None:
        registered = register(acme)
        assert anyone.get(AGENT).get_json() == registered

    def test_needs_an_idempotency_key(self, acme: Api) -> None:
        response = acme.post(
            "/v1/agents",
            {"namespace": "@acme", "manifest": build_manifest()},
            headers={"Idempotency-Key": " "},
        )
        assert (response.status_code, response.get_json()["code"]) == (
            400,
            "idempotency_key_missing",
        )

    def test_needs_an_api_key(self, anyone: Api) -> None:
        response = anyone.post("/v1/agents", {"namespace": "@acme", "manifest": build_manifest()})
        assert (response.status_code, response.get_json()["code"]) == (401, "api_key_missing")
        assert "X-API-Key" in response.headers["WWW-Authenticate"]

    def test_refuses_a_viewer(self, caller: Callable[..., Api]) -> None:
        response = caller("acme", role="viewer").post(
            "/v1/agents", {"namespace": "@acme", "manifest": build_manifest()}
        )
        assert (response.status_code, response.get_json()["code"]) == (403, "role_required")

    def test_refuses_a_namespace_of_another_owner(self, acme: Api, globex: Api) -> None:
        register(acme)
        response = globex.post(
            "/v1/agents", {"namespace": "@acme", "manifest": build_manifest(slug="other")}
        )
        assert (response.status_code, response.get_json()["code"]) == (403, "namespace_taken")

    def test_an_admin_key_does_not_override_ownership(
        self, acme: Api, caller: Callable[..., Api]
    ) -> None:
        register(acme)
        response = caller("operator", role="admin").delete(AGENT)
        assert (response.status_code, response.get_json()["code"]) == (403, "not_owner")

    def test_refuses_an_agent_that_exists(self, acme: Api) -> None:
        register(acme)
        response = acme.post(
            "/v1/agents", {"namespace": "@acme", "manifest": build_manifest(version="2.0.0")}
        )
        assert (response.status_code, response.get_json()["code"]) == (409, "agent_exists")
        assert acme.get(AGENT).get_json()["versions"] == ["1.0.0"]

    def test_lists_every_violation_with_its_place(self, acme: Api) -> None:
        manifest = build_manifest(version="1.0")
        del manifest["interfaces"]
        manifest["capabilities"][0]["api_key"] = "sk-live-123"
        response = acme.post("/v1/agents", {"namespace": "acme", "manifest": manifest, "x": 1})
        assert response.status_code == 422
        found = {entry["pointer"] for entry in response.get_json()["errors"]}
        assert found >= {
            "/namespace",
            "/x",
            "/manifest/identity/version",
            "/manifest/interfaces",
            "/manifest/interfaces/0/auth",
            "/manifest/capabilities/0/api_key",
        }
        assert "sk-live-123" not in response.text


class TestPublish:
    def test_adds_a_version_and_moves_latest(self, acme: Api) -> None:
        register(acme)
        document = publish(acme, "1.1.0")
        assert document["versions"] == ["1.0.0", "1.1.0"]
        assert document["latest_version"] == "1.1.0"
        assert document["manifest"] == build_manifest(version="1.1.0")

    @pytest.mark.parametrize(
        ("published", "latest"),
        [
            (["2.0.0", "1.5.0"], "2.0.0"),
            (["1.10.0", "1.9.0"], "1.10.0"),
            (["2.0.0-rc.1"], "1.0.0"),
            (["1.0.1-alpha", "1.0.1-alpha.1", "1.0.1-beta"], "1.0.0"),
            (["1.0.0+build.7"], None),
            (["10000000000000000000000.0.0", "9.0.0"], "10000000000000000000000.0.0"),
        ],
    )
    def test_latest_follows_semver_not_time(
        self, acme: Api, published: list[str], latest: str | None
    ) -> None:
        register(acme)
        if latest is None:
            response = acme.put(AGENT, {"manifest": build_manifest(version=published[0])})
            assert response.get_json()["code"] == "version_exists"
            return
        for version in published:
            document = publish(acme, version)
        assert document["latest_version"] == latest
        assert document["versions"] == ["1.0.0", *published]

    def test_latest_of_prereleases_only_is_the_highest(self, acme: Api) -> None:
        register(acme, version="1.0.0-alpha.9")
        for version in ("1.0.0-alpha.10", "1.0.0-alpha.beta", "1.0.0-alpha"):
            document = publish(acme, version)
        assert document["latest_version"] == "1.0.0-alpha.beta"

    @pytest.mark.parametrize("description", ["Extracts totals and due dates.", "Other content."])
    def test_a_version_is_published_once(self, acme: Api, description: str) -> None:
        register(acme)
        before = acme.get(f"{AGENT}/versions/1.0.0").get_json()
        manifest = build_manifest()
        manifest["identity"]["description"] = description
        response = acme.put(AGENT, {"manifest": manifest})
        assert (response.status_code, response.get_json()["code"]) == (409, "version_exists")
        assert acme.get(f"{AGENT}/versions/1.0.0").get_json() == before

    def test_the_manifest_must_be_the_agents(self, acme: Api) -> None:
        register(acme)
        response = acme.put(AGENT, {"manifest": build_manifest(slug="other", version="2.0.0")})
        assert response.status_code == 422
        assert response.get_json()["errors"][0]["pointer"] == "/manifest/identity/id"

    def test_only_the_owner_publishes(self, acme: Api, globex: Api) -> None:
        register(acme)
        response = globex.put(AGENT, {"manifest": build_manifest(version="2.0.0")})
        assert (response.status_code, response.get_json()["code"]) == (403, "not_owner")

    def test_an_unknown_agent_is_not_found(self, acme: Api) -> None:
        response = acme.put(AGENT, {"manifest": build_manifest()})
        assert (response.status_code, response.get_json()["code"]) == (404, "agent_not_found")

    def test_makes_a_deprecated_agent_active(self, acme: Api) -> None:
        register(acme)
        acme.delete(AGENT)
        assert publish(acme, "1.1.0")["status"] == "active"


class TestDeprecate:
    def test_keeps_history_and_can_be_repeated(self, acme: Api) -> None:
        register(acme)
        for _ in range(2):
            response = acme.delete(AGENT)
            assert response.get_json() == {"id": "@acme:invoice-summarizer", "status": "deprecated"}
        assert acme.get(AGENT).get_json()["status"] == "deprecated"
        assert acme.get(f"{AGENT}/versions/1.0.0").status_code == 200

    def test_only_the_owner_deprecates(self, acme: Api, globex: Api) -> None:
        register(acme)
        assert globex.delete(AGENT).get_json()["code"] == "not_owner"
        assert acme.get(AGENT).get_json()["status"] == "active"

    def test_an_unknown_agent_is_not_found(self, acme: Api) -> None:
        assert acme.delete(AGENT).status_code == 404


class TestConditionalRequests:
    def test_an_unchanged_agent_is_not_sent_again(self, acme: Api) -> None:
        register(acme)
        tag = acme.get(AGENT).headers["ETag"]
        again = acme.get(AGENT, headers={"If-None-Match": f'"x", {tag}'})
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["ETag"] == tag

    def test_every_change_has_its_own_tag(self, acme: Api) -> None:
        register(acme)
        tags = [acme.get(AGENT).headers["ETag"]]
        publish(acme, "1.1.0")
        tags.append(acme.get(AGENT).headers["ETag"])
        acme.post(f"{AGENT}/versions/1.1.0/evals", {"suite": "s", "metrics": {"m": 1}})
        tags.append(acme.get(AGENT).headers["ETag"])
        acme.delete(AGENT)
        tags.append(acme.get(AGENT).headers["ETag"])
        assert len(set(tags)) == 4
        assert acme.get(AGENT, headers={"If-None-Match": tags[0]}).status_code == 200

    def test_a_write_on_a_stale_state_is_refused(self, acme: Api) -> None:
        register(acme)
        stale = acme.get(AGENT).headers["ETag"]
        publish(acme, "1.1.0")
        body = {"manifest": build_manifest(version="1.2.0")}
        for response in (
            acme.put(AGENT, body, headers={"If-Match": stale}),
            acme.delete(AGENT, headers={"If-Match": stale}),
            acme.delete(AGENT, headers={"If-Match": 'W/"2"'}),
            acme.delete(AGENT, headers={"If-Match": "nonsense"}),
        ):
            assert (response.status_code, response.get_json()["code"]) == (412, "agent_changed")
        current = acme.get(AGENT).headers["ETag"]
        assert acme.put(AGENT, body, headers={"If-Match": current}).status_code == 200
        assert acme.delete(AGENT, headers={"If-Match": "*"}).status_code == 200

    def test_a_versions_tag_changes_with_its_evaluations_only(self, acme: Api) -> None:
        register(acme)
        path = f"{AGENT}/versions/1.0.0"
        tag = acme.get(path).headers["ETag"]
        publish(acme, "1.1.0")
        assert acme.get(path, headers={"If-None-Match": tag}).status_code == 304
        acme.post(f"{path}/evals", {"suite": "s", "metrics": {"m": 1}})
        assert acme.get(path, headers={"If-None-Match": tag}).status_code == 200


class TestVersions:
    def test_lists_versions_oldest_first_with_their_impact(self, acme: Api) -> None:
        register(acme)
        capability = build_capability()
        capability["input_schema"]["required"].append("locale")
        publish(acme, "2.0.0", capabilities=[capability])
        rows = acme.get(f"{AGENT}/versions").get_json()["versions"]
        assert [row["version"] for row in rows] == ["1.0.0", "2.0.0"]
        assert all(row["published"] is True for row in rows)
        assert rows[0]["behavioral_impact_from_previous"] is None
        impact = rows[1]["behavioral_impact_from_previous"]
        assert impact["compatibility"] == "breaking"
        assert impact["breaking_changes"] == [
            {
                "capability_id": "summarize-invoice",
                "type": "input_required_added",
                "fields": ["locale"],
            }
        ]
        diff = acme.get(f"{AGENT}/versions/1.0.0/behavioral-diff/2.0.0").get_json()
        assert diff == {
            "agent_id": "@acme:invoice-summarizer",
            "base_version": "1.0.0",
            "target_version": "2.0.0",
            "diff": impact,
        }

    def test_pages_do_not_repeat_or_skip(self, acme: Api) -> None:
        register(acme)
        for minor in range(1, 6):
            publish(acme, f"1.{minor}.0")
        seen, path = [], f"{AGENT}/versions?limit=2"
        while path:
            response = acme.get(path)
            seen += [row["version"] for row in response.get_json()["versions"]]
            path = response.headers.get("Link", "<>").split(">")[0][1:]
        assert seen == [f"1.{minor}.0" for minor in range(6)]

    def test_the_digest_can_be_recomputed_by_anyone(self, acme: Api) -> None:
        register(acme)
        document = acme.get(f"{AGENT}/versions/1.0.0").get_json()
        assert document["manifest"] == build_manifest()
        canonical = rfc8785.dumps(document["manifest"])
        assert document["digest"] == "sha256:" + hashlib.sha256(canonical).hexdigest()

    @pytest.mark.parametrize(
        "path",
        [
            f"{AGENT}/versions/9.9.9",
            f"{AGENT}/versions/1.0",
            f"{AGENT}/versions/1.0.0%0A",
            f"{AGENT}/versions/1.0.0/behavioral-diff/9.9.9",
            f"{AGENT}/compare/9.9.9/1.0.0",
            f"{AGENT}/versions/9.9.9/evals",
            "/v1/agents/@acme:other/versions",
            "/v1/agents/@acme:other/capabilities",
            "/v1/agents/@acme:invoice-summarizer%0A",
            "/v1/agents/nonsense",
        ],
    )
    def test_what_does_not_exist_is_not_found(self, acme: Api, path: str) -> None:
        register(acme)
        assert acme.get(path).status_code == 404


class TestCapabilities:
    def test_shows_the_latest_versions(self, acme: Api) -> None:
        register(acme)
        plain = build_capability("translate")
        del plain["permissions"]
        publish(acme, "1.1.0", capabilities=[build_capability(), plain])
        document = acme.get(f"{AGENT}/capabilities").get_json()
        assert (document["agent_id"], document["version"]) == ("@acme:invoice-summarizer", "1.1.0")
        first, second = document["capabilities"]
        capability = build_capability()
        assert first == {
            "capability_id": "summarize-invoice",
            "capability_name": capability["name"],
            "description": capability["description"],
            "protocols": capability["protocols"],
            "permissions": ["invoice.read"],
            "input_schema": capability["input_schema"],
            "output_schema": capability["output_schema"],
        }
        assert second["permissions"] == []


class TestFork:
    def test_copies_the_latest_version_with_its_lineage(self, acme: Api, globex: Api) -> None:
        register(acme)
        publish(acme, "1.1.0")
        source = acme.get(f"{AGENT}/versions/1.1.0").get_json()
        response = globex.post(f"{AGENT}/fork", {"namespace": "@globex", "new_slug": "reader"})
        assert response.status_code == 200
        document = response.get_json()
        assert document["source_agent_id"] == "@acme:invoice-summarizer"
        forked = document["forked_agent"]
        assert forked["id"] == "@globex:reader"
        assert forked["manifest"] == build_manifest(slug="reader", version="1.1.0")
        assert forked["versions"] == ["1.1.0"]
        assert forked["forked_from"] == {
            "agent_id": "@acme:invoice-summarizer",
            "version": "1.1.0",
            "digest": source["digest"],
        }
        assert globex.get("/v1/agents/@globex:reader").get_json() == forked

    def test_the_copy_lives_its_own_life(self, acme: Api, globex: Api) -> None:
        register(acme)
        globex.post(f"{AGENT}/fork", {"namespace": "@globex", "new_slug": "reader"})
        publish(acme, "2.0.0")
        acme.delete(AGENT)
        copy = globex.get("/v1/agents/@globex:reader").get_json()
        assert (copy["status"], copy["versions"]) == ("active", ["1.0.0"])

    def test_refusals(self, acme: Api, globex: Api) -> None:
        register(acme)
        register(globex, "@globex", slug="reader")
        for body, code in (
            ({"namespace": "@acme", "new_slug": "reader"}, "namespace_taken"),
            ({"namespace": "@globex", "new_slug": "reader"}, "agent_exists"),
            ({"namespace": "@globex", "new_slug": "Not A Slug"}, "validation_failed"),
        ):
            assert globex.post(f"{AGENT}/fork", body).get_json()["code"] == code
        missing = globex.post(
            "/v1/agents/@acme:other/fork", {"namespace": "@globex", "new_slug": "x"}
        )
        assert missing.status_code == 404
