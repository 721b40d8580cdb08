"""
The plain player of a fault run: the real client as it is delivered, on sockets of the WebSocket library and journals in
files, with a story and a schedule that waits for nobody.

Beside the load test's players (loadtest/simulation.py), which have sockets, disks and networks of their own to be many
and to be unlucky: here what breaks is real, and nothing of the tool stands between the client and it. What is told is
written down by the same recording.

Promise: updates are made when they are due, whether or not the gateway keeps up (an open loop), and each is in the
history before it is sent. The player never mends anything by itself: connections, resumes and repeats are the client's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.history import HistoryWriter, now_ms
from loadtest.recording import Recording
from loadtest.storyline import Story, StoryStep
from loadtest.tally import Tally
from protocol.client.journal import JournalFull
from protocol.client.player_client import ClientStopped, PlayerClient, PlayerListener, UpdateRefused

# A walk through a tunnel: the player goes on making updates without a connection.
AWAY_S_MIN, AWAY_S_MAX = 1.0, 5.0


@dataclass(slots=True)
class Habits:
    """How the players of a fault run behave. Rates of absence are per update."""

    rate_per_s: float
    seconds: float
    ramp_s: float
    drop_rate: float
    offline_rate: float
    settle_s: float


class PlainPlayer:
    """Player number `index`."""

    def __init__(
        self,
        index: int,
        make_client: Callable[[PlayerListener], PlayerClient],
        story: Story,
        rng: random.Random,
        habits: Habits,
        writer: HistoryWriter,
        tally: Tally,
    ) -> None:
        self.index = index
        self._recording = Recording(index, writer, tally)
        self._recording.on_stop = self.on_stopped
        self.client = make_client(self._recording)
        self._story = story
        self._rng = rng
        self._habits = habits
        self._writer = writer
        self._tally = tally

    async def play(self, start_ms: float) -> None:
        """Connect within the ramp, then make every update when it is due. `start_ms`: when the ramp begins."""
        habits = self._habits
        await _sleep_until(start_ms + self._rng.random() * habits.ramp_s * 1000)
        await self.client.start()
        first_ms = start_ms + (habits.ramp_s + self._rng.random() / habits.rate_per_s) * 1000
        back_at_ms: float | None = None
        for number in range(round(habits.seconds * habits.rate_per_s)):
            due_ms = first_ms + number / habits.rate_per_s * 1000
            if back_at_ms is not None and back_at_ms <= due_ms:
                await _sleep_until(back_at_ms)
                await self._come_back()
                back_at_ms = None
            await _sleep_until(due_ms)
            if back_at_ms is None:
                back_at_ms = await self._go_away()
            await self._make(self._story.next_step(), due_ms)
        if back_at_ms is not None:
            await self._come_back()

    async def settle(self) -> bool:
        """Wait until everything this player made is saved; False when it was not in time."""
        try:
            while self.client.saved < self.client.made:
                await self.client.wait_saved(self.client.made, self._habits.settle_s)
        except (TimeoutError, ClientStopped):
            return False
        return True

    async def leave(self) -> None:
        await self.client.leave()

    def on_stopped(self, code: int) -> None:
        """The client ended with this close and does not come back by itself."""

    async def _make(self, step: StoryStep, due_ms: float) -> None:
        code = step.expected_code
        # The history takes plain integers only.
        self._recording.making = (due_ms, None if code is None else int(code))
        event = step.event
        if event is not None and (step.past_s or "lat" in event):
            event = {**event, "at": int(now_ms() - step.past_s * 1000)}
        try:
            await self.client.update(event, step.effects, step.is_durable)
        except (JournalFull, UpdateRefused):
            self._tally.refused += 1
            self._writer.add_refused(self.index)

    async def _go_away(self) -> float | None:
        """Perhaps cut the connection, or go offline; answers when to come back if it takes a while."""
        chance = self._rng.random()
        if chance < self._habits.drop_rate:
            self._recording.is_away = self.client.connected
            self.client.drop_connection()
        elif chance < self._habits.drop_rate + self._habits.offline_rate:
            self._recording.is_away = True
            await self.client.stop()
            return now_ms() + self._rng.uniform(AWAY_S_MIN, AWAY_S_MAX) * 1000
        return None

    async def _come_back(self) -> None:
        if self.client.stop_code is None:
            await self.client.start()


async def _sleep_until(wall_ms: float) -> None:
    wait_s = (wall_ms - now_ms()) / 1000
    if wait_s > 0:
        await asyncio.sleep(wait_s)
