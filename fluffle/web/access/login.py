"""Login and logout: plain pages, so that only visitors with a session reach NiceGUI."""

import asyncio
from html import escape
from time import monotonic, time
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.requests import ClientDisconnect

from fluffle.web.access.auth import COOKIE, DEVICE_COOKIE, DEVICE_SECONDS, SESSION_SECONDS, Authenticator
from fluffle.web.access.middleware import VISITOR
from fluffle.web.access.throttle import LoginAttempt, Throttle
from fluffle.web.assets import RABBIT, head

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Fluffle</title>{head}
</head>
<body>
<main class="login">
<form method="post" action="{action}" class="card">
<div class="brand">{rabbit}<span>Fluffle</span></div>
<p>{advice}</p>
{error}{fields}
<input type="hidden" name="next" value="{next}">
<button class="button primary">Log in</button>
</form>
</main>
</body>
</html>"""
_NAME_LOGIN_FIELDS = (
    '<label class="field"><span>Name</span><input name="name" autocomplete="username" required autofocus></label>'
    '<label class="field"><span>Password</span>'
    '<input name="secret" type="password" autocomplete="current-password" required></label>'
)
_SIMPLE_LOGIN_FIELDS = (
    '<label class="field"><span>Token</span>'
    '<input name="secret" type="password" autocomplete="off" required autofocus></label>'
)
_NAME_LOGIN_HINT = "Use the name and password from the password file of this server."
_SIMPLE_LOGIN_HINT = "The token is in the address that <code>fluffle web</code> printed at its start."


def add(app: FastAPI, auth: Authenticator, prefix: str) -> None:
    """Add the routes to log in and out."""
    throttle = Throttle()
    one_at_a_time = asyncio.Semaphore(1)  # checking a password takes 50 ms of CPU and 16 MB

    def page(wanted: str, error: str = "", status: int = 200) -> HTMLResponse:
        content = _PAGE.format(
            head=head(prefix),
            action=f"{prefix}/login",
            rabbit=RABBIT,
            advice=_NAME_LOGIN_HINT if auth.asks_for_name else _SIMPLE_LOGIN_HINT,
            error=f'<p class="error" role="alert">{escape(error)}</p>' if error else "",
            fields=_NAME_LOGIN_FIELDS if auth.asks_for_name else _SIMPLE_LOGIN_FIELDS,
            next=escape(wanted),
        )
        return HTMLResponse(content, status, headers={"cache-control": "no-store"})

    async def enter(request: Request, name: str, secret: str, wanted: str) -> Response:
        attempt = LoginAttempt(
            account=name,
            address=request.client.host if request.client else "",
            device=auth.device(request.cookies.get(DEVICE_COOKIE)),
        )
        if not throttle.admit(attempt, monotonic()):
            return page(wanted, "Too many failed logins. Wait a minute.", 429)
        async with one_at_a_time:
            session = await asyncio.to_thread(auth.enter, name, secret)
        if session is None:
            return page(wanted, "Name or password is wrong." if auth.asks_for_name else "This token is wrong.", 401)
        throttle.forgive(attempt)
        answer = RedirectResponse(prefix + _own_path(wanted), 303)
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        for cookie, value, lasts in (
            (COOKIE, session, SESSION_SECONDS),
            (DEVICE_COOKIE, auth.known_device(), DEVICE_SECONDS),
        ):
            answer.set_cookie(cookie, value, lasts, path=prefix or "/", secure=secure, httponly=True, samesite="lax")
        return answer

    @app.get("/login")
    async def login(request: Request, next: str = "/", token: str = "") -> Response:  # noqa: A002 - in the URL
        if token and not auth.asks_for_name:
            return await enter(request, "", token, next)
        return RedirectResponse(prefix + _own_path(next), 303) if request.scope[VISITOR] else page(next)

    @app.post("/login")
    async def submit(request: Request) -> Response:
        try:
            form = await request.form(max_files=0, max_fields=10)
        except ClientDisconnect:
            return Response(status_code=400)  # the client has disconnected
        given = {name: value for name, value in form.items() if isinstance(value, str)}
        return await enter(request, given.get("name", ""), given.get("secret", ""), given.get("next", "/"))

    @app.post("/logout")
    async def logout(request: Request) -> Response:
        if visitor := request.scope[VISITOR]:
            await asyncio.to_thread(auth.leave, visitor, time())
        answer = RedirectResponse(f"{prefix}/login", 303)
        answer.delete_cookie(COOKIE, path=prefix or "/")
        return answer


def login_url(base: str, token: str) -> str:
    """Return the address that logs in with a token."""
    return f"{base}/login?{urlencode({'token': token})}"


def _own_path(wanted: str) -> str:
    """Return the path to open after the login. Addresses of other sites are replaced by `/`."""
    return wanted if wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and "\n" not in wanted else "/"
