"""A Bento store that no bentoml has built: only the `bento.yaml` files, which are all that planning reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ray_canary.bentos import BentoStore

Services = Mapping[str, Mapping[str, Any]]


def write_bento(
    store: Path,
    tag: str,
    services: Services,
    *,
    depends: Mapping[str, list[str]] | None = None,
    envs: list[dict[str, str]] | None = None,
    created: str = "2026-01-01T00:00:00+00:00",
    requirements: str | None = None,
    tasks: tuple[str, ...] = (),
) -> None:
    """Write a Bento: its services with their `@bentoml.service` settings, the entry service first."""
    name, _, version = tag.partition(":")
    folder = store / name / version
    folder.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "service": f"service:{next(iter(services))}",
        "name": name,
        "version": version,
        "bentoml_version": "1.4.39",
        "creation_time": created,
        "entry_service": next(iter(services)),
        "services": [
            {
                "name": service,
                "dependencies": [{"service": inner} for inner in (depends or {}).get(service, [])],
                "config": dict(config),
            }
            for service, config in services.items()
        ],
        "envs": envs or [],
        "schema": {"routes": [{"name": task, "route": f"/{task}", "is_task": True} for task in tasks]},
    }
    if requirements is not None:
        manifest["image"] = {"python_version": "3.11", "python_requirements": requirements}
    (folder / "bento.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def demo_store(store: Path) -> BentoStore:
    """Write the demo's three Bentos, with the settings that their projects have."""
    of_demo: dict[str, Any] = {"resources": {"cpu": "200m", "memory": "256Mi"}, "traffic": {"timeout": 30}}
    textrank = {**of_demo, "traffic": {"timeout": 30, "concurrency": 8}}
    for version, config, created in (
        ("zgk7uja3goq62usu", {}, "2026-01-01T00:00:01+00:00"),
        ("t226bcshm2bqicvj", textrank, "2026-01-01T00:00:02+00:00"),
        ("xq4dggshm25lecvj", of_demo, "2026-01-01T00:00:03+00:00"),
    ):
        write_bento(store, f"summarization:{version}", {"Summarization": config}, created=created)
    return BentoStore(store)
