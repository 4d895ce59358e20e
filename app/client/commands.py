"""The developer's commands: publish agents, delegate work, do it, and follow it, over HTTP.

Exit codes: 0 done, 1 something needs attention, 2 cannot be done.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from app.client import initial, manifests
from app.client.hub import Hub, HubError, JsonObject, Refused, segment
from app.client.manifests import AgentFile
from app.client.profile import Profile, forget_profile, load_profile, profile_path, store_profile
from app.client.worker import Worker
from app.registry.diff import behavioral_diff

ATTENTION = 1
WAIT_SECONDS = 20
ENDED_WELL = ("delivered", "completed")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")
namespace_option = click.option(
    "--namespace", help="Namespace such as @acme; default: the file's, else the profile's."
)
_console = Console(highlight=False, stderr=True)


@dataclass(frozen=True)
class Context:
    """Where the service is, who asks, and what the profile says else."""

    hub: Hub
    profile: Profile

    def require_key(self) -> None:
        """Raise ``HubError`` where nobody said which key to use."""
        if not self.hub.api_key:
            raise HubError("this needs an API key; set AGENTHUB_API_KEY, or run: agenthub login")


def with_hub(*, needs_key: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the service that it speaks to, as its first argument."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--url", envvar="AGENTHUB_URL", help="Where the service answers.")
        @click.option(
            "--api-key", envvar="AGENTHUB_API_KEY", help="Better in AGENTHUB_API_KEY or a profile."
        )
        @wraps(command)
        def given(url: str | None, api_key: str | None, **arguments: Any) -> None:
            profile = load_profile() if not (url and api_key) else Profile()
            # A key is for its service: that of the profile goes nowhere else.
            own = api_key or (profile.api_key if url in (None, profile.url) else None)
            context = Context(Hub(url or profile.url, own), profile)
            if needs_key:
                context.require_key()
            command(context, **arguments)

        return given

    return decorate


def say(text: str) -> None:
    """Tell a person something that is no result: it goes to standard error."""
    click.echo(text, err=True)


def show(document: Any, *, as_json: bool, text: str) -> None:
    """Print a result: as JSON for a script, or in words."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False) if as_json else text)


@click.command()
@click.option("--url", envvar="AGENTHUB_URL", help="Where the service answers.")
@click.option("--namespace", help="Your namespace, for manifests that name none.")
@click.option("--agent", help="Your agent that hands work to others, such as @acme:clerk.")
def login(url: str | None, namespace: str | None, agent: str | None) -> None:
    """Store where the service is and your API key, for all other commands.

    The key is asked for on a terminal, else read from standard input. The file has mode 0600.
    """
    known = load_profile()
    terminal = sys.stdin.isatty()
    url = url or (click.prompt("Service", default=known.url) if terminal else known.url)
    key = click.prompt("API key", hide_input=True) if terminal else sys.stdin.readline()
    hub = Hub(url.rstrip("/"), key.strip())
    # Any answer to a question that needs a key says that the key is one.
    hub.get("/v1/delegations", limit=1)
    kept = known if known.url == hub.url else Profile()
    path = store_profile(
        replace(
            kept,
            url=hub.url,
            api_key=hub.api_key,
            namespace=namespace or kept.namespace,
            agent=agent or kept.agent,
        )
    )
    say(f"the key is good at {hub.url}; stored in {path}")


