"""What the processes of a local Ray use: memory, open files and threads, by what each process is."""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from ray_canary.serving import local


class Use(NamedTuple):
    """What one process, or several together, use; memory in MiB."""

    memory: float
    files: int
    threads: int

    def __str__(self) -> str:
        return f"{self.memory:.0f} MiB, {self.files}, {self.threads}"


#: What a process is, by its command line; the first that fits.
_ROLES = (
    (re.compile(r"^ray::ServeReplica:(\S+)"), None),
    (re.compile(r"^ray::(\w+)"), None),
    (re.compile(r"(?:^|/)haproxy\b"), "HAProxy"),
    (re.compile(r"/raylet\b"), "raylet"),
    (re.compile(r"/gcs_server\b"), "gcs_server"),
    (re.compile(r"(?:^|[/ ])(dashboard|log_monitor|monitor|runtime_env\w*|agent)\.py"), None),
)


def role(command: str) -> str:
    """Return what a process is."""
    for pattern, name in _ROLES:
        if found := pattern.search(command):
            return name or found[1]
    return command.partition(" ")[0].rpartition("/")[2][:40]


@dataclass(frozen=True)
class Census:
    """What every process used at one moment: its role and its use, by its pid."""

    found: dict[int, tuple[str, Use]]

    @classmethod
    def take(cls, cluster: str) -> "Census":
        """Look at all processes of a local cluster."""
        found = {}
        for process in local.processes_of(cluster):
            try:
                with process.oneshot():
                    use = Use(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
                    found[process.pid] = (role(" ".join(process.cmdline())), use)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue  # It has ended meanwhile.
        return cls(found)

    def by_role(self, pids: set[int]) -> dict[str, list[Use]]:
        """Return the uses of some processes by their role."""
        roles: dict[str, list[Use]] = defaultdict(list)
        for pid, (name, use) in sorted(self.found.items()):
            if pid in pids:
                roles[name].append(use)
        return dict(sorted(roles.items()))


def lived_through(first: Census, last: Census) -> set[int]:
    """Return the processes that are in both, each the same."""
    return {pid for pid, (name, _) in first.found.items() if last.found.get(pid, ("", None))[0] == name}
