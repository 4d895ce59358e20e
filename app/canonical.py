"""Canonical JSON (RFC 8785) and digests over it.

Two documents that mean the same have the same canonical bytes, in whatever order or spelling they
arrived, and any language with an RFC 8785 library can recompute a digest published here.
"""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical_json(document: Any) -> bytes:
    """Return the RFC 8785 form of a JSON value.

    Raises ``rfc8785.CanonicalizationError`` for what I-JSON (RFC 7493) cannot hold: NaN, infinities
    and integers beyond 2**53 - 1. Request bodies with such values are refused before this point.
    """
    return rfc8785.dumps(document)


def digest(canonical: bytes) -> str:
    """Return ``sha256:`` and the hexadecimal SHA-256 of canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical).hexdigest()
