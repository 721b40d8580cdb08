"""
What the tests of the console run on: a real `wayhold dev` with all its processes, players who play on it through the
real client, and a browser with somebody signed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway.sessions.tokens import make_token
from protocol.client.listener import PlayerListener
from protocol.client.player_client import PlayerClient
from tests.acceptance.dev_rig import RunningDev
from tests.clients.browser import Page, open_page
from tests.clients.fake_answers import DEFINITION, WAYPOINTS

EXPERIENCE = "wylding-woods"
NAME, PASSWORD = "ada", "correct horse battery"
DEADLINE_S = 15.0

_set_up: set[Path] = set()
"""The data folders whose one-time link was used."""


class Heard(PlayerListener):
    """What the server told a player by itself, and how the player was sent away."""

    def __init__(self) -> None:
        self.pushes: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.closes: asyncio.Queue[int | None] = asyncio.Queue()

    def on_push(self, n: int, kind: str, data: Any, after: int | None) -> None:
        self.pushes.put_nowait((kind, data))

    def on_close(self, code: int | None) -> None:
        self.closes.put_nowait(code)


class Player:
    """One player on a phone, walking the experience from waypoint to waypoint."""

    def __init__(self, dev: RunningDev, dice: random.Random) -> None:
        self.id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        self.heard = Heard()
        self.dice = dice
        self.at = dice.randrange(len(WAYPOINTS))
        self.lat, self.lng = WAYPOINTS[self.at]["lat"], WAYPOINTS[self.at]["lng"]
        token = make_token((dev.data_dir / "jwt_secret").read_text().strip().encode(), self.id, 3600)
        self.client = PlayerClient(dev.ready()["play_url"], lambda: token, EXPERIENCE, listener=self.heard)

    async def start(self) -> None:
        await self.client.start()
        await self.client.wait_connected(DEADLINE_S)

    async def visit(self, **data: Any) -> int:
        """The next waypoint, some metres beside where it is."""
        self.at = (self.at + 1) % len(WAYPOINTS)
        waypoint = WAYPOINTS[self.at]
        self.lat = waypoint["lat"] + self.dice.gauss(0, 0.00008)
        self.lng = waypoint["lng"] + self.dice.gauss(0, 0.0001)
        facts = {"time_spent": round(self.dice.uniform(5, 90), 1), "distance_traveled": 70.0} | data
        return await self.client.event("waypoint_visited", waypoint["id"], data=facts, lat=self.lat, lng=self.lng)

    async def find(self) -> int:
        return await self.client.event("item_collected", self.dice.choice(DEFINITION.items).id)


@contextlib.asynccontextmanager
async def playing(dev: RunningDev, count: int, seed: int = 7) -> AsyncIterator[list[Player]]:
    dice = random.Random(seed)
    players = [Player(dev, dice) for _ in range(count)]
    try:
        await asyncio.gather(*(player.start() for player in players))
        yield players
    finally:
        await asyncio.gather(*(player.client.stop() for player in players), return_exceptions=True)


def console_url(dev: RunningDev) -> str:
    return f"{dev.ready()['ops_url']}/console/"


@contextlib.asynccontextmanager
async def signed_in(dev: RunningDev) -> AsyncIterator[Page]:
    """A browser in which the first account was made, or is used."""
    async with open_page() as page:
        await page.resize(1280, 900)
        if dev.data_dir in _set_up:
            await log_in(page, dev)
        else:
            await _set_up_first(page, dev)
            _set_up.add(dev.data_dir)
        yield page


async def log_in(page: Page, dev: RunningDev) -> None:
    await page.go_to(console_url(dev))
    await page.fill("input[name=name]", NAME)
    await page.fill("input[name=password]", PASSWORD)
    await page.click("button[type=submit]")
    await page.wait_for("document.querySelector('nav#menu')")


async def _set_up_first(page: Page, dev: RunningDev) -> None:
    key = re.search(r"#setup=(\S+)", dev.log.read_text())
    assert key, dev.read_log()
    await page.go_to(f"{console_url(dev)}#setup={key[1]}")
    await page.fill("input[name=name]", NAME)
    await page.fill("input[name=password]", PASSWORD)
    await page.fill("input[name=again]", PASSWORD)
    await page.click("button[type=submit]")
    await page.wait_for("document.querySelector('nav#menu')")
