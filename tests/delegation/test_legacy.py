"""What the service before this one left behind comes in once, entirely, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.db import Database
from app.delegation.legacy.files import LegacyFile, parse
from app.delegation.legacy.service import ImportRefused, Report, import_files, open_patiently
from app.delegation.reconciliation import RULES
from app.ledger.reconciliation import reconcile
from tests.client import Api
from tests.delegation.conftest import CLERK, DELEGATIONS, READER, balance, offer, problem
from tests.migrations.project import ROOT, contents, environ
from tests.registry.manifests import build_manifest

RECORD: dict[str, Any] = {
    "delegation_id": "del-1",
    "requester_agent_id": CLERK,
    "delegate_agent_id": READER,
    "status": "completed",
    "estimated_cost_usd": 0.5,
    "actual_cost_usd": 0.30000000000000004,
    "created_at": "2024-03-01T09:30:00",
    "updated_at": "2024-03-01T11:30:00.5+01:00",
    "ticket": {"system": "OPS", "number": 17, "größe": [1.50, None]},
}


class Old:
    """Files of the service before this one, and the database they are imported into."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.records, self.balances = folder / "records.json", folder / "balances.json"

    def write(self, records: Any = None, balances: Any = None) -> None:
        """Write the files that are given."""
        for path, content in ((self.records, records), (self.balances, balances)):
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content)
                path.write_text(text, encoding="utf-8")

    def load(self, *, dry_run: bool = False) -> Report:
        """Import the files that there are."""
        paths = {"records": self.records, "balances": self.balances}
        database = open_patiently(self.settings)
        try:
            known = {kind: path for kind, path in paths.items() if path.exists()}
            return import_files(database, known, dry_run=dry_run)
        finally:
            database.dispose()


@pytest.fixture
def old(settings: Settings, tmp_path: Path) -> Old:
    """A folder for files, and a migrated database."""
    return Old(settings, tmp_path)


def register(api: Api, namespace: str, slug: str) -> None:
    """Register an agent."""
    body = {"namespace": namespace, "manifest": build_manifest(slug=slug)}
    assert api.post("/v1/agents", body).status_code == 200


def broken_rules(settings: Settings) -> list[str]:
    """Return the rules of reconciliation that do not hold."""
    database = Database(settings)
    with database.snapshot() as connection:
        broken = [rule.number for rule in reconcile(connection, RULES) if rule.findings]
    database.dispose()
    return broken