@click.command()
def logout() -> None:
    """Forget the stored service and key."""
    say("forgotten" if forget_profile() else f"there is no profile at {profile_path()}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default="agent.json")
@with_hub()
@namespace_option
@click.option("--id", "slug", help="The agent's name within its namespace, such as invoice-reader.")
@click.option("--name", help="The agent's name for people.")
@click.option("--description", help="What the agent does.")
@click.option("--owner", help="Who answers for the agent: a team or a person.")
@click.option("--type", "kind", type=click.Choice(initial.TYPES), help="Default: tool.")
@click.option("--endpoint", help="Where the agent is reached over HTTP; default: nowhere yet.")
@click.option(
    "--from-openapi",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="OpenAPI document whose operations become capabilities.",
)
@click.option(
    "--from-agent", help="Agent to begin with, such as @acme:reader or one version of it."
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def init(context: Context, file: Path, *, force: bool, **given: Any) -> None:
    """Write a manifest: from answers, from an OpenAPI document, or from an agent.

    It goes to FILE, or to agent.json. On a terminal it asks for what no option says.
    """
    if file.exists() and not force:
        raise HubError(f"{file} exists; choose another name, or use --force")
    given["namespace"] = given["namespace"] or context.profile.namespace
    document = initial.build(context.hub, given, ask=_ask if sys.stdin.isatty() else None)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    file.write_text(text)
    faults = manifests.faults_of(manifests.read_file(file))
    say(f"{file} is written")
    for pointer, detail in faults:
        say(f"  to be mended: {pointer}: {detail}")
    say(f"next: agenthub check {file}; agenthub publish {file}")


def _ask(question: str, default: str | None) -> str:
    found: str = click.prompt(question, default=default, err=True)
    return found


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default="agent.json")
@with_hub()
@namespace_option
@click.option("--offline", is_flag=True, help="Ask no service what the version would break.")
@click.option("--fail-on-breaking", is_flag=True, help="Exit with 1 where callers would break.")
@json_option
def check(
    context: Context,
    file: Path,
    namespace: str | None,
    *,
    offline: bool,
    fail_on_breaking: bool,
    as_json: bool,
) -> None:
    """Say whether the manifest in FILE is valid, and what it would break.

    It is compared with the latest version that is published. Exit code 1: it is not valid.
    """
    agent = manifests.read_file(file)
    faults = manifests.faults_of(agent)
    if faults:
        errors = [{"pointer": pointer, "detail": detail} for pointer, detail in faults]
        lines = [f"{file} is not valid:", *(f"  {at or '/'}: {detail}" for at, detail in faults)]
        show({"valid": False, "errors": errors}, as_json=as_json, text="\n".join(lines))
        sys.exit(ATTENTION)
    found: JsonObject = {"valid": True, "errors": [], "digest": agent.canonical.digest}
    lines = [f"{file} is valid: {agent.manifest['identity']['id']} {agent.version}"]
    named = namespace or agent.namespace or context.profile.namespace
    if not offline and named:
        found |= _would_break(context.hub, agent, agent.agent_id(named), lines)
    show(found, as_json=as_json, text="\n".join(lines))
    if fail_on_breaking and found.get("compatibility") == "breaking":
        sys.exit(ATTENTION)


def _would_break(hub: Hub, agent: AgentFile, agent_id: str, lines: list[str]) -> JsonObject:
    latest = manifests.find_latest(hub, agent_id)
    if latest is None:
        lines.append(f"{agent_id} is not registered yet, so it breaks nobody")
        return {"agent_id": agent_id, "compared_with": None}
    base = latest["latest_version"]
    diff = behavioral_diff(latest["manifest"], agent.manifest)
    lines.append(f"against {agent_id}@{base}: {diff['compatibility'].replace('_', ' ')}")
    lines += _changes(diff)
    return {"agent_id": agent_id, "compared_with": base, **diff}


def _changes(diff: Mapping[str, Any]) -> Iterator[str]:
    for title, member in (("breaks callers", "breaking_changes"), ("also", "non_breaking_changes")):
        for change in diff[member]:
            yield f"  {title}: {manifests.describe_change(change)}"


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default="agent.json")
@with_hub(needs_key=True)
@namespace_option
@json_option
def publish(context: Context, file: Path, namespace: str | None, *, as_json: bool) -> None:
    """Register the agent in FILE, or publish a further version of it.

    Safe to repeat, in CI too: the same content is published once, and finding it published already
    is success. Other content under a version that exists is refused.
    """
    agent = manifests.read_file(file)
    faults = manifests.faults_of(agent)
    if faults:
        places = "\n".join(f"  {at or '/'}: {detail}" for at, detail in faults)
        raise HubError(f"{file} is not valid:\n{places}")
    agent_id = agent.agent_id(namespace or (None if agent.namespace else context.profile.namespace))
    outcome = _publish(context.hub, agent, agent_id)
    version = f"{agent_id}@{agent.version}"
    link = f"{context.hub.url}/agents/{segment(agent_id)}"
    found = {
        "agent_id": agent_id,
        "version": agent.version,
        "digest": agent.canonical.digest,
        "outcome": outcome,
        "url": link,
    }
    words = {
        "registered": f"{version} is registered: {link}",
        "published": f"{version} is published: {link}",
        "unchanged": f"{version} was published already, with the same content: {link}",
    }
    show(found, as_json=as_json, text=words[outcome])


