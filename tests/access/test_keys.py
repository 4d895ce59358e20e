"""API keys: made, verified, expired, revoked, rotated, and when they were last used."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app import clock
from app.access import service
from app.access.errors import ApiKeyInvalid, KeyNotFound, KeyRevoked, OwnerNameInvalid
from app.access.pepper import load_pepper
from app.access.service import KeyUsage, NewKey, Principal
from app.config import Settings, SettingsError
from app.http.context import Services
from app.ops.maintenance import Maintenance
from tests.client import Api
from tests.conftest import settings_for
from tests.registry.manifests import build_manifest


@pytest.fixture
def key(services: Services) -> NewKey:
    """A developer key of the owner ``acme``."""
    with services.database.transaction() as session:
        return service.create_key(session, services.pepper, "acme", "developer")


def authenticate(services: Services, presented: str) -> Principal:
    """Return the principal of a presented key."""
    with services.database.read() as connection:
        return service.authenticate(connection, services.pepper, presented)


def stored(services: Services, key_id: str) -> dict[str, Any]:
    """Return what a listing shows of a key."""
    with services.database.read() as connection:
        return next(
            row for row in service.list_keys(connection, services.pepper) if row["id"] == key_id
        )


def test_a_key_names_its_owner_and_role(services: Services, key: NewKey) -> None:
    principal = authenticate(services, key.secret)
    assert (principal.owner_name, principal.role, principal.key_id) == ("acme", "developer", key.id)
    assert principal.has_role("viewer")
    assert principal.has_role("developer")
    assert not principal.has_role("admin")


def test_only_a_hash_is_stored(services: Services, key: NewKey) -> None:
    secret = key.secret.split("_", 2)[2]
    with services.database.read() as connection:
        for table in ("access_owners", "access_api_keys"):
            for row in connection.execute(text(f"SELECT * FROM {table}")):
                assert secret not in str(tuple(row))
    assert "secret_hash" not in stored(services, key.id)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: "",
        lambda key: "x",
        lambda key: key[:-1],
        lambda key: key + "\n",
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key.replace("ah_", "AH_"),
        lambda key: "ah_" + "0" * 16 + key[19:],
        lambda key: key + "é",
    ],
)
def test_anything_else_is_refused(
    services: Services, key: NewKey, change: Callable[[str], str]
) -> None:
    with pytest.raises(ApiKeyInvalid):
        authenticate(services, change(key.secret))


def test_another_pepper_verifies_no_key(services: Services, key: NewKey) -> None:
    with services.database.read() as connection, pytest.raises(ApiKeyInvalid):
        service.authenticate(connection, b"another pepper", key.secret)


def test_a_key_expires(services: Services) -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)
    with services.database.transaction() as session:
        key = service.create_key(session, services.pepper, "acme", "viewer", end)
    with clock.frozen(lambda: end - timedelta(microseconds=1)):
        authenticate(services, key.secret)
    with clock.frozen(lambda: end), pytest.raises(ApiKeyInvalid):
        authenticate(services, key.secret)


def test_a_revoked_key_is_refused_at_once(services: Services, key: NewKey) -> None:
    with services.database.transaction() as session:
        service.revoke_key(session, services.pepper, key.id)
    with pytest.raises(ApiKeyInvalid):
        authenticate(services, key.secret)
    with services.database.transaction() as session, pytest.raises(KeyRevoked):
        service.revoke_key(session, services.pepper, key.id)
    with services.database.transaction() as session, pytest.raises(KeyNotFound):
        service.revoke_key(session, services.pepper, "0" * 16)


def test_rotation_without_grace_ends_the_old_key(services: Services, key: NewKey) -> None:
    with services.database.transaction() as session:
        new = service.rotate_key(session, services.pepper, key.id, timedelta())
    assert authenticate(services, new.secret).owner_name == "acme"
    assert stored(services, key.id)["replaced_by"] == new.id
    with pytest.raises(ApiKeyInvalid):
        authenticate(services, key.secret)


def test_rotation_with_grace_keeps_both_for_a_while(services: Services, key: NewKey) -> None:
    start = clock.now()
    with services.database.transaction() as session:
        new = service.rotate_key(session, services.pepper, key.id, timedelta(hours=2))
    with clock.frozen(lambda: start + timedelta(hours=1)):
        assert authenticate(services, key.secret).role == "developer"
    with clock.frozen(lambda: start + timedelta(hours=3)):
        assert authenticate(services, new.secret).role == "developer"
        with pytest.raises(ApiKeyInvalid):
            authenticate(services, key.secret)


@pytest.mark.parametrize("name", ["", " acme", "acme\n", "-acme", "a" * 65, "ac me", "äcme"])
def test_owner_names(services: Services, name: str) -> None:
    with services.database.transaction() as session, pytest.raises(OwnerNameInvalid):
        service.create_key(session, services.pepper, name, "viewer")


def test_an_owner_has_many_keys(services: Services, key: NewKey) -> None:
    with services.database.transaction() as session:
        other = service.create_key(session, services.pepper, "acme", "viewer")
    first, second = (authenticate(services, k.secret) for k in (key, other))
    assert first.owner_id == second.owner_id
    assert first.role != second.role


def test_bootstrap_makes_one_admin_key_in_an_empty_database(services: Services) -> None:
    made: list[NewKey | None] = []

    def start() -> None:
        with services.database.transaction() as session:
            made.append(service.bootstrap_admin(session, services.pepper))

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (key,) = [key for key in made if key is not None]
    assert authenticate(services, key.secret).role == "admin"
    start()
    assert made[-1] is None


class TestLastUse:
    def test_a_read_only_remembers_and_maintenance_stores(
        self, services: Services, acme: Api
    ) -> None:
        body = {"namespace": "@acme", "manifest": build_manifest()}
        moment = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
        with clock.frozen(lambda: moment):
            assert acme.post("/v1/agents", body).status_code == 200
        key_id = (acme.key or "")[3:19]
        assert stored(services, key_id)["last_used_at"] is None
        Maintenance(services.database, services.key_usage).run_once()
        assert stored(services, key_id)["last_used_at"] == moment
        assert not services.key_usage.pending()

    def test_the_time_never_moves_back(self, services: Services, key: NewKey) -> None:
        late, early = datetime(2031, 1, 2, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
        for moment in (late, early):
            usage = KeyUsage()
            with clock.frozen(lambda moment=moment: moment):  # type: ignore[misc]
                usage.record(key.id)
            with services.database.transaction() as session:
                assert usage.flush(session) == 1
        assert stored(services, key.id)["last_used_at"] == late

    def test_a_failed_flush_loses_nothing(self, services: Services, key: NewKey) -> None:
        usage = KeyUsage()
        usage.record(key.id)
        with pytest.raises(ZeroDivisionError), services.database.transaction() as session:
            1 / usage.flush(session) - 1 / 0
        assert usage.pending()
        with services.database.transaction() as session:
            usage.flush(session)
        assert not usage.pending()
        assert stored(services, key.id)["last_used_at"] is not None


class TestPepper:
    def test_the_embedded_database_makes_its_own(self, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path / "data")
        pepper = load_pepper(settings)
        assert len(pepper) >= 32
        assert load_pepper(settings) == pepper
        (file,) = (tmp_path / "data").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert load_pepper(Settings(data_dir=tmp_path / "other")) != pepper

    def test_first_starts_at_once_agree(self, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path)
        found: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: found.append(load_pepper(settings))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        assert len(found) == 8
        assert os.listdir(tmp_path) == ["key-pepper"]

    def test_postgresql_needs_the_setting(self, tmp_path: Path) -> None:
        settings = settings_for("postgresql://h/d", tmp_path, key_pepper=None)
        with pytest.raises(SettingsError, match="AGENTHUB_KEY_PEPPER is required"):
            load_pepper(settings)
