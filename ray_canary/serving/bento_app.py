"""BentoML's own ASGI app for one service of a built Bento: the one place that uses private BentoML APIs.

Checked against bentoml 1.4.39; `tests/unit/test_bento_app.py` fails when they move. Nothing but a version's own replica
calls this (decision 10): a second version in the same process would silently serve the first one's code.
"""

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ray_canary.serving.http import Message, Receive, Scope, Send

#: After 100 calls or 300 s, BentoML replaces the connections to an inner service, and breaks the calls that are under
#: way on them. A bridge's socket never moves, and Serve spreads the calls.
_KEEP_CONNECTIONS: Final = {"max_requests": 2**62, "max_age": 1e12}


#: Where an app's state holds its store of tasks.
_TASKS: Final = "ray_canary_tasks"


class MissingEnv(Exception):
    """The Bento needs environment variables that nothing sets."""


class Lifespan:
    """Runs an ASGI app's startup and shutdown: BentoML creates the service instance and calls the hooks in them.

    Both run in one task, as context variables and anyio's task groups require.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message | BaseException | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Start the app up. Raises what the Bento raised."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            await self._step("lifespan.startup")
        except BaseException:
            self._task.cancel()
            raise

    async def shutdown(self) -> None:
        """Shut the app down, once it has been started up. Raises what the Bento raised."""
        if self._task is not None and not self._task.done():
            await self._step("lifespan.shutdown")
            await self._task

    async def _run(self) -> None:
        try:
            scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
            await self._app(scope, self._inbox.get, self._outbox.put)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # A SystemExit that left this task would end the whole event loop.
            self._outbox.put_nowait(error)
        else:
            self._outbox.put_nowait(None)

    async def _step(self, event: str) -> None:
        self._inbox.put_nowait({"type": event})
        failure = f"The app ended before {event} was complete."
        while True:
            answer = await self._outbox.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                raise RuntimeError(failure)
            if answer["type"] == f"{event}.complete":
                return
            # Starlette sends a "failed" message with the traceback as text, and then raises the error itself.
            failure = answer.get("message") or failure


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
        late = False
        try:
            async with asyncio.timeout(self._timeout) as clock:

                async def first_byte(message: Message) -> None:
                    nonlocal started, late
                    late = late or (not started and clock.expired())
                    if late:
                        # The app answers although it was cancelled.
                        return
                    if not started:
                        started = True
                        clock.reschedule(None)
                    await send(message)

                await self._app(scope, receive, first_byte)
        except Exception:
            if started:
                raise
            if not clock.expired():
                await _answer(
                    scope, receive, send, 500, "An unexpected error has occurred, please check the server log."
                )
                raise
        if clock.expired():
            await _answer(scope, receive, send, 504, f"Not able to process the request in {self._timeout} seconds")


async def _answer(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    from starlette.responses import JSONResponse

    await JSONResponse({"error": sentence}, status_code=status)(scope, receive, send)


def load(
    where: str | Path,
    service: str,
    *,
    runner_map: Mapping[str, str],
    overrides: Mapping[str, Any],
    task_prefix: str = "",
    named: Callable[[], str] = str,
) -> Any:
    """Load one service of a Bento into this process and return its ASGI app.

    `where` is the Bento's tag in the store of BentoML, or the folder that it was unpacked to, with its models.

    The ids of its tasks begin with `task_prefix` and a dot. `runner_map` says where each Bento service that this one
    depends on is reached (`file://` for a Unix socket); `overrides` are the `config_overrides` of the services by name.
    `named` says who logs, and for which request.
    The working directory and `sys.path` become the Bento's for good, since its code may read files beside it at any
    time.

    Raises:
        MissingEnv: an environment variable that the Bento requires is not set.
        Exception: whatever the Bento's own code raises when it is imported.
    """
    import bentoml
    from _bentoml_impl.loader import load as load_bento
    from _bentoml_impl.server.serving import server_on_deployment
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.context import server_context

    _configure_logging(named)
    if isinstance(where, Path):
        bento = bentoml.Bento.from_path(str(where))
    else:
        bento = bentoml.bentos.get(bentoml.Tag.from_str(where))
    BentoMLContainer.remote_runner_mapping.set(dict(runner_map))
    server_context.worker_index = 1
    server_context.bento_name, server_context.bento_version = bento.tag.name, str(bento.tag.version)
    # bento.yaml holds the bentofile's variables and the entry service's; another service's are in its code only.
    _set_envs(bento.info.envs, required=service == bento.info.entry_service)
    entry = load_bento(bento, standalone_load=True)
    loaded = entry.find_dependent_by_name(service)
    _set_envs(loaded.envs, required=True)
    _describe(loaded, is_main=loaded is entry)
    _apply(loaded, overrides)
    server_on_deployment(loaded)
    _remember_media_types()
    return _build_app(loaded, is_main=loaded is entry, task_prefix=task_prefix)


async def has_task(app: Any, task_id: str) -> bool:
    """Return whether a Bento's app, once started up, has a task; BentoML forgets one a day after its end."""
    store = getattr(app.state, _TASKS, None)
    if store is None:
        return False
    try:
        await store.get_status(task_id)
    except KeyError:
        return False
    return True


