"""BentoML's own ASGI app for one service of a built Bento: the one place that uses private BentoML APIs.

Checked against bentoml 1.4.39; `tests/unit/test_bento_app.py` fails when they move. Nothing but a version's own replica
calls this (decision 10): a second version in the same process would silently serve the first one's code.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from ray_canary.serving.http import Message, Receive, Scope, Send


class MissingEnv(Exception):
    """The Bento needs environment variables that nothing sets."""


class Lifespan:
    """Runs an ASGI app's startup and shutdown: BentoML creates the service instance and calls the hooks in them."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message | BaseException | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Start the app up. Raises what the Bento raised."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._step("lifespan.startup")

    async def shutdown(self) -> None:
        """Shut the app down, once it has been started up. Raises what the Bento raised."""
        if self._task is not None and not self._task.done():
            await self._step("lifespan.shutdown")
            await self._task

    async def _run(self) -> None:
        try:
            scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
            await self._app(scope, self._inbox.get, self._outbox.put)
        except BaseException as error:
            self._outbox.put_nowait(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._outbox.put_nowait(None)

    async def _step(self, event: str) -> None:
        self._inbox.put_nowait({"type": event})
        answers: list[Message] = []
        while True:
            answer = await self._outbox.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is None or answer["type"] == f"{event}.complete":
                return
            # Starlette sends a "failed" message with the traceback as text, and then raises the error itself.
            answers.append(answer)


class FirstByteTimeout:
    """Ends a request whose response has not begun in time.

    It stands in for BentoML's `TimeoutMiddleware`, with the same answer, but notices at once when the app below it
    raises (BentoML's waits for the timer to fire), and cancels the app when it is cancelled itself.
    """

    def __init__(self, app: Any, timeout: float) -> None:
        self._app = app
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app below; answer 504 if it doesn't begin a response in time, 500 if it raises before that."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = False
        try:
            async with asyncio.timeout(self._timeout) as clock:

                async def first_byte(message: Message) -> None:
                    nonlocal started
                    if not started:
                        started = True
                        clock.reschedule(None)
                    await send(message)

                await self._app(scope, receive, first_byte)
        except TimeoutError:
            if started or not clock.expired():
                raise
            await _answer(scope, receive, send, 504, f"Not able to process the request in {self._timeout} seconds")
        except Exception:
            if not started:
                await _answer(
                    scope, receive, send, 500, "An unexpected error has occurred, please check the server log."
                )
            raise


async def _answer(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    from starlette.responses import JSONResponse

    await JSONResponse({"error": sentence}, status_code=status)(scope, receive, send)


def load(tag: str, service: str, *, runner_map: Mapping[str, str], overrides: Mapping[str, Any]) -> Any:
    """Load one service of a Bento into this process and return its ASGI app.

    `runner_map` says where each Bento service that this one depends on is reached (`file://` for a Unix socket);
    `overrides` are the `config_overrides` of the services by name. The working directory and `sys.path` become the
    Bento's for good, since its code may read files beside it at any time.

    Raises:
        MissingEnv: an environment variable that the Bento requires is not set.
        Exception: whatever the Bento's own code raises when it is imported.
    """
    import bentoml
    from _bentoml_impl.loader import load as load_bento
    from _bentoml_impl.server.serving import server_on_deployment
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.context import server_context
    from bentoml._internal.utils.uri import join_paths

    BentoMLContainer.remote_runner_mapping.set(dict(runner_map))
    server_context.worker_index = 1
    entry = load_bento(bentoml.Tag.from_str(tag), standalone_load=True)
    loaded = entry if service == entry.name else entry.find_dependent_by_name(service)
    _set_envs(loaded.envs)

    server_context.service_type = "entry_service" if loaded is entry else "service"
    server_context.service_name = loaded.name
    server_context.service_routes = [join_paths(loaded.path_prefix, api.route) for api in loaded.apis.values()]
    server_context.bento_name, server_context.bento_version = entry.bento.tag.name, entry.bento.tag.version

    _apply(loaded, overrides)
    server_on_deployment(loaded)
    return _build_app(loaded, is_main=loaded is entry)


def _set_envs(envs: Any) -> None:
    wanted = [env for env in envs if env.stage != "build"]
    if missing := [env.name for env in wanted if not env.value and env.name not in os.environ]:
        raise MissingEnv(
            f"The Bento requires environment variables that are not set: {', '.join(missing)}. "
            "Set them under `envs` in the Deployment file."
        )
    for env in wanted:
        if env.value:
            os.environ.setdefault(env.name, env.value)


def _apply(service: Any, overrides: Mapping[str, Any]) -> None:
    """Make `config_overrides` the service's configuration.

    BentoML reads `threads` and `endpoints` off the decorator, where its own overrides don't reach, and divides
    `max_concurrency` by `workers` although one replica is one process: a replica is one worker (facts 4.5).
    """
    import json

    merged = {name: {**config, "workers": 1} for name, config in overrides.items()}
    merged.setdefault(service.name, {})["workers"] = 1
    os.environ["BENTOML_CONFIG_OVERRIDES"] = json.dumps({"services": merged})
    own = overrides.get(service.name, {})
    for key in ("threads", "endpoints"):
        if key in own:
            service.config[key] = own[key]
    service.inject_config()


def _build_app(service: Any, *, is_main: bool) -> Any:
    from _bentoml_impl.server.app import ServiceAppFactory
    from bentoml._internal.server.http.traffic import TimeoutMiddleware

    class AppFactory(ServiceAppFactory):  # type: ignore[misc]
        @property
        def middlewares(self) -> list[Any]:
            middlewares: list[Any] = super().middlewares
            for middleware in middlewares:
                if middleware.cls is TimeoutMiddleware:
                    middleware.cls = FirstByteTimeout
            return middlewares

    return AppFactory(service, is_main=is_main)()
