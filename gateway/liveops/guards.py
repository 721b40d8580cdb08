"""
What every request and answer has to bear: on the whole port a name that is ours; in the API a bounded body, and answers
that nobody keeps, frames or sniffs.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.liveops.errors import answer_error
from gateway.liveops.hosts import Hosts

BODY_BYTES_MAX = 64 * 1024

_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class _TooLarge(Exception):
    pass


class Guards:
    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._hosts.takes(host := dict(scope["headers"]).get(b"host", b"")):
            answer = answer_error(
                *(421, "WRONG_HOST", f"this server is not called {host[:100].decode('latin-1')!r}"),
                "ask it under localhost or its address, or add the name to WAYHOLD_OPS_HOSTS",
            )
            await answer(scope, receive, send)
            return
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        received = 0
        started = False

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_BYTES_MAX:
                raise _TooLarge
            return message

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                names = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((n, v) for n, v in _HEADERS if n not in names)]
            await send(message)

        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            # No store can hold it, so nothing is called so.
            answer = answer_error(422, "INVALID", "a parameter holds a NUL", "correct it and ask again")
            await answer(scope, receive, guarded)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        try:
            if length.isdigit() and int(length) > BODY_BYTES_MAX:
                raise _TooLarge
            await self._app(scope, bounded, guarded)
        except _TooLarge:
            if not started:
                answer = answer_error(413, "TOO_LARGE", f"a body has at most {BODY_BYTES_MAX} bytes", "send less")
                await answer(scope, receive, guarded)
