"""Canonical JSON (RFC 8785) and digests over it.

Two documents that mean the same have the same canonical bytes, in whatever order or spelling they
arrived, and any language with an RFC 8785 library can recompute a digest published here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785

_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class Canonical:
    """A JSON value beside its canonical bytes, which are made once for everybody who needs them."""

    document: Any
    encoded: bytes

    @classmethod
    def of(cls, document: Any) -> Canonical:
        """Make the canonical bytes of a value; raises as ``canonical_json`` does."""
        return cls(document, canonical_json(document))

    @property
    def digest(self) -> str:
        """The digest of the canonical bytes."""
        return digest(self.encoded)


def canonical_json(document: Any) -> bytes:
    """Return the RFC 8785 form of a JSON value; an object may have members that are ``Canonical``.

    Raises ``rfc8785.CanonicalizationError`` for what I-JSON (RFC 7493) cannot hold: NaN, infinities
    and integers beyond 2**53 - 1. Request bodies with such values are refused before this point.
    """
    if isinstance(document, dict) and any(isinstance(v, Canonical) for v in document.values()):
        return _join(
            {
                name: value.encoded if isinstance(value, Canonical) else canonical_json(value)
                for name, value in document.items()
            }
        )
    return rfc8785.dumps(document)


def with_member(encoded: bytes, path: tuple[str, ...], value: Any) -> bytes:
    """Return a canonical object with the member at ``path`` set, and the rest taken as it stands.

    Every name in ``path`` but the last is one of an object that is there.
    """
    members = _members(encoded.decode())
    name, *rest = path
    members[name] = (
        with_member(members[name], tuple(rest), value) if rest else canonical_json(value)
    )
    return _join(members)


def _members(text: str) -> dict[str, bytes]:
    """Return the canonical bytes of a canonical object's members, by their names."""
    members: dict[str, bytes] = {}
    at = 1
    while text[at] != "}":
        name, begin = _decoder.raw_decode(text, at)
        _, end = _decoder.raw_decode(text, begin + 1)
        members[name] = text[begin + 1 : end].encode()
        at = end + 1 if text[end] == "," else end
    return members


def _join(members: Mapping[str, bytes]) -> bytes:
    """Return the canonical object of members whose values are canonical."""
    # RFC 8785, section 3.2.3: by the UTF-16 code units of the names.
    ordered = sorted(members, key=lambda name: name.encode("utf-16be"))
    return b"{" + b",".join(rfc8785.dumps(name) + b":" + members[name] for name in ordered) + b"}"


def digest(canonical: bytes) -> str:
    """Return ``sha256:`` and the hexadecimal SHA-256 of canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical).hexdigest()
