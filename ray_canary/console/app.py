"""The console's web application: FastAPI with NiceGUI's pages on it, and the server that runs it."""

import secrets
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from ray_canary.console import pages
from ray_canary.console.desk import Desk, Settings


def make(settings: Settings) -> FastAPI:
    """Make the application. One process can have one: NiceGUI keeps its pages in a global."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages.add(Desk(settings))
    ui.run_with(app, title="ray-canary", dark=None, storage_secret=secrets.token_urlsafe(32))
    return app


def run(settings: Settings, started: Callable[[], None] = lambda: None) -> None:
    """Serve the console until it is interrupted; `started` is called before the first request is taken."""
    app = make(settings)
    app.router.on_startup.append(started)
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", ws="websockets-sansio")