class TestImporting:
    def test_records_and_balances(
        self, old: Old, acme: Api, globex: Api, operator: Api, caller: Any
    ) -> None:
        other = {**RECORD, "delegation_id": "del-2", "status": "in_progress"}
        other |= {"delegate_agent_id": "somebody else", "created_at": "2025-01-01T00:00:00Z"}
        balances = [
            {"agent_id": CLERK, "balance_usd": 12.345678},
            {"agent_id": READER, "balance_usd": 0},
        ]
        old.write([RECORD, other], balances)
        report = old.load()
        assert [(f.kind, f.state, f.rows, f.total_usd) for f in report.files] == [
            ("records", "imported", 2, None),
            ("balances", "imported", 2, 12.345678),
        ]
        assert report.unregistered_agents == [CLERK, READER]
        assert broken_rules(old.settings) == []

        # Registered later, the agents have their money, and their owners see their history.
        register(acme, "@acme", "clerk")
        register(globex, "@globex", "reader")
        assert (balance(acme, CLERK), balance(globex, READER)) == (12.345678, 0)
        for api in (acme, globex, operator):
            shown = api.get(f"{DELEGATIONS}/del-1").get_json()
            assert (shown["legacy"], shown["status"]) == (True, "completed")
            assert shown["created_at"] == "2024-03-01T09:30:00.000000Z"
            assert shown["updated_at"] == "2024-03-01T10:30:00.500000Z"
            assert shown["record"] == RECORD
            assert shown["actual_cost_usd"] == 0.30000000000000004
            assert shown["allowed_commands"] == []
        raw = operator.get(f"{DELEGATIONS}/del-1").data
        assert json.dumps(RECORD).encode() in raw, "the record is not the text that it was"
        stranger = caller("stranger")
        assert problem(stranger.get(f"{DELEGATIONS}/del-1")) == (403, "not_a_party")
        assert problem(globex.get(f"{DELEGATIONS}/del-2")) == (403, "not_a_party")
        assert acme.get(f"{DELEGATIONS}/del-2").status_code == 200
        assert problem(acme.post(f"{DELEGATIONS}/del-1/cancel", {})) == (
            404,
            "delegation_not_found",
        )

        def listed(api: Api) -> list[str]:
            page = api.get(f"{DELEGATIONS}/legacy").get_json()
            return [row["delegation_id"] for row in page["data"]]

        assert listed(operator) == listed(acme) == ["del-2", "del-1"]
        assert (listed(globex), listed(stranger)) == (["del-1"], [])
        first = operator.get(f"{DELEGATIONS}/legacy?limit=1").get_json()
        cursor = first["pagination"]["next_cursor"]
        following = operator.get(f"{DELEGATIONS}/legacy?limit=1&cursor={cursor}").get_json()
        assert [row["delegation_id"] for row in following["data"]] == ["del-1"]
        assert following["pagination"]["next_cursor"] is None

        # The money can be spent like any other.
        offer(acme, estimated_cost_usd=12)
        assert broken_rules(old.settings) == []

    def test_the_same_again_is_nothing_and_another_is_refused(self, old: Old) -> None:
        old.write([RECORD], [{"agent_id": CLERK, "balance_usd": 5}])
        old.load()
        before = contents(old.settings)
        for dry_run in (False, True):
            report = old.load(dry_run=dry_run)
            assert [one.state for one in report.files] == ["imported before"] * 2
        assert contents(old.settings) == before
        for change in ({"records": []}, {"balances": [{"agent_id": CLERK, "balance_usd": 6}]}):
            old.write([RECORD], [{"agent_id": CLERK, "balance_usd": 5}])
            old.write(**change)
            with pytest.raises(ImportRefused, match="another file than the"):
                old.load()
        old.records.unlink()
        old.write(balances=[{"agent_id": CLERK, "balance_usd": 5}])
        assert [one.state for one in old.load().files] == ["imported before"]
        assert contents(old.settings) == before

    def test_a_file_that_was_imported_may_be_gone(self, old: Old) -> None:
        old.write([RECORD])
        database = open_patiently(old.settings)
        missing = {"records": old.records.with_name("none.json")}
        with pytest.raises(ImportRefused, match=r"none\.json cannot be read: No such file"):
            import_files(database, missing)
        old.load()
        assert import_files(database, missing).files[0].state == "imported before"
        database.dispose()

    def test_a_dry_run_changes_nothing(self, old: Old) -> None:
        old.write([RECORD], [{"agent_id": CLERK, "balance_usd": 5}])
        before = contents(old.settings)
        report = old.load(dry_run=True)
        assert [one.state for one in report.files] == ["can be imported"] * 2
        assert report.unregistered_agents == [CLERK]
        assert contents(old.settings) == before

    def test_one_bad_row_of_either_file_imports_nothing(self, old: Old) -> None:
        before = contents(old.settings)
        good = {"agent_id": CLERK, "balance_usd": 5}
        for records, balances in (
            ([RECORD], [good, {"agent_id": READER, "balance_usd": -1}]),
            ([RECORD, RECORD], [good]),
        ):
            old.write(records, balances)
            with pytest.raises(ImportRefused, match="nothing was imported: 1 faults"):
                old.load()
        assert contents(old.settings) == before

    def test_an_id_that_a_delegation_has(self, old: Old, agents: None, acme: Api) -> None:
        taken = offer(acme)["delegation_id"]
        old.write([RECORD, {**RECORD, "delegation_id": taken}])
        for dry_run in (True, False):
            with pytest.raises(ImportRefused) as refused:
                old.load(dry_run=dry_run)
            (fault,) = refused.value.faults
            assert (fault.index, fault.field) == (1, "delegation_id")

    def test_several_servers_at_once_import_once(self, old: Old) -> None:
        records = [{**RECORD, "delegation_id": f"del-{number}"} for number in range(1200)]
        old.write(records, [{"agent_id": f"@a{n}x:b", "balance_usd": 1} for n in range(700)])
        with ThreadPoolExecutor(4) as pool:
            reports = list(pool.map(lambda _: old.load(), range(4)))
        states = sorted(tuple(one.state for one in report.files) for report in reports)
        assert states == [("imported", "imported"), *[("imported before",) * 2] * 3]
        rows = contents(old.settings)
        assert len(rows["delegation_legacy_records"]) == 1200
        assert len(rows["ledger_transactions"]) == 700
        assert broken_rules(old.settings) == []


