"""Writing a revision: it gets the next number of its track, its folder, and nothing superfluous."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from app.config import Settings
from tests.migrations.project import add_revision, alembic, connect, copy_migrations, revisions_of

NEXT = f"registry_{len(revisions_of('registry')) + 1:04d}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    folder.mkdir()
    return copy_migrations(folder)


def new_files(home: Path) -> dict[str, str]:
    """Return the revisions that this release does not have, by their path, with their text."""
    versions = home / "alembic" / "versions"
    known = {revision for scope in versions.iterdir() for revision in revisions_of(scope.name)}
    return {
        str(path.relative_to(versions)): path.read_text()
        for path in sorted(versions.rglob("*.py"))
        if "_".join(path.name.split("_")[:2]) not in known
    }


def drop_index(settings: Settings, name: str) -> None:
    """Make the database lack what the models have."""
    with connect(settings) as connection:
        connection.exec_driver_sql(f"DROP INDEX {name}")


def test_a_revision_by_hand_is_numbered_and_filed(settings: Settings, home: Path) -> None:
    alembic(settings, "revision", "--head", "registry@head", "-m", "add x", home=home)

    ((path, text),) = new_files(home).items()
    assert path == f"registry/{NEXT}_add_x.py"
    assert text.startswith('"""add x"""\n')
    assert f"revision: str = {NEXT!r}\n" in text
    assert f"down_revision: str | None = {revisions_of('registry')[-1]!r}\n" in text
    assert "branch_labels: Sequence[str] | None = None\n" in text

    alembic(settings, "upgrade", "registry@head", home=home)
    alembic(settings, "downgrade", "registry@-1", home=home)


def test_a_comparison_that_finds_nothing_writes_nothing(settings: Settings, home: Path) -> None:
    _, err = alembic(
        settings, "revision", "--autogenerate", "--head", "registry@head", "-m", "x", home=home
    )

    assert new_files(home) == {}
    assert "no revision was written" in err


def test_a_comparison_writes_what_it_finds_in_its_own_track(settings: Settings, home: Path) -> None:
    drop_index(settings, "ix_access_api_keys_owner_id")
    drop_index(settings, "ix_registry_namespaces_owner_id")

    alembic(settings, "revision", "--autogenerate", "--head", "registry@head", "-m", "x", home=home)

    ((path, text),) = new_files(home).items()
    assert path == f"registry/{NEXT}_x.py"
    assert "ix_registry_namespaces_owner_id" in text
    assert "access" not in text

    alembic(settings, "upgrade", "registry@head", home=home)
    with connect(settings) as connection:
        names = {
            index["name"] for index in sa.inspect(connection).get_indexes("registry_namespaces")
        }
    assert names == {"ix_registry_namespaces_owner_id"}


def test_a_change_of_another_scope_is_left_to_that_scope(settings: Settings, home: Path) -> None:
    drop_index(settings, "ix_access_api_keys_owner_id")

    alembic(settings, "revision", "--autogenerate", "--head", "registry@head", "-m", "x", home=home)

    assert new_files(home) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the track of the revision: --head SCOPE@head"),
        (["--head", revisions_of("registry")[-1]], "name the track of the revision"),
        (["--head", "billing@head"], "unknown scope 'billing'; scopes are access, "),
        (
            ["-x", "scope=access", "--head", revisions_of("registry")[-1]],
            f"{revisions_of('registry')[-1]} is no revision of the track access",
        ),
        (["--head", "registry@head", "--branch-label", "access"], "is no revision of the track"),
    ],
)
@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_revision_on_no_track_or_another_track_is_refused(
    arguments: list[str], message: str, settings: Settings, home: Path
) -> None:
    drop_index(settings, "ix_access_api_keys_owner_id")
    before = arguments[:2] if "-x" in arguments else []

    out, _ = alembic(
        settings,
        *before,
        "revision",
        "--autogenerate",
        *arguments[len(before) :],
        "-m",
        "x",
        home=home,
        fails=True,
    )

    assert f"FAILED: {message}" in out or message in out
    assert new_files(home) == {}


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_numbers_continue_after_the_newest_revision(settings: Settings, home: Path) -> None:
    assert add_revision(home, "registry") == NEXT

    alembic(settings, "revision", "--head", "registry@head", "-m", "third", home=home)

    following = f"registry_{int(NEXT[-4:]) + 1:04d}"
    assert f"registry/{following}_third.py" in new_files(home)
