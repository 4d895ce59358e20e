"""Secrets in a manifest: members with the name of one that hold a value, and values that are one.

The rule is described in docs/http-api.md.
"""

from __future__ import annotations

import re

from app.json_values import Place

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SECRET_WORD = re.compile(
    r"(?:secret|token|pass(?:word|wd|phrase)|(?:api|private|access|secret)_?key)(s?)(?![a-z])"
)
# A name that ends in these says something about a secret and holds none, whatever its value.
_DESCRIBING = frozenset(
    [
        "algorithm",
        "audience",
        "budget",
        "count",
        "description",
        "endpoint",
        "expiry",
        "format",
        "header",
        "hint",
        "issuer",
        "kind",
        "label",
        "length",
        "lifetime",
        "limit",
        "location",
        "name",
        "policy",
        "prefix",
        "required",
        "rotation",
        "rule",
        "scope",
        "scopes",
        "size",
        "strength",
        "ttl",
        "type",
        "uri",
        "url",
        "usage",
    ]
)
# After these a secret's name is still the name of a secret that a number can be.
_SAME = frozenset(("", "id", "ref", "value"))
_QUANTITY = frozenset(
    [
        "avg",
        "has",
        "is",
        "max",
        "maximum",
        "min",
        "minimum",
        "num",
        "number",
        "requires",
        "total",
        "use",
        "uses",
    ]
)
# Values in a schema, of the property that the schema is of.
_VALUE_KEYWORDS = ("default", "const", "enum", "examples")
_NAMING = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTING = ("dependentRequired", "dependencies")
_WITHIN = (
    *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
    *("items", "prefixItems", "additionalItems", "contains"),
)
# No repetition without a limit begins anywhere within what another one could have matched, so that
# the time is linear in the text.
_SHAPES = re.compile(
    "|".join(
        (
            r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])",
            r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36}",
            r"(?<![A-Za-z0-9])github_pat_[A-Za-z0-9_]{22}",
            r"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20}",
            r"(?<![A-Za-z0-9])xox[abeprs]-[A-Za-z0-9-]{10}",
            r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{16}",
            r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}",
            r"(?<![A-Za-z0-9])AIza[0-9A-Za-z_-]{35}",
            r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
            r"(?<![A-Za-z0-9])ah_[0-9a-f]{16}_[A-Za-z0-9_-]{43}",
            r"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z0-9_-]{0,40}[0-9])(?=[A-Za-z0-9_-]{0,40}[A-Z])"
            r"[A-Za-z0-9_-]{20}",
            r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY",
            r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10}",
        )
    )
)


def holds_secret(place: Place, value: object) -> bool:
    """Tell whether the value at a place is a secret, by its name or by its own form."""
    if isinstance(value, str) and _SHAPES.search(value):
        return True
    name = place[1] if place else None
    if not isinstance(name, str):
        return False
    above = place[0][1] if place[0] else None
    if name in _VALUE_KEYWORDS and (owner := _property_of(place[0])) is not None:
        return _is_value_of_secret(owner, value)
    if above in _NAMING and isinstance(value, bool):
        # A schema that admits everything, or nothing.
        return False
    return not (above in _LISTING and isinstance(value, list)) and _is_inline_secret(name, value)


def _property_of(place: Place) -> str | None:
    """Return the name of the property that the schema at a place is of, if it is of one."""
    while place:
        above, name = place
        if isinstance(name, str) and above and above[1] in _NAMING:
            return name
        if not isinstance(name, int) and name not in _WITHIN:
            return None
        place = above
    return None


def _is_value_of_secret(name: str, value: object) -> bool:
    """Tell whether a value in a property's schema is the secret that the property is named for."""
    values = value if isinstance(value, list) else [value]
    return any(
        not isinstance(one, bool | None | dict | list)
        and one != ""
        and _is_inline_secret(name, one)
        for one in values
    )


def _is_inline_secret(name: str, value: object) -> bool:
    """Tell whether a member has the name of a secret and a value that could be one.

    An object is a description (``properties: {token: {...}}``), and so is a list without text. A
    plural with a number, such as ``max_tokens``, counts secrets or tokens and holds none. Nor does
    a number, a truth value or null hold one where the name goes on after the secret's.
    """
    if name.endswith("_ref") or isinstance(value, dict):
        return False
    if isinstance(value, list) and not any(isinstance(item, str) for item in value):
        return False
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name)
    text = isinstance(value, str | list)
    return any(
        _names_secret(spelled.lower(), text=text)
        for spelled in (plain, _WORD_START.sub("_", plain))
    )


def _names_secret(words: str, *, text: bool) -> bool:
    """Tell whether words joined by underscores name a secret that holds text, or something else."""
    found = list(_SECRET_WORD.finditer(words))
    if not found:
        return False
    rest = words[found[-1].end() :].strip("_").split("_")
    if rest[-1] in _DESCRIBING:
        return False
    if text:
        return True
    if any(match[1] for match in found) or words.split("_")[0] in _QUANTITY:
        return False
    return len(rest) == 1 and (rest[0] in _SAME or rest[0].isdecimal())
