"""SemVer 2.0.0: what is a version, and in which order versions come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.registry.semver import MAX_LENGTH, Version, parse, precedence_key

# Items 10 and 11 of the specification, and what naive orderings get wrong.
ASCENDING = [
    "0.0.0-0",
    "0.0.0",
    "0.0.1",
    "0.1.0",
    "1.0.0-0",
    "1.0.0-0.0",
    "1.0.0-2",
    "1.0.0-10",
    "1.0.0-10.a",
    "1.0.0--",
    "1.0.0-10a",
    "1.0.0-A",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.1.0",
    "1.0.0-alpha.beta",
    "1.0.0-alpha-1",
    "1.0.0-alpha0",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1-a",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0",
    "2.1.0",
    "2.1.1",
    "10.0.0",
    "99999999999999999999.0.0",
]

INVALID = [
    "",
    "1",
    "1.2",
    "1.2.3.4",
    "v1.2.3",
    "01.2.3",
    "1.02.3",
    "1.2.03",
    "-1.2.3",
    "1.2.3-",
    "1.2.3+",
    "1.2.3-+b",
    "1.2.3-01",
    "1.2.3-a..b",
    "1.2.3-a.",
    "1.2.3+a..b",
    "1.2.3+a+b",
    "1.2.3-a_b",
    "1.2.3-ä",
    "1.2.\u0663",
    "1.2.3\n",
    " 1.2.3",
    "1.2.3 ",
    "1.2.3\x00",
]

numbers = st.integers(0, 10**12)
identifiers = st.one_of(
    st.integers(0, 200).map(str),
    st.from_regex(r"[0-9]{0,2}[a-zA-Z-][0-9a-zA-Z-]{0,3}", fullmatch=True),
)
prereleases = st.lists(identifiers, max_size=4)


@st.composite
def versions(draw: st.DrawFn) -> str:
    core = ".".join(str(draw(st.one_of(st.integers(0, 12), numbers))) for _ in range(3))
    prerelease = draw(prereleases)
    return core + ("-" + ".".join(prerelease) if prerelease else "")


def is_below(left: str, right: str) -> bool:
    """Compare as item 11 words it, without any key."""

    def parts(text: str) -> tuple[list[int], list[str]]:
        core, _, prerelease = text.partition("-")
        return [int(number) for number in core.split(".")], prerelease.split(".")

    (core, pre), (other_core, other_pre) = parts(left), parts(right)
    if core != other_core:
        return core < other_core
    if pre == [""] or other_pre == [""]:
        return pre != [""] and other_pre == [""]
    for mine, theirs in zip(pre, other_pre, strict=False):
        if mine == theirs:
            continue
        if mine.isdigit() and theirs.isdigit():
            return int(mine) < int(theirs)
        if mine.isdigit() or theirs.isdigit():
            return mine.isdigit()
        return mine < theirs
    return len(pre) < len(other_pre)


def test_a_version_is_taken_apart() -> None:
    assert parse("1.20.3-rc.1+build.007") == Version(1, 20, 3, ("rc", "1"), ("build", "007"))
    assert parse("1.2.3") == Version(1, 2, 3, (), ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.0.0", False), ("1.0.0+a-b", False), ("1.0.0-0", True), ("1.0.0-a+b", True)],
)
def test_a_prerelease_is_told_from_a_release(text: str, expected: bool) -> None:
    assert parse(text).is_prerelease is expected


@pytest.mark.parametrize("text", INVALID)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SemVer"):
        parse(text)
    with pytest.raises(ValueError, match="SemVer"):
        precedence_key(text)


def test_the_longest_version_is_accepted_and_a_longer_one_is_not() -> None:
    longest = "1.2." + "3" * (MAX_LENGTH - 4)
    assert parse(longest).patch == int("3" * (MAX_LENGTH - 4))
    with pytest.raises(ValueError, match="128"):
        parse(longest + "3")


@pytest.mark.parametrize(("lower", "higher"), list(pairwise(ASCENDING)))
def test_keys_follow_the_order_of_the_specification(lower: str, higher: str) -> None:
    assert precedence_key(lower).encode("ascii") < precedence_key(higher).encode("ascii")


def test_build_metadata_does_not_matter() -> None:
    assert precedence_key("1.0.0-a.1+x") == precedence_key("1.0.0-a.1+y.2")
    assert precedence_key("1.0.0+x") == precedence_key("1.0.0")


def test_keys_stay_short_enough_for_an_indexed_column() -> None:
    widest = "0.0.0-" + ".".join("1" * 61)
    assert len(widest) <= MAX_LENGTH
    assert len(precedence_key(widest)) <= 400


@given(versions(), versions())
def test_byte_order_of_keys_is_precedence(left: str, right: str) -> None:
    left_key, right_key = (precedence_key(text).encode("ascii") for text in (left, right))
    assert (left_key < right_key) == is_below(left, right)
    assert (left_key == right_key) == (left == right)


@given(st.text(max_size=20))
def test_arbitrary_text_never_raises_anything_but_value_error(text: str) -> None:
    try:
        version = parse(text)
    except ValueError:
        return
    assert text.startswith(f"{version.major}.{version.minor}.{version.patch}")
