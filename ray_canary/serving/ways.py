"""Which way each target's requests travel, as the ingress last said: `get` has no other way to ask it."""

from collections.abc import Mapping

from ray_canary.serving.store import Store


def tell(store: Store, deployment: str, ways: Mapping[str, str]) -> None:
    """Write the way of every target, `direct` or `handle`, by the target's key. Raises whatever the store raises."""
    store.put(_key(deployment), {"ways": dict(ways)})


def asked(store: Store, deployment: str) -> dict[str, str]:
    """Return what was told last; empty if nothing was."""
    return dict((store.get(_key(deployment)) or {}).get("ways") or {})


def _key(deployment: str) -> str:
    return f"ways/{deployment}"
