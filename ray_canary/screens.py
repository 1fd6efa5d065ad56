"""What shells show: tables and sentences of what the verbs return."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ray_canary import nodelabels, requirements
from ray_canary.access import Issued
from ray_canary.history import History
from ray_canary.instances import Catalogue
from ray_canary.plan import DependenciesPlan, Plan
from ray_canary.preview import Preview, restarts_in_words, weights_in_words
from ray_canary.serving import local
from ray_canary.serving.changes import Change, Effect
from ray_canary.serving.revisions import Revision
from ray_canary.serving.rollout import Progress
from ray_canary.serving.state import Live
from ray_canary.tokens import Token
from ray_canary.weights import WeightChange

#: Columns where nothing says how wide the screen is: in a log or a pipe, a table should not be folded.
_WIDE = 160


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, soft_wrap=True, width=_WIDE)


out = _console()
err = _console(stderr=True)

_COLOURS = {
    "running": "green",
    "ready": "green",
    "scaled-to-zero": "green",
    "deploying": "yellow",
    "starting": "yellow",
    "waiting": "yellow",
    "updating": "yellow",
    "failed": "red",
    "failed-update": "red",
    "unhealthy": "red",
    "missing": "red",
    "terminated": "dim",
    "terminating": "dim",
}
_CLOSED = "Every request needs an access token: `ray-canary token create`."
_EFFECTS = {
    Effect.NONE: "dim",
    Effect.LIVE: "green",
    Effect.ADD: "green",
    Effect.REMOVE: "yellow",
    Effect.RESTART: "red",
}


def data(value: Any, output: str) -> None:
    """Print plain data as `json` or `yaml`."""
    text = json.dumps(value, indent=2) if output == "json" else yaml.safe_dump(value, sort_keys=False)
    out.print(Text(text.rstrip("\n")))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _status(status: str) -> Text:
    return Text(status, style=_COLOURS.get(status, ""))


def warnings(sentences: Iterable[str]) -> None:
    """Print warnings on standard error."""
    for sentence in sentences:
        err.print(Text.assemble(("Warning: ", "yellow"), sentence))


def notice(sentence: str) -> None:
    """Print on standard error what somebody should know while something goes on."""
    err.print(Text(sentence, style="yellow"))


def revision(one: Revision, history: History) -> dict[str, Any]:
    """Return a revision as plain data."""
    settings = one.release.settings
    return {
        "revision": one.number,
        "active": one.number == history.active,
        "bento": settings.targets["main"].bento,
        "weights": settings.split.shares(),
        "bentos": {key: settings.targets[key].bento for key in settings.split.shares()},
        "created_by": one.created_by,
        "created_at": moment(one.created_at),
        "cause": one.cause,
    }


def revisions(history: History) -> None:
    """Print a line for each revision, the newest first."""
    table = _table("Revision", "Bento", "Split", "Created by", "Created at (UTC)", "Cause", "")
    for one in reversed(history.revisions):
        told = revision(one, history)
        shares = ", ".join(f"{key} {weight}" for key, weight in told["weights"].items())
        mark = Text("<- deployed", style="green") if told["active"] else ""
        table.add_row(
            str(one.number), told["bento"], shares, told["created_by"], told["created_at"], told["cause"], mark
        )
    out.print(table)
    if history.live is None:
        out.print("The Deployment is not on the cluster; `ray-canary rollback` brings it back.")
    elif history.active is None:
        out.print("What is on the cluster is none of these: it was deployed by other means.")


def differences(before: Revision, after: Revision, found: Iterable[tuple[str, Any, Any]]) -> None:
    """Print what differs between two revisions."""
    out.print(f"Revision {before.number} ({before.cause}) -> revision {after.number} ({after.cause}):")
    rows = list(found)
    if not rows:
        out.print("No difference.")
        return
    table = _table("Key", f"Revision {before.number}", f"Revision {after.number}")
    for path, was, now in rows:
        table.add_row(path, *("-" if value is None else str(value) for value in (was, now)))
    out.print(table)


def split_of(plan: Plan) -> str:
    """Say what a plan's split goes by."""
    return _by(plan.route_type, plan.route_by)


