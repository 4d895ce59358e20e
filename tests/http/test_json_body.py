"""Strict reading of JSON: what is refused, where it says the fault is, and at what cost."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest

from app.http.errors import MalformedJson, ValidationFailed
from app.http.json_body import MAX_NAME_LENGTH, MAX_REPORTED, parse_json

DEPTH = 64


def faults(data: bytes) -> list[tuple[str, str]]:
    """Return the pointer and code of every reported violation of ``data``."""
    with pytest.raises(ValidationFailed) as refusal:
        parse_json(data, DEPTH)
    return [(entry["pointer"], entry["code"]) for entry in refusal.value.members["errors"]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"{'a':1}",
        b'{"a":1}x',
        b'{"a":1} {"b":2}',
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x1",
        b"nan",
        b"True",
        b'"tab\there"',
        b'"\\x"',
        b'"\\u12"',
        b"// comment\n1",
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-32"),
        b'"\xff"',
        b'"\xc3"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b"\x00",
        b'"\x00"',
    ],
)
def test_what_is_not_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedJson):
        parse_json(data, DEPTH)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"NaN", ("", "not_finite")),
        (b'{"a":[Infinity]}', ("/a/0", "not_finite")),
        (b'{"a":-Infinity}', ("/a", "not_finite")),
        (b"[1e400]", ("/0", "not_finite")),
        (b"[-1e400]", ("/0", "not_finite")),
        (b"[9007199254740992]", ("/0", "number_too_large")),
        (b"[-9007199254740992]", ("/0", "number_too_large")),
        (b'{"a":1e16}', ("/a", "number_too_large")),
        (b'{"a":-9.99e20}', ("/a", "number_too_large")),
        (b"1" * 5000, ("", "number_too_large")),
        (b"[" + b"1" * 100_000 + b"]", ("", "number_too_large")),
        (b'"\\ud800"', ("", "character")),
        (b'{"a":"\\udc00\\ud800"}', ("/a", "character")),
        (b'{"a":{"\\ud800":1}}', ("/a", "character")),
        (b'{"a":"\\u0000"}', ("/a", "character")),
        (b'{"a":{"b\\u0000":1}}', ("/a", "character")),
        (b'{"a":1,"a":1}', ("/a", "duplicate_member")),
        (b'{"x":{"~/":1,"~/":2}}', ("/x/~0~1", "duplicate_member")),
        (b'[{"":1,"":2}]', ("/0/", "duplicate_member")),
        (b"[" * 65 + b"]" * 65, ("/0" * 64, "too_deep")),
        (b'{"a":' * 65 + b"0" + b"}" * 65, None),
        (b"[" * 1000 + b"]" * 1000, None),
        (b"[" * 100_000 + b"]" * 100_000, ("", "too_deep")),
        (b'{"a":' * 100_000 + b"0" + b"}" * 100_000, ("", "too_deep")),
        (b"[" * 1_000_000, ("", "too_deep")),
        (b'{"%s":1}' % (b"n" * (MAX_NAME_LENGTH + 1)), ("", "name_too_long")),
    ],
)
def test_json_that_cannot_be_exchanged_is_invalid(
    data: bytes, expected: tuple[str, str] | None
) -> None:
    found = faults(data)
    assert len(found) == 1
    if expected is not None:
        assert found == [expected]
    else:
        assert found[0][1] == "too_deep"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b" [ ] ", []),
        (b"9007199254740991", 2**53 - 1),
        (b"-9007199254740991", -(2**53 - 1)),
        (b"1e308", 1e308),
        (b"1e21", 1e21),
        (b"1e-400", 0.0),
        (b"-0.0", -0.0),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        ('"\u2028\u202e\U0010ffff"'.encode(), "\u2028\u202e\U0010ffff"),
        (b'{"__proto__":{"a":1},"__class__":2}', {"__proto__": {"a": 1}, "__class__": 2}),
        (b'{"a":{"b":1},"c":{"b":1}}', {"a": {"b": 1}, "c": {"b": 1}}),
    ],
)
def test_json_is_taken_as_it_is(data: bytes, value: Any) -> None:
    assert parse_json(data, DEPTH) == value


def test_the_deepest_allowed_nesting_is_read() -> None:
    assert parse_json(b"[" * DEPTH + b"]" * DEPTH, DEPTH)


def test_every_violation_is_reported_up_to_a_limit() -> None:
    assert sorted(faults(b'{"a":NaN,"b":["\\u0000",1e999]}')) == [
        ("/a", "not_finite"),
        ("/b/0", "character"),
        ("/b/1", "not_finite"),
    ]
    assert len(faults(b"[" + b"NaN," * 5000 + b"NaN]")) == MAX_REPORTED


def test_a_repeated_name_among_very_many_costs_little() -> None:
    members = ",".join(f'"{number}":0' for number in range(100_000))
    begun = time.process_time()
    assert faults(f'{{{members},"again":0,"again":0}}'.encode()) == [("/again", "duplicate_member")]
    # Comparing every name with every other would take minutes.
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("length", [MAX_NAME_LENGTH, 200_000])
def test_long_names_above_many_values_cost_little(length: int) -> None:
    name = "n" * length
    levels = 60 if length == MAX_NAME_LENGTH else 1
    data = (f'{{"{name}":' * levels + json.dumps([0] * 100_000) + "}" * levels).encode()
    tracemalloc.start()
    try:
        if length == MAX_NAME_LENGTH:
            parse_json(data, DEPTH)
        else:
            assert faults(data) == [("", "name_too_long")]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A pointer made for every value would take more than a gigabyte.
    assert peak < 64 * 2**20


def test_the_answer_to_many_faults_below_long_names_stays_small() -> None:
    name = "~" * MAX_NAME_LENGTH
    data = f'{{"{name}":' * 60 + "[" + "NaN," * 5000 + "NaN]" + "}" * 60
    with pytest.raises(ValidationFailed) as refusal:
        parse_json(data.encode(), DEPTH)
    assert len(json.dumps(refusal.value.members)) < 4 * 2**20
