"""Settings: one frozen value read from the environment, the only reader of ``os.environ``."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.money import MAX_USD, to_micros, to_usd

PREFIX = "AGENTHUB_"
MAX_QUOTA = 10**15
LOG_FORMATS = ("json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """The environment holds a setting that cannot be used; the message names it and the remedy."""


def _integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not minimum <= int(text) <= maximum:
            raise ValueError(f"expected a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return text

    return parse


def _database_url(text: str) -> URL:
    # SQLAlchemy has several hosts in the query, libpq and everybody's manuals where the one is.
    several = re.fullmatch(r"([a-z+]+://(?:[^@/]*@)?)([^@/?]*,[^@/?]*)(.*)", text)
    try:
        url = make_url(several[1] + several[3] if several else text)
    except (ArgumentError, ValueError):
        # The URL may hold a password, so the message must not repeat it.
        raise ValueError("expected a database URL such as postgresql://user@host/name") from None
    if several:
        url = url.update_query_pairs([("host", host) for host in several[2].split(",")])
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    raise ValueError("expected postgresql://... or sqlite:///FILE")


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("expected true or false")
    return text == "true"


def _usd(text: str) -> int:
    try:
        micros = to_micros(float(text))
    except ValueError:
        micros = -1
    if micros < 0:
        raise ValueError(f"expected an amount from 0 to {MAX_USD} USD with at most 6 decimals")
    return micros


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("expected a URL such as http://127.0.0.1:4318")
    return text


def _list(is_item: Callable[[str], bool], expected: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(","))
        if not all(map(is_item, items)):
            raise ValueError(f"expected {expected}, separated by commas")
        return items

    return parse


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _is_host(text: str) -> bool:
    name = r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?"
    return (
        text == "*" or _is_network(text) or bool(re.fullmatch(rf"(\*\.)?{name}(\.{name})*", text))
    )


def _is_origin(text: str) -> bool:
    host = r"([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\])"
    return text == "*" or bool(re.fullmatch(rf"https?://{host}(:[0-9]{{1,5}})?", text))


def _secret(text: str) -> str:
    if len(text) < 32:
        raise ValueError("expected at least 32 characters of random text")
    return text


def _setting(
    default: Any, parse: Callable[[str], Any], meaning: str, *, secret: bool = False
) -> Any:
    return field(
        default=default,
        repr=not secret,
        metadata={"parse": parse, "meaning": meaning, "secret": secret},
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator can set; field ``database_url`` is read from ``AGENTHUB_DATABASE_URL``.

    Durations are in the unit that ends the field's name; sizes are in bytes.
    """

    data_dir: Path = _setting(
        Path("agenthub-data"), Path, "folder of the embedded database and of generated secrets"
    )
    database_url: URL | None = _setting(
        None, _database_url, "database; default: agenthub.db in the data directory"
    )
    transaction_pooler: bool = _setting(
        False, _flag, "whether PostgreSQL is reached through a pooler in transaction mode"
    )
    key_pepper: str | None = _setting(
        None,
        _secret,
        "secret that API key hashes are keyed with; required for PostgreSQL",
        secret=True,
    )
    host: str = _setting("127.0.0.1", str, "address the server listens on")
    allowed_hosts: tuple[str, ...] | None = _setting(
        None,
        _list(_is_host, "names, *.NAME, addresses, networks, or *"),
        "hosts besides loopback and AGENTHUB_HOST that requests may be for; * is any",
    )
    cors_origins: tuple[str, ...] | None = _setting(
        None,
        _list(_is_origin, "origins such as https://app.example.com, or *"),
        "origins of other sites whose scripts may call the API; * is any",
    )
    trusted_proxies: tuple[str, ...] | None = _setting(
        None,
        _list(_is_network, "addresses or networks such as 10.0.0.0/8"),
        "proxies whose X-Forwarded-For and X-Forwarded-Proto are believed",
    )
    port: int = _setting(8080, _integer(1, 65535), "port the server listens on")
    workers: int = _setting(2, _integer(1, 256), "server processes")
    threads: int = _setting(4, _integer(1, 64), "threads of each server process")
    max_waiting_requests: int = _setting(
        128, _integer(1, 100_000), "requests that wait for a thread of a process before it refuses"
    )
    max_connections: int = _setting(
        1000, _integer(10, 100_000), "connections of each server process"
    )
    header_seconds: int = _setting(
        10, _integer(1, 3600), "how long a connection may take to send a whole header"
    )
    body_seconds: int = _setting(
        20, _integer(1, 3600), "how long a request's body may take to come"
    )
    keep_alive_seconds: int = _setting(
        75, _integer(1, 3600), "how long a connection may wait for its next request"
    )
    max_body_bytes: int = _setting(
        1024 * 1024, _integer(1024, 64 * 1024 * 1024), "largest request body"
    )
    max_json_depth: int = _setting(
        64, _integer(8, 200), "deepest nesting of arrays and objects in a request body"
    )
    max_manifest_bytes: int = _setting(
        256 * 1024, _integer(4096, 16 * 1024 * 1024), "largest manifest, in canonical form"
    )
    quota_namespaces: int = _setting(
        100, _integer(0, MAX_QUOTA), "namespaces of one owner; 0 sets no limit, as for all quotas"
    )
    quota_agents: int = _setting(
        1000, _integer(0, MAX_QUOTA), "agents of one owner, deprecated ones included"
    )
    quota_versions: int = _setting(10_000, _integer(0, MAX_QUOTA), "versions of one owner's agents")
    quota_agent_versions: int = _setting(1000, _integer(0, MAX_QUOTA), "versions of one agent")
    quota_manifest_bytes: int = _setting(
        256 * 1024 * 1024,
        _integer(0, MAX_QUOTA),
        "bytes of the manifests of one owner, all versions together",
    )
    quota_webhooks: int = _setting(20, _integer(0, MAX_QUOTA), "webhooks of one owner")
    quota_keys: int = _setting(
        100, _integer(0, MAX_QUOTA), "API keys of one owner that are neither revoked nor expired"
    )
    schema_check_processes: int = _setting(
        2, _integer(1, 64), "processes of each server process that apply capabilities' schemas"
    )
    schema_check_seconds: int = _setting(
        2, _integer(1, 60), "computing time of all schema checks of one request"
    )
    schema_check_queue: int = _setting(
        16, _integer(0, 1000), "requests of each server process that wait for a schema check"
    )
    rate_limit_per_minute: int = _setting(
        6000, _integer(0, 10_000_000), "requests of one API key in a minute; 0 sets no limit"
    )
    anonymous_limit_per_minute: int | None = _setting(
        None,
        _integer(0, 10_000_000),
        "requests without a valid key from one address in a minute, in each process;"
        " default: as many as of a key",
    )
    failed_key_limit_per_minute: int | None = _setting(
        None,
        _integer(0, 10_000_000),
        "requests with a wrong key from one address in a minute, in each process;"
        " default: a hundredth of a key's",
    )
    idempotency_body_hours: int = _setting(
        72, _integer(24, 24 * 365), "how long the answer to a write can be replayed"
    )
    clock_tolerance_seconds: int = _setting(
        600,
        _integer(0, 86_400),
        "how far the clock may be from where it has to be before writes are refused; 0: any",
    )
    lock_timeout_ms: int = _setting(
        5000, _integer(1, 600_000), "how long a write waits for a lock before it is refused"
    )
    statement_timeout_ms: int = _setting(
        30_000, _integer(100, 3_600_000), "how long one SQL statement may run (PostgreSQL)"
    )
    opening_credit_usd: int = _setting(
        0, _usd, "what a new agent's account begins with; held in micro-USD"
    )
    delegation_records_path: Path | None = _setting(
        None, Path, "delegations of an earlier service (JSON), imported once by agenthub up"
    )
    delegation_balances_path: Path | None = _setting(
        None, Path, "agents' balances in an earlier service (JSON), imported once by agenthub up"
    )
    snapshot_dir: Path | None = _setting(
        None, Path, "folder of snapshots (*.snapshot) that the console lists and readiness looks at"
    )
    webhook_allow_private: bool = _setting(
        False, _flag, "whether webhooks may lead to private addresses, and use plain HTTP"
    )
    metrics_token: str | None = _setting(
        None,
        _secret,
        "secret that Prometheus sends to read /metrics; without it an admin's key is needed",
        secret=True,
    )
    otlp_endpoint: str | None = _setting(
        None, _http_url, "OpenTelemetry collector that spans are sent to; default: none"
    )
    log_level: str = _setting("info", _choice(*LOG_LEVELS), "least severe log line that is written")
    log_format: str = _setting("json", _choice(*LOG_FORMATS), "form of the log lines")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read every ``AGENTHUB_*`` variable of ``environ`` (default: the process's own).

        Raises ``SettingsError`` for an unknown name or an unusable value.
        """
        environ = os.environ if environ is None else environ
        by_variable = {PREFIX + f.name.upper(): f for f in fields(cls)}
        given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        unknown = sorted(given.keys() - by_variable.keys() - CLIENT_VARIABLES)
        if unknown:
            raise SettingsError(
                f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(by_variable))}"
            )
        values: dict[str, Any] = {}
        for name, text in given.items():
            if name in CLIENT_VARIABLES:
                continue
            setting = by_variable[name]
            if not text.strip():
                raise SettingsError(f"{name} is empty; unset it to use the default")
            try:
                values[setting.name] = setting.metadata["parse"](text)
            except ValueError as error:
                raise SettingsError(f"{name}: {error}") from None
        # The name that every program with OpenTelemetry reads.
        if environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            values.setdefault("otlp_endpoint", environ["OTEL_EXPORTER_OTLP_ENDPOINT"])
        return cls(**values)

    @property
    def url(self) -> URL:
        """The database in use: ``database_url``, else the SQLite file in the data directory."""
        if self.database_url is not None:
            return self.database_url
        return URL.create("sqlite", database=str(self.data_dir.absolute() / "agenthub.db"))

    @property
    def listens_everywhere(self) -> bool:
        """Whether ``host`` stands for every address of the machine."""
        return self.host in ("", "0.0.0.0", "::")  # noqa: S104 (compared, not listened on)

    @property
    def link(self) -> str:
        """The URL at which a browser on this machine reaches the server (RFC 3986, RFC 6874)."""
        host = "localhost" if self.listens_everywhere else self.host
        if ":" in host:
            host = f"[{host.replace('%', '%25')}]"
        return f"http://{host}:{self.port}"

    @property
    def anonymous_limit(self) -> int:
        """How many requests without a valid key an address may make in a minute; 0: any number."""
        given = self.anonymous_limit_per_minute
        return self.rate_limit_per_minute if given is None else given

    @property
    def failed_key_limit(self) -> int:
        """How many requests with a wrong key an address may make in a minute; 0: any number."""
        given = self.failed_key_limit_per_minute
        return -(-self.rate_limit_per_minute // 100) if given is None else given

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is the embedded one."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def legacy_paths(self) -> dict[str, Path]:
        """The files of an earlier service to import, by what they hold."""
        paths = {"records": self.delegation_records_path, "balances": self.delegation_balances_path}
        return {kind: path for kind, path in paths.items() if path is not None}

    @property
    def log_level_number(self) -> int:
        """``log_level`` as the number the logging module uses."""
        return logging.getLevelNamesMapping()[self.log_level.upper()]

    def describe(self) -> list[tuple[str, str, str]]:
        """Return ``(variable, value, meaning)`` for every setting, without secrets."""
        rows = []
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name == "database_url":
                value = self.url.render_as_string(hide_password=True)
            elif setting.metadata["parse"] is _usd:
                value = to_usd(value)
            elif setting.metadata["secret"]:
                value = "set" if value else "not set"
            elif value is None:
                value = "not set"
            elif isinstance(value, tuple):
                value = ", ".join(value)
            rows.append((PREFIX + setting.name.upper(), str(value), setting.metadata["meaning"]))
        return rows


# Variables of clients of a running service, and of the tests; they configure no service.
CLIENT_VARIABLES = frozenset(
    {
        "AGENTHUB_URL",
        "AGENTHUB_API_KEY",
        "AGENTHUB_WORKER_KEY",
        "AGENTHUB_OPERATOR_KEY",
        "AGENTHUB_AGENT",
        # What a worker tells its program.
        "AGENTHUB_TASK_ID",
        "AGENTHUB_TASK_SPEC",
        "AGENTHUB_TASK_CAPABILITY",
        "AGENTHUB_TASK_BUDGET_USD",
        "AGENTHUB_TASK_METER",
        # Where the project's tests find data that is not part of it.
        "AGENTHUB_TEST_CORPORA",
    }
)


# Where the processes of one server add up what they count; the Prometheus library's own name.
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def metrics_folder() -> str | None:
    """Return the folder of this server's shared counters; None for a single process."""
    return os.environ.get(METRICS_FOLDER) or None


def client_environment(**variables: str) -> dict[str, str]:
    """Return the environment for a client in a process of its own.

    It is this process's without any setting or key, and with ``variables``.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | variables