def _by(route_type: str, route_by: str | None) -> str:
    if route_type == "random":
        return "at random"
    return f"by header {route_by}" if route_type == "header" else f"by query parameter {route_by}"


def plan_targets(plan: Plan) -> None:
    """Print what a plan runs."""
    out.print(Text.assemble(("Deployment ", "bold"), f"{plan.name}: requests are split {split_of(plan)}"))
    if plan.access_authorization:
        out.print(_CLOSED)
    table = _table("Version", "Weight", "Bento", "Service", "Instance", "Replicas", "Reserves")
    for target in plan.targets.values():
        for service in target.services.values():
            first = service.name == target.entry_service
            scaling = service.scaling
            table.add_row(
                target.key if first else "",
                f"{target.weight} %" if first else "",
                target.bento if first else "",
                service.name,
                service.instance_type or "-",
                f"{scaling.min_replicas}..{scaling.max_replicas}",
                "\n".join(filter(None, (resources(service.resources), service.nodes))),
            )
    out.print(table)


def plan_secrets(plan: Plan) -> None:
    """Print which secrets there are, by name, and where each is looked up."""
    rows = [(target.key, secret) for target in plan.targets.values() for secret in target.secrets]
    if not rows:
        return
    out.print()
    out.print(Text("Secrets, looked up when a replica starts:", style="bold"))
    table = _table("Version", "Secret", "As", "Looked up")
    for key, secret in rows:
        table.add_row(key, secret.name, secret.reaches, secret.looked_up)
    out.print(table)


def plan_dependencies(plan: Plan) -> None:
    """Print which Python environments a plan's versions run in, and what they find otherwise there."""
    if all(one.dependencies == DependenciesPlan() for one in plan.targets.values()):
        return
    out.print()
    out.print(Text("Python environments:", style="bold"))
    table = _table("Version", "Environment", "Installs", "Otherwise on this machine")
    for target in plan.targets.values():
        one = target.dependencies
        installs = f"{len(one.packages)} packages" if len(one.packages) != 1 else "1 package"
        table.add_row(
            target.key,
            "its own" if one.kind == "isolated" else "the cluster's",
            f"{installs}{', a whole lock' if one.locked else ''}" if one.kind == "isolated" else "-",
            requirements.told(one.differences) or "-",
        )
    out.print(table)


def resources(reserved: Mapping[str, Any]) -> str:
    """Say what a replica reserves."""
    parts = [f"{reserved['num_cpus']:g} CPU"] if "num_cpus" in reserved else []
    if "memory" in reserved:
        parts.append(f"{reserved['memory'] / 2**30:g} GiB")
    if reserved.get("num_gpus"):
        parts.append(f"{reserved['num_gpus']:g} GPU {reserved.get('accelerator_type', '')}".strip())
    return ", ".join(parts)


def plan_defaults(plan: Plan) -> None:
    """Print what the file leaves to us, with reasons."""
    if not plan.defaults:
        return
    out.print()
    out.print(Text("What the file leaves open:", style="bold"))
    table = _table("Key", "Used", "Why")
    for default in plan.defaults:
        table.add_row(default.path, default.value, default.reason)
    out.print(table)


def plan_preview(found: Preview) -> None:
    """Print what deploying would do to what is on the cluster."""
    plan_changes(found.changes)
    if found.weights is not None:
        weight_change(found.weights)
    if found.drift:
        out.print()
        out.print(Text("Where the file differs from what is deployed:", style="bold"))
        table = _table("Key", "On the cluster", "In the file")
        for path, there, here in found.drift:
            table.add_row(path, *("-" if value is None else str(value) for value in (there, here)))
        out.print(table)
    if found.too_small:
        err.print(Text.assemble(("Does not fit: ", "red"), found.too_small))
    for sentence in found.stuck:
        notice(sentence)
    for sentence in found.missing:
        err.print(Text.assemble(("Not on every node: ", "red"), sentence))
    if found.missing:
        notice("`ray-canary deploy --push` ships what nodes lack.")


