"""Load by wrk, and what it says of it."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.results import Figure, Sample

SCRIPT = Path(__file__).with_name("wrk.lua")
_MARK = "RESULT "
#: Beyond this a request has failed; under overload it waits for longer than wrk's own 2 s.
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Load:
    """So many connections, each sending one request after the other: `body` bytes of JSON, or a GET if that is 0.

    `keyed` requests have a key each, which a Deployment can split by.
    """

    connections: int
    body: int = 100
    path: str = "/count"
    keyed: bool = False

    def command(self, url: str, seconds: float) -> list[str]:
        """Return the command that sends it to the side at `url`."""
        options = ["-t1", f"-c{self.connections}", f"-d{seconds:g}s", "--timeout", f"{_TIMEOUT_S}s", "-s", str(SCRIPT)]
        return ["wrk", *options, url + self.path, "--", str(self.body), "keyed" if self.keyed else ""]


def send(load: Load, url: str, seconds: float) -> Sample:
    """Send it. Raises CalledProcessError if wrk can't, ValueError if it says nothing."""
    done = subprocess.run(load.command(url, seconds), capture_output=True, text=True, check=True)
    return parse(done.stdout)


def parse(output: str) -> Sample:
    """Read what `wrk.lua` says at the end: answers, those of them that say no, and requests that got none.

    Only answers that say yes count in the rate. Raises ValueError if there is no result.
    """
    said = next((line.removeprefix(_MARK) for line in output.splitlines() if line.startswith(_MARK)), None)
    if said is None:
        raise ValueError(f"wrk gave no result:\n{output}")
    found = json.loads(said)
    done = found["answers"] - found["refused"]
    values = {
        Figure.RATE: done / found["duration_us"] * 1e6,
        Figure.P50: found["p50_us"] / 1000,
        Figure.P99: found["p99_us"] / 1000,
    }
    return Sample(values=values, done=done, failed=found["refused"] + found["lost"])
