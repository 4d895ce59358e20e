"""The manifest of a snapshot: what the file holds, and the hashes that prove it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from types import NoneType
from typing import Any

import orjson

from app.canonical import canonical_json
from app.ops.snapshot.errors import SnapshotCorrupt, SnapshotRefused
from app.ops.snapshot.tables import Table
from app.ops.snapshot.values import READ_AS, checked_time

FORMAT = "agenthub-snapshot"
VERSION = 1
_NAME = re.compile("[a-z][a-z0-9_]{0,62}")
_WORD = re.compile("[A-Za-z0-9_.:+-]{1,64}")
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Content:
    """A table with what the snapshot holds of it: rows, and the SHA-256 of their lines."""

    table: Table
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a snapshot says of itself.

    ``revisions`` are those of the tracks when it was taken, ``ledger_digest`` the newest seal then
    (``app.ledger.seals.read_digest``), ``source`` the kind of database it was taken from.
    """

    taken_at: str
    release: str
    source: str
    revisions: dict[str, str]
    ledger_digest: dict[str, Any]
    contents: tuple[Content, ...]

    @property
    def rows(self) -> int:
        """How many rows there are in all tables."""
        return sum(content.rows for content in self.contents)

    def document(self) -> dict[str, Any]:
        """Return the manifest as JSON, sealed by the SHA-256 of its canonical form (RFC 8785)."""
        body = {
            "format": FORMAT,
            "format_version": VERSION,
            "taken_at": self.taken_at,
            "release": self.release,
            "source": self.source,
            "revisions": self.revisions,
            "ledger_digest": self.ledger_digest,
            "tables": [
                {
                    "name": content.table.name,
                    "rows": content.rows,
                    "sha256": content.sha256,
                    "columns": [
                        {"name": name, "type": kind} for name, kind in content.table.columns
                    ],
                    "primary_key": list(content.table.key),
                }
                for content in self.contents
            ],
        }
        return body | {"sha256": _seal(body)}


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()


def parse_manifest(text: bytes) -> Manifest:
    """Return the manifest of a file.

    Raises ``SnapshotCorrupt`` for one that is not what was written, ``SnapshotRefused`` for a
    format of a later release.
    """
    try:
        document = orjson.loads(text)
        if document["format"] != FORMAT:
            raise ValueError
        if document["format_version"] != VERSION:
            raise SnapshotRefused(
                f"the snapshot has format version {document['format_version']}; this release reads"
                f" version {VERSION}: restore it with the release that made it, or a later one"
            )
        seal = document.pop("sha256")
        if seal != _seal(document):
            raise SnapshotCorrupt("the manifest is not the one that was written")
        return _parse(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SnapshotCorrupt("the manifest is not one of a snapshot") from None


def _parse(document: dict[str, Any]) -> Manifest:
    contents = tuple(map(_content, document["tables"]))
    if len({content.table.name for content in contents}) < len(contents):
        raise ValueError("a table twice")
    revisions, digest = dict(document["revisions"]), dict(document["ledger_digest"])
    # What is shown to people is text of the forms that are written, or it could rule a terminal.
    words = [document["release"], *revisions, *revisions.values()]
    words += [value for value in digest.values() if isinstance(value, str)]
    if document["source"] not in ("sqlite", "postgresql") or not all(map(_WORD.fullmatch, words)):
        raise ValueError("a word of another form")
    if not all(isinstance(value, (str, int, NoneType)) for value in digest.values()):
        raise ValueError("a digest of another form")
    return Manifest(
        taken_at=checked_time(document["taken_at"]),
        release=document["release"],
        source=document["source"],
        revisions=revisions,
        ledger_digest=digest,
        contents=contents,
    )


def _content(entry: dict[str, Any]) -> Content:
    columns = tuple((column["name"], column["type"]) for column in entry["columns"])
    names = [entry["name"], *(name for name, _ in columns)]
    if not all(_NAME.fullmatch(name) for name in names):
        raise ValueError("a name that no table has")
    if not {kind for _, kind in columns} <= READ_AS.keys():
        raise ValueError("a type that no column has")
    if type(entry["rows"]) is not int or not _HASH.fullmatch(entry["sha256"]):
        raise ValueError("a number of rows or a hash that is none")
    return Content(
        Table(entry["name"], columns, tuple(entry["primary_key"])), entry["rows"], entry["sha256"]
    )
