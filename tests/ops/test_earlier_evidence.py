"""The evidence of an earlier release is kept, weighs nothing, and is counted anew by a refresh."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from app.config import Settings
from tests.delegation.conftest import READER
from tests.ops.conftest import bring_back
from tests.ops.place import Place
from tests.ops.test_snapshot import broken_rules

SNAPSHOT = Path(__file__).with_name("release-1.snapshot")
REFRESH = "/v1/operator/refresh"


def test_a_refresh_counts_what_was_counted_by_other_rules(
    new_database: Callable[..., Settings], settings: Settings
) -> None:
    kept = json.loads(SNAPSHOT.with_suffix(".json").read_text())
    there = new_database(settings.url.get_backend_name())
    bring_back(there, SNAPSHOT)
    with Place(there, keys=kept["keys"]).open() as shop:
        boss = shop.caller("boss")
        before = boss.get(f"/v1/agents/{READER}/trust").get_json()
        assert before["tier"] == "unrated"
        evidence = before["breakdown"][0]["evidence"]
        # Four inline delegations, all of which counted then.
        assert (evidence["completed"], evidence["counted_completed"]) == (4, 0)
        repaired = boss.post(REFRESH).get_json()["repaired"]
        assert [one["agent_id"] for one in repaired] == [READER]
        assert boss.post(REFRESH).get_json()["repaired_total"] == 0
        after = boss.get(f"/v1/agents/{READER}/trust").get_json()
        evidence = after["breakdown"][0]["evidence"]
        # A hard stop, for which ten dollars were paid, and work that was given up.
        assert (evidence["completed"], evidence["failed"]) == (0, 2)
        assert (evidence["paying_owners"], evidence["full_says_thousandths"]) == (1, 250)
        assert after["tier"] == "low"
        assert "mostly_failed_delegations" in after["flags"]
    assert broken_rules(there) == []
