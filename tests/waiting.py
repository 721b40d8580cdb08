"""Waiting in tests: for something that must become true, never for a length of time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def wait_until(what: str, is_true: Callable[[], Awaitable[object]], deadline_s: float = 30.0) -> None:
    """Ask until the answer is yes. Raises AssertionError naming `what` when it never was."""
    give_up_at = time.monotonic() + deadline_s
    while not await is_true():
        assert time.monotonic() < give_up_at, f"after {deadline_s} s still not: {what}"
        await asyncio.sleep(0.02)
