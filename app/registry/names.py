"""The form of names in the registry, shared by routes, requests and the service."""

from __future__ import annotations

import re

NAMESPACE = r"@[a-z0-9][a-z0-9_-]{1,62}"
SLUG = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
MAX_SLUG_LENGTH = 128
MAX_VERSION_LENGTH = 128

_agent_id = re.compile(rf"({NAMESPACE}):({SLUG})")


def is_agent_id(text: str) -> bool:
    """Tell whether ``text`` is a namespace, a colon and a slug."""
    match = _agent_id.fullmatch(text)
    return match is not None and len(match[2]) <= MAX_SLUG_LENGTH


def normalize_namespace(text: str) -> str | None:
    """Return the namespace that ``text`` names with or without ``@``; None if it cannot be one."""
    name = text if text.startswith("@") else f"@{text}"
    return name if re.fullmatch(NAMESPACE, name) else None
