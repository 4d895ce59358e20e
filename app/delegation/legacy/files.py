"""Reading the JSON files of the service before this one: every row, and everything wrong with it.

Nothing here knows the database. A file is text of one JSON array; each of its rows is parsed alone,
so that a fault is told with the row's index, counted from 0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from app.delegation import lifecycle
from app.json_values import UNSTORABLE, is_storable, pointer_to, scalar_fault, walk
from app.money import MAX_USD, to_micros
from app.registry.queries import is_agent_id

RECORDS, BALANCES = "records", "balances"
KINDS = (RECORDS, BALANCES)
MAX_AGENT_LENGTH = 193
COSTS = ("estimated_cost_usd", "max_budget_usd", "actual_cost_usd")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._~@:+-]{0,127}")
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.]\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)


@dataclass(frozen=True)
class Fault:
    """Something wrong with a file: where, as far as that is known, and what was expected."""

    file: str
    index: int | None
    field: str | None
    reason: str


class Malformed(Exception):
    """A row, or all from it on, cannot be used."""

    def __init__(self, reason: str, field: str | None = None, index: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.field, self.index = reason, field, index


@dataclass(frozen=True)
class LegacyFile:
    """A file as it was read: its bytes are known by their SHA-256."""

    kind: str
    name: str
    data: bytes
    sha256: str


@dataclass(frozen=True)
class Rows:
    """What a file holds: rows for the database, or at least one fault."""

    rows: list[dict[str, Any]]
    faults: list[Fault]


def read_file(kind: str, path: Path) -> LegacyFile:
    """Read a file. Raises ``OSError``."""
    data = path.read_bytes()
    return LegacyFile(kind, path.name, data, hashlib.sha256(data).hexdigest())


def parse(file: LegacyFile, max_depth: int) -> Rows:
    """Return the rows of a file and every fault found in it."""
    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    check: Callable[[Any, str, int], dict[str, Any]]
    check = _balance if file.kind == BALANCES else _record
    key, name = ("agent_id",) * 2 if file.kind == BALANCES else ("id", "delegation_id")
    try:
        for index, value, source in _elements(file.data):
            try:
                _require_exchangeable(value, max_depth)
                row = check(value, source, index)
                first = seen.setdefault(row[key], index)
                if first != index:
                    raise Malformed(f"the same as in row {first}", name)
                rows.append(row)
            except Malformed as fault:
                faults.append(Fault(file.name, index, fault.field, fault.reason))
    except Malformed as fault:
        # What follows cannot be read at all.
        faults.append(Fault(file.name, fault.index, None, fault.reason))
    return Rows(rows, faults)


class _Object(dict[str, Any]):
    """An object that remembers a member it was given twice."""

    repeated: str | None = None


def _build(members: list[tuple[str, Any]]) -> _Object:
    built = _Object(members)
    if len(built) < len(members):
        names = [name for name, _ in members]
        built.repeated = next(name for name in names if names.count(name) > 1)
    return built


_decoder = json.JSONDecoder(object_pairs_hook=_build, parse_float=Decimal)


def _elements(data: bytes) -> Iterator[tuple[int, Any, str]]:
    """Yield index, value and text of each element of an array. Raises ``Malformed``."""
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Malformed(f"the file is not UTF-8 (byte {error.start})") from None
    place = _skip(text, 0)
    if text[place : place + 1] != "[":
        raise Malformed("expected an array" if text.strip() else "the file is empty")
    place, index = _skip(text, place + 1), 0
    more = text[place : place + 1] != "]"
    while more:
        value, end = _element(text, place, index)
        yield index, value, text[place:end]
        place = _skip(text, end)
        more = text[place : place + 1] == ","
        if more:
            place, index = _skip(text, place + 1), index + 1
        elif text[place : place + 1] != "]":
            raise _unfinished(text, index)
    if text[_skip(text, place + 1) :]:
        raise Malformed("expected nothing after the array")


def _skip(text: str, place: int) -> int:
    end: int = WHITESPACE.match(text, place).end()
    return end


def _element(text: str, place: int, index: int) -> tuple[Any, int]:
    try:
        return _decoder.raw_decode(text, place)
    except json.JSONDecodeError as error:
        if not text.rstrip().endswith("]"):
            raise _unfinished(text, index) from None
        where = f"line {error.lineno}, column {error.colno}"
        raise Malformed(f"not JSON: {error.msg} at {where}", index=index) from None
    except RecursionError:
        raise Malformed("nested too deeply", index=index) from None
    except ValueError:
        # CPython refuses to convert integers of more than some thousand digits.
        raise Malformed("a number is too large", index=index) from None


def _unfinished(text: str, index: int) -> Malformed:
    if not text.rstrip().endswith("]"):
        return Malformed("the file ends within this row or after it: it is cut off", index=index)
    return Malformed("expected a comma or the end of the array after this row", index=index)


def _require_exchangeable(root: Any, max_depth: int) -> None:
    """Raise ``Malformed`` for a value that clients and both databases cannot take."""
    for depth, place, value in walk(root, max_depth):
        field = pointer_to(place).removeprefix("/") or None
        if isinstance(value, (dict, list)):
            if depth > max_depth:
                raise Malformed(f"expected at most {max_depth} levels of nesting", field)
            if isinstance(value, _Object) and value.repeated is not None:
                raise Malformed(f"the member {value.repeated!r} is there twice", field)
            if isinstance(value, dict) and not all(map(is_storable, value)):
                raise Malformed(f"member names: {UNSTORABLE}", field)
        elif fault := scalar_fault(float(value) if isinstance(value, Decimal) else value):
            raise Malformed(fault[1], field)


def _member(row: Any, name: str, type_: type, expected: str) -> Any:
    if not isinstance(row, dict):
        raise Malformed("expected an object")
    if name not in row:
        raise Malformed("missing", name)
    if type(row[name]) is not type_:
        raise Malformed(f"expected {expected}", name)
    return row[name]


def _record(row: Any, source: str, index: int) -> dict[str, Any]:
    expected = "1 to 128 letters, digits and . _ ~ @ : + -, a letter or digit first"
    delegation_id = _member(row, "delegation_id", str, expected)
    if not _ID.fullmatch(delegation_id):
        raise Malformed(f"expected {expected}", "delegation_id")
    status = _member(row, "status", str, "a status")
    if status not in lifecycle.STATUSES:
        raise Malformed(f"expected one of {', '.join(lifecycle.STATUSES)}", "status")
    for name in COSTS:
        _check_cost(row, name)
    return {
        "id": delegation_id,
        "number": index,
        "requester_agent_id": _agent(row, "requester_agent_id"),
        "delegate_agent_id": _agent(row, "delegate_agent_id"),
        "status": status,
        "record": source,
        "created_at": _moment(row, "created_at"),
        "updated_at": _moment(row, "updated_at"),
    }


def _agent(row: Any, name: str) -> str:
    expected = f"an agent's id of at most {MAX_AGENT_LENGTH} characters"
    agent_id: str = _member(row, name, str, expected)
    if not 0 < len(agent_id) <= MAX_AGENT_LENGTH or not agent_id.isprintable():
        raise Malformed(f"expected {expected}", name)
    return agent_id


def _check_cost(row: dict[str, Any], name: str) -> None:
    cost = row.get(name)
    if cost is None:
        return
    if type(cost) not in (int, Decimal) or not 0 <= cost <= MAX_USD:
        raise Malformed(f"expected a number from 0 to {MAX_USD}, or null", name)


def _moment(row: dict[str, Any], name: str) -> datetime:
    """Return a time; one without an offset is in UTC, as ``datetime.utcnow`` wrote them."""
    expected = "expected a time such as 2025-03-01T09:30:00Z"
    text = _member(row, name, str, expected.removeprefix("expected "))
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Malformed(expected, name) from None
    if moment < datetime(1970, 1, 1, tzinfo=UTC):
        raise Malformed("expected a time since 1970", name)
    return moment


def _balance(row: Any, _: str, index: int) -> dict[str, Any]:
    expected = "an agent's id such as @acme:invoice-summarizer"
    agent_id = _member(row, "agent_id", str, expected)
    if not is_agent_id(agent_id):
        raise Malformed(f"expected {expected}", "agent_id")
    if "balance_usd" not in row:
        raise Malformed("missing", "balance_usd")
    unknown = sorted(row.keys() - {"agent_id", "balance_usd"})
    if unknown:
        raise Malformed("expected agent_id and balance_usd alone: nothing else is kept", unknown[0])
    balance = row["balance_usd"]
    if type(balance) not in (int, Decimal):
        raise Malformed("expected a number of USD", "balance_usd")
    if balance < 0:
        raise Malformed("expected a balance that is not negative", "balance_usd")
    try:
        micros = to_micros(balance)
    except ValueError as error:
        raise Malformed(str(error), "balance_usd") from None
    return {"agent_id": agent_id, "number": index, "micros": micros}
