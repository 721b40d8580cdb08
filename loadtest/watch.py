"""
An operator's look at the figures: the live feed of the ops port where it is open to us, else its metrics page.

Promise: a look ends within `LOOK_S_MAX`, and reads no more than `LOOK_BYTES_MAX`.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

LOOK_S_MAX = 5.0
LOOK_BYTES_MAX = 4 << 20
LIVE, METRICS = "/api/v1/live?topics=figures", "/metrics"
# A feed begins with other things than figures, at once; who took those for a look has seen nothing.
FIGURES = b"\nevent: figures\ndata: "
CLOSED_TO_US = frozenset({401, 403, 404})


class Watch:
    """`token`: of an operator, for the live feed; without one that is let in, it polls the metrics."""

    def __init__(self, ops_url: str, token: str | None) -> None:
        parts = urlsplit(ops_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._token = token
        self.has_feed: bool | None = None if token else False  # None: nobody has tried yet

    async def look(self) -> None:
        """Raises OSError, TimeoutError, ValueError, EOFError when there was nothing to see."""
        async with asyncio.timeout(LOOK_S_MAX):
            if self.has_feed is not False:
                status = await self._get(LIVE, until=FIGURES)
                if status == 200:
                    self.has_feed = True
                    return
                if status not in CLOSED_TO_US:  # too many feeds, a store that is away: nothing seen this time
                    raise ValueError(f"{LIVE} answered {status}")
                self.has_feed = False
            status = await self._get(METRICS)
            if status != 200:
                raise ValueError(f"{METRICS} answered {status}")

    async def _get(self, path: str, until: bytes | None = None) -> int:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            token = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
            host = f"{self._host}:{self._port}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{token}Connection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if until is not None and status == 200:
                await reader.readuntil(until)
                await reader.readuntil(b"\n\n")
                return status
            read = 0
            while data := await reader.read(65536):
                read += len(data)
                if read > LOOK_BYTES_MAX:
                    raise ValueError("that page has no end")
            return status
        finally:
            writer.close()