def _publish(hub: Hub, agent: AgentFile, agent_id: str) -> str:
    """Publish a manifest and return what became of it. Raises ``Refused``."""
    path = f"/v1/agents/{segment(agent_id)}"
    published = hub.read(f"{path}/versions/{segment(agent.version)}", absent=(manifests.NOT_FOUND,))
    if published.status != manifests.NOT_FOUND:
        digest = published.document["digest"]
        if digest == agent.canonical.digest:
            return "unchanged"
        raise HubError(
            f"{agent_id}@{agent.version} was published with other content ({digest}); published"
            " versions never change: raise identity.version"
        )
    try:
        if manifests.find_latest(hub, agent_id) is None:
            namespace = agent_id.partition(":")[0]
            body = {"namespace": namespace, "manifest": agent.manifest}
            hub.write("POST", "/v1/agents", body, agent.key("register", agent_id))
            return "registered"
        hub.write("PUT", path, {"manifest": agent.manifest}, agent.key("publish", agent_id))
    except Refused as refusal:
        # Somebody published the same at the same time.
        if refusal.problem.get("identical") is not True:
            raise
        return "unchanged"
    return "published"


@click.command(name="show")
@click.argument("agent")
@with_hub()
@json_option
def show_agent(context: Context, agent: str, *, as_json: bool) -> None:
    """Show AGENT, or one version of it.

    AGENT is @ns:slug, or @ns:slug@1.0.0 for a version.
    """
    found = manifests.find_version(context.hub, agent)
    if found.agent_id is None:
        raise click.UsageError("expected an agent such as @acme:reader, or @acme:reader@1.0.0")
    path = f"/v1/agents/{segment(found.agent_id)}"
    document = context.hub.get(path)
    versions = context.hub.get(f"{path}/versions", limit=100)["versions"]
    if found.number != document["latest_version"] or "@" in agent[1:]:
        version = context.hub.get(f"{path}/versions/{segment(found.number or '')}")
        show(version, as_json=as_json, text=_describe(document, found.manifest, found.number or ""))
        return
    text = _describe(document, found.manifest, document["latest_version"])
    numbers = ", ".join(one["version"] for one in versions)
    show(document, as_json=as_json, text=f"{text}\nversions: {numbers}")


def _describe(agent: JsonObject, manifest: JsonObject, version: str) -> str:
    identity, trust = manifest["identity"], agent["trust"]
    is_rated = trust["tier"] != "unrated"
    rating = f"{trust['tier']} ({trust['score']} of 100)" if is_rated else "unrated"
    lines = [
        f"{agent['id']} {version}: {identity['name']}",
        identity["description"],
        f"{agent['status']}, {identity['type']}, trust {rating}",
    ]
    for one in manifest["capabilities"]:
        lines.append(f"  {one['id']}: {one['description']}")
    for one in manifest["interfaces"]:
        lines.append(f"  {one['protocol']} {one.get('endpoint', '')} ({one['auth']})")
    return "\n".join(lines)


@click.command()
@click.argument("base")
@click.argument("target")
@with_hub()
@json_option
def diff(context: Context, base: str, target: str, *, as_json: bool) -> None:
    """Show what TARGET changes for callers of BASE.

    Each is an agent (@ns:slug), a version (@ns:slug@1.0.0), or a file. Exit code 1: it breaks them.
    """
    first, second = (manifests.find_version(context.hub, one) for one in (base, target))
    found = manifests.compare(context.hub, first, second)
    lines = [f"from {first.label} to {second.label}: {found['compatibility'].replace('_', ' ')}"]
    lines += _changes(found)
    show(found, as_json=as_json, text="\n".join(lines))
    if found["compatibility"] == "breaking":
        sys.exit(ATTENTION)


