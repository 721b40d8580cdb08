"""
A process that is told what to do and says what it did, in lines of JSON over its stdin and stdout: both ends of it.

Promise: secrets come over stdin, never in the arguments, where the process list would show them. What a process says is
read all the time, so that it never waits for a full pipe; each line is whole or absent, also when it is killed. When
whoever started it is gone its stdin ends, and so does it.

Not here: what the orders and words mean. Whoever starts a process and its program agree on that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

LINE_BYTES_MAX = 1 << 20


class ToldProcess:
    """One such process, seen from whoever started it."""

    def __init__(self, process: asyncio.subprocess.Process, words: Sequence[str]) -> None:
        self.counts: dict[str, Any] = {}
        """What it said last under the word "counts", which it may say again and again."""
        self._process = process
        loop = asyncio.get_running_loop()
        self._said: dict[str, asyncio.Future[dict[str, Any] | None]] = {word: loop.create_future() for word in words}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, module: str, plan: dict[str, Any], words: Sequence[str]) -> ToldProcess:
        """Start `python -m module`, with `plan` as its first order; `words` are those that it says once."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # A Ctrl-C is for whoever started it, who ends it.
            start_new_session=True,
        )
        told = cls(process, words)
        await told._write(plan)
        return told

    async def order(self, what: str, **facts: Any) -> None:
        await self._write({"order": what, **facts})

    async def wait_for(self, word: str, timeout_s: float) -> dict[str, Any] | None:
        """What the process said under this word, or None if it ended or was late."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                return await asyncio.shield(self._said[word])
        except TimeoutError:
            return None

    def find_said(self, word: str) -> dict[str, Any] | None:
        """What the process said under this word; None if it has not."""
        said = self._said[word]
        return said.result() if said.done() else None

    def kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def wait_end(self, timeout_s: float) -> None:
        """Until it has ended and its last words are read; one that does not end in time is killed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
                await self._reader
        except TimeoutError:
            self.kill()

    async def _write(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                with contextlib.suppress(ValueError):
                    said: dict[str, Any] = json.loads(line)
                    if said["say"] == "counts":
                        self.counts = said
                    elif not self._said[said["say"]].done():
                        self._said[said["say"]].set_result(said)
        finally:
            for waiting in self._said.values():
                if not waiting.done():
                    waiting.set_result(None)


# --- the other end ------------------------------------------------------------------------------------------------


async def open_orders() -> asyncio.StreamReader:
    """Where the orders come from."""
    orders = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    return orders


async def read_order(orders: asyncio.StreamReader) -> dict[str, Any]:
    """The next order. Ends this process when there can be no other."""
    line = await orders.readline()
    if not line:
        os._exit(1)  # nobody is left who could want anything from us
    order: dict[str, Any] = json.loads(line)
    return order


def say(word: str, **facts: Any) -> None:
    # Straight to the descriptor: a line is whole or absent, also when this process is killed.
    os.write(1, json.dumps({"say": word, **facts}).encode() + b"\n")
