"""What snapshots refuse, and that the target is then as it was."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import zstandard
from sqlalchemy import text

from app.config import Settings
from app.ops.snapshot.archive import MANIFEST, Writer, member_name, open_snapshot
from app.ops.snapshot.create import verify
from app.ops.snapshot.errors import SnapshotCorrupt, SnapshotRefused
from app.ops.snapshot.manifest import Content, parse_manifest
from app.ops.snapshot.progress import Silence
from app.ops.tracks import upgrade_all
from tests.migrations.project import ROOT, connect, contents, environ
from tests.ops.conftest import bring_back, take
from tests.ops.place import Place

NewDatabase = Callable[..., Settings]


@pytest.fixture
def file(place: Place, tmp_path: Path) -> Path:
    """A snapshot of a place."""
    take(place.settings, tmp_path / "place.snapshot")
    return tmp_path / "place.snapshot"


Rows = dict[str, list[bytes]]


def rewrite(file: Path, change: Callable[[Rows], None], **manifest: object) -> Path:
    """Write a snapshot again with other rows, whose hashes are right, and another manifest."""
    with open_snapshot(file) as snapshot:
        rows = {
            content.table.name: list(snapshot.read_lines(content))
            for content in snapshot.manifest.contents
        }
        change(rows)
        forged = file.with_name("forged.snapshot")
        with forged.open("wb") as target:
            writer = Writer(target, 0)
            forge = replace(
                snapshot.manifest,
                contents=tuple(
                    _rewritten(writer, content, rows[content.table.name])
                    for content in snapshot.manifest.contents
                ),
            )
            writer.finish(replace(forge, **manifest))
    return forged


def _rewritten(writer: Writer, content: Content, lines: list[bytes]) -> Content:
    with writer.table(content.table.name) as write:
        write(b"".join(lines))
    return Content(content.table, len(lines), hashlib.sha256(b"".join(lines)).hexdigest())


def refuse(settings: Settings, file: Path, reason: str) -> None:
    """Restore what must be refused, into a migrated database that must not change by it."""
    before = contents(settings)
    with pytest.raises(SnapshotRefused, match=reason):
        bring_back(settings, file)
    assert contents(settings) == before


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
@pytest.mark.parametrize("dialect", ["sqlite"])
class TestRestoring:
    """Each refusal on a target of both kinds; the source does not matter."""

    def test_a_row_that_was_changed(
        self, file: Path, target: str, new_database: NewDatabase
    ) -> None:
        def steal(rows: Rows) -> None:
            rows["ledger_postings"][-1] = rows["ledger_postings"][-1].replace(b",1]", b",2]")

        there = new_database(target, migrated=True)
        refuse(there, rewrite(file, steal), r"R1 does not hold \(the sums of every account")
        if target == "postgresql":
            # Numbering was reset by then, and is as it was again.
            with connect(there) as connection:
                sequence = text("SELECT last_value, is_called FROM ledger_transactions_seq_seq")
                assert tuple(connection.execute(sequence).one()) == (1, False)

    def test_a_sealed_row_that_was_changed(
        self, file: Path, target: str, new_database: NewDatabase
    ) -> None:
        def backdate(rows: Rows) -> None:
            row = orjson.loads(rows["ledger_transactions"][2])
            row[-1] = "2020-01-01T00:00:00.000000Z"
            rows["ledger_transactions"][2] = orjson.dumps(row) + b"\n"

        there = new_database(target, migrated=True)
        refuse(there, rewrite(file, backdate), "R11 does not hold .*block 1, transaction 3")

    def test_another_digest(self, file: Path, target: str, new_database: NewDatabase) -> None:
        def nothing(_: Rows) -> None:
            pass

        forged = rewrite(file, nothing, ledger_digest={"block": 0})
        refuse(new_database(target, migrated=True), forged, "newest seal is not the one")

    def test_rows_of_other_kinds(self, file: Path, target: str, new_database: NewDatabase) -> None:
        there = new_database(target, migrated=True)
        for line, reason in (
            (b'["a","b"]\n', "access_owners, row 1: expected 3 values, not 2"),
            (b'["a","b",5]\n', "access_owners, row 1: created_at is not of the kind time"),
            (b'["a","b","2026-13-01T00:00:00.000000Z"]\n', "access_owners, row 1: month must be"),
            (b'["a","b","tomorrow"]\n', "'tomorrow' is no time in UTC"),
            (b'{"a": 1}\n', "access_owners, row 1: expected an array"),
            (b"[1,\n", "access_owners, row 1: "),
            (b'["a",null,"2026-01-01T00:00:00.000000Z"]\n', "access_owners: the database refused"),
        ):
            change = lambda rows, line=line: rows.update(access_owners=[line])  # noqa: E731
            refuse(there, rewrite(file, change), reason)

    def test_a_row_that_refers_to_none(
        self, file: Path, target: str, new_database: NewDatabase
    ) -> None:
        forged = rewrite(file, lambda rows: rows["registry_versions"].clear())
        refuse(new_database(target, migrated=True), forged, "registry_evaluation.*(refers|refused)")

    def test_later_releases(self, file: Path, target: str, new_database: NewDatabase) -> None:
        there = new_database(target, migrated=True)
        for revisions in ({"registry": "registry_9999"}, {"billing": "billing_0001"}):
            forged = rewrite(file, lambda _: None, revisions=revisions)
            refuse(there, forged, f"does not know {next(iter(revisions.values()))}; install that")
        with connect(there) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = 'access_9999'"
                                    " WHERE version_num LIKE 'access%'"))  # fmt: skip
        refuse(there, file, "the database is of a later release: it has access_9999")

    def test_tables_that_are_not_of_the_revisions(
        self, file: Path, target: str, new_database: NewDatabase
    ) -> None:
        with open_snapshot(file) as snapshot:
            revisions = dict(snapshot.manifest.revisions)
        there = new_database(target, migrated=True)
        older = rewrite(file, lambda _: None, revisions=revisions | {"registry": "registry_0001"})
        refuse(there, older, "a table that its revision has not: registry_")
        none = rewrite(file, lambda _: None, revisions={"registry": revisions["registry"]})
        refuse(there, none, "a table that its revision has not: access_")

    def test_a_database_in_use(self, file: Path, target: str, new_database: NewDatabase) -> None:
        there = new_database(target)
        bring_back(there, file)
        refuse(there, file, "is not empty: access_admin_actions and [0-9]+ more tables hold rows")

    def test_an_absent_database_stays_absent(
        self, file: Path, target: str, new_database: NewDatabase
    ) -> None:
        there = new_database(target)
        forged = rewrite(file, lambda rows: rows["ledger_postings"].pop())
        with pytest.raises(SnapshotRefused, match="R1 does not hold"):
            bring_back(there, forged)
        if target == "sqlite":
            assert os.listdir(there.data_dir) == []
        else:
            assert contents(there) == {}


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_no_byte_can_change_unseen(file: Path) -> None:
    whole = file.read_bytes()
    with open_snapshot(file) as snapshot:
        manifest = snapshot.manifest
    places = [*range(0, len(whole), max(1, len(whole) // 400)), *range(0, 1024, 7)]
    refused = 0
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            with open_snapshot(file) as snapshot:
                verify(snapshot, Silence())
        except SnapshotRefused:
            refused += 1
        else:
            # Nothing depends on the byte: what proves the rows is as it was. The archive is filled
            # up with zeros, and compressed data has bits that nobody reads.
            assert snapshot.manifest == manifest
    assert refused > len(places) / 2
    for length in (0, 1, 511, 512, 1024, len(whole) // 2, len(whole) - 1025):
        file.write_bytes(whole[:length])
        with pytest.raises(SnapshotCorrupt), open_snapshot(file) as snapshot:
            verify(snapshot, Silence())


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_files_that_are_no_snapshots(file: Path, tmp_path: Path) -> None:
    def archive(**members: bytes) -> bytes:
        path = tmp_path / "made"
        with tarfile.open(path, "w") as made:
            for name, content in members.items():
                (tmp_path / "member").write_bytes(content)
                made.add(tmp_path / "member", name)
        return path.read_bytes()

    with open_snapshot(file) as snapshot:
        document = snapshot.manifest.document()
    for content, reason in (
        (b"", "no snapshot"),
        (b"SQLite format 3\0" * 100, "no snapshot"),
        (archive(other=b"{}"), "there is no manifest"),
        (archive(**{MANIFEST: b""}), "not one of a snapshot"),
        (archive(**{MANIFEST: b"{}"}), "not one of a snapshot"),
        (archive(**{MANIFEST: b"[1]"}), "not one of a snapshot"),
        (archive(**{MANIFEST: orjson.dumps(document)}), "does not hold the tables"),
        (archive(**{MANIFEST: orjson.dumps(document | {"release": "9"})}), "not the one that was"),
        (archive(**{MANIFEST: orjson.dumps(document | {"format_version": 2})}), "version 2; this"),
    ):
        made = tmp_path / "made.snapshot"
        made.write_bytes(content)
        with pytest.raises(SnapshotRefused, match=reason), open_snapshot(made):
            pass


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_frame_cannot_make_its_reader_take_memory(file: Path) -> None:
    with open_snapshot(file) as snapshot:
        content = snapshot.manifest.contents[0]
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    huge = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = huge.compress(b"x" * 2**20) + huge.flush()
    with tarfile.open(file) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive.getmembers()]  # type: ignore[union-attr]
    with file.open("wb") as target:
        writer = Writer(target, 0)
        for member, data in members:
            with writer.member(member.name) as stream:
                stream.write(frame if member.name == member_name(content.table.name) else data)
    with pytest.raises(SnapshotCorrupt, match="memory"), open_snapshot(file) as snapshot:
        verify(snapshot, Silence())


def test_a_killed_restore_leaves_the_target_as_it_was(
    place: Place, new_database: NewDatabase, tmp_path: Path
) -> None:
    file = tmp_path / "place.snapshot"
    take(place.settings, file)
    there = new_database(place.settings.url.get_backend_name(), migrated=True)
    before = contents(there)
    # Stops for ever where everything is loaded and proven, and nothing committed.
    program = (
        "import sys, time; from pathlib import Path\n"
        "from app.config import Settings\n"
        "from app.ops.snapshot import progress, restore, archive\n"
        "class Stop(progress.Silence):\n"
        "    def step(self, name, total=None):\n"
        "        if name == 'committing': print('now', flush=True); time.sleep(600)\n"
        "with archive.open_snapshot(Path(sys.argv[1])) as snapshot:\n"
        "    restore.restore(Settings.from_env(), snapshot, Stop())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(file)],
        cwd=ROOT, env=environ(there), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while contents(there) != before:
        assert time.monotonic() < deadline
    # Nothing is in the way of trying again, the locks of the dead neither.
    assert bring_back(there, file).rows > 0


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_full_disk(place: Place, new_database: NewDatabase, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writes fail in the same places."""
    file = tmp_path / "place.snapshot"
    take(place.settings, file)
    there = new_database("sqlite", migrated=True)
    before = contents(there)
    for arguments, limit in (
        (("create", str(tmp_path / "other.snapshot")), 20_000),
        (("restore", str(file)), 100_000),
    ):
        settings = place.settings if arguments[0] == "create" else there
        limited = (
            "import resource, signal, sys; from app.cli import main\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
            "main(sys.argv[1:])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", limited, "snapshot", *arguments],
            cwd=ROOT, env=environ(settings), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("Error: "), done.stderr
    assert not list(tmp_path.glob("*other*"))
    assert not list(tmp_path.glob(".*other*"))
    assert contents(there) == before


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
@pytest.mark.parametrize("migrated", [False, True], ids=["absent", "migrated"])
def test_an_older_snapshot_is_upgraded(
    target: str, migrated: bool, new_database: NewDatabase, tmp_path: Path
) -> None:
    # Made by the release without delegation_0002: python -m tests.ops.place older.snapshot
    file = Path(__file__).with_name("older.snapshot")
    with open_snapshot(file) as snapshot:
        manifest = snapshot.manifest
    assert manifest.revisions["delegation"] == "delegation_0001"
    there = new_database(target, migrated=migrated)
    restored = bring_back(there, file)
    assert restored.snapshot_revisions == manifest.revisions
    fresh = new_database(target)
    upgrade_all(fresh)
    assert contents(there)["alembic_version"] == contents(fresh)["alembic_version"]
    # What the older release wrote is all there, in the tables of this one.
    again = {c.table.name: c for c in take(there, tmp_path / "again.snapshot").contents}
    kept = [c for c in manifest.contents if c.table == again[c.table.name].table]
    assert len(kept) > 10
    assert all(again[c.table.name] == c for c in kept)


def test_the_manifest_is_bound_to_its_content(tmp_path: Path) -> None:
    file = Path(__file__).with_name("older.snapshot")
    with open_snapshot(file) as snapshot:
        document = snapshot.manifest.document()
    assert parse_manifest(orjson.dumps(document)).document() == document
    for member in document:
        changed = {**document, member: "agenthub-snapshot2"}
        with pytest.raises(SnapshotRefused):
            parse_manifest(orjson.dumps(changed))