@click.command()
@click.argument("agent")
@click.argument("copy")
@with_hub(needs_key=True)
@json_option
def fork(context: Context, agent: str, copy: str, *, as_json: bool) -> None:
    """Copy the latest version of AGENT to COPY, in a namespace of yours.

    COPY is the new agent's id, such as @acme:reader.
    """
    namespace, _, slug = copy.partition(":")
    if not slug or not namespace.startswith("@"):
        raise click.UsageError("expected the copy's name as @namespace:slug")
    body = {"namespace": namespace, "new_slug": slug}
    found = context.hub.write("POST", f"/v1/agents/{segment(agent)}/fork", body)
    show(found, as_json=as_json, text=f"{agent} is copied to {copy}")


@click.command()
@click.argument("agent")
@with_hub(needs_key=True)
@json_option
def deprecate(context: Context, agent: str, *, as_json: bool) -> None:
    """Deprecate AGENT.

    Its history stays. Publishing a version makes it active again.
    """
    found = context.hub.write("DELETE", f"/v1/agents/{segment(agent)}")
    show(found, as_json=as_json, text=f"{agent} is deprecated")


@click.command()
@click.argument("agent")
@with_hub(needs_key=True)
@click.option("--as", "requester", envvar="AGENTHUB_AGENT", help="Your agent that pays.")
@click.option("--capability", help="What AGENT shall do; its input and output are held to it.")
@click.option("--task", help="The task in words; default: the capability's name.")
@click.option("--input", "given", help="The input as JSON, @FILE, or @- for standard input.")
@click.option("--budget", type=float, required=True, help="The most that it may cost, in USD.")
@click.option("--estimate", type=float, help="What is held at first; default: the budget.")
@click.option("--deadline", type=click.IntRange(1), help="Seconds until the work must end.")
@click.option("--wait", is_flag=True, help="Wait for the result, and print it.")
@click.option("--accept", is_flag=True, help="Accept what is delivered: it is paid at once.")
@json_option
def delegate(
    context: Context, agent: str, *, wait: bool, accept: bool, as_json: bool, **given: Any
) -> None:
    """Hand a task to AGENT under a budget.

    With --wait the progress goes to standard error and the result to standard output. Exit code 1:
    the work ended without a result.
    """
    requester = given["requester"] or context.profile.agent
    if not requester:
        raise click.UsageError("name your agent: --as @acme:clerk, or agenthub login --agent")
    body = _task(context.hub, agent, requester, given)
    created = context.hub.write("POST", "/v1/delegations", body)
    say(f"{created['delegation_id']} is {created['status']}; {created['held_usd']} USD are held")
    if not wait and not accept:
        show(created, as_json=as_json, text=created["delegation_id"])
        return
    ended = _await_end(context.hub, created)
    if ended["status"] == "delivered" and accept:
        path = f"/v1/delegations/{ended['delegation_id']}/accept-result"
        ended = context.hub.write("POST", path, {})
        say(f"accepted; {ended['charged_usd']} USD are paid")
    deliverable = ended["deliverable"] or {}
    result = deliverable.get("output", deliverable or None)
    show(ended, as_json=as_json, text=json.dumps(result, indent=2, ensure_ascii=False))
    if ended["status"] not in ENDED_WELL:
        sys.exit(ATTENTION)


def _task(hub: Hub, agent: str, requester: str, given: Mapping[str, Any]) -> JsonObject:
    """Return the request for a remote delegation."""
    capability = given["capability"]
    task = given["task"]
    if task is None and capability is not None:
        offered = hub.get(f"/v1/agents/{segment(agent)}")["manifest"]["capabilities"]
        task = next((one["name"] for one in offered if one["id"] == capability), capability)
    if task is None:
        raise click.UsageError("say what to do: --capability, or --task")
    body: JsonObject = {
        "execution": "remote",
        "requester_agent_id": requester,
        "delegate_agent_id": agent,
        "task_spec": task,
        "max_budget_usd": given["budget"],
        "estimated_cost_usd": given["estimate"] or given["budget"],
    }
    if capability is not None:
        body["capability_id"] = capability
    if given["given"] is not None:
        body["task_input"] = _read_input(given["given"])
    if given["deadline"] is not None:
        body["deadline_seconds"] = given["deadline"]
    return body


