"""Who may use a console: ASGI in front of all its pages, its websocket included.

Without a token it is for this machine only: a request must call it by a name of loopback, so that no other site's name,
made to lead here, gets in. With a token, whoever says it gets a session. Either way a request that another site's page
makes a browser send is refused, and no other site's page can show the console in a frame.
"""

import html
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from hmac import compare_digest
from http.cookies import SimpleCookie
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote_plus, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The names that a console without a token may be called by.
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
#: Seconds that a session lasts, and how many there are at most; the oldest one ends first.
SESSION_S: Final = 12 * 3600
SESSIONS: Final = 1000
COOKIE: Final = "ray_canary_console"
LOGIN: Final = "/login"
#: Bytes of a login form that are read at most.
_FORM: Final = 4096
#: Where pages talk to the console: by GET, too.
_SOCKET: Final = "/_nicegui_ws/"
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_HEADERS: Final = {
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'; object-src 'none'; base-uri 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


class Guard:
    """Lets in who may come in."""

    def __init__(self, app: App, token: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Guard `app` with `token`; None lets in this machine only. `clock` says seconds."""
        self._app = app
        self._token = token
        self._clock = clock
        #: Until when each session lasts, the oldest first.
        self._sessions: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app answer."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = self._refused(scope) or await self._login(scope, receive, send)
        if answer is None:
            await self._app(scope, receive, _adding(_HEADERS, send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not allowed"})
        else:
            await answer(scope, receive, _adding(_HEADERS, send))

    def _refused(self, scope: Scope) -> Response | None:
        """Return what to say to a request that no page of this console made."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = _parts(f"//{host}").hostname
        if self._token is None and name not in LOOPBACK:
            said = f"This console is for this machine only, and not called {host}: open http://127.0.0.1"
            return PlainTextResponse(said, 400)
        origin = headers.get("origin")
        if origin is not None and _parts(origin).netloc != host:
            return PlainTextResponse("A page of another site may not use this console", 403)
        acts = scope["type"] == "websocket" or scope["method"] not in _SAFE or scope["path"].startswith(_SOCKET)
        if acts and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return PlainTextResponse("A page of another site may not use this console", 403)
        return None

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Return the way to log in for who has no session; None for who has one."""
        if self._token is None:
            return None
        path = scope["path"]
        if scope["type"] == "http" and path == LOGIN:
            request = Request(scope, receive, send)
            wanted = _within(request.query_params.get("next", "/"))
            if scope["method"] == "POST":
                return await self._logged_in(request, wanted)
            return _form(wanted)
        headers = Headers(scope=scope)
        if self._in_session(headers) or self._is_token(_bearer(headers)):
            return None
        if scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            query = scope["query_string"].decode("ascii", "replace")
            return RedirectResponse(f"{LOGIN}?next={quote(f'{path}?{query}' if query else path)}", 303)
        return PlainTextResponse("This console needs its token", 401, {"www-authenticate": "Bearer"})

    async def _logged_in(self, request: Request, wanted: str) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _FORM:
                return PlainTextResponse("That is no token", 413)
        said = body.partition(b"token=")[2].decode("ascii", "replace")
        if not self._is_token(_unquoted(said)):
            return _form(wanted, "That is not this console's token.")
        while len(self._sessions) >= SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session = secrets.token_urlsafe(32)
        self._sessions[session] = self._clock() + SESSION_S
        answer = RedirectResponse(wanted, 303)
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        answer.set_cookie(COOKIE, session, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
        return answer

    def _in_session(self, headers: Headers) -> bool:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        return cookie is not None and self._sessions.get(cookie.value, 0.0) > self._clock()

    def _is_token(self, said: str) -> bool:
        return self._token is not None and compare_digest(said.encode(), self._token.encode())


def _parts(url: str) -> SplitResult:
    """Return the parts of a URL, empty ones if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unquoted(text: str) -> str:
    return unquote_plus(text).strip()


def _within(path: str) -> str:
    """Return a path of this console: nobody is sent to another site."""
    parts = _parts(path)
    inside = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc and path.isprintable()
    return path if inside else "/"


def _form(wanted: str, failure: str = "") -> Response:
    alert = f'<p role="alert">{html.escape(failure)}</p>' if failure else ""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in · ray-canary</title>
<meta name="viewport" content="width=device-width"><style>
:root {{ color-scheme: light dark }} body {{ font: 16px system-ui, sans-serif; max-width: 24rem; margin: 15vh auto; }}
input, button {{ font: inherit; padding: .5rem; width: 100%; box-sizing: border-box; margin-top: .5rem }}
</style></head><body><main><h1>ray-canary</h1>{alert}
<form method="post" action="{LOGIN}?next={quote(wanted)}"><label>The console's token
<input name="token" type="password" autocomplete="current-password" required autofocus></label>
<button>Log in</button></form></main></body></html>"""
    return HTMLResponse(page, 401 if failure else 200)


def _adding(headers: dict[str, str], send: Send) -> Send:
    async def adding(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            there = MutableHeaders(scope=message)
            for name, value in headers.items():
                there.setdefault(name, value)
        await send(message)

    return adding
