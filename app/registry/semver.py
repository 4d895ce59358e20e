"""Semantic Versioning 2.0.0: reading a version and putting versions in order."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LENGTH = 128
"""The longest version accepted, in characters."""

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<prerelease>{_PRERELEASE_IDENTIFIER}(?:\.{_PRERELEASE_IDENTIFIER})*))?"
    r"(?:\+(?P<build>[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)


@dataclass(frozen=True)
class Version:
    """A version taken apart (SemVer 2.0.0 items 2, 9 and 10); ``build`` has no say in the order."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...]
    build: tuple[str, ...]

    @property
    def is_prerelease(self) -> bool:
        """Whether the version announces a release that is still to come."""
        return bool(self.prerelease)


def parse(text: str) -> Version:
    """Take a version apart.

    Raises ``ValueError`` for text that is no SemVer 2.0.0 version or longer than ``MAX_LENGTH``.
    """
    match = _VERSION.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise ValueError(f"not a SemVer 2.0.0 version of at most {MAX_LENGTH} characters")
    return Version(
        major=int(match["major"]),
        minor=int(match["minor"]),
        patch=int(match["patch"]),
        prerelease=_identifiers(match["prerelease"]),
        build=_identifiers(match["build"]),
    )


def precedence_key(text: str) -> str:
    """Return ASCII text whose byte order is the precedence of versions (SemVer 2.0.0 item 11).

    Versions that differ in build metadata alone share a key. A database column holding keys must
    compare bytes (``COLLATE "C"`` or ``BINARY``). Raises ``ValueError`` as ``parse`` does.
    """
    version = parse(text)
    core = "".join(_number_key(number) for number in (version.major, version.minor, version.patch))
    if not version.is_prerelease:
        # The tilde sorts above the digit every prerelease continues with: a release comes last.
        return core + "~"
    # A space sorts below every character of an identifier, so an identifier that is a prefix of
    # another comes first, and so does a list of identifiers that is a prefix of another.
    return core + "".join(f"{_identifier_key(part)} " for part in version.prerelease)


def _identifiers(dotted: str | None) -> tuple[str, ...]:
    return tuple(dotted.split(".")) if dotted else ()


def _identifier_key(identifier: str) -> str:
    """Sort numbers below text (item 11.4.3)."""
    return "0" + _number_key(int(identifier)) if identifier.isdecimal() else "1" + identifier


def _number_key(number: int) -> str:
    """Sort by the count of digits first; a version of ``MAX_LENGTH`` needs three to write it."""
    digits = str(number)
    return f"{len(digits):03}{digits}"
