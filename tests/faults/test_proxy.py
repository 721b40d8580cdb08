"""The proxy does what it says, on real sockets: a harness that is wrong proves nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import Proxy

DEADLINE_S = 5.0


class Link:
    """A proxy in front of a server that answers each line in capitals, and counts what arrived."""

    def __init__(self) -> None:
        self.arrived: list[bytes] = []
        self.proxy: Proxy
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.arrived.append(line)
            writer.write(line.upper())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> bytes:
    """The answer; empty when the connection ended, in whatever way."""
    writer.write(line)
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await reader.readline()
    except ConnectionResetError:
        return b""


async def is_silent(reader: asyncio.StreamReader, for_s: float = 0.2) -> bool:
    try:
        async with asyncio.timeout(for_s):
            await reader.readline()
    except TimeoutError:
        return True
    return False


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    link = Link()
    server = await asyncio.start_server(link.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link.proxy = Proxy("test", lambda: ("127.0.0.1", port))
    link.port = await link.proxy.listen_tcp()
    yield link
    await link.proxy.close()
    server.close()


async def test_what_is_said_passes_both_ways(link: Link) -> None:
    assert await ask(*await link.connect(), b"hello\n") == b"HELLO\n"


async def test_cut_link_ends_and_takes_new_connections(link: Link) -> None:
    reader, writer = await link.connect()
    await ask(reader, writer, b"a\n")
    link.proxy.cut()
    assert await ask(reader, writer, b"b\n") == b""
    assert await ask(*await link.connect(), b"c\n") == b"C\n"


async def test_reset_link_is_an_error_for_the_client(link: Link) -> None:
    reader, writer = await link.connect()
    await ask(reader, writer, b"a\n")
    link.proxy.reset()
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(DEADLINE_S):
            await reader.read(1)


async def test_refusing_link_lets_nobody_in_until_it_is_healed(link: Link) -> None:
    link.proxy.refuse()
    assert await ask(*await link.connect(), b"a\n") == b""
    link.proxy.heal()
    assert await ask(*await link.connect(), b"b\n") == b"B\n"


async def test_hanging_direction_delivers_when_it_is_healed(link: Link) -> None:
    reader, writer = await link.connect()
    await ask(reader, writer, b"a\n")
    link.proxy.hang("down")
    writer.write(b"b\n")
    assert await is_silent(reader)
    assert link.arrived == [b"a\n", b"b\n"]
    link.proxy.heal()
    async with asyncio.timeout(DEADLINE_S):
        # The line that `is_silent` gave up on may still be on its way.
        assert (await reader.readline()) == b"B\n"


async def test_robbed_request_is_carried_out_and_its_answer_lost(link: Link) -> None:
    reader, writer = await link.connect()
    await ask(reader, writer, b"a\n")
    link.proxy.rob(b"COMMIT")
    assert await ask(reader, writer, b"COMMIT;\n") == b""
    assert link.arrived[-1] == b"COMMIT;\n" and link.proxy.robbed == 1
    assert await ask(*await link.connect(), b"COMMIT;\n") == b"COMMIT;\n"


async def test_slow_link_takes_its_time(link: Link) -> None:
    link.proxy.latency_s = 0.1
    began = time.monotonic()
    await ask(*await link.connect(), b"a\n")
    assert time.monotonic() - began >= 0.2


async def test_limited_link_breaks_in_the_middle_of_a_message(link: Link) -> None:
    reader, writer = await link.connect()
    link.proxy.limit(4)
    assert await ask(reader, writer, b"ab\ncdef\n") in (b"AB\n", b"")
    assert await ask(reader, writer, b"") == b""
    assert b"cdef\n" not in link.arrived


async def test_stranded_server_keeps_its_side_until_it_is_healed(link: Link) -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await reader.read()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link.proxy.target = lambda: ("127.0.0.1", port)
    reader, writer = await link.connect()
    writer.write(b"a\n")
    await writer.drain()
    await asyncio.sleep(0.05)
    link.proxy.strand()
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b""
    assert not ended.is_set()
    link.proxy.heal()
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()
    server.close()
