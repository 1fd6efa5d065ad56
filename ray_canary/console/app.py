"""The console's web application: FastAPI with NiceGUI's pages on it, and the server that runs it."""

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from ray_canary.console import pages
from ray_canary.console.desk import Desk, Settings
from ray_canary.console.guard import Guard


def make(settings: Settings) -> FastAPI:
    """Make the application. One process can have one: NiceGUI keeps its pages in a global."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, token=settings.token)
    pages.add(Desk(settings))
    ui.run_with(
        app,
        title="ray-canary",
        dark=None,
        storage_secret=secrets.token_urlsafe(32),
        # Seconds after a lost connection until a page is forgotten, with what was filled in there.
        reconnect_timeout=pages.PATIENCE_S,
    )
    return app


def run(settings: Settings, sockets: list[socket.socket], started: Callable[[], None] = lambda: None) -> None:
    """Serve the console on `sockets` until it is interrupted; `started` is called before the first request is taken."""
    app = make(settings)
    app.router.on_startup.append(started)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="websockets-sansio"))
    with suppress(KeyboardInterrupt):
        server.run(sockets)
