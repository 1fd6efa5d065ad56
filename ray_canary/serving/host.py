"""The version host: one service of one Bento in a Serve replica."""

import asyncio
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from ray_canary.plan import ArchivePlan, SecretPlan
from ray_canary.serving import bento_app, exchange, failures, memory_limit, node_bentos, secrets, serve_log, tasks
from ray_canary.serving.bridge import Bridge
from ray_canary.serving.exchange import Exchange
from ray_canary.serving.host_http import Door
from ray_canary.serving.http import Receive, Scope, Send, error_body
from ray_canary.serving.redaction import Redactor
from ray_canary.serving.serve_private import HandleTransport
from ray_canary.serving.serve_replica import drains, node_address, write_together
from ray_canary.serving.sleeping import Awake, Inner
from ray_canary.serving.websocket_host import Socket
from ray_canary.serving.wire import Head, Request

logger = logging.getLogger("ray.serve")

_PREFIX: Final = "ray-canary-replica-"
#: Seconds after which a folder that nobody has locked is a leftover, not one that is just being made.
_LEFTOVER_S: Final = 60.0


class BentoHost:
    """Hosts one Bento service. A Serve handle reaches it, and over HTTP an ingress that it was introduced to."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        bento: str,
        service: str,
        config_overrides: Mapping[str, Any],
        depends: Mapping[str, DeploymentHandle[Any]],
        wanted: Sequence[SecretPlan] = (),
        archive: ArchivePlan | None = None,
    ) -> None:
        self._tag = bento
        self._folder = OwnFolder()
        self._door = Door(drains)
        self._hide = Redactor()
        self._log = asyncio.get_running_loop().create_task(serve_log.keep_writing())
        inner = {name: self.connect(handle) for name, handle in depends.items()}
        self._awake = Awake(inner, self.first)
        self._bridge = Bridge(self._folder.path / "bridge", inner)
        try:
            with memory_limit.watching():
                await self._start(bento, service, config_overrides, wanted, archive)
        except (Exception, SystemExit) as error:
            await self._clean_up()
            told = failures.describe(bento, service, error, self._hide)
            # Serve tells it to its controller only, and in its own log nobody would find it.
            logger.error("%s of Bento %s failed to start:\n%s", service, bento, failures.find(told))
            raise failures.BentoFailed(told) from None
        except BaseException:
            await self._clean_up()
            raise

    async def _start(
        self,
        bento: str,
        service: str,
        overrides: Mapping[str, Any],
        wanted: Sequence[SecretPlan],
        archive: ArchivePlan | None,
    ) -> None:
        self._folder.use()
        # Before secrets make BENTOML_HOME a folder of this replica's own.
        kept = await asyncio.to_thread(node_bentos.find, bento, archive)
        if wanted:
            found = secrets.look_up(wanted, os.environ, node_address())
            # Before anything of the Bento's runs, so that nothing of it is logged unread.
            self._hide = Redactor(found.values)
            self._hide.watch_logs()
            found.use(self._folder.path, own_envs())
        await self._bridge.start()
        load = partial(bento_app.load, task_prefix=self.place().prefix(), named=serve_log.name)
        self._app = await asyncio.to_thread(
            load, kept or bento, service, runner_map=self._bridge.runner_map(), overrides=overrides
        )
        lifespan = bento_app.Lifespan(self._app)
        await lifespan.startup()
        self._lifespan = lifespan

    async def __del__(self) -> None:
        """Run the Bento's shutdown hooks; Serve awaits this once the replica has drained, or has failed to start.

        Tasks that are under way end first. Serve doesn't count them, since their submission has been answered, but it
        waits here for as long as the graceful shutdown may take, and then kills the process.
        """
        if hasattr(self, "_lifespan"):
            try:
                await exchange.all_done()
                await self._lifespan.shutdown()
            finally:
                await self._clean_up()

    async def _clean_up(self) -> None:
        self._awake.stop()
        self._log.cancel()
        try:
            await self._bridge.stop()
        finally:
            self._folder.remove()

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Hold those inner services awake that `sleepers` names; the first time, wait until they are."""
        await self._awake.use(user_config.get("sleepers") or ())

    @staticmethod
    def first() -> bool:
        """Whether this is the first replica of its service, as Serve numbers them."""
        rank = serve.get_replica_context().rank
        return rank is not None and rank.rank == 0

    @staticmethod
    def connect(handle: DeploymentHandle[Any]) -> Inner:
        """Return the way to an inner service."""
        return HandleTransport(handle.app_name, handle.deployment_name)

    @staticmethod
    def place() -> tasks.Place:
        """Return which replica this is."""
        context = serve.get_replica_context()
        return tasks.Place(context.app_name, context.deployment, context.replica_tag)

    async def answer(self, request: Request) -> AsyncIterator[Head | bytes]:
        """Run one request through the Bento: first a `Head`, then the rest of the body as it comes."""
        if (task := tasks.asked_for(request)) and not await bento_app.has_task(self._app, task.id):
            yield self._no_such_task()
            return
        if request.line is not None:
            response = Socket(request, self._tag).run(self._app)
        else:
            response = Exchange(request).run(self._app, self._tag)
        try:
            async for part in response:
                yield part
        finally:
            await response.aclose()  # type: ignore[attr-defined]

    async def introduce(self) -> bytes:
        """Return the secret that an ingress says to get in over HTTP."""
        return self._door.secret

    async def answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what comes to this replica's own port, in HAProxy mode."""
        write_together(receive)
        await self._door.answer(self._app, self._tag, scope, receive, send)

    def _no_such_task(self) -> Head:
        """Say so here: an id that was made up must not lead to any path of a version that no user is sent to."""
        sentence = "Not Found: there is no such task in this replica; results are kept for a day"
        headers, body = error_body(sentence)
        return Head(404, headers, self._tag, body, False)


def own_envs() -> frozenset[str]:
    """Return the environment variables that the Deployment file gives this replica: they win over secrets."""
    if not ray.is_initialized():
        return frozenset()
    return frozenset(ray.get_runtime_context().runtime_env.get("env_vars") or ())


class OwnFolder:
    """A folder for what one process keeps on disk: BentoML's metrics and task results, the bridge's sockets.

    It is locked as long as the process lives. A process that is killed leaves it behind, so whoever makes the next one
    removes those that nobody has locked.
    """

    def __init__(self) -> None:
        _remove_leftovers()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def use(self) -> None:
        """Point BentoML to this folder; `prometheus_client` must not have been imported yet.

        Replicas that shared the metrics would mix them, and each start of a version with tasks would delete the task
        results of the others. The metrics' folder may hold nothing else (facts/bentocloud.md 4.5).
        """
        (self.path / "metrics").mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.path / "metrics")
        os.environ["BENTOML_RESULT_STORE"] = str(self.path / "task_result.db")

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_leftovers() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > _LEFTOVER_S:
                _remove_unlocked(folder)
        except OSError:
            # Another user's, or another host was faster.
            continue


def _remove_unlocked(folder: Path) -> None:
    """Remove `folder` if no living process has locked it. Raises OSError if one has."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