def plan_changes(found: tuple[Change, ...]) -> None:
    """Print what deploying would do to what is on the cluster."""
    out.print()
    out.print(Text("On the cluster:", style="bold"))
    table = _table("Application", "Deployment", "Effect", "Because of")
    for change in found:
        effect = Text(change.effect, style=_EFFECTS[change.effect])
        table.add_row(change.application, change.deployment, effect, ", ".join(change.because))
    out.print(table)
    out.print(restarts_in_words(found))


def weight_change(change: WeightChange) -> None:
    """Print which weights move and what that does to users."""
    out.print(weights_in_words(change))


def listing(lives: Iterable[Live]) -> None:
    """Print a line for each Deployment."""
    table = _table("Deployment", "Status", "Bento", "Split", "URL")
    for live in lives:
        if live.rejected:
            table.add_row(live.name, _status(live.status), "-", "rejected", live.url)
            continue
        effective = live.effective()
        shares = ", ".join(
            f"{key} {weight}" if effective[key] == weight else f"{key} {weight} (in force {effective[key]})"
            for key, weight in live.settings.split.shares().items()
        )
        table.add_row(live.name, _status(live.status), live.settings.targets["main"].bento, shares, live.url)
    out.print(table)


def deployment(live: Live, about: Mapping[str, Any]) -> None:
    """Print one Deployment and what there is to know about it: configured and effective weights side by side."""
    out.print(Text.assemble(("Deployment ", "bold"), live.name, "  ", _status(live.status), f"  {live.url}"))
    if live.rejected:
        then = "goes on with the split before it" if live.status == "unhealthy" else "does not start"
        err.print(Text.assemble((f"The ingress refuses its user_config and {then}: ", "red"), live.rejected))
        return
    split = live.settings.split
    out.print(f"Requests are split {_by(split.route_type, split.route_by)}.")
    if live.settings.access_authorization:
        out.print(_CLOSED)
    table = _table("Version", "Bento", "Weight", "In force", "Status", "Replicas", "Transport")
    for key, target in about["targets"].items():
        states = [replica["state"] for replica in target["replicas"]]
        counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states)) or "none"
        in_force = Text(f"{target['effective_weight']} %", style="" if target["ready"] else "red")
        way = target["transport"] or "-"
        table.add_row(key, target["bento"], f"{target['weight']} %", in_force, _status(target["status"]), counts, way)
    out.print(table)
    named = [f"{key}: {', '.join(target['secrets'])}" for key, target in about["targets"].items() if target["secrets"]]
    if named:
        out.print(f"Secrets by name: {'; '.join(named)}.")
    for one in about["beside"]:
        out.print(f"Beside it, without requests: {one['application']} ({one['status'].lower()}).")
    troubles = {key: target["message"] for key, target in about["targets"].items()}
    for key, message in {**troubles, **{one["application"]: one["message"] for one in about["beside"]}}.items():
        if message:
            out.print(Text(f"\n{key}:", style="red bold"))
            out.print(Text(message))


def progress(before: dict[str, Progress], now: Iterable[Progress]) -> None:
    """Print a line for each part whose state has changed, and remember it in `before`."""
    for part in now:
        known = before.get(part.part)
        if known and (known.status, known.running, known.trouble) == (part.status, part.running, part.trouble):
            continue
        before[part.part] = part
        out.print(
            Text.assemble(f"  {part.part}: ", _status(part.status), f" ({part.running} of {part.wanted} replicas)")
        )
        if part.trouble and part.status != "failed" and (known is None or known.trouble != part.trouble):
            err.print(Text(f"  {part.part} fails to start; Serve tries again:\n{part.trouble}", style="yellow"))


