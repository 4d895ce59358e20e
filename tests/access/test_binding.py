"""Editing the database promotes, moves, prolongs and revives no key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import select, text, update

from app import clock
from app.access import service
from app.access.errors import ApiKeyInvalid, KeyAltered, KeyExpired, KeyRotated
from app.access.models import ApiKey
from app.access.service import NewKey
from app.config import Settings
from app.http.context import Services
from app.ops.tracks import upgrade_all
from tests.cli.test_commands import Shell
from tests.client import Api
from tests.conftest import PEPPER, settings_for
from tests.migrations.project import alembic, config, connect, contents
from tests.migrations.test_offline import execute_script
from tests.ops.conftest import bring_back

RELEASE_1 = Path(__file__).parents[1] / "ops" / "release-1.snapshot"


@pytest.fixture
def make(services: Services) -> Callable[..., NewKey]:
    """Make keys."""

    def make(owner: str, role: str, expires_at: datetime | None = None) -> NewKey:
        with services.database.transaction() as session:
            return service.create_key(session, services.pepper, owner, role, expires_at)

    return make


def edit(services: Services, key: NewKey, **values: Any) -> None:
    """Change a key's row as somebody does who has the database and not the pepper."""
    with services.database.transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.id == key.id).values(**values))


def row(services: Services, key: NewKey) -> Any:
    """Return a key's row."""
    with services.database.read() as connection:
        return connection.execute(select(ApiKey.__table__).where(ApiKey.id == key.id)).one()


def is_taken(services: Services, key: NewKey) -> bool:
    """Tell whether a key authenticates."""
    with services.database.read() as connection:
        try:
            service.authenticate(connection, services.pepper, key.secret)
        except ApiKeyInvalid:
            return False
    return True


def test_no_edit_gives_a_key_more(services: Services, make: Callable[..., NewKey]) -> None:
    boss = row(services, make("boss", "admin"))
    later = clock.now() + timedelta(days=900)
    for number, change in enumerate(
        (
            {"role": "admin"},
            {"role": "admin", "binding": None},
            {"role": "admin", "binding": boss.binding},
            {"owner_id": boss.owner_id},
            {"expires_at": None},
            {"expires_at": later},
        )
    ):
        key = make(f"acme-{number}", "developer", clock.now() + timedelta(days=1))
        assert is_taken(services, key)
        edit(services, key, **change)
        assert not is_taken(services, key), change


def test_one_update_does_not_promote_a_caller(acme: Api, services: Services) -> None:
    assert acme.get("/v1/audit").status_code == 403
    with services.database.transaction() as session:
        session.execute(text("UPDATE access_api_keys SET role = 'admin'"))
    assert acme.get("/v1/audit").status_code == 401


def test_a_revoked_key_stays_revoked(services: Services, make: Callable[..., NewKey]) -> None:
    revoked, rotated, ending = (make("acme", "admin") for _ in range(3))
    with services.database.transaction() as session:
        service.revoke_key(session, services.pepper, revoked.id)
        service.rotate_key(session, services.pepper, rotated.id, timedelta())
        service.rotate_key(session, services.pepper, ending.id, timedelta(hours=1))
    assert is_taken(services, ending)
    for key in (revoked, rotated, ending):
        edit(services, key, revoked_at=None, expires_at=None)
        assert not is_taken(services, key)


def test_a_secret_of_ones_own_opens_no_other_key(
    services: Services, make: Callable[..., NewKey]
) -> None:
    mine, boss = make("acme", "viewer"), make("boss", "admin")
    secret = mine.secret.split("_", 2)[2]
    forged = service.hash_secret(b"not the pepper", boss.id, secret)
    for stolen in (row(services, mine).secret_hash, forged):
        edit(services, boss, secret_hash=stolen)
        with services.database.read() as connection, pytest.raises(ApiKeyInvalid):
            service.authenticate(connection, services.pepper, f"ah_{boss.id}_{secret}")


def test_an_edited_key_is_shown_and_has_no_successor(
    services: Services, make: Callable[..., NewKey], settings: Settings, tmp_path: Path
) -> None:
    key = make("acme", "developer")
    edit(services, key, role="admin")
    with services.database.transaction() as session, pytest.raises(KeyAltered):
        service.rotate_key(session, services.pepper, key.id, timedelta())
    shell = Shell(settings, tmp_path)
    (listed,) = shell.json("keys", "list")
    assert listed["genuine"] is False
    doctor = shell.run("doctor")
    assert key.id in doctor.stdout
    assert doctor.returncode == 1
    edit(services, key, role="developer")
    assert is_taken(services, key)
    edit(services, key, role="viewer")
    assert shell.run("keys", "bind", key.id).returncode == 0
    assert is_taken(services, key)
    assert shell.run("keys", "bind", "0" * 16).returncode == 2


