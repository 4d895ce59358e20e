"""A version is compared with the one next below it, whenever either was published."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import sqlalchemy as sa
from alembic import command

from app.config import Settings
from app.http.context import Services
from app.registry.diff import behavioral_diff
from app.registry.models import Version, VersionImpact
from tests.client import Api
from tests.migrations.project import config, connect
from tests.migrations.rows import REGISTRY
from tests.registry.manifests import build_capability, build_manifest

AGENT = "/v1/agents/@acme:invoice-summarizer"


def manifest(version: str, *required: str) -> dict[str, Any]:
    """Return a manifest that requires further input."""
    capability = build_capability()
    capability["input_schema"]["required"] += required
    return build_manifest(version=version, capabilities=[capability])


def publish(api: Api, version: str, *required: str) -> None:
    """Publish a version that requires further input."""
    answer = api.put(AGENT, {"manifest": manifest(version, *required)})
    assert answer.status_code == 200, answer.get_json()


def impacts(api: Api) -> dict[str, list[str] | None]:
    """Return what each version breaks: the members that it newly requires; None for the lowest."""
    shown = {}
    for row in api.get(f"{AGENT}/versions").get_json()["versions"]:
        impact = row["behavioral_impact_from_previous"]
        shown[row["version"]] = impact and [
            name for change in impact["breaking_changes"] for name in change["fields"]
        ]
    return shown


def test_a_backport_and_the_release_after_it(acme: Api, services: Services) -> None:
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest("1.0.0")})
    publish(acme, "2.0.0", "locale")
    publish(acme, "1.0.1")
    assert impacts(acme) == {"1.0.0": None, "2.0.0": ["locale"], "1.0.1": []}
    # 2.0.0 now follows one that requires it as well.
    publish(acme, "1.9.0", "locale")
    assert impacts(acme) == {"1.0.0": None, "2.0.0": [], "1.0.1": [], "1.9.0": ["locale"]}
    publish(acme, "3.0.0-rc.1", "locale", "invoice")
    publish(acme, "3.0.0", "locale", "invoice")
    publish(acme, "0.9.0", "early")
    assert impacts(acme) == {
        "1.0.0": [],
        "2.0.0": [],
        "1.0.1": [],
        "1.9.0": ["locale"],
        "3.0.0-rc.1": ["invoice"],
        "3.0.0": [],
        "0.9.0": None,
    }
    rows = acme.get(f"{AGENT}/versions").get_json()["versions"]
    by_version = {row["version"]: row["behavioral_impact_from_previous"] for row in rows}
    ordered = ["0.9.0", "1.0.0", "1.0.1", "1.9.0", "2.0.0", "3.0.0-rc.1", "3.0.0"]
    for below, version in itertools.pairwise(ordered):
        diff = acme.get(f"{AGENT}/versions/{below}/behavioral-diff/{version}").get_json()
        assert by_version[version] == diff["diff"], version


def test_a_refused_version_changes_no_comparison(acme: Api) -> None:
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest("1.0.0")})
    publish(acme, "2.0.0", "locale")
    for version in ("1.0.0", "2.0.0+build.7"):
        answer = acme.put(AGENT, {"manifest": manifest(version, "other")})
        assert answer.get_json()["code"] == "version_exists"
    assert impacts(acme) == {"1.0.0": None, "2.0.0": ["locale"]}


def test_versions_of_an_earlier_release_are_compared_anew(
    acme: Api, services: Services, settings: Settings
) -> None:
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest("1.0.0")})
    publish(acme, "2.0.0", "locale")
    publish(acme, "1.0.1")
    with services.database.transaction() as session:
        session.execute(sa.update(VersionImpact).values(impact=None))
    assert impacts(acme) == {"1.0.0": None, "2.0.0": ["locale"], "1.0.1": []}


def test_an_upgrade_counts_what_owners_have_and_finds_what_was_out_of_order(
    empty_settings: Settings,
) -> None:
    command.upgrade(config(empty_settings), "registry@registry_0002")
    namespace, agent, version = (
        REGISTRY[f"registry_{name}"] for name in ("namespaces", "agents", "versions")
    )
    orders = {
        "@acme:in-order": ["1.0.0", "1.1.0", "2.0.0"],
        "@acme:backport": ["1.0.0", "2.0.0", "1.0.1"],
        "@acme:lowest-last": ["2.0.0", "1.0.0"],
    }
    with connect(empty_settings) as connection:
        metadata = sa.MetaData()
        metadata.reflect(connection)
        tables = metadata.tables
        add = connection.execute
        # Times are written as the model has them, for either database.
        moments = {"published_at": namespace["created_at"]}
        for name in ("@acme", "@empty"):
            add(tables["registry_namespaces"].insert(), {**namespace, "name": name})
        for agent_id, versions in orders.items():
            slug = agent_id.partition(":")[2]
            add(tables["registry_agents"].insert(), {**agent, "id": agent_id, "slug": slug})
            for sequence, number in enumerate(versions, start=1):
                row = {
                    **version,
                    **moments,
                    "agent_id": agent_id,
                    "version": number,
                    "precedence": number,
                    "sequence": sequence,
                    "manifest": '{"\u20ac":1}',
                }
                add(tables["registry_versions"].insert(), row)
    command.upgrade(config(empty_settings), "registry@registry_0003")
    with connect(empty_settings) as connection:
        usage = connection.execute(sa.text("SELECT * FROM registry_owner_usage")).all()
        assert [tuple(row)[1:] for row in usage] == [(2, 3, 8, 8 * 9)]
        found = connection.execute(
            sa.text("SELECT agent_id, version, impact FROM registry_version_impacts")
        )
        assert sorted(tuple(row) for row in found) == [
            ("@acme:backport", "1.0.1", None),
            ("@acme:backport", "2.0.0", None),
            ("@acme:lowest-last", "1.0.0", None),
            ("@acme:lowest-last", "2.0.0", None),
        ]
    command.downgrade(config(empty_settings, allow_data_loss="registry"), "registry@registry_0002")
    command.upgrade(config(empty_settings), "registry@registry_0003")
    with connect(empty_settings) as connection:
        usage = connection.execute(sa.text("SELECT * FROM registry_owner_usage")).all()
        assert [tuple(row)[1:] for row in usage] == [(2, 3, 8, 8 * 9)]


class TestPublishedBefore:
    """A refusal of what is there already tells whether it is the same."""

    def test_a_version(self, acme: Api, services: Services) -> None:
        acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest("1.0.0")})
        digest = acme.get(f"{AGENT}/versions/1.0.0").get_json()["digest"]
        for body, identical in ((manifest("1.0.0"), True), (manifest("1.0.0", "locale"), False)):
            answer = acme.put(AGENT, {"manifest": body}, idempotency_key=f"again-{identical}")
            problem = answer.get_json()
            assert (answer.status_code, problem["code"]) == (409, "version_exists")
            assert problem["existing_version"] == "1.0.0"
            assert (problem["existing_digest"], problem["identical"]) == (digest, identical)
            # The refusal is stored, and stays the same.
            replay = acme.put(AGENT, {"manifest": body}, idempotency_key=f"again-{identical}")
            assert replay.headers["Idempotent-Replayed"] == "true"
            assert replay.data == answer.data

    def test_one_that_differs_in_build_metadata(self, acme: Api) -> None:
        acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest("1.0.0+one")})
        problem = acme.put(AGENT, {"manifest": manifest("1.0.0+two")}).get_json()
        assert problem["code"] == "version_exists"
        assert (problem["existing_version"], problem["identical"]) == ("1.0.0+one", False)
        found = acme.get(f"{AGENT}/versions/1.0.0+one").get_json()
        assert problem["existing_digest"] == found["digest"]

    def test_an_agent(self, acme: Api) -> None:
        first = acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest("1.0.0")})
        assert first.status_code == 200
        digest = acme.get(f"{AGENT}/versions/1.0.0").get_json()["digest"]
        expected = {
            "1.0.0": ("1.0.0", digest, True),
            "1.0.1": (None, None, False),
        }
        for version, found in expected.items():
            body = {"namespace": "@acme", "manifest": manifest(version)}
            problem = acme.post("/v1/agents", body).get_json()
            assert problem["code"] == "agent_exists"
            names = ("existing_version", "existing_digest", "identical")
            assert tuple(problem.get(name) for name in names) == found


def test_the_comparison_kept_is_the_comparison_made(acme: Api, services: Services) -> None:
    acme.post("/v1/agents", {"namespace": "@acme", "manifest": manifest("1.0.0")})
    publish(acme, "1.0.1", "locale")
    with services.database.read() as connection:
        kept = connection.scalar(
            sa.select(Version.impact_from_previous).where(Version.version == "1.0.1")
        )
    assert orjson.loads(kept or "") == behavioral_diff(
        manifest("1.0.0"), manifest("1.0.1", "locale")
    )
