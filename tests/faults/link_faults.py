"""Faults of the network between two of us: cut, reset, hanging, or an answer that never arrives."""

# ruff: noqa: ASYNC110 - proxies signal nothing, so they are asked.

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

from tests.faults.fault import Fault


class _Link(Fault):
    rows = "F28"
    weight = 4
    near: ClassVar[str]
    far: ClassVar[str]
    how: ClassVar[str]

    async def inject(self) -> None:
        if self.near == "players":
            self.hurt = [self.rig.links["players"]]
        else:
            self.hurt = self.rig.links_between(self.scene.pick(self.near), self.far)
        for link in self.hurt:
            if self.how == "hang":
                link.hang(*self.scene.rng.choice((("up",), ("down",), ("up", "down"))))
            else:
                getattr(link, self.how)()

    async def heal(self) -> None:
        for link in self.hurt:
            link.heal()
            if self.how == "hang":
                # What hung may have been given up by one side only.
                link.cut()
        await super().heal()


def link(near: str, far: str, how: str, hold_s: float, rows: str) -> type[_Link]:
    words = {"cut": "cut", "hang": "hangs", "reset": "reset"}[how]
    name = f"link {near}–{far} {words}"
    body = {"name": name, "rows": rows, "near": near, "far": far, "how": how, "hold_s": hold_s}
    return type(f"Link{near.title()}{far.title()}{how.title()}", (_Link,), body)


class RedisReplyLost(Fault):
    """Redis does what it was asked and the answer never arrives."""

    name, rows = "redis reply lost", "F05"

    async def inject(self) -> None:
        links = self.rig.links_between("gateway", "valkey")
        before = sum(link.robbed for link in links)
        for link in links:
            link.rob(b"EVALSHA")
        await _wait_robbed(links, before + len(links))


class CommitReplyLost(Fault):
    """Postgres commits a flush and the flusher is not told."""

    name, rows = "reply of COMMIT lost", "F14"

    async def inject(self) -> None:
        links = self.rig.links_between("flusher", "postgres")
        before = sum(link.robbed for link in links)
        for link in links:
            link.rob(b"COMMIT")
        await _wait_robbed(links, before + 1)
        for link in links:
            link.heal()


async def _wait_robbed(links: list[Any], wanted: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            while sum(link.robbed for link in links) < wanted:
                await asyncio.sleep(0.01)
