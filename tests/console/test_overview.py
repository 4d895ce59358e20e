"""The overview: every figure on it is what the service holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import event

from app.delegation.queries import count_live_alerts, sum_alerts, sum_closings
from app.http.context import Services
from app.operator import charts, history, text
from app.operator.history import History
from tests.console.conftest import Visitor
from tests.console.world import CLERK, READER, World
from tests.delegation.conftest import DELEGATIONS, Clock


def tile(html: str, name: str) -> str:
    """Return the figure of a tile."""
    found = re.search(rf"<dt>(?:<i[^>]*></i>)?{name}</dt><dd[^>]*>([^<]*)</dd>", html)
    assert found is not None, name
    return found[1]


def states(html: str) -> dict[str, str]:
    """Return the numbers of the table of states."""
    table = html.partition('id="h-states"')[2].partition("</table>")[0]
    row = r'\?status=([a-z_]+)">.*?<td class="number">([0-9,]+)</td>'
    rows = re.findall(row, table, re.DOTALL)
    return {status: number for status, number in rows if number != "0"}


def test_an_empty_service_says_what_to_do(admin: Visitor) -> None:
    html = admin.see("/operator")
    assert "All is well" in html
    assert "agenthub demo" in html
    assert tile(html, "Live delegations") == "0"
    assert tile(html, "Available") == "0.00"


def test_figures_are_what_happened(world: World, admin: Visitor) -> None:
    world.register()
    world.live()
    html = admin.see("/operator")
    assert "3 delegations need a decision" in html
    assert states(html) == dict.fromkeys(
        [
            *("offered", "in_progress", "pending_reauthorization", "input_required"),
            *("delivered", "disputed", "failed", "declined", "cancelled"),
        ],
        "1",
    )
    assert tile(html, "Agents") == "6"
    assert tile(html, "Versions published") == "9"
    assert tile(html, "Brought in") == "1,750.00"
    assert tile(html, "In escrow") == "22.00"
    assert tile(html, "Available") == "1,728.00"
    assert tile(html, "Failed in 24 h") == "1"


def test_it_is_the_same_before_and_after_sealing(
    world: World, admin: Visitor, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHUNK", 7)
    world.register()
    for _ in range(9):
        world.inline()
    with services.database.read() as connection:
        unsealed = History().read(connection, None)
        assert unsealed.missing > 0
    world.seal()
    kept = History()
    kept._catch_up(services.database.read)
    with services.database.read() as connection:
        first = kept.read(connection, None)
        assert (first.missing, first.brought_in) == (0, 1_750_000_000)
        assert first.sums.total.closed == sum(
            row.number for row in sum_closings(connection, 1, 10_000)
        )
        again = kept.read(connection, None)
        assert again.sums == first.sums
    world.inline()
    with services.database.read() as connection:
        assert kept.read(connection, None).sums.total.closed == first.sums.total.closed + 1


def test_a_large_history_is_counted_in_the_background(
    world: World, admin: Visitor, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHUNK", 4)
    world.register()
    for _ in range(9):
        world.inline()
    world.seal()
    kept = History()
    with services.database.read() as connection:
        figures = kept.read(connection, None)
        assert 0 < figures.missing == figures.transactions
    kept._catch_up(services.database.read)
    with services.database.read() as connection:
        assert kept.read(connection, None).missing == 0


def test_an_owner_sees_what_is_his(
    world: World, admin: Visitor, visitor: Callable[..., Visitor]
) -> None:
    world.register()
    done = world.offer(CLERK, READER)
    worker = world.accept(done)
    world.meter(worker, 1.5)
    assert worker.send("deliver", output={}).status_code == 200
    world.command(done, "accept-result", {})
    world.offer()
    spent = {"acme": ("1.50", "0.00"), "globex": ("0.00", "1.50"), "initech": ("0.00", "0.00")}
    for owner, (paid, earned) in spent.items():
        html = visitor(owner).see("/operator")
        assert (tile(html, "Spent"), tile(html, "Earned")) == (paid, earned)
        assert states(html) == ({} if owner == "initech" else {"offered": "1", "completed": "1"})
        assert "Brought in" not in html
        assert "Migration tracks" not in html
    assert tile(visitor("acme").see("/operator"), "Held for your agents’ work") == "4.00"  # noqa: RUF001
    assert tile(visitor("globex").see("/operator"), "Held for your agents’ work") == "0.00"  # noqa: RUF001


def test_an_open_page_learns_what_changes(world: World, admin: Visitor, time: Clock) -> None:
    world.register()
    live = {"X-Console-Live": "1"}
    first = admin.get("/operator", **live)
    assert "<html" not in first.text
    tag = first.headers["ETag"]
    unchanged = admin.get("/operator", **live, **{"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    world.offer()
    changed = admin.get("/operator", **live, **{"If-None-Match": tag})
    assert changed.status_code == 200
    assert tile(changed.text, "Live delegations") == "1"


def test_a_month_shows_days(world: World, admin: Visitor, time: Clock) -> None:
    world.register()
    world.inline()
    time.advance(days=3)
    world.inline()
    admin.sign_in()
    page = admin.see("/operator?period=30d")
    for title in ("How delegations ended", "What was paid and returned"):
        days = [row[0] for row in figures(page, title)]
        assert days == ["20 Nov", "23 Nov"], title
    page = admin.see("/operator?period=nonsense")
    assert [row[0] for row in figures(page, "How delegations ended")] == ["09:00"]


def figures(page: str, title: str) -> list[list[str]]:
    """Return the rows of the table below a chart."""
    table = page.partition(f'aria-label="Figures of {title}"')[2].partition("</table>")[0]
    rows = re.findall("<tr>(.*?)</tr>", table.partition("<tbody>")[2], flags=re.S)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_how_far_the_breaker_went_is_charted(world: World, admin: Visitor, time: Clock) -> None:
    world.register()
    for share in (0.5, 0.85, 0.9, 1.05, 1.3):
        body = {
            "requester_agent_id": CLERK,
            "delegate_agent_id": READER,
            "task_spec": "Read an invoice",
            "estimated_cost_usd": 1,
            "max_budget_usd": 2,
            "simulated_actual_cost_usd": share,
        }
        world.send(world.callers["acme"], "POST", DELEGATIONS, body)
        time.advance(minutes=1)
    page = admin.see("/operator")
    # 0.85 and 0.9 reach 80 %, 1.05 reaches 100 % as well, 1.3 all three.
    assert figures(page, BREAKER) == [["09:00", "4", "2", "1"]]
    assert tile(page, "Breaker in 24 h") == "7"


BREAKER = "Thresholds of the breaker that were reached"


def test_pauses_and_new_authorizations_of_live_work_show(
    world: World, admin: Visitor, visitor: Callable[..., Visitor], time: Clock
) -> None:
    world.register()
    works = []
    for _ in range(2):
        one = world.offer(estimated_cost_usd=2)
        works.append((one, world.accept(one)))
        # 85 %, then 105 %, at which it pauses.
        world.meter(works[-1][1], 1.7, 0.4)
    one, worker = works[0]
    world.command(one, "reauthorize", {"new_estimate_usd": 4})
    page = admin.see("/operator")
    assert "2 paused, 1 authorized anew, 0 stopped" in page
    assert tile(page, "Breaker in 24 h") == "4"
    # 3.3 of 4, and it is done; the figures are the same once the ledger has closed it.
    world.meter(worker, 1.2)
    for sealed in (False, True):
        if sealed:
            assert worker.send("deliver", output={}).status_code == 200
            world.command(one, "accept-result", {})
            world.seal()
        for who in (admin, visitor("acme"), visitor("globex", "viewer")):
            page = who.see("/operator")
            assert "2 paused, 1 authorized anew, 0 stopped" in page
            assert figures(page, BREAKER) == [["09:00", "3", "2", "0"]]
    assert figures(visitor("initech").see("/operator"), BREAKER) == []
    time.advance(hours=25)
    admin.sign_in()
    assert tile(admin.see("/operator"), "Breaker in 24 h") == "0"
    days = figures(admin.see("/operator?period=30d"), BREAKER)
    assert days == [["20 Nov", "3", "2", "0"]]


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_alerts_are_found_by_delegation(services: Services, time: Clock) -> None:
    # There are far more events than delegations that are live, or that a view has yet to read.
    asked: list[tuple[str, object]] = []
    with services.database.read() as connection:
        event.listen(
            connection, "before_cursor_execute", lambda *call: asked.append((call[2], call[3]))
        )
        count_live_alerts(connection, time.now)
        sum_alerts(connection, 1, 9)
        plans = [
            [step[3] for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given)]
            for sql, given in list(asked)
        ]
    assert len(plans) == 2
    for plan in plans:
        assert any("delegation_events USING INDEX" in step for step in plan)
        assert not [step for step in plan if step.startswith("SCAN")]


def test_columns_stand_on_each_other() -> None:
    chart = charts.columns([("a", {"x": 3, "y": 1}), ("b", {"x": 0, "y": 0})], ("x", "y"))
    assert chart.top == 5
    first = chart.columns[0].segments
    assert [(one.name, one.y, one.height) for one in first] == [("x", 40, 60), ("y", 20, 20)]
    assert chart.columns[1].segments == []
    assert charts.columns([], ("x",)).is_empty


def test_money_and_time_are_written_for_people(time: Clock) -> None:
    assert [text.usd(n) for n in (0, 1, 1_500_000, 1_234_567_000_000, -250_000)] == [
        *("0.00", "0.000001", "1.50", "1,234,567.00", "\N{MINUS SIGN}0.25"),
    ]
    assert text.ago(time.now - timedelta(minutes=3), time.now) == "3 min ago"
    assert text.ago(time.now + timedelta(hours=5), time.now) == "in 5 h"
    assert text.ago(time.now, time.now) == "just now"
    assert text.percent(0, 0) == "\N{EN DASH}"
    assert text.percent(1, 3) == "33 %"
    for seconds, ended, running in (
        (0.25, "250 ms", "under 1 min"),
        (59, "59 s", "under 1 min"),
        (60, "1 min", "1 min"),
        (3_725, "1 h 2 min", "1 h 2 min"),
        (3_605, "1 h", "1 h"),
        (185, "3 min 5 s", "3 min"),
        (90_000, "1 d 1 h", "1 d 1 h"),
        (-5, "0 ms", "under 1 min"),
    ):
        end = time.now + timedelta(seconds=seconds)
        assert text.lasted(time.now, end, end) == ended
        assert text.lasted(time.now, None, end) == running
