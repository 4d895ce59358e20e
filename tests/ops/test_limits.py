"""No file makes its reader take more memory or time than the rows it says it holds."""

from __future__ import annotations

import hashlib
import io
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from app.config import Settings
from app.ops.snapshot import archive, loading, values
from app.ops.snapshot.archive import MANIFEST, Writer, open_snapshot
from app.ops.snapshot.errors import SnapshotCorrupt, SnapshotRefused
from app.ops.snapshot.listing import list_files, look_at
from app.ops.snapshot.manifest import Manifest
from tests.migrations.project import ROOT, environ
from tests.ops.conftest import bring_back, take
from tests.ops.place import Place

TABLE = "idempotency_keys"
NewDatabase = Callable[..., Settings]


@pytest.fixture
def dialect() -> str:
    """The database that the snapshots are of; reading them does not depend on it."""
    return "sqlite"


@pytest.fixture
def file(place: Place, tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "place.snapshot"
    path.parent.mkdir()
    take(place.settings, path)
    return path


def forge(file: Path, pieces: Iterable[bytes], rows: int) -> Path:
    """Write the snapshot anew, the rows of one table replaced, and its manifest to fit."""
    forged = file.with_name("forged.snapshot")
    with open_snapshot(file) as snapshot, forged.open("wb") as target:
        manifest = snapshot.manifest
        writer = Writer(target, 0)
        contents = []
        for content in manifest.contents:
            lines = pieces if content.table.name == TABLE else snapshot.read_lines(content)
            digest = hashlib.sha256()
            with writer.table(content.table.name) as write:
                for line in lines:
                    digest.update(line)
                    write(line)
            if content.table.name == TABLE:
                content = replace(content, rows=rows, sha256=digest.hexdigest())
            contents.append(content)
        writer.finish(replace(manifest, contents=tuple(contents)))
    return forged


def refused(settings: Settings, *arguments: str) -> str:
    """Run a command with little memory; it must refuse in a sentence. Return it."""
    limited = (
        "import resource, sys; from app.cli import main; import app.ops.snapshot.commands\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1_200_000_000, 1_200_000_000))\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "snapshot", *arguments],
        cwd=ROOT, env=environ(settings), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2), done.stdout + done.stderr
    return done.stdout + done.stderr


def zeros(size: int) -> Iterator[bytes]:
    for _ in range(size // 2**20):
        yield bytes(2**20)


@pytest.mark.parametrize("command", ["verify", "restore"])
def test_a_line_without_end(command: str, file: Path, new_database: NewDatabase) -> None:
    bomb = forge(file, zeros(1536 * 2**20), 1)
    assert bomb.stat().st_size < 2**20
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY

    out = refused(new_database("sqlite"), command, str(bomb))

    assert f"{TABLE}, row 1: a row is longer than 64 MiB" in out
    assert look_at(bomb).manifest is not None


def test_more_rows_than_the_manifest_says(file: Path) -> None:
    forged = forge(file, (b"[]\n" * 100_000 for _ in range(1000)), 5)
    with open_snapshot(file) as snapshot:
        (content,) = [c for c in snapshot.manifest.contents if c.table.name == TABLE]
    with open_snapshot(forged) as snapshot:
        lines = snapshot.read_lines(replace(content, rows=5))
        assert [next(lines) for _ in range(5)] == [b"[]\n"] * 5
        with pytest.raises(SnapshotCorrupt, match="more rows than 5"):
            next(lines)


def test_long_rows_are_loaded_a_few_at_a_time(
    file: Path, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BATCH_BYTES", 2000)
    sizes: list[int] = []
    with open_snapshot(file) as snapshot:
        for content in snapshot.manifest.contents:
            for batch in loading.Batches(snapshot, content, "sqlite"):
                sizes.append(sum(len(orjson.dumps(row, default=repr)) for row in batch))
                assert len(batch) == 1 or sizes[-1] < 20_000
    assert len(sizes) > 10
    assert bring_back(new_database("sqlite"), file).rows > 0


def test_a_row_that_no_reader_would_take_is_not_written(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "MAX_LINE", 500)
    with pytest.raises(SnapshotRefused, match="a row is longer than"):
        take(place.settings, tmp_path / "none.snapshot")
    assert list(tmp_path.glob("*none*")) == []


def test_many_members(tmp_path: Path) -> None:
    path = tmp_path / "many.snapshot"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
        for number in range(300_000):
            made.addfile(tarfile.TarInfo(f"m{number}"))
    with pytest.raises(SnapshotCorrupt, match="more than 1000 members"), open_snapshot(path):
        pass
    assert [look_at(one).problem for one in list_files(tmp_path)] == [
        "the file holds more than 1000 members"
    ]


@pytest.mark.parametrize("size", [2**62, 2**63 - 1, 2**40, -1, -(2**62)])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_sizes_that_are_none(size: int, kind: bytes, file: Path) -> None:
    whole = file.read_bytes()
    header = tarfile.TarInfo("tables/access_owners.jsonl.zst")
    header.type = kind
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    for content in (bytes(block), bytes(block) + whole):
        file.write_bytes(content)
        with pytest.raises(SnapshotCorrupt, match="cut off"), open_snapshot(file):
            pass
        assert "cut off" in str(look_at(file).problem)


def manifest_of(file: Path) -> Manifest:
    with open_snapshot(file) as snapshot:
        return snapshot.manifest


@pytest.mark.parametrize(
    "change",
    [
        {"taken_at": "\x1b[2J"},
        {"taken_at": "2026-13-25T05:41:56.456252Z"},
        {"release": "\x1b]0;title\x07"},
        {"release": 5},
        {"source": "elsewhere"},
        {"revisions": {"registry": "\x1b[31m"}},
        {"revisions": {"registry": ["registry_0001"]}},
        {"ledger_digest": {"block": 1, "hash": "\x1b[31m", "last_seq": 1}},
        {"ledger_digest": {"block": [1]}},
    ],
)
def test_what_a_manifest_says_is_of_the_forms_that_are_written(
    change: dict[str, object], file: Path
) -> None:
    manifest = manifest_of(file)
    for fields in (change, {}):
        forged = io.BytesIO()
        writer = Writer(forged, 0)
        for content in manifest.contents:
            with writer.table(content.table.name) as write:
                write(b"")
        writer.finish(replace(manifest, **fields))  # type: ignore[arg-type]
        file.write_bytes(forged.getvalue())
        problem = look_at(file).problem
        assert problem == ("the manifest is not one of a snapshot" if fields else None)


@pytest.mark.parametrize(
    "content",
    [b"[" * 900 + b"]" * 900, b'{"format":' + b"[" * 900 + b"]" * 900 + b"}", b"9" * 100_000],
)
def test_a_manifest_that_is_nested_or_endless(content: bytes, file: Path) -> None:
    forged = io.BytesIO()
    writer = Writer(forged, 0)
    document = manifest_of(file).document()
    text = orjson.dumps(document)[:-1] + b',"more":' + content + b"}"
    for manifest in (content, text, text + b" " * archive.MAX_MANIFEST):
        with writer.member(MANIFEST) as stream:
            stream.write(manifest)
        file.write_bytes(forged.getvalue())
        assert look_at(file).problem == "the manifest is not one of a snapshot" or b"more" in text
        assert look_at(file).manifest is None
        forged.seek(0)
        forged.truncate()
