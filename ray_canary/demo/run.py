"""The main job, shown: three real Bentos, a local Ray, live traffic, a live weight change."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from rich.table import Table
from rich.text import Text

from ray_canary import deployment, screens
from ray_canary.demo.build import build_bentos
from ray_canary.demo.texts import read_texts
from ray_canary.errors import DeployFailed
from ray_canary.plan import Plan
from ray_canary.screens import out
from ray_canary.serving import local
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.rollout import Progress
from ray_canary.serving.state import Live

#: Users who each send one request, and clients that send them.
USERS = 1000
CLIENTS = 4
#: The weights after the live change.
NEW_WEIGHTS = {"a": 30, "b": 40}


@dataclass
class Traffic:
    """What became of the requests of many users."""

    answers: list[tuple[str, str, int]] = field(default_factory=list)
    slowest_s: float = 0

    @property
    def failed(self) -> int:
        """How many requests did not end in 200."""
        return sum(status != 200 for _, _, status in self.answers)

    def shares(self) -> Counter[str]:
        """Count the answers of each version."""
        return Counter(version for _, version, _ in self.answers)

    def versions(self) -> dict[str, str]:
        """Return the version that answered each user."""
        return {user: version for user, version, _ in self.answers}


def run(file: str) -> None:
    """Run the demo for a Deployment file of the `summarization` Bentos. Raises DeployFailed when it fails."""
    _step("Building three real Bentos")
    build_bentos(say=lambda line: out.print(f"  {line}"))
    plan = deployment.plan(deployment.read(file))
    _step("Starting a local Ray")
    _start(plan)
    _step(f"Deploying {file}")
    screens.plan_targets(plan)
    live = _deploy(plan)
    before = _replicas(live)
    _step("Three Bentos, one text: `curl` with three users")
    _show_answers(live)
    _step(f"Live traffic: {USERS} users, {CLIENTS} clients")
    first = _send(live, range(USERS))
    _show_shares(first, plan.weights())
    _step("The same users again: does everybody meet the same version?")
    again = _send(live, range(USERS))
    moved = _moved(first, again)
    out.print(f"  {USERS - moved} of {USERS} users met the version that they met before.")
    _step(f"Changing the weights while traffic flows: {', '.join(f'{k}={v}' for k, v in NEW_WEIGHTS.items())}")
    with _constant(live) as during:
        time.sleep(1)
        change = deployment.set_weights(live.name, NEW_WEIGHTS)
        time.sleep(1)
    screens.weight_change(change)
    out.print(
        f"  {len(during.answers)} requests during the change: {during.failed} failed, "
        f"the slowest took {during.slowest_s * 1000:.0f} ms."
    )
    after = _send(live, range(USERS))
    _show_shares(after, change.after)
    out.print(f"  {_moved(first, after) / USERS:.1%} of the users met another version than before.")
    now = _replicas(deployment.get(live.name).live)
    _show_pids(before, now)
    failed = first.failed + again.failed + during.failed + after.failed
    gone = [f"{key} (pid {pid})" for key, pids in before.items() for pid in pids if pid not in now.get(key, [])]
    if failed or moved or gone:
        raise DeployFailed(
            f"The demo failed: {failed} failed requests; {moved} users met another version though no weight had "
            f"changed; replicas that have gone: {', '.join(gone) or 'none'}. "
            "Its Ray still runs; `ray-canary down` ends it."
        )
    _show_next(live)


def _start(plan: Plan) -> None:
    if local.runs():
        out.print("  A local Ray of ours runs already.")
        return
    wanted = local.sized(plan)
    local.up(wanted)
    screens.local_up(wanted)


def _deploy(plan: Plan) -> Live:
    seen: dict[str, Progress] = {}
    deployed = deployment.apply_plan(plan, Cluster(), report=lambda now: screens.progress(seen, now), timeout=300)
    live = deployed.live
    out.print(f"  It answers at {live.url}")
    return live


def _request(live: Live, user: int) -> httpx.Request:
    return httpx.Request("POST", f"{live.url}/summarize?feature=user{user}", json={"text": read_texts()["darwin"]})


def _show_answers(live: Live) -> None:
    shown: dict[str, str] = {}
    with httpx.Client(timeout=30) as http:
        for user in range(100):
            response = http.send(_request(live, user))
            version = response.headers["x-bento-version"]
            if version not in shown:
                shown[version] = response.text
                tag = response.headers["x-bento-tag"]
                out.print(Text.assemble(f"  user{user} -> ", (version, "bold"), f" ({tag})"))
                out.print(Text(f"    {' '.join(response.text.split())[:220]} ...", style="dim"))
            if len(shown) == len(live.targets):
                return


def _send(live: Live, users: range) -> Traffic:
    traffic = Traffic()
    parts = [users[client::CLIENTS] for client in range(CLIENTS)]
    threads = [threading.Thread(target=_send_all, args=(live, part, traffic)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return traffic


def _send_all(live: Live, users: range, traffic: Traffic, stop: threading.Event | None = None) -> None:
    with httpx.Client(timeout=30) as http:
        for user in users:
            if stop is not None and stop.is_set():
                return
            began = time.monotonic()
            try:
                response = http.send(_request(live, user))
                answer = (str(user), response.headers.get("x-bento-version", ""), response.status_code)
            except httpx.HTTPError:
                answer = (str(user), "", 0)
            traffic.answers.append(answer)
            traffic.slowest_s = max(traffic.slowest_s, time.monotonic() - began)


@contextmanager
def _constant(live: Live) -> Iterator[Traffic]:
    """Send requests all the time until the block ends."""
    traffic, stop = Traffic(), threading.Event()
    users = [range(client, 10_000_000, CLIENTS) for client in range(CLIENTS)]
    threads = [threading.Thread(target=_send_all, args=(live, part, traffic, stop)) for part in users]
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _moved(before: Traffic, after: Traffic) -> int:
    then, now = before.versions(), after.versions()
    return sum(then[user] != now[user] for user in then)


def _replicas(live: Live) -> dict[str, list[int | None]]:
    """Return the pids of the replicas that serve each version."""
    return {
        key: [replica.pid for replica in target.entry.replicas if replica.state == "RUNNING"] if target.entry else []
        for key, target in live.targets.items()
    }


def _show_shares(traffic: Traffic, weights: dict[str, int]) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 2))
    for column in ("Version", "Weight", "Observed", "Requests"):
        table.add_column(column)
    counts = traffic.shares()
    for key, weight in weights.items():
        table.add_row(key, f"{weight} %", f"{counts[key] / len(traffic.answers):.1%}", str(counts[key]))
    out.print(table)
    out.print(f"  {traffic.failed} of {len(traffic.answers)} requests failed.")


def _show_pids(before: dict[str, list[int | None]], now: dict[str, list[int | None]]) -> None:
    for key, pids in now.items():
        kept, added = [pid for pid in before[key] if pid in pids], [pid for pid in pids if pid not in before[key]]
        said = "unchanged" if kept == before[key] else f"before: {_listed(before[key])}"
        more = f"; {_listed(added)} added by its autoscaling" if added else ""
        out.print(f"  {key}: replica pid {_listed(kept)} ({said}{more})")


def _listed(pids: list[int | None]) -> str:
    return ", ".join(map(str, pids)) or "none"


def _show_next(live: Live) -> None:
    _step("Now you")
    for line in (
        f'curl "{live.url}/summarize?feature=test"',
        f"ray-canary get {live.name}",
        f"ray-canary explain {live.name} --query feature=test",
        f"ray-canary weights {live.name} a=10 b=10",
        "ray-canary console                  # the same, and more, in a browser",
        "serve deploy configs/canary.yaml    # the same Deployment by plain Serve; edit `weights` in it, and again",
        "ray-canary down",
    ):
        out.print(f"  {line}")


def _step(title: str) -> None:
    out.print()
    out.print(Text(title, style="bold"))
