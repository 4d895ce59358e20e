"""Events of a delegation as a stream: what is there, in the documented form, for whom."""

from __future__ import annotations

import pytest

from tests.client import Api, documents
from tests.delegation.conftest import DELEGATIONS, accept, offer, problem


@pytest.mark.usefixtures("agents")
def test_a_stream_begins_with_what_has_happened(acme: Api, globex: Api, anyone: Api) -> None:
    delegation_id = offer(acme)["delegation_id"]
    accept(globex, delegation_id)
    path = f"{DELEGATIONS}/{delegation_id}/events/stream"
    # A server without an event loop sends what there is; the client asks again.
    listed = acme.get(f"{DELEGATIONS}/{delegation_id}/events").get_json()["events"]
    assert documents(acme.get(path)) == listed
    assert [one["number"] for one in documents(acme.get(f"{path}?last_event_id=1"))] == [2]
    # The header is what a browser sends when it comes back, so it counts.
    again = acme.get(f"{path}?last_event_id=0", headers={"Last-Event-ID": "2"})
    assert (again.status_code, documents(again)) == (200, [])
    assert problem(acme.get(f"{path}?last_event_id=x"))[0] == 422
    assert problem(anyone.get(path)) == (401, "api_key_missing")
    assert problem(acme.get(f"{DELEGATIONS}/none/events/stream")) == (404, "delegation_not_found")
