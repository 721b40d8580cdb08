"""
The live feed as server-sent events: what is in a viewer's mailbox, again and again, until they go.

Promise: a viewer who does not read for `SLOW_S` is cut off; one whose account is closed or signed out is told to go
within half a minute. Nobody else notices either.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.liveops.live.viewer import Viewer
from gateway.telemetry.logs import get_logger

SLOW_S = 10.0
KEEP_S = 15.0
"""A comment so often, so that proxies and browsers do not take silence for an end."""
CHECK_S = 20.0
PACE_S = 0.1

log = get_logger("liveops")


class LiveFeed(Response):
    def __init__(
        self, viewer: Viewer, is_still_allowed: Callable[[], Awaitable[bool]], on_end: Callable[[], None]
    ) -> None:
        super().__init__(media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"
        del self.headers["content-length"]
        self._viewer = viewer
        self._is_still_allowed = is_still_allowed
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_wait_gone(receive))
        telling = asyncio.ensure_future(self._tell(send))
        try:
            await asyncio.wait({gone, telling}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._on_end()
            for task in (gone, telling):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _tell(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._send(send, b"retry: 2000\n\n")
        check_due, keep_due = loop.time() + CHECK_S, loop.time() + KEEP_S
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._viewer.wake.wait(), max(0.0, min(keep_due, check_due) - loop.time()))
            now = loop.time()
            if now >= check_due:
                check_due = now + CHECK_S
                if not await self._is_still_allowed():
                    await self._send(send, _event("end", {"reason": "signed out"}))
                    break
            told = b"".join(_event(name, data) for name, data in self._viewer.take())
            if not told and now >= keep_due:
                told = b": still here\n\n"
            if told:
                keep_due = now + KEEP_S
                if not await self._send(send, told):
                    log.info("slow_viewer_dropped")
                    return
            # What comes in the next moment goes together.
            await asyncio.sleep(PACE_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, body: bytes) -> bool:
        try:
            async with asyncio.timeout(SLOW_S):
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError:
            return False
        return True


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