class _PlacedTasks:
    """BentoML's store of tasks; to everybody else, the tasks' ids begin with where the store is."""

    def __init__(self, store: Any, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def new_entry(self, name: str, request: Any) -> str:
        return f"{self._prefix}.{await self._store.new_entry(name, request)}"

    async def get(self, task_id: str) -> Any:
        return await self._store.get(self._own(task_id))

    async def get_status(self, task_id: str) -> Any:
        import attrs

        return attrs.evolve(await self._store.get_status(self._own(task_id)), task_id=task_id)

    async def set_status(self, task_id: str, status: Any) -> None:
        await self._store.set_status(self._own(task_id), status)

    async def set_result(self, task_id: str, result: Any, status: Any) -> None:
        await self._store.set_result(self._own(task_id), result, status)

    async def __aexit__(self, *error: Any) -> None:
        await self._store.__aexit__(*error)

    def _own(self, task_id: str) -> str:
        """Return BentoML's own id. Raises KeyError for one of another replica."""
        prefix, dot, own = task_id.rpartition(".")
        if not dot or prefix != self._prefix:
            raise KeyError(task_id)
        return own


def _configure_logging(named: Callable[[], str]) -> None:
    """Show BentoML's own log as `bentoml serve` does, with the replica's name, and leave Serve's loggers alone.

    BentoML's `configure_server_logging()` would disable every logger there is, and `dictConfig` itself closes every
    handler: Serve's would then drop what it is given, and the replica's log would end here. Its access log stays off:
    Serve writes one.
    """
    import copy
    import logging.config

    from bentoml._internal.log import SERVER_LOGGING_CONFIG

    parts = logging.config.DictConfigurator(copy.deepcopy(SERVER_LOGGING_CONFIG))
    for kind, configure in (
        ("formatters", parts.configure_formatter),
        ("filters", parts.configure_filter),
        ("handlers", parts.configure_handler),
    ):
        # Only what is taken out by its key has `ext://sys.stdout` read.
        parts.config[kind] = {name: configure(parts.config[kind][name]) for name in parts.config[kind]}
    parts.configure_logger("bentoml", parts.config["loggers"]["bentoml"])
    logging.getLogger("bentoml.access").setLevel(logging.WARNING)
    # What a service logs by a logger that nobody has configured comes out of the last one.
    for handler in (*logging.getLogger("bentoml").handlers, logging.lastResort):
        if handler is not None and not isinstance(handler.formatter, _Named):
            handler.setFormatter(_Named(handler.formatter or logging.Formatter(), named))


def _remember_media_types() -> None:
    """Work out the media type of an API's answers once, not for every answer: it comes from the JSON schema."""
    from _bentoml_sdk.io_models import IOMixin

    work_out: Any = IOMixin.__dict__["mime_type"].__func__
    IOMixin.mime_type = classmethod(functools.cache(work_out))  # type: ignore[arg-type]


def _describe(service: Any, *, is_main: bool) -> None:
    from bentoml._internal.context import server_context
    from bentoml._internal.utils.uri import join_paths

    server_context.service_type = "entry_service" if is_main else "service"
    server_context.service_name = service.name
    server_context.service_routes = [join_paths(service.path_prefix, api.route) for api in service.apis.values()]


def _set_envs(envs: Any, *, required: bool) -> None:
    """Set the Bento's default environment variables, where nothing else sets them."""
    wanted = [env for env in envs if env.stage != "build"]
    missing = [env.name for env in wanted if not env.value and env.name not in os.environ]
    if missing and required:
        raise MissingEnv(
            f"The Bento requires environment variables that are not set: {', '.join(missing)}. "
            "Set them under `envs` in the Deployment file, or put them into a secret that it names."
        )
    for env in wanted:
        if env.value:
            os.environ.setdefault(env.name, env.value)


def _apply(service: Any, overrides: Mapping[str, Any]) -> None:
    """Make `config_overrides` the configuration of a service and of those it depends on.

    BentoML reads `threads` and `endpoints` off the decorator, where its own overrides don't reach, and divides
    `max_concurrency` by `workers` although one replica is one process: a replica is one worker (facts 4.5).
    """
    import json

    merged: dict[str, dict[str, Any]] = {}
    for name, each in service.all_services().items():
        given = overrides.get(name, {})
        merged[name] = {"runner_connection": _KEEP_CONNECTIONS, **given, "workers": 1}
        each.config.update({key: given[key] for key in ("threads", "endpoints") if key in given})
    os.environ["BENTOML_CONFIG_OVERRIDES"] = json.dumps({"services": merged})
    service.inject_config()


def _build_app(service: Any, *, is_main: bool, task_prefix: str) -> Any:
    from _bentoml_impl.server.app import ServiceAppFactory
    from bentoml._internal.server.http.access import AccessLogMiddleware
    from bentoml._internal.server.http.traffic import TimeoutMiddleware
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    from ray_canary.serving.tracing import Tracing

    instead = {TimeoutMiddleware: FirstByteTimeout, OpenTelemetryMiddleware: Tracing}

    class AppFactory(ServiceAppFactory):  # type: ignore[misc]
        @property
        def middlewares(self) -> list[Any]:
            middlewares: list[Any] = [each for each in super().middlewares if each.cls is not AccessLogMiddleware]
            for middleware in middlewares:
                middleware.cls = instead.get(middleware.cls, middleware.cls)
            return middlewares

        async def create_instance(self, app: Any) -> None:
            await super().create_instance(app)
            if service.needs_task_db():
                placed = _PlacedTasks(vars(self)["_result_store"], task_prefix)
                self.__dict__["_result_store"] = placed
                setattr(app.state, _TASKS, placed)

    return AppFactory(service, is_main=is_main)()


class _Named(logging.Formatter):
    """A formatter whose lines begin with who logs, in brackets."""

    def __init__(self, inner: logging.Formatter, named: Callable[[], str]) -> None:
        """Format as `inner` does."""
        super().__init__()
        self._inner = inner
        self._named = named

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = self._inner.format(record)
        who = self._named()
        return f"[{who}] {text}" if who else text
