"""The behavioral diff: what a new version changes for those who delegate to an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_SIDE_EFFECTS = ("none", "low", "high")
_BREAKING_WEIGHT = 2
_NON_BREAKING_WEIGHT = 1
_RISK_LEVELS = ((6, "high"), (3, "medium"), (0, "low"))

_Capability = Mapping[str, Any]
_Entry = dict[str, Any]


class _Aspect(NamedTuple):
    """A set of names a capability promises, and the direction of change that breaks callers."""

    name: str
    member: str
    read: Callable[[_Capability], set[str]]
    breaking: str


# The order of this table is the order of the entries of one capability.
_ASPECTS = (
    _Aspect("input_required", "fields", lambda one: _required(one["input_schema"]), "added"),
    _Aspect("output_required", "fields", lambda one: _required(one["output_schema"]), "removed"),
    _Aspect("protocols", "protocols", lambda one: set(one["protocols"]), "removed"),
)


def behavioral_diff(base: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    """Compare two valid manifests and return the behavioral diff document.

    ``breaking_changes`` and ``non_breaking_changes`` list the entries by capability id, those of
    added and removed capabilities last. ``regression_risk_score`` counts a breaking entry twice.
    The same manifests always give the same document, whatever the order of their members.
    """
    old = {one["id"]: one for one in base["capabilities"]}
    new = {one["id"]: one for one in target["capabilities"]}
    breaking: list[_Entry] = []
    non_breaking: list[_Entry] = []
    modified: list[str] = []
    for capability_id in sorted(old.keys() & new.keys()):
        broken, changed = _capability_changes(capability_id, old[capability_id], new[capability_id])
        if broken or changed:
            modified.append(capability_id)
        breaking += broken
        non_breaking += changed
    added = sorted(new.keys() - old.keys())
    removed = sorted(old.keys() - new.keys())
    if removed:
        breaking.append({"type": "capabilities_removed", "capability_ids": removed})
    if added:
        non_breaking.append({"type": "capabilities_added", "capability_ids": added})
    score = _BREAKING_WEIGHT * len(breaking) + _NON_BREAKING_WEIGHT * len(non_breaking)
    return {
        "compatibility": "breaking" if breaking else "backward_compatible",
        "risk_level": next(level for floor, level in _RISK_LEVELS if score >= floor),
        "regression_risk_score": score,
        "capability_delta": {"added": added, "removed": removed, "modified": modified},
        "breaking_changes": breaking,
        "non_breaking_changes": non_breaking,
    }


def _capability_changes(
    capability_id: str, old: _Capability, new: _Capability
) -> tuple[list[_Entry], list[_Entry]]:
    """Return the breaking and the non-breaking entries of a capability both versions have."""
    breaking: list[_Entry] = []
    non_breaking: list[_Entry] = []
    for aspect in _ASPECTS:
        before, after = aspect.read(old), aspect.read(new)
        for direction, names in (("added", after - before), ("removed", before - after)):
            if names:
                entries = breaking if direction == aspect.breaking else non_breaking
                entries.append(
                    {
                        "capability_id": capability_id,
                        "type": f"{aspect.name}_{direction}",
                        aspect.member: sorted(names),
                    }
                )
    before, after = old["side_effect_level"], new["side_effect_level"]
    if _SIDE_EFFECTS.index(after) > _SIDE_EFFECTS.index(before):
        breaking.append(
            {
                "capability_id": capability_id,
                "type": "side_effect_escalated",
                "from": before,
                "to": after,
            }
        )
    return breaking, non_breaking


def _required(data_schema: Mapping[str, Any]) -> set[str]:
    """Return the required members in sight; a schema kept elsewhere (``$ref_uri``) shows none."""
    return set(data_schema.get("required", ()))
