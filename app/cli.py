"""The ``agenthub`` command. Exit codes: 0 done, 1 something needs attention, 2 cannot be done.

Nothing here loads a command, nor the database's or the web's libraries, before one is asked for.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """Where a command is (``module:name``), and the first sentence of what it says it does."""

    place: str
    summary: str


# For developers, from anywhere; all others are for operators, on the server's machine.
OVER_HTTP = {
    "check": Entry(
        "app.client.commands:check",
        "Say whether the manifest in FILE is valid, and what it would break.",
    ),
    "completion": Entry(
        "app.client.commands:completion", "Print the completion script of a shell."
    ),
    "delegate": Entry("app.client.commands:delegate", "Hand a task to AGENT under a budget."),
    "deprecate": Entry("app.client.commands:deprecate", "Deprecate AGENT."),
    "diff": Entry("app.client.commands:diff", "Show what TARGET changes for callers of BASE."),
    "fork": Entry(
        "app.client.commands:fork",
        "Copy the latest version of AGENT to COPY, in a namespace of yours.",
    ),
    "init": Entry(
        "app.client.commands:init",
        "Write a manifest: from answers, from an OpenAPI document, or from an agent.",
    ),
    "login": Entry(
        "app.client.commands:login",
        "Store where the service is and your API key, for all other commands.",
    ),
    "logout": Entry("app.client.commands:logout", "Forget the stored service and key."),
    "publish": Entry(
        "app.client.commands:publish",
        "Register the agent in FILE, or publish a further version of it.",
    ),
    "show": Entry("app.client.commands:show_agent", "Show AGENT, or one version of it."),
    "tail": Entry(
        "app.client.commands:tail", "Follow what happens to DELEGATION until it is settled."
    ),
    "worker": Entry(
        "app.client.commands:worker",
        "Work for AGENT: run COMMAND for each task that is handed to it.",
    ),
}
ON_THE_SERVER = {
    "deliver-webhooks": Entry(
        "app.commands:deliver_webhooks", "Attempt every webhook delivery that is due."
    ),
    "demo": Entry(
        "app.commands:demo",
        "Register agents over HTTP, delegate work between them, and show calls as curl lines.",
    ),
    "doctor": Entry(
        "app.commands:doctor",
        "Look at settings, database, tracks, keys and disk, and say what to do.",
    ),
    "import-legacy": Entry(
        "app.delegation.legacy.commands:import_legacy",
        "Import delegations and balances of an earlier service: once, and all of them or nothing.",
    ),
    "keys": Entry("app.commands:keys", "API keys: create, list, revoke, rotate, bind."),
    "ledger": Entry("app.ledger.commands:ledger", "The ledger: digest, verify, reconcile."),
    "readiness": Entry(
        "app.ops.readiness_command:readiness",
        "Say whether the running service may be opened: go (exit code 0) or no-go (1).",
    ),
    "serve": Entry(
        "app.commands:serve", "Serve a database that is migrated already; refuse one that is not."
    ),
    "snapshot": Entry(
        "app.ops.snapshot.commands:snapshot",
        "Snapshots: create, verify, inspect, restore, activate.",
    ),
    "sweep": Entry("app.commands:sweep", "Close the delegations whose time has run out."),
    "tracks": Entry("app.commands:tracks", "Show every migration track and its journal."),
    "up": Entry("app.commands:up", "Bring the database to this release's schema and serve."),
}
COMMANDS = OVER_HTTP | ON_THE_SERVER


class Commands(click.Group):
    """The group of all commands, each loaded when it is asked for.

    It turns every failure that an operator can mend into one line and an exit code.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None if there is no such."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].place.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command does, without loading it."""
        for title, commands in (
            ("For developers, over HTTP", OVER_HTTP),
            ("For operators, on the server's machine", ON_THE_SERVER),
        ):
            with formatter.section(title):
                formatter.write_dl([(name, commands[name].summary) for name in sorted(commands)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            # The command that failed has loaded all of this.
            from app.commands import explain
            from app.ops.terminal import Failure

            message = explain(error)
            if message is None:
                raise
            raise Failure(message) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agenthub")
def main() -> None:
    """AgentHub: the system of record for AI agents.

    Developers' commands speak to the service at AGENTHUB_URL with the key AGENTHUB_API_KEY, or as
    `agenthub login` stored. Operators' commands read their settings from AGENTHUB_* variables;
    `agenthub doctor` shows them.
    """
    # What any command or server writes, its owner alone reads.
    os.umask(0o077)


if __name__ == "__main__":
    main()
