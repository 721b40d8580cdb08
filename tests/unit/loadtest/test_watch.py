"""An operator's look: figures were seen, or it was none; who is not let in reads the metrics page."""

from __future__ import annotations

import asyncio

import pytest

from loadtest.watch import LIVE, METRICS, Watch

FEED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nretry: 2000\n\n\r\n"
)
FIGURES = b"30\r\nevent: figures\ndata: {}\n\n\r\n"


async def look(*answers: bytes, token: str | None = "token") -> tuple[bool | None, list[str]]:
    """At an ops port that answers so; whether there is a feed, and what was asked for."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode())
        writer.write(answers[len(asked) - 1])
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        watch = Watch(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", token)
        await watch.look()
    return watch.has_feed, asked


async def test_a_feed_that_has_not_shown_figures_was_not_seen() -> None:
    assert await look(FEED + FIGURES) == (True, [LIVE])
    with pytest.raises(EOFError):
        await look(FEED + b"f\r\n: still here\n\n\r\n")


async def test_who_is_not_let_in_reads_the_metrics() -> None:
    refused, page = b"HTTP/1.1 401 Unauthorized\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nwayhold_up 1\n"
    assert await look(refused, page) == (False, [LIVE, METRICS])
    assert await look(page, token=None) == (False, [METRICS])


async def test_a_feed_without_a_place_is_a_look_that_failed_and_no_other_page() -> None:
    with pytest.raises(ValueError, match="answered 429"):
        await look(b"HTTP/1.1 429 Too Many Requests\r\n\r\n")
