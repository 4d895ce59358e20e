"""Signing secrets and signatures, as Standard Webhooks 1.0 has them. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterable

PREFIX = "whsec_"


def _key(pepper: bytes, subscription_id: str, salt: str) -> bytes:
    # The words at the beginning keep this use of the pepper apart from that for API keys.
    message = f"webhook-secret:{subscription_id}:{salt}".encode()
    return hmac.new(pepper, message, hashlib.sha256).digest()


def secret_of(pepper: bytes, subscription_id: str, salt: str) -> str:
    """Return the secret of a subscription as its receiver is given it: ``whsec_`` and base64.

    It is derived, so that it can sign for years and yet is stored nowhere: a copy of the database
    forges no delivery.
    """
    return PREFIX + b64encode(_key(pepper, subscription_id, salt)).decode()


def signature(
    pepper: bytes,
    subscription_id: str,
    salts: Iterable[str],
    message_id: str,
    timestamp: int,
    body: bytes,
) -> str:
    """Return the ``webhook-signature`` of a message: one entry for each secret in use."""
    content = f"{message_id}.{timestamp}.".encode() + body
    entries = (
        hmac.new(_key(pepper, subscription_id, salt), content, hashlib.sha256).digest()
        for salt in salts
    )
    return " ".join("v1," + b64encode(entry).decode() for entry in entries)
