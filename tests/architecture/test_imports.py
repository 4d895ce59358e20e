"""The direction of imports: what keeps every part replaceable is held by these tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from app.scopes import SCOPES

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "app").rglob("*.py"))
}
# These know nothing of any scope, so that every scope may use them.
FOUNDATION = {
    "app.canonical",
    "app.clock",
    "app.config",
    "app.db",
    "app.engines",
    "app.errors",
    "app.exits",
    "app.files",
    "app.ids",
    "app.json_schema",
    "app.json_schema.evaluation",
    "app.json_schema.form",
    "app.json_schema.pool",
    "app.json_schema.process",
    "app.json_values",
    "app.logs",
    "app.metrics",
    "app.money",
    "app.plain_text",
    "app.quotas",
    "app.statements",
}

# What the console works out before there is a page.
PURE_PAGES = {
    f"app.operator.{name}" for name in ("charts", "history", "remembered", "session", "text")
} | {"app.catalogue.calls", "app.catalogue.fields"}


def imports(module: str) -> set[str]:
    """Return the names of the modules that ``module`` imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            base = node.module or ""
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
                for alias in node.names
            }
    return found


def scope_of(module: str) -> str | None:
    """Return the scope that a module belongs to."""
    part = module.split(".")[1] if "." in module else ""
    return part if part in SCOPES else None


def is_blueprint(module: str) -> bool:
    """Tell whether a module is part of a scope's HTTP face."""
    return module.rpartition(".")[2] in ("blueprint", "schemas", "answers")


@pytest.mark.parametrize("module", MODULES)
def test_only_the_edge_knows_the_web_framework(module: str) -> None:
    web = {"flask", "werkzeug", "flask_smorest", "webargs"}
    used = {name.split(".")[0] for name in imports(module)} & web
    pages = module.startswith(("app.operator", "app.catalogue")) and module not in PURE_PAGES
    at_the_edge = module.startswith("app.http") or pages or module in ("app", "app.wsgi")
    assert not used or at_the_edge or is_blueprint(module)


@pytest.mark.parametrize("module", MODULES)
def test_only_settings_read_the_environment(module: str) -> None:
    text = MODULES[module].read_text()
    reads = "os.environ" in text or "os.getenv" in text
    # The command line puts its options where worker processes read their settings.
    assert not reads or module in ("app.config", "app.commands")


@pytest.mark.parametrize("module", MODULES)
def test_only_one_place_tells_time_and_makes_ids(module: str) -> None:
    names = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not {"datetime.now", "datetime.utcnow", "time.time"} & names or module == "app.clock"
    assert not {name for name in names if name.startswith("uuid")} or module == "app.ids"
    assert "secrets" not in imports(module) or module == "app.ids"


@pytest.mark.parametrize("module", sorted(FOUNDATION))
def test_the_foundation_knows_no_scope(module: str) -> None:
    assert {name for name in imports(module) if name.startswith("app.")} <= FOUNDATION


# A scope's edge: its views and its commands. Scopes are composed there and only there, so that
# registering an agent opens its account while neither scope knows of the other below its edge.
# An edge may use what other scopes offer to it: what they do (service), what they tell (queries),
# what they refuse (errors), what must hold of them (reconciliation), and how use is metered. Their
# models, and whatever else is in them, stay their own.
EDGE = ("blueprint", "commands")
OFFERED = ("service", "queries", "errors", "reconciliation", "metering")
# Delegation is made of what these offer: it pins agents, moves money, counts outcomes and tells of
# them in the transaction of each of its transitions.
COMPOSED = {"delegation": ("registry", "ledger", "idempotency", "notification")}


def is_edge(module: str) -> bool:
    """Tell whether a module is where a scope meets its callers."""
    return module.rpartition(".")[2] in EDGE


@pytest.mark.parametrize("module", [name for name in MODULES if scope_of(name)])
def test_scopes_know_nothing_of_each_other_below_their_edges(module: str) -> None:
    foreign = {name for name in imports(module) if scope_of(name) not in (None, scope_of(module))}
    allowed = SCOPES if is_edge(module) else COMPOSED.get(scope_of(module) or "", ())
    assert not {
        name
        for name in foreign
        if scope_of(name) not in allowed or name.rpartition(".")[2] not in OFFERED
    }


@pytest.mark.parametrize("module", [name for name in MODULES if scope_of(name)])
def test_only_a_scopes_commands_know_the_terminal(module: str) -> None:
    # Nothing of a scope knows what operates the service, but for its commands, which share the
    # terminal (tables, JSON, opening the database) with those of other scopes.
    allowed = {"app.ops.terminal"} if module.endswith(".commands") else set()
    assert {name for name in imports(module) if name.startswith("app.ops")} <= allowed


@pytest.mark.parametrize("module", MODULES)
def test_only_the_whole_knows_the_edges(module: str) -> None:
    # Nobody reuses a view or a command: what two edges need is in a service or in queries.
    edges = {name.rpartition(".")[2] for name in imports(module) if scope_of(name)} & set(EDGE)
    assert edges <= {"app": {"blueprint"}, "app.commands": {"commands"}}.get(module, set())


@pytest.mark.parametrize("module", [name for name in MODULES if scope_of(name)])
def test_a_scope_below_its_views_knows_nothing_of_http(module: str) -> None:
    if not is_blueprint(module):
        assert not {name for name in imports(module) if name.startswith("app.http")}


PURE = (
    ".models",
    ".diff",
    ".semver",
    ".trust",
    ".breaker",
    ".lifecycle",
    ".policy",
    ".contract",
    ".settlement",
    ".signing",
)


@pytest.mark.parametrize("module", [name for name in MODULES if name.endswith(PURE)])
def test_models_and_pure_parts_run_no_queries(module: str) -> None:
    forbidden = {"sqlalchemy.orm.Session", "app.db.Database"}
    text = MODULES[module].read_text()
    assert not forbidden & imports(module)
    assert "execute(" not in text


@pytest.mark.parametrize("module", MODULES)
def test_nothing_commits_but_the_edge(module: str) -> None:
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not {"commit", "rollback"} & calls


def test_migrations_load_no_web_framework() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from app import scopes; scopes.metadata(); import app.ops.journal;"
        " sys.exit('flask' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_readable(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), f"{module} does not say what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 50, f"{module}.{node.name} has {length} lines"
            if not node.name.startswith("_") and node in tree.body:
                assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"
