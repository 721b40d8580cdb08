"""
One process of simulated players: `python -m benchmarks.load`, driven by lines of JSON on its standard input.

Promise: an open loop keeps its schedule whatever the answers do: update k is due at start + k / rate, and its latency
counts from then, so that a stall is charged to every update that waited for it. How late this process itself was with
sending is told beside it. Every order is answered with one line and ends by its own deadline.

Orders (`do`) are methods of `Load`, one at a time; `end` alone may come while another runs. The other side is
load_processes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import struct
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks.players import Crowd, Player, clock
from benchmarks.rival_players import DIALECTS
from benchmarks.walk_step import make_user_id
from gateway.sessions.tokens import make_token

TOKEN_TTL_S = 86_400
PING_SHARE = 0.8
"""Of the heartbeat interval, after which a silent player sends a ping."""
CONNECTING_MAX = 256
TICK_MIN_S = 0.0001
"""How finely an open loop sends: at high rates, being exact would cost more than it tells."""
ATTEMPT_PAUSE_S = 0.5
COME_BACK_S = (0.2, 1.0)
"""How long a player whose socket was closed in an open loop waits before it comes back."""
ORDERS = frozenset({"connect", "seed", "closed", "open", "latency_between", "wait_saved", "drop", "leave"})
GRACE_S = 10.0
"""How long after the end of a loop answers are still waited for."""


class Load:
    def __init__(self, plan: dict[str, Any]) -> None:
        secret, run, kind = plan["secret"].encode(), plan["run"], DIALECTS[plan["dialect"]]
        self.crowd = Crowd(
            host=plan["host"],
            port=plan["port"],
            make_token=lambda index: make_token(secret, make_user_id(run, index), TOKEN_TTL_S),
            parts=kind.make_parts(),
        )
        self.players = [kind(self.crowd, plan["first"] + index) for index in range(plan["players"])]
        self.end = asyncio.Event()
        """Set by the order `end`: an open loop stops early."""
        self._shuffle = random.Random(plan["first"])
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        do = order.pop("do")
        if do not in ORDERS:
            raise ValueError(f"no such order: {do}")
        found: dict[str, Any] = await getattr(self, do)(**order)
        return found

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def connect(self, timeout_s: float, per_s: float = 0.0) -> dict[str, Any]:
        """
        All that are not connected, at most `per_s` per second (0: all at once). A refused one tries again.

        Answers how many are welcome, after how long the last one was, and what the slowest player waited.
        """
        tally = self.crowd.tally
        missing = [player for player in self.players if not player.is_welcome]
        began = clock()
        waits = array("d")
        everybody = asyncio.Event()
        waiting = {id(player) for player in missing}

        def welcomed(player: Player) -> None:
            if id(player) in waiting:
                waiting.discard(id(player))
                waits.append(clock() - began)
                if not waiting:
                    everybody.set()

        self.crowd.when_welcome = welcomed
        again: list[Player] = []
        self.crowd.when_gone = lambda player: again.append(player) if id(player) in waiting else None
        gate = asyncio.Semaphore(CONNECTING_MAX)

        async def open_one(player: Player) -> None:
            async with gate:
                try:
                    await player.connect()
                except OSError as error:
                    tally.note_error(f"connect {error.errno}")
                    again.append(player)

        attempts = 0
        try:
            async with asyncio.timeout(timeout_s):
                todo = missing
                while waiting:
                    attempts += len(todo)
                    if per_s:
                        for number, player in enumerate(todo):
                            await asyncio.sleep(max(0.0, began + number / per_s - clock()))
                            await open_one(player)
                    else:
                        await asyncio.gather(*map(open_one, todo))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(everybody.wait(), ATTEMPT_PAUSE_S)
                    todo, again[:] = list(again), []
        except TimeoutError:
            pass
        self.crowd.when_welcome = self.crowd.when_gone = lambda player: None
        welcome = sum(player.is_welcome for player in self.players)
        return {"welcome": welcome, "attempts": attempts, "waits": describe(waits), "counts": self._counts()}

    async def seed(self, timeout_s: float) -> dict[str, Any]:
        """Give every player the state of the workload."""
        for number, player in enumerate(self.players):
            player.send_seeding()
            if number % 20 == 19:  # paced by the answers: a burst of all batches would only fill queues
                await self._wait(lambda: self._unacked() <= 2000, timeout_s)
        await self._wait(lambda: self._unacked() == 0, timeout_s)
        return {"unacked": self._unacked(), "counts": self._counts()}

    async def closed(self, seconds: float) -> dict[str, Any]:
        """Every player has one update outstanding, always."""
        crowd = self.crowd
        self._forget_times()
        gc.collect()
        gc.freeze()
        acked_before, began = crowd.tally.acked, clock()
        crowd.is_closed_loop = True
        for player in self.players:
            if player.is_welcome:
                player.sent_at = clock()
                player.send_update()
        await asyncio.sleep(seconds)
        crowd.is_closed_loop = False
        ended = clock()
        acked = crowd.tally.acked - acked_before
        await self._wait(lambda: self._unacked() == 0, GRACE_S)
        return {
            "seconds": ended - began,
            "acked": acked,
            "acked_in_all": crowd.tally.acked - acked_before,
            "unacked": self._unacked(),
            "latency": describe(crowd.tally.latencies),
            "counts": self._counts(),
        }

    async def open(self, per_s: float, seconds: float, reads_saved: bool = False) -> dict[str, Any]:
        """
        `per_s` updates per second over all players, evenly spread, whatever the answers do, for `seconds` or until
        `end`. With `reads_saved` also how long each waited until it was told to be saved.
        """
        crowd = self.crowd
        players = [player for player in self.players if player.is_welcome]
        self._shuffle.shuffle(players)
        count = len(players)
        self._forget_times()
        gc.collect()
        gc.freeze()
        lateness = array("d")
        start = clock() + 0.1
        for slot, player in enumerate(players):
            player.slot, player.base = slot, player.sent
        crowd.due_of = lambda player, seq: start + ((seq - player.base - 1) * count + player.slot) / per_s
        crowd.reads_all = reads_saved
        crowd.when_gone = self._come_back_soon
        acked_before = crowd.tally.acked
        todo, done, skipped = int(per_s * seconds), 0, 0
        ended = self.end
        ended.clear()

        def send_due() -> float | None:
            nonlocal done, skipped
            now = clock()
            due = min(todo, int((now - start) * per_s) + 1) if now >= start else 0
            while done < due:
                player = players[done % count]
                if player.is_welcome:
                    player.send_update()
                else:
                    player.sent += 1  # made offline: sent after the welcome, and late from the moment it was due
                    skipped += 1
                lateness.append(clock() - start - done / per_s)
                done += 1
            if done >= todo or ended.is_set():
                ended.set()
                return None
            return start + done / per_s

        with Alarm(send_due), contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds + 30)
        sending_s = clock() - start
        await self._wait(lambda: self._unacked() == 0 and all(player.is_welcome for player in players), GRACE_S)
        unacked = sum(player.sent - player.acked for player in players)
        if reads_saved:
            await self._wait(lambda: all(player.saved >= player.acked for player in players), 60)
        crowd.due_of = None
        crowd.reads_all = False
        crowd.when_gone = lambda player: None
        return {
            "seconds": sending_s,
            "sent": done,
            "offline": skipped,
            "acked": crowd.tally.acked - acked_before,
            "acked_in_all": crowd.tally.acked - acked_before,
            "unacked": unacked,
            "latency": describe(crowd.tally.latencies),
            "lag": describe(crowd.tally.lags) if reads_saved else None,
            "sent_late": describe(lateness),
            "counts": self._counts(),
        }

    async def wait_saved(self, timeout_s: float) -> dict[str, Any]:
        """Until everything that was accepted is saved, as the players are told."""
        await self._wait(lambda: all(player.saved >= player.acked for player in self.players), timeout_s, 0.05)
        return {"unsaved": sum(player.acked - player.saved for player in self.players)}

    async def drop(self) -> dict[str, Any]:
        for player in self.players:
            player.drop()
        await self._wait(lambda: not any(player.is_open for player in self.players), GRACE_S)
        return {"open": sum(player.is_open for player in self.players)}

    async def latency_between(self, since: float, until: float) -> dict[str, Any]:
        """Of the last open loop: the latencies of updates that were due between two moments of the monotonic clock."""
        tally = self.crowd.tally
        chosen = array(
            "d", (took for due, took in zip(tally.dues, tally.latencies, strict=True) if since <= due <= until)
        )
        return describe(chosen) or {}

    async def leave(self, timeout_s: float) -> dict[str, Any]:
        """End all sessions politely."""
        for player in self.players:
            player.send({"t": "leave"})
        await self._wait(lambda: not any(player.is_open for player in self.players), timeout_s)
        return {"open": sum(player.is_open for player in self.players)}

    # ── what they lean on ───────────────────────────────────────────────────────────────────────────────────────────

    async def ping_for_ever(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            now = clock()
            for player in self.players:
                if player.sent != player.sent_seen:
                    # It sent something since the last look. Noting when for each update would cost more than this.
                    player.sent_seen = player.sent
                    player.pinged_at = now
                elif player.is_welcome and now - player.pinged_at > player.heartbeat_s * PING_SHARE:
                    player.pinged_at = now
                    player.send_ping()

    def _come_back_soon(self, player: Player) -> None:
        """As any client does; what it made meanwhile is sent after the welcome, and late from when it was due."""

        async def come_back() -> None:
            await asyncio.sleep(self._shuffle.uniform(*COME_BACK_S))
            with contextlib.suppress(OSError):
                await player.connect()

        task = asyncio.create_task(come_back())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _unacked(self) -> int:
        return sum(player.sent - player.acked for player in self.players if player.is_welcome)

    def _forget_times(self) -> None:
        self.crowd.tally.latencies = array("d")
        self.crowd.tally.dues = array("d")
        self.crowd.tally.lags = array("d")

    def _counts(self) -> dict[str, Any]:
        tally = self.crowd.tally
        return {
            "acked": tally.acked,
            "voids": tally.voids,
            "resyncs": tally.resyncs,
            "welcomes": tally.welcomes,
            "resumed": tally.resumed,
            "refused": tally.refused,
            "lost_sockets": tally.lost_sockets,
            "errors": tally.errors,
        }

    async def _wait(self, is_done: Callable[[], bool], timeout_s: float, look_s: float = 0.01) -> None:
        give_up_at = clock() + timeout_s
        while not is_done() and clock() < give_up_at:  # noqa: ASYNC110 - an event would cost each answer something
            await asyncio.sleep(look_s)


def describe(seconds: array[float]) -> dict[str, float] | None:
    """Count and quantiles in milliseconds; None for nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    last = len(ordered) - 1
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    found = {name: round(ordered[min(last, int(share * len(ordered)))] * 1000, 3) for name, share in quantiles.items()}
    return {"count": len(ordered), **found, "max": round(ordered[-1] * 1000, 3)}


