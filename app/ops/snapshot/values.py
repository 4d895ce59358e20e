"""Values of rows in a snapshot: one form that neither database's own way of storing them shows.

A row is a JSON array. Times are RFC 3339 text in UTC with microseconds, bytes are base64 (RFC 4648,
section 4), truth values are ``true`` and ``false``, a missing value is ``null``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from app import clock
from app.db import UTCDateTime
from app.ops.snapshot.errors import SnapshotRefused

# What a row may have as a line, so that nothing that reads one takes more memory than that needs. A
# request has at most 64 MiB, and that is much more than any setting but the largest lets in.
MAX_LINE = 64 * 1024 * 1024
TOO_LONG = f"a row is longer than {MAX_LINE // 2**20} MiB"
INTEGER, TEXT, TIME, BYTES, BOOLEAN = "integer", "text", "time", "bytes", "boolean"
# How the rows are read, whatever wrote the table.
READ_AS: dict[str, sa.types.TypeEngine[Any]] = {
    INTEGER: sa.BigInteger(),
    TEXT: sa.Text(),
    TIME: UTCDateTime(),
    BYTES: sa.LargeBinary(),
    BOOLEAN: sa.Boolean(),
}
_IN_MEMORY = {INTEGER: int, TEXT: str, TIME: datetime, BYTES: bytes, BOOLEAN: bool}
_IN_JSON = {INTEGER: int, TEXT: str, TIME: str, BYTES: str, BOOLEAN: bool}
_ENCODERS: dict[str, Callable[[Any], Any]] = {
    TIME: clock.isoformat,
    BYTES: lambda value: base64.b64encode(value).decode(),
}


def kind_of(type_: sa.types.TypeEngine[Any]) -> str:
    """Return the kind of values that a column of a model or of a database holds.

    Raises ``SnapshotRefused`` for a type that no table of this service has.
    """
    if isinstance(type_, (sa.DateTime, UTCDateTime)):
        return TIME
    for base, kind in (
        (sa.Boolean, BOOLEAN),
        (sa.Integer, INTEGER),
        (sa.LargeBinary, BYTES),
        (sa.String, TEXT),
    ):
        if isinstance(type_, base):
            return kind
    raise SnapshotRefused(f"a snapshot cannot hold columns of type {type_!r}")


class TypeCheck:
    """Holds values to the kinds of their columns: SQLite itself would keep anything anywhere."""

    def __init__(
        self, columns: Sequence[tuple[str, str]], expected: dict[str, type[object]]
    ) -> None:
        self._columns = columns
        self._allowed = [(expected[kind], type(None)) for _, kind in columns]
        # Rows of a table have few combinations of types, so nearly every row is one look-up.
        self._good: set[tuple[type, ...]] = set()

    def __call__(self, values: Sequence[Any]) -> None:
        """Raise ``ValueError``, which names the column, unless every value is of its kind."""
        types = tuple(map(type, values))
        if types in self._good:
            return
        if len(types) != len(self._columns):
            raise ValueError(f"expected {len(self._columns)} values, not {len(types)}")
        for (name, kind), allowed, found in zip(self._columns, self._allowed, types, strict=True):
            if found not in allowed:
                raise ValueError(f"{name} is not of the kind {kind}")
        self._good.add(types)


def encode_rows(columns: Sequence[tuple[str, str]], rows: Iterable[Any]) -> Iterator[bytes]:
    """Yield rows as a database gave them as lines of JSON. Raises ``ValueError``."""
    check = TypeCheck(columns, _IN_MEMORY)
    encoders = _converters(columns, _ENCODERS)
    for row in rows:
        check(row)
        values = list(row)
        _convert(values, encoders)
        line = orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) > MAX_LINE:
            raise ValueError(TOO_LONG)
        yield line


Decode = Callable[[bytes], list[Any]]


def decoder(columns: Sequence[tuple[str, str]], dialect: str) -> Decode:
    """Return what turns a line into values that the driver of ``dialect`` stores.

    It raises ``ValueError`` for a line that is no row of these columns.
    """
    check = TypeCheck(columns, _IN_JSON)
    time = _sqlite_time if dialect == "sqlite" else checked_time
    decoders = _converters(columns, {TIME: time, BYTES: _bytes})

    def decode(line: bytes) -> list[Any]:
        values = orjson.loads(line)
        if type(values) is not list:
            raise ValueError("expected an array")
        check(values)
        _convert(values, decoders)
        return values

    return decode


Converters = list[tuple[int, Callable[[Any], Any]]]


def _converters(
    columns: Sequence[tuple[str, str]], known: dict[str, Callable[[Any], Any]]
) -> Converters:
    return [(place, known[kind]) for place, (_, kind) in enumerate(columns) if kind in known]


def _convert(values: list[Any], converters: Converters) -> None:
    for place, convert in converters:
        value = values[place]
        if value is not None:
            values[place] = convert(value)


def checked_time(text: str) -> str:
    """Return a time in UTC with microseconds as it is. Raises ``ValueError`` for other text."""
    if len(text) != 27 or text[10] != "T" or text[19] != "." or text[26] != "Z":
        raise ValueError(f"{text!r} is no time in UTC with microseconds")
    datetime.fromisoformat(text)
    return text


def _sqlite_time(text: str) -> str:
    """Return the form in which SQLAlchemy stores a time in SQLite."""
    checked_time(text)
    return f"{text[:10]} {text[11:26]}"


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64: {error}") from None
