"""A store of records in memory, with the semantics of the cluster's."""

import json
from collections.abc import Mapping
from typing import Any

from ray_canary.serving.store import Record


class MemoryStore:
    """Keeps JSON, as the cluster's store does; `broken` is raised by whatever is asked of it."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.broken: Exception | None = None

    def _reach(self) -> None:
        if self.broken is not None:
            raise self.broken

    def get(self, key: str) -> Record | None:
        self._reach()
        return dict(json.loads(self.texts[key])) if key in self.texts else None

    def items(self, prefix: str) -> dict[str, Record]:
        self._reach()
        return {key: json.loads(text) for key, text in sorted(self.texts.items()) if key.startswith(prefix)}

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        self._reach()
        self.texts[key] = json.dumps(record)

    def add(self, key: str, record: Mapping[str, Any]) -> bool:
        self._reach()
        added = key not in self.texts
        self.texts.setdefault(key, json.dumps(record))
        return added

    def delete(self, key: str) -> None:
        self._reach()
        self.texts.pop(key, None)
