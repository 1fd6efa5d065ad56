"""What the benchmarks ran on, without a name or a path of it."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil


def describe() -> Mapping[str, str]:
    """Return the machine, and the versions of what takes part."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": str(os.cpu_count() or 1),
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("ray-canary", "ray", "bentoml", "uvicorn", "fastapi")},
        "nginx": _said(["nginx", "-v"]),
        "wrk": _said(["wrk", "-v"]),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _said(command: list[str]) -> str:
    """Return the version in what a program says of itself."""
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "unknown"
