"""The version host: one service of one Bento in a Serve replica."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from ray_canary.serving import bento_app, failures
from ray_canary.serving.bridge import Bridge
from ray_canary.serving.exchange import Exchange
from ray_canary.serving.serve_private import HandleTransport
from ray_canary.serving.wire import Head, Request


class BentoHost:
    """Hosts one Bento service. It has no `__call__`: only a Serve handle reaches it, never HTTP."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        bento: str,
        service: str,
        config_overrides: Mapping[str, Any],
        depends: Mapping[str, DeploymentHandle[Any]],
    ) -> None:
        self._tag = bento
        self._folder = _own_folder()
        self._bridge = Bridge(
            {name: HandleTransport(handle.app_name, handle.deployment_name) for name, handle in depends.items()}
        )
        try:
            await self._bridge.start()
            self._app = await asyncio.to_thread(
                bento_app.load, bento, service, runner_map=self._bridge.runner_map(), overrides=config_overrides
            )
            self._lifespan = bento_app.Lifespan(self._app)
            await self._lifespan.startup()
        except (Exception, SystemExit) as error:
            await self._clean_up()
            raise failures.BentoFailed(failures.describe(bento, service, error)) from None

    async def __del__(self) -> None:
        """Run the Bento's shutdown hooks; Serve awaits this once the replica has drained."""
        if hasattr(self, "_lifespan"):
            await self._lifespan.shutdown()
            await self._clean_up()

    async def _clean_up(self) -> None:
        await self._bridge.stop()
        shutil.rmtree(self._folder)

    async def answer(self, request: Request) -> AsyncIterator[Head | bytes]:
        """Run one request through the Bento: first a `Head`, then the rest of the body as it comes."""
        response = Exchange(request).run(self._app, self._tag)
        try:
            async for part in response:
                yield part
        finally:
            await response.aclose()  # type: ignore[attr-defined]


def _own_folder() -> Path:
    """Make a folder for what BentoML keeps on disk per process, and point BentoML to it.

    Replicas that shared the metrics would mix them, and each start of a version with tasks would delete the task
    results of the others. The metrics' folder may hold nothing else (facts/bentocloud.md 4.5).
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-canary-host-"))
    (folder / "metrics").mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "metrics")
    os.environ["BENTOML_RESULT_STORE"] = str(folder / "task_result.db")
    return folder
