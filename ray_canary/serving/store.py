"""What outlives Serve: a few records in the cluster's own key-value store, GCS (decision 20).

Serve's config can't hold them: a plain `serve deploy` replaces it whole, and its PUT has no compare-and-swap. GCS keeps
them as long as the head node lives, and beyond it where GCS is fault tolerant. Every value is JSON.

Checked against ray 2.60.0. Ray offers no public way to its key-value store from outside of a driver;
`tests/unit/serving/test_store.py` fails when `GcsClient` moves.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

NAMESPACE: Final = b"ray_canary"

#: Seconds that one question to GCS may take.
_TIMEOUT_S: Final = 10.0

_GCS_ADDRESS: Final = re.compile(r"--gcs-address=(\S+:\d+)")

Record = dict[str, Any]


class Store(Protocol):
    """Records by key. Keys are paths of names: `revision/summarization/00000003`."""

    def get(self, key: str) -> Record | None:
        """Return a record, or None."""

    def items(self, prefix: str) -> dict[str, Record]:
        """Return every record whose key begins with `prefix`, by key, in the order of the keys."""

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Write a record, over what is there."""

    def add(self, key: str, record: Mapping[str, Any]) -> bool:
        """Write a record if there is none under `key`, and return whether that was so: of several, one wins."""

    def delete(self, key: str) -> None:
        """Remove a record, if it is there."""


class GcsStore:
    """The store of one cluster."""

    def __init__(self, client: Any) -> None:
        """Use a `GcsClient`."""
        self._client = client

    @classmethod
    def at(cls, address: str) -> "GcsStore":
        """Connect to the GCS at `host:port`."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        return cls(GcsClient(address=address))

    @classmethod
    def here(cls) -> "GcsStore":
        """Use the connection that this worker of Ray has."""
        from ray.experimental.internal_kv import internal_kv_get_gcs_client

        return cls(internal_kv_get_gcs_client())  # type: ignore[no-untyped-call]

    def get(self, key: str) -> Record | None:
        """Return a record, or None."""
        return _read(self._client.internal_kv_get(key.encode(), NAMESPACE, timeout=_TIMEOUT_S))

    def items(self, prefix: str) -> dict[str, Record]:
        """Return every record whose key begins with `prefix`, by key, in the order of the keys."""
        keys = self._client.internal_kv_keys(prefix.encode(), NAMESPACE, timeout=_TIMEOUT_S)
        if not keys:
            return {}
        found = self._client.internal_kv_multi_get(keys, NAMESPACE, timeout=_TIMEOUT_S)
        records = {key.decode(): _read(value) for key, value in sorted(found.items())}
        return {key: record for key, record in records.items() if record is not None}

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Write a record, over what is there."""
        self._client.internal_kv_put(key.encode(), _written(record), True, NAMESPACE, timeout=_TIMEOUT_S)

    def add(self, key: str, record: Mapping[str, Any]) -> bool:
        """Write a record if there is none under `key`, and return whether that was so: of several, one wins."""
        return bool(self._client.internal_kv_put(key.encode(), _written(record), False, NAMESPACE, timeout=_TIMEOUT_S))

    def delete(self, key: str) -> None:
        """Remove a record, if it is there."""
        self._client.internal_kv_del(key.encode(), False, NAMESPACE, timeout=_TIMEOUT_S)


def gcs_address(nodes: Any) -> str | None:
    """Find the address of GCS in what the dashboard says of its nodes: every raylet was started with it."""
    found = _GCS_ADDRESS.search(json.dumps(nodes).replace('"', " ").replace(",", " "))
    return found[1] if found else None


def _read(value: bytes | None) -> Record | None:
    return None if value is None else dict(json.loads(value))


def _written(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode()
