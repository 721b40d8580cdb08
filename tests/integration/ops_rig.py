"""The app of the ops port on a real socket in the test's loop, and a plain HTTP client for it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from gateway.app.children import open_listeners
from gateway.app.ops_http import OpsServer
from gateway.app.run_ops import open_ops_app
from gateway.app.settings import Settings
from gateway.liveops.services import Services
from gateway.liveops.setup_key import SetupKey
from gateway.telemetry.node_report import NodeReport
from persistence.operators import Operators, Role
from tests.integration.gateway_rig import Rig

DEADLINE_S = 10.0
SETUP_KEY = "the key of the link"
PASSWORD = "four words not together"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a refusal; every refusal has all three."""
        error = self.json["error"]
        assert error["message"] and error["next"], error
        return str(error["code"])


@dataclass
class Client:
    """One browser or program: keeps its cookie, sends its token."""

    port: int
    token: str = ""
    cookie: str = ""
    csrf: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.ask("GET", path + ("?" + urlencode(query) if query else ""))

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.ask("POST", path, {} if body is None else body, headers)

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(self._request(method, path, body, headers or {}))
                answer = await _read_head(reader)
                if answer.headers.get("transfer-encoding") == "chunked":
                    while size := int(await reader.readline(), 16):
                        answer.body += await reader.readexactly(size)
                        await reader.readline()
                elif method != "HEAD":
                    answer.body = await reader.readexactly(int(answer.headers.get("content-length", "0")))
            finally:
                writer.close()
        for part in answer.headers.get("set-cookie", "").split(";")[:1]:
            if part.startswith("wayhold_ops="):
                self.cookie = part.partition("=")[2].strip('"')
        return answer

    async def login(self, name: str, password: str = PASSWORD) -> Answer:
        answer = await self.post("/api/v1/login", {"name": name, "password": password})
        if answer.status == 200:
            self.csrf = answer.json["csrf"]
        return answer

    @asynccontextmanager
    async def watch(self, **query: Any) -> AsyncIterator[Feed]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self._request("GET", "/api/v1/live?" + urlencode(query), None, {}))
            answer = await _read_head(reader)
            assert answer.status == 200, await reader.read(2000)
            yield Feed(reader)
        finally:
            writer.close()

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> bytes:
        sent = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"} | self.headers | headers
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        if self.cookie:
            sent["Cookie"] = f"wayhold_ops={self.cookie}"
        if self.csrf:
            sent.setdefault("X-Wayhold-Csrf", self.csrf)
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if method != "GET":
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        return "\r\n".join(lines).encode() + content


class Feed:
    """What a viewer of /api/v1/live reads."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def wait_for(self, name: str, fits: Callable[[Any], bool] = lambda data: True) -> Any:
        """The next event of this name that fits, whatever comes before it."""
        async with asyncio.timeout(DEADLINE_S):
            event = ""
            while True:
                line = (await self._reader.readline()).decode().rstrip("\r\n")
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event == name:
                    data = json.loads(line.removeprefix("data: "))
                    if fits(data):
                        return data


class OpsRig:
    def __init__(self, services: Services, port: int) -> None:
        self.services = services
        self.operators: Operators = services.operators
        self.port = port

    def client(self, **how: Any) -> Client:
        return Client(self.port, **how)

    async def somebody(self, role: str = "viewer", *, is_precise: bool = False) -> Client:
        """A program with a token of an operator in that role."""
        name = f"{role}-{'precise' if is_precise else 'plain'}"
        await self.operators.add(name, Role.of(role), is_precise=is_precise)
        added = await self.operators.add_token(name)
        assert added is not None
        return self.client(token=added[1])


@asynccontextmanager
async def run_ops_rig(redis_url: str, database_url: str, *gateways: Rig) -> AsyncIterator[OpsRig]:
    """The ops app beside these gateways, whose reports are made when they are asked for."""

    def list_reports() -> list[NodeReport]:
        return [
            NodeReport(
                f"gateway-{number}",
                os.getpid(),
                rig.node.name,
                time.monotonic(),
                rig.node.health.judge(),
                {"connections": len(rig.node.connections), "sessions": len(rig.node.players)},
            )
            for number, rig in enumerate(gateways, 1)
        ]

    for rig in gateways:
        rig.node.viewing.read_figures = lambda: {"connections": 0}
    settings = Settings(redis_url=redis_url, database_url=database_url, workers=max(1, len(gateways)))
    async with AsyncExitStack() as stack:
        app, services = await open_ops_app(
            stack, settings, list_reports, is_production=False, setup_key=SetupKey(SETUP_KEY, math.inf)
        )
        listener = open_listeners("127.0.0.1", 0, 1, "ops")[0]
        server = OpsServer(app, listener, connections_max=64)
        await server.start()
        stack.push_async_callback(server.stop)
        yield OpsRig(services, listener.getsockname()[1])


async def _read_head(reader: asyncio.StreamReader) -> Answer:
    async with asyncio.timeout(DEADLINE_S):
        status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
    return Answer(status, headers, b"")