def faults(kind: str, data: bytes | str | list[Any]) -> list[tuple[int | None, str | None, str]]:
    """Return what is wrong with the content of a file."""
    if isinstance(data, list):
        data = json.dumps(data)
    content = data.encode() if isinstance(data, str) else data
    found = parse(LegacyFile(kind, "file.json", content, ""), 64).faults
    return [(fault.index, fault.field, fault.reason) for fault in found]


WHOLE = json.dumps([RECORD, RECORD | {"delegation_id": "del-2"}])


@pytest.mark.parametrize(
    ("content", "index", "reason"),
    [
        (b"", None, "the file is empty"),
        (b"  \n", None, "the file is empty"),
        (b"{}", None, "expected an array"),
        (b'"text"', None, "expected an array"),
        (b"\xff\xfe[]", None, "the file is not UTF-8 (byte 0)"),
        (WHOLE.encode("utf-16"), None, "the file is not UTF-8"),
        (WHOLE[:-1], 1, "cut off"),
        (WHOLE[:-20], 1, "cut off"),
        (WHOLE[: len(WHOLE) // 2 - 40], 0, "cut off"),
        ("[", 0, "cut off"),
        (WHOLE[:-1] + ",", 2, "cut off"),
        (WHOLE + "x", None, "nothing after the array"),
        (WHOLE[:-1] + ",]", 2, "not JSON: Expecting value at line 1, column"),
        ("[1 2]", 0, "expected a comma"),
        ("[nul]", 0, "not JSON: Expecting value at line 1, column 2"),
        ("[{'a': 1}]", 0, "not JSON: Expecting property name"),
        ("[" + "1" * 5000 + "]", 0, "a number is too large"),
        ("[" * 100_000, 0, "nested too deeply"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(content: bytes | str, index: int | None, reason: str) -> None:
    found = [fault for fault in faults("records", content) if fault[1] is None]
    assert found[-1][0] == index
    assert reason in found[-1][2]


def test_a_byte_order_mark_and_an_empty_array_are_no_faults() -> None:
    assert faults("records", "\ufeff" + WHOLE) == []
    assert faults("records", "[]") == faults("balances", " [ ] ") == []


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("delegation_id", [None, 5, "", "a b", "a/b", "-a", "x" * 129, "del\n", ["a"]]),
        ("requester_agent_id", [None, 5, "", "x" * 194, "a\nb", {}]),
        ("delegate_agent_id", [None, True]),
        ("status", [None, "done", "COMPLETED", 1, ""]),
        ("created_at", [None, 1709285400, "yesterday", "2024-13-01T00:00:00Z", "2024-03-01",
                        "1969-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2024-W09-5"]),
        ("updated_at", [None, 17.5, "2024-02-30T00:00:00Z"]),
        ("estimated_cost_usd", ["0.5", -1, True, 1e10, [0.5]]),
        ("actual_cost_usd", [-0.000001]),
        ("max_budget_usd", ["free"]),
    ],
)  # fmt: skip
def test_members_of_records(field: str, values: list[Any]) -> None:
    for value in values:
        found = faults("records", [RECORD, RECORD | {"delegation_id": "del-2", field: value}])
        if value is not None or not field.endswith("_usd"):
            ((index, name, reason),) = found
            assert (index, name) == (1, field), value
            assert reason.startswith("expected"), value
    lacking = {name: value for name, value in RECORD.items() if name != field}
    expected = [] if field.endswith("_usd") else [(0, field, "missing")]
    assert faults("records", [lacking]) == expected


@pytest.mark.parametrize(
    ("member", "field", "reason"),
    [
        ('"cost": NaN', "cost", "expected a finite number"),
        ('"cost": -Infinity', "cost", "expected a finite number"),
        ('"cost": 1e999', "cost", "expected a finite number"),
        ('"n": 12345678901234567890', "n", "expected a whole number"),
        ('"a": [1, {"b": "\\u0000"}]', "a/1/b", "expected text without U+0000"),
        ('"a": "\\ud800"', "a", "expected text without"),
        ('"a\\u0000": 1', None, "member names"),
        ('"status": "failed"', None, "the member 'status' is there twice"),
        ('"a": {"b": 1, "b": 2}', "a", "the member 'b' is there twice"),
        (f'"a": {"[" * 70}{"]" * 70}', "a" + "/0" * 63, "at most 64 levels"),
    ],
)
def test_values_that_no_client_could_read(member: str, field: str | None, reason: str) -> None:
    row = json.dumps(RECORD)[:-1] + ", " + member + "}"
    ((index, name, told),) = faults("records", f"[{row}]")
    assert (index, name) == (0, field)
    assert reason in told


def test_rows_that_are_no_objects_or_twice() -> None:
    assert faults("records", [[], RECORD, None, RECORD]) == [
        (0, None, "expected an object"),
        (2, None, "expected an object"),
        (3, "delegation_id", "the same as in row 1"),
    ]
    row = {"agent_id": CLERK, "balance_usd": 1}
    assert faults("balances", [row, 7, row]) == [
        (1, None, "expected an object"),
        (2, "agent_id", "the same as in row 0"),
    ]


@pytest.mark.parametrize(
    ("literal", "reason"),
    [
        ("-0.01", "not negative"),
        ("-1", "not negative"),
        ("0.1234567", "at most 6 decimals"),
        ("0.1234560000000000000000000000000001", "at most 6 decimals"),
        ("1e-7", "at most 6 decimals"),
        ("1e-999999", "at most 6 decimals"),
        ("1000000000.000001", "at most 1000000000 USD"),
        ("1e300", "at most 1000000000 USD"),
        ("1e999999", "finite"),
        ("NaN", "finite"),
        ("Infinity", "finite"),
        ('"5"', "expected a number of USD"),
        ("true", "expected a number of USD"),
        ("null", "expected a number of USD"),
        ("[1]", "expected a number of USD"),
    ],
)
def test_balances_that_are_refused(literal: str, reason: str) -> None:
    ((index, field, told),) = faults(
        "balances", f'[{{"agent_id":"{CLERK}","balance_usd":{literal}}}]'
    )
    assert (index, field) == (0, "balance_usd")
    assert reason in told


@pytest.mark.parametrize(
    ("literal", "micros"),
    [("1", 10**6), ("0.10", 10**5), ("1e-06", 1), ("1e3", 10**9), ("0.1234560000", 123456),
     ("1000000000", 10**15), ("999999999.999999", 10**15 - 1), ("0", 0), ("-0.0", 0)],
)  # fmt: skip
def test_balances_are_taken_exactly(literal: str, micros: int) -> None:
    text = f'[{{"agent_id":"{CLERK}","balance_usd":{literal}}}]'
    parsed = parse(LegacyFile("balances", "balances.json", text.encode(), ""), 64)
    assert [row["micros"] for row in parsed.rows] == [micros]


def test_members_of_balances() -> None:
    for row, field in (
        ({"balance_usd": 1}, "agent_id"),
        ({"agent_id": CLERK}, "balance_usd"),
        ({"agent_id": "clerk", "balance_usd": 1}, "agent_id"),
        ({"agent_id": 5, "balance_usd": 1}, "agent_id"),
        ({"agent_id": CLERK, "balance_usd": 1, "currency": "EUR"}, "currency"),
    ):
        assert [(index, name) for index, name, _ in faults("balances", [row])] == [(0, field)]


def agenthub(settings: Settings, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT, env=environ(settings) | more, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


class TestCommand:
    def test_it_reports_and_exits(self, old: Old) -> None:
        assert "name a file" in agenthub(old.settings, "import-legacy").stderr
        old.write([RECORD, {**RECORD, "status": "done"}])
        arguments = ("import-legacy", "--records", str(old.records))
        done = agenthub(old.settings, *arguments)
        assert done.returncode == 2
        assert done.stderr == "Error: nothing was imported: 1 faults in the files\n"
        line = done.stdout.splitlines()[1].split()
        assert line[:4] == ["records.json", "1", "status", "expected"]
        listed = json.loads(agenthub(old.settings, *arguments, "--json").stdout)["faults"]
        assert [(fault["file"], fault["index"]) for fault in listed] == [("records.json", 1)]
        old.write([RECORD])
        for last in ("--dry-run", "--json"):
            assert agenthub(old.settings, *arguments, last).returncode == 0

    def test_the_first_start_imports_before_it_serves(self, old: Old) -> None:
        # The port cannot be listened on twice, so the start ends after what comes before serving.
        old.write("[oops", [])
        paths = {
            "AGENTHUB_DELEGATION_RECORDS_PATH": str(old.records),
            "AGENTHUB_DELEGATION_BALANCES_PATH": str(old.balances),
            "AGENTHUB_KEY_PEPPER": "p" * 40,
        }
        before = contents(old.settings)
        done = agenthub(old.settings, "up", "--port", "18080", **paths)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert "nothing was imported" in done.stderr
        # Neither was the admin key made, which would have been shown to nobody.
        assert contents(old.settings) == before