class Alarm:
    """
    Calls `work` at the moments that `work` itself answers (seconds of `clock`; None: never again).

    The loops' own timers know whole milliseconds only, longer than an acknowledgement takes; Linux has better ones, as
    files. Where there is none, `sent_late` shows it.
    """

    def __init__(self, work: Callable[[], float | None]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._file = -1
        self._is_closed = False
        with contextlib.suppress(AttributeError):  # the module `os` has it from Python 3.13 on only
            self._file = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._ring)

    def __enter__(self) -> Alarm:
        self._go()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._file, 8)
        self._go()

    def _go(self) -> None:
        if self._is_closed:
            return
        at = self._work()
        if at is None:
            return
        wait_s = max(TICK_MIN_S, at - clock())
        if self._file < 0:
            self._loop.call_later(wait_s, self._go)
            return
        self._libc.timerfd_settime(self._file, 0, struct.pack("@qqqq", 0, 0, *divmod(int(wait_s * 1e9), 10**9)), None)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    load = Load(json.loads(await reader.readline()))
    say({"ready": True})
    pings = asyncio.create_task(load.ping_for_ever())
    running: asyncio.Task[None] | None = None
    while line := await reader.readline():
        order = json.loads(line)
        if order["do"] == "end":
            load.end.set()
            continue
        if running is not None:
            await running
        running = asyncio.create_task(answer(load, order))
    pings.cancel()


async def answer(load: Load, order: dict[str, Any]) -> None:
    try:
        say(await load.run(order))
    except Exception as error:
        say({"failed": repr(error)})


def say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    from gateway.app.launch import raise_file_limit

    raise_file_limit()
    gc.set_threshold(50_000, 50, 100)
    uvloop.run(serve())
