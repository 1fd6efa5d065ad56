"""ray-canary: a self-hosted canary Deployment for Bentos, on Ray Serve."""

from typing import Any

__version__ = "0.1.0"

# The application builders that a Serve config names in `import_path`. They are looked up when they are first asked for,
# because `import ray.serve` takes seconds, and validation and `--help` must not pay for it.
_BUILDERS = {"app": "single_application", "ingress": "ingress", "version": "version"}


def __getattr__(name: str) -> Any:
    if name in _BUILDERS:
        from ray_canary.serving import app

        return getattr(app, _BUILDERS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