def _read_input(given: str) -> Any:
    try:
        if given == "@-":
            return json.load(sys.stdin)
        return json.loads(Path(given[1:]).read_bytes() if given.startswith("@") else given)
    except OSError as error:
        raise HubError(f"{given[1:]}: {error.strerror}") from None
    except ValueError as error:
        raise HubError(f"the input is no JSON: {error}") from None


def _await_end(hub: Hub, created: JsonObject) -> JsonObject:
    """Wait until work ends or is delivered, say what happens meanwhile, and return it."""
    path = f"/v1/delegations/{created['delegation_id']}"
    known, tag = created, None
    told = (created["status"], created["actual_cost_usd"])
    while known["closed_at"] is None and known["status"] not in ("delivered", "disputed"):
        answer = hub.read(path, tag=tag, wait_seconds=WAIT_SECONDS)
        known, tag = answer.document or known, answer.etag
        seen = (known["status"], known["actual_cost_usd"])
        if seen != told:
            say(f"{known['status'].replace('_', ' ')}; {known['actual_cost_usd']} USD used")
            told = seen
            if known["status"] == "input_required":
                say(f"  it asks: {known['question']}; answer with POST {path}/answer")
            elif known["status"] == "pending_reauthorization":
                say(f"  it needs more money; authorize it with POST {path}/reauthorize")
    return known


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("agent")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@with_hub(needs_key=True)
@click.option("--parallel", type=click.IntRange(1, 64), default=1, help="Tasks at once.")
@click.option("--text", "is_text", is_flag=True, help="Deliver what COMMAND prints as text.")
@click.option("--max-tasks", type=click.IntRange(1), help="End after so many tasks.")
@click.option("--until-idle", is_flag=True, help="End as soon as no task waits.")
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="How long tasks under way may go on after a signal to stop.",
)
@json_option
def worker(
    context: Context, agent: str, command: tuple[str, ...], *, as_json: bool, **given: Any
) -> None:
    """Work for AGENT: run COMMAND for each task that is handed to it.

    COMMAND gets the task's input as JSON on standard input and prints the result as JSON on
    standard output. It reports what it costs by writing lines such as {"cost_usd": 0.02} to the
    file that AGENTHUB_TASK_METER names. Exit code 0 delivers, any other fails the task with the
    last line of standard error as the reason. SIGTERM ends the worker cleanly.
    """
    lock = threading.Lock()

    def tell(event: str, delegation_id: str | None, **details: Any) -> None:
        with lock:
            if as_json:
                click.echo(json.dumps({"event": event, "delegation_id": delegation_id, **details}))
                return
            said = ", ".join(f"{name} {value}" for name, value in details.items())
            say(f"{delegation_id or agent} {event}" + (f": {said}" if said else ""))

    one = Worker(
        context.hub,
        agent,
        command,
        tell,
        parallel=given["parallel"],
        is_text=given["is_text"],
        most=given["max_tasks"],
        until_idle=given["until_idle"],
        drain_seconds=given["drain_seconds"],
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: one.stop())
    one.run()


@click.command()
@click.argument("delegation")
@with_hub(needs_key=True)
@json_option
def tail(context: Context, delegation: str, *, as_json: bool) -> None:
    """Follow what happens to DELEGATION until it is settled."""
    for event in context.hub.events(f"/v1/delegations/{segment(delegation)}/events/stream"):
        if as_json:
            click.echo(json.dumps(event, ensure_ascii=False))
            continue
        click.echo(_describe_event(event))


def _describe_event(event: JsonObject) -> str:
    told = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in event["details"].items()
        if value is not None
    ]
    kind, status = (str(event[name]).replace("_", " ") for name in ("kind", "status"))
    line = f"{event['at']} {kind} by {event['actor']}: {status}"
    return line + (f" ({', '.join(told)})" if told else "")


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    Use it with: eval "$(agenthub completion bash)"
    """
    from click.shell_completion import get_completion_class

    from app.cli import main

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 (click has one for each that is offered)
    click.echo(found(main, {}, "agenthub", "_AGENTHUB_COMPLETE").source())