class TestRotation:
    def test_a_key_has_one_successor(
        self, services: Services, make: Callable[..., NewKey], settings: Settings, tmp_path: Path
    ) -> None:
        key = make("acme", "developer")
        shell = Shell(settings, tmp_path)
        new = shell.json("keys", "rotate", key.id, "--grace-hours", "1")
        again = shell.run("keys", "rotate", key.id)
        assert again.returncode == 2
        assert f"was rotated already: rotate its successor {new['id']}" in again.stderr
        assert is_taken(services, key)
        assert len(shell.json("keys", "list")) == 2

    def test_of_rivals_one_makes_the_successor(
        self, services: Services, make: Callable[..., NewKey]
    ) -> None:
        key = make("acme", "developer")
        outcomes: list[str] = []

        def rotate() -> None:
            try:
                with services.database.transaction() as session:
                    grace = timedelta(hours=1)
                    outcomes.append(service.rotate_key(session, services.pepper, key.id, grace).id)
            except KeyRotated as error:
                outcomes.append(error.code)

        threads = [threading.Thread(target=rotate) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("api_key_rotated") == 3
        assert row(services, key).replaced_by in outcomes

    def test_grace_prolongs_nothing(self, services: Services, make: Callable[..., NewKey]) -> None:
        end = datetime(2030, 1, 1, tzinfo=UTC)
        with clock.frozen(lambda: end - timedelta(hours=1)):
            key = make("acme", "developer", end)
            with services.database.transaction() as session:
                new = service.rotate_key(session, services.pepper, key.id, timedelta(hours=2))
            assert is_taken(services, key)
        assert new.expires_at == end
        assert row(services, key).expires_at == end
        with clock.frozen(lambda: end):
            assert not is_taken(services, key)
            assert not is_taken(services, new)

    def test_a_key_that_is_over_has_no_successor(
        self, services: Services, make: Callable[..., NewKey]
    ) -> None:
        key = make("acme", "developer", clock.now())
        with services.database.transaction() as session, pytest.raises(KeyExpired):
            service.rotate_key(session, services.pepper, key.id, timedelta())


class TestKeysOfAnEarlierRelease:
    @pytest.fixture
    def known(self) -> dict[str, str]:
        """The keys of the callers in the snapshot of that release."""
        import json

        keys: dict[str, str] = json.loads(RELEASE_1.with_suffix(".json").read_text())["keys"]
        return keys

    @pytest.fixture
    def old(self, empty_settings: Settings) -> Settings:
        """A database as that release left it."""
        bring_back(empty_settings, RELEASE_1)
        guarded = config(empty_settings, allow_data_loss="access")
        command.downgrade(guarded, "access@access_0002")
        return empty_settings

    def principals(self, settings: Settings, known: dict[str, str]) -> dict[str, str]:
        """Return the roles that keys have, by owner."""
        found = {}
        with connect(settings) as connection:
            for owner, key in known.items():
                principal = service.authenticate(connection, PEPPER.encode(), key)
                assert principal.owner_name == owner
                found[owner] = principal.role
        return found

    def test_they_work_after_a_restore_and_after_an_upgrade(
        self, empty_settings: Settings, known: dict[str, str]
    ) -> None:
        expected = {"acme": "developer", "globex": "developer", "boss": "admin"}
        bring_back(empty_settings, RELEASE_1)
        assert self.principals(empty_settings, known) == expected
        command.downgrade(config(empty_settings, allow_data_loss="access"), "access@access_0002")
        upgrade_all(empty_settings)
        assert self.principals(empty_settings, known) == expected

    def test_without_the_pepper_the_upgrade_stops(
        self, old: Settings, known: dict[str, str], tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        url = old.url.render_as_string(hide_password=False)
        lost = settings_for(url, tmp_path / "elsewhere", key_pepper=None)
        before = contents(old)
        with pytest.raises(CommandError, match="set AGENTHUB_KEY_PEPPER to it"):
            upgrade_all(lost)
        assert contents(old) == before
        assert list((tmp_path / "elsewhere").iterdir()) == []
        upgrade_all(old)
        assert self.principals(old, known)

    def test_after_a_script_they_wait_to_be_bound(
        self, old: Settings, known: dict[str, str], tmp_path: Path
    ) -> None:
        script, _ = alembic(old, "upgrade", "access_0002:access@head", "--sql")
        execute_script(old, script)
        with pytest.raises(ApiKeyInvalid):
            self.principals(old, known)
        identifiers = [key.split("_")[1] for key in known.values()]
        assert Shell(old, tmp_path).run("keys", "bind", *identifiers).returncode == 0
        assert self.principals(old, known)
