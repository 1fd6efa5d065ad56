"""The console's web application: FastAPI with NiceGUI's pages on it, and the server that runs it."""

import secrets
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ray_canary.console import pages
from ray_canary.console.desk import LOOPBACK, Desk, Settings


def make(settings: Settings) -> FastAPI:
    """Make the application. One process can have one: NiceGUI keeps its pages in a global."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # A page of somebody else's, whose name was made to lead to this machine, must not read the console's.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    pages.add(Desk(settings))
    ui.run_with(app, title="ray-canary", dark=None, storage_secret=secrets.token_urlsafe(32))
    return app


def run(settings: Settings, started: Callable[[], None] = lambda: None) -> None:
    """Serve the console until it is interrupted; `started` is called before the first request is taken."""
    app = make(settings)
    app.router.on_startup.append(started)
    uvicorn.run(app, host=LOOPBACK[0], port=settings.port, log_level="warning", ws="websockets-sansio")
