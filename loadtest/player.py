"""
The plain player of the fault drills: the real client, a story, and a schedule that waits for nobody. The load test's
own players, with scenarios, phones and mud, are in simulation.py.

Promise: updates are made when they are due, whether or not the gateway keeps up (an open loop), and each is in the
history before it is sent. The player never mends anything by itself: connections, resumes and repeats are the client's.

Not here: how many players there are, whether what they were told was true (audit.py).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loadtest.history import HistoryWriter, Step, now_ms
from loadtest.storyline import Story, StoryStep
from protocol.client.journal import JournalFull
from protocol.client.player_client import ClientStopped, PlayerClient, PlayerListener, UpdateRefused

# A connection that ended without a close frame; the number WebSocket libraries use for it.
NO_CLOSE_FRAME = 1006

# A walk through a tunnel: the player goes on making updates without a connection.
AWAY_S_MIN, AWAY_S_MAX = 1.0, 5.0


@dataclass(slots=True)
class Habits:
    """How the players of a load test behave. Rates of absence are per update."""

    rate_per_s: float
    seconds: float
    ramp_s: float
    drop_rate: float
    offline_rate: float
    settle_s: float


@dataclass(slots=True)
class Counts:
    """What the players of one process did so far, for the progress line."""

    made: int = 0
    refused: int = 0
    accepted: int = 0
    saved: int = 0
    voids: int = 0
    connected: int = 0
    resumes: int = 0
    errors: int = 0
    closes: int = 0
    stopped: int = 0
    latencies_ms: list[float] = field(default_factory=list)  # since the last look


class SimulatedPlayer(PlayerListener):
    """Player number `index` of a load test."""

    def __init__(
        self,
        index: int,
        make_client: Callable[[PlayerListener], PlayerClient],
        story: Story,
        rng: random.Random,
        habits: Habits,
        writer: HistoryWriter,
        counts: Counts,
    ) -> None:
        self._index = index
        self.client = make_client(self)
        self._story = story
        self._rng = rng
        self._habits = habits
        self._writer = writer
        self._counts = counts
        self._accepted = 0
        self._saved = 0
        self._due: deque[tuple[int, float]] = deque()  # (seq, when it was due) of what is not accepted
        self._making: tuple[float, int | None] = (0.0, None)  # when the update in the making was due, its expected code
        self._is_away = False

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

    async def _make(self, step: StoryStep, due_ms: float) -> None:
        self._making = (due_ms, step.expected_code)
        event = step.event
        if event is not None and (step.past_s or "lat" in event):
            event = {**event, "at": int(now_ms() - step.past_s * 1000)}
        try:
            await self.client.update(event, step.effects, step.is_durable)
        except (JournalFull, UpdateRefused):
            self._counts.refused += 1
            self._writer.add_refused(self._index)

    async def _go_away(self) -> float | None:
        """Perhaps cut the connection, or go offline; answers when to come back if it takes a while."""
        chance = self._rng.random()
        if chance < self._habits.drop_rate:
            self._is_away = self.client.connected
            self.client.drop_connection()
        elif chance < self._habits.drop_rate + self._habits.offline_rate:
            self._is_away = True
            await self.client.stop()
            return now_ms() + self._rng.uniform(AWAY_S_MIN, AWAY_S_MAX) * 1000
        return None

    async def _come_back(self) -> None:
        if self.client.stop_code is None:
            await self.client.start()

    # What the client tells. Each goes into the history first.

    def on_made(self, device: str, seq: int, frame: dict[str, Any]) -> None:
        due_ms, expected_code = self._making
        step = Step(device, seq, frame.get("event"), frame.get("effects"), now_ms(), due_ms)
        step.expected_code, step.is_away = expected_code, self._is_away
        self._writer.add_made(self._index, step)
        self._counts.made += 1
        if not self._is_away:
            self._due.append((seq, due_ms))

    def on_accepted(self, device: str, seq: int, at_ms: float) -> None:
        now = now_ms()
        self._writer.add_accepted(self._index, device, seq, now)
        if seq > self._accepted:
            self._counts.accepted += seq - self._accepted
            self._accepted = seq
        while self._due and self._due[0][0] <= seq:
            self._counts.latencies_ms.append(now - self._due.popleft()[1])

    def on_saved(self, device: str, seq: int) -> None:
        self._writer.add_saved(self._index, device, seq, now_ms())
        self._counts.saved += max(0, seq - self._saved)
        self._saved = max(self._saved, seq)

    def on_void(self, device: str, seq: int, code: int, message: str) -> None:
        self._writer.add_void(self._index, device, seq, code)
        self._counts.voids += 1

    def on_resume(self, reason: str) -> None:
        self._writer.add_welcome(self._index, reason)
        self._counts.resumes += reason == "resumed"
        self._is_away = False

    def on_stream_reset(self, old_device: str, new_device: str, renumbered: dict[int, int]) -> None:
        self._writer.add_stream_reset(self._index, old_device, new_device, renumbered)
        self._accepted = self._saved = 0
        self._due.clear()

    def on_error(self, code: int, name: str, message: str) -> None:
        self._writer.add_error(self._index, code)
        self._counts.errors += 1

    def on_close(self, code: int | None) -> None:
        self._writer.add_close(self._index, NO_CLOSE_FRAME if code is None else code)
        self._counts.closes += 1

    def on_stopped(self, code: int | None) -> None:
        self._counts.stopped += code is not None


async def _sleep_until(wall_ms: float) -> None:
    wait_s = (wall_ms - now_ms()) / 1000
    if wait_s > 0:
        await asyncio.sleep(wait_s)
