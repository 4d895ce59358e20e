"""What a new agent's account begins with, in the transaction that makes the agent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from app.config import Settings, SettingsError
from app.http.context import Services
from app.ledger.models import Transaction
from app.registry import blueprint as registry
from tests.client import Api
from tests.registry.manifests import build_manifest

CREDIT = 1_500_001
AGENT = "@acme:invoice-summarizer"
FORK = "@acme:copy"


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Settings with an opening credit, or with what the test's mark says."""
    return replace(settings, opening_credit_usd=getattr(request, "param", CREDIT))


def register(api: Api, namespace: str = "@acme") -> int:
    """Register the invoice summarizer and return the answer's status."""
    return api.post(
        "/v1/agents", {"namespace": namespace, "manifest": build_manifest()}
    ).status_code


def fork(api: Api, slug: str = "copy") -> int:
    """Fork the invoice summarizer and return the answer's status."""
    body = {"namespace": "@acme", "new_slug": slug}
    return api.post(f"/v1/agents/{AGENT}/fork", body).status_code


def dedupe_keys(services: Services) -> list[str]:
    """Return what was booked, in order."""
    with services.database.read() as connection:
        return list(
            connection.scalars(select(Transaction.dedupe_key).order_by(Transaction.seq)).all()
        )


def balance(api: Api, agent: str) -> float:
    """Return an agent's balance."""
    answer = api.get(f"/v1/ledger/accounts/agent:{agent}")
    assert answer.status_code == 200
    found: float = answer.get_json()["balance_usd"]
    return found


def test_registering_and_forking_open_accounts_with_it(acme: Api, services: Services) -> None:
    assert (register(acme), fork(acme)) == (200, 200)
    assert (balance(acme, AGENT), balance(acme, FORK)) == (1.500001, 1.500001)
    assert dedupe_keys(services) == [f"opening:{AGENT}", f"opening:{FORK}"]


@pytest.mark.parametrize("settings", [0], indirect=True)
def test_without_a_credit_the_account_is_open_and_empty(acme: Api, services: Services) -> None:
    assert (register(acme), fork(acme)) == (200, 200)
    assert (balance(acme, AGENT), balance(acme, FORK)) == (0, 0)
    assert dedupe_keys(services) == []


def test_no_agent_no_credit(acme: Api, globex: Api, services: Services) -> None:
    assert register(acme) == 200
    before = dedupe_keys(services)
    assert register(acme) == 409
    assert register(globex) == 403
    assert fork(globex) == 403
    assert fork(acme, "invoice-summarizer") == 409
    assert fork(acme, "No Slug") == 422
    assert dedupe_keys(services) == before == [f"opening:{AGENT}"]
    assert balance(acme, AGENT) == 1.500001


def test_no_credit_no_agent(acme: Api, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the ledger fails")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "open_agent_account", fail)
        assert register(acme) == 500
    assert acme.get(f"/v1/agents/{AGENT}").status_code == 404
    assert register(acme) == 200
    with monkeypatch.context() as patch:
        patch.setattr(registry, "open_agent_account", fail)
        assert fork(acme) == 500
    assert acme.get(f"/v1/agents/{FORK}").status_code == 404
    assert dedupe_keys(services) == [f"opening:{AGENT}"]


def test_a_further_version_brings_no_further_credit(acme: Api, services: Services) -> None:
    register(acme)
    acme.put(f"/v1/agents/{AGENT}", {"manifest": build_manifest(version="2.0.0")})
    acme.delete(f"/v1/agents/{AGENT}")
    assert dedupe_keys(services) == [f"opening:{AGENT}"]


@pytest.mark.parametrize(
    ("text", "micros"), [("0", 0), ("1000", 10**9), ("0.000001", 1), ("1e9", 10**15)]
)
def test_the_setting_is_in_usd(text: str, micros: int) -> None:
    settings = Settings.from_env({"AGENTHUB_OPENING_CREDIT_USD": text})
    assert settings.opening_credit_usd == micros


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1e10", "0.0000001", "ten", "1e999"])
def test_a_setting_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="AGENTHUB_OPENING_CREDIT_USD: expected an amount"):
        Settings.from_env({"AGENTHUB_OPENING_CREDIT_USD": text})