def explanation(told: Mapping[str, Any]) -> None:
    """Print why a request goes where it goes."""
    if told["key"] is None:
        out.print(f"{told['reason']}: it is split at random, by the same weights.")
    else:
        out.print(f"The key is {told['key']!r}; the lowest score wins.")
    table = _table("Version", "Weight", "Score", "")
    for key, weight in told["weights"].items():
        score = told["scores"].get(key)
        shown = "-" if score is None else f"{score:.6f}"
        table.add_row(key, f"{weight} %", shown, "<- chosen" if key == told["version"] else "")
    out.print(table)
    if told["terminated"]:
        out.print("The Deployment is terminated, so every request gets a 503 until it is deployed again.")
        return
    if told["version"] is None:
        return
    if told["answers"] == told["version"]:
        out.print(f"It goes to {told['version']}.")
    elif told["answers"]:
        out.print(f"{told['version']} is not ready, so {told['answers']} answers it.")
    else:
        out.print(f"{told['version']} is not ready, so it gets a 503.")


def instance_types(catalogue: Catalogue) -> None:
    """Print the instance types."""
    labelled = any(one.node_labels for one in catalogue)
    table = _table("Name", "CPU", "Memory", "GPU", "GPU type", *(["On nodes with"] if labelled else []))
    for one in catalogue:
        size = (f"{one.cpu:g}", f"{one.memory_bytes / 2**30:g} GiB", str(one.gpu or "-"), one.gpu_type or "-")
        table.add_row(one.name, *size, *([nodelabels.text(one.node_labels) or "-"] if labelled else []))
    out.print(table)


def local_up(started: local.Local) -> None:
    """Say how a local Ray was started, and what that means."""
    cores, memory = local.machine()
    mode = "HAProxy" if started.haproxy else "Serve's own proxy"
    out.print(f"Ray is up, with {mode} in front; its dashboard is at {started.address}.")
    if started.cpus > cores or started.memory_bytes > memory:
        out.print(
            f"It may reserve {started.cpus:g} CPUs and {started.memory_bytes / 2**30:.0f} GiB, which are logical: this "
            f"machine has {cores} and {memory / 2**30:.0f} GiB, and replicas share what is really there."
        )
    if local.token_mode():
        out.print("It asks for Ray's token, which plain `serve` and `ray` send with RAY_AUTH_MODE=token set.")
    exposed = [str(port) for port, what in started.ports().items() if "HAProxy" in what]
    haproxys = f", as do HAProxy's statistics and metrics ({' and '.join(exposed)})" if exposed else ""
    out.print(f"Ray ({started.port} and its workers' ports) listens on all interfaces{haproxys}: mind your firewall.")


def moment(seconds: float) -> str:
    """Return a time, given in seconds since 1970, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _for(token: Token) -> str:
    return "all" if token.deployments is None else ", ".join(token.deployments)


def token_created(issued: Issued) -> None:
    """Print a new token alone on standard output, and all about it on standard error."""
    token = issued.token
    where = f"Deployment {_for(token)}" if token.deployments else "all Deployments"
    until = "it never expires" if token.expires_at is None else f"it expires at {moment(token.expires_at)}"
    out.print(Text(issued.text))
    err.print(
        Text(f"Token {token.id} for {where}; {until}. Keep it now: it is shown only this once, and kept nowhere.")
    )


def tokens(found: Iterable[Token], now: float) -> None:
    """Print a line for each token."""
    table = _table("Id", "Name", "Deployments", "Created", "By", "Expires", "Expired")
    for token in found:
        expired = token.expired(now)
        expires = "never" if token.expires_at is None else moment(token.expires_at)
        cells = (token.id, token.name or "-", _for(token), moment(token.created_at), token.created_by, expires)
        # As Text: a name is nobody's markup.
        table.add_row(*map(Text, cells), Text("yes" if expired else "no", style="red" if expired else ""))
    out.print(table)


def tokens_revoked(gone: Iterable[Token]) -> None:
    """Say which tokens are of no use any more."""
    for token in gone:
        out.print(Text(f"Revoked token {token.id}{f' ({token.name})' if token.name else ''}."))
    out.print("Within a second, no request gets in with it any more.")
