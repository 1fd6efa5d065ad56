"""The corner of Ray in which records outlive Serve."""

import inspect
from typing import Any

import pytest

from ray_canary.serving.store import NAMESPACE, GcsStore, gcs_address


class Gcs:
    """GCS' key-value store, with the calls and the answers of ray 2.60.0."""

    def __init__(self) -> None:
        self.there: dict[bytes, bytes] = {}

    def internal_kv_get(self, key: bytes, namespace: bytes, timeout: float) -> bytes | None:
        assert namespace == NAMESPACE
        return self.there.get(key)

    def internal_kv_put(self, key: bytes, value: bytes, overwrite: bool, namespace: bytes, timeout: float) -> int:
        assert namespace == NAMESPACE
        added = key not in self.there
        if added or overwrite:
            self.there[key] = value
        return int(added)

    def internal_kv_keys(self, prefix: bytes, namespace: bytes, timeout: float) -> list[bytes]:
        return [key for key in self.there if key.startswith(prefix)]

    def internal_kv_multi_get(self, keys: list[bytes], namespace: bytes, timeout: float) -> dict[bytes, bytes]:
        return {key: self.there[key] for key in keys if key in self.there}

    def internal_kv_del(self, key: bytes, by_prefix: bool, namespace: bytes, timeout: float) -> int:
        assert by_prefix is False
        return int(self.there.pop(key, None) is not None)


def test_records_are_written_read_listed_in_order_and_removed() -> None:
    store = GcsStore(Gcs())
    store.put("a/2", {"x": "ü"})
    store.put("a/1", {"x": [1]})
    store.put("b/1", {})
    assert store.get("a/2") == {"x": "ü"}
    assert list(store.items("a/").items()) == [("a/1", {"x": [1]}), ("a/2", {"x": "ü"})]
    store.delete("a/1")
    store.delete("a/1")
    assert (store.get("a/1"), store.items("c/")) == (None, {})


def test_of_several_who_add_the_same_record_the_first_one_wins() -> None:
    store = GcsStore(Gcs())
    assert [store.add("k", {"by": who}) for who in ("ann", "bob")] == [True, False]
    assert store.get("k") == {"by": "ann"}


@pytest.mark.parametrize("name", [name for name in vars(Gcs) if name.startswith("internal_kv")])
def test_rays_client_takes_what_the_store_gives_it(name: str) -> None:
    # `GcsClient` hands every call on to this one.
    from ray._raylet import InnerGcsClient  # type: ignore[attr-defined]

    ours = inspect.signature(getattr(Gcs, name))
    inspect.signature(getattr(InnerGcsClient, name)).bind(*list(ours.parameters)[:-1], timeout=1)


def summary(*arguments: str) -> Any:
    """Return what the dashboard says of a node, as far as it matters."""
    return {"data": {"summary": [{"raylet": {"nodeId": "n"}, "cmdline": ["/ray/raylet", *arguments]}]}}


@pytest.mark.parametrize("address", ["10.1.2.3:6379", "head.svc.cluster.local:6380", "[::1]:6379"])
def test_the_address_of_gcs_is_in_what_every_raylet_was_started_with(address: str) -> None:
    assert gcs_address(summary("--temp-dir=/t", f"--gcs-address={address}", "--webui=x:8265")) == address


def test_where_no_raylet_names_it_there_is_none() -> None:
    assert gcs_address(summary("--temp-dir=/t")) is None
